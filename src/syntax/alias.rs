//! The productions of `alias` and `unalias`, and of the set of ports that `unalias` takes.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides
//! which of a packet's ports `unalias` is about: that is in the rule's matches.

use std::collections::BTreeMap;

use super::ast::{Action, ActionKind};
use super::help::{self, Spoils};
use super::parser::{argument, not_equal, port_side, repeated};
use super::value as values;
use super::word::{Cursor, Parsed, Word, keyword, peek, piece, word, wrong};
use crate::diag::{Diagnostic, Span};

const ALIAS: &str = "write for example `alias dport 80`";
const UNALIAS: &str = "write for example `unalias 8080` or `unalias { 8080, 8443 }`";

/// `alias = "alias" ( "sport" | "dport" ) port`
pub(super) fn alias(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("alias")(i)?;
    let Ok((after, (side, name))) = port_side(i) else {
        let message = "expected `dport` or `sport` after `alias`";
        let error = match peek(i).filter(|found| !help::is_keyword(*found)) {
            Some(found) => Diagnostic::error(message, found.span, "not one of a packet's ports"),
            None => Diagnostic::error(message, key.span, "which port?"),
        };
        return wrong(help::skip(i, Spoils::UntilAction), vec![error.help(ALIAS)]);
    };
    if let Ok((rest, not)) = keyword("!=")(after) {
        let error =
            Diagnostic::error("`alias` writes a port, it compares none", not.span, "no operator here")
                .help(format!("write `alias {} N`", name.text));
        return wrong(help::skip(rest, Spoils::Word), vec![error]);
    }
    let (after, _) = not_equal(after, name)?;
    let (rest, (port, span)) = argument(after, name, "a port number", "80", |found, keyword| {
        values::port(found, keyword).map_err(|diagnostic| match diagnostic.message.as_str() {
            message if message.starts_with("port must be") => diagnostic.help(ALIAS),
            message if message.ends_with("not supported in this version") => diagnostic.help(ALIAS),
            _ => diagnostic,
        })
    })?;
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Alias { side, port } }))
}

/// `unalias = "unalias" ( port | set )`
pub(super) fn unalias(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("unalias")(i)?;
    let (rest, (ports, span)) = match peek(i) {
        Some(open) if open.text.starts_with('{') => set(i)?,
        Some(list) if list.text.contains(',') => {
            let error = Diagnostic::error("a set of ports needs braces", list.span, "several ports");
            return wrong(help::skip(word(i)?.0, Spoils::Word), vec![error.help(UNALIAS)]);
        }
        _ => {
            let (rest, (port, span)) = argument(i, key, "a port number or a set", "8080", port)?;
            (rest, (vec![port], span))
        }
    };
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Unalias { ports } }))
}

/// `set = "{" port { "," port } [ "," ] "}"`
///
/// Whatever is wrong in it, reading goes on behind the closing brace.
fn set(i: Cursor<'_>) -> Parsed<'_, (Vec<u16>, Span)> {
    let (mut i, open) = piece(i)?;
    let mut ports: BTreeMap<u16, Span> = BTreeMap::new();
    let mut diagnostics = Vec::new();
    let mut comma = true;
    let close = loop {
        let found = match piece(i) {
            Ok((rest, found)) if !help::is_keyword(found) => {
                i = rest;
                found
            }
            _ => {
                let error = Diagnostic::error("the set is not closed", open.span, "has no `}`").help(UNALIAS);
                diagnostics.push(error);
                return wrong(i, diagnostics);
            }
        };
        match found.text {
            "}" => break found,
            "," if comma => diagnostics.push(
                Diagnostic::error("expected a port number, found `,`", found.span, "nothing in front of it")
                    .help("write one `,` between two ports"),
            ),
            "," => comma = true,
            _ if !comma => {
                diagnostics.push(
                    Diagnostic::error("expected `,` or `}`", found.span, "a second port")
                        .help("write `,` between two ports"),
                );
            }
            _ => {
                comma = false;
                match port(found, "unalias") {
                    Ok(port) => match ports.get(&port) {
                        Some(first) => diagnostics.push(repeated(found.text, *first, found.span)),
                        None => drop(ports.insert(port, found.span)),
                    },
                    Err(diagnostic) => diagnostics.push(diagnostic),
                }
            }
        }
    };
    let span = open.span.to(close.span);
    if ports.is_empty() && diagnostics.is_empty() {
        diagnostics.push(Diagnostic::error("the set is empty", span, "no port").help(UNALIAS));
    }
    if !diagnostics.is_empty() {
        return wrong(i, diagnostics);
    }
    Ok((i, (ports.into_keys().collect(), span)))
}

/// A port, with remedies that fit: "leave it out" does not.
fn port(word: Word<'_>, keyword: &str) -> Result<u16, Diagnostic> {
    values::port(word, keyword).map_err(|diagnostic| match diagnostic.message.as_str() {
        "ranges are not supported in this version" => {
            diagnostic.help("list the ports: `unalias { 8080, 8081 }`")
        }
        message if message.starts_with("port must be") => diagnostic.help("list ports from 1 to 65535"),
        _ => diagnostic,
    })
}
