//! What actions have been given besides their first words: flags, guards, and `mark`.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides which
//! actions go together.

use super::ast::{Action, ActionKind, Flags, Guard, Protocol};
use super::help::{self, Spoils};
use super::parser::{argument, not_equal, port_side, repeated};
use super::set::set;
use super::value::{self, Wanted};
use super::word::{Cursor, Parsed, Word, keyword, peek, piece, wrong};
use crate::diag::{Diagnostic, Span, quote};
use crate::field;
use crate::protocol::TCP_FLAGS;

const EXAMPLE: &str = "write for example `flags syn` or `flags psh|ack`";

/// `guard = ( "sport" | "dport" ) [ "!=" ] ports`, for each side at most once.
pub(super) fn guards(mut i: Cursor<'_>) -> Parsed<'_, Vec<Guard>> {
    let mut guards: Vec<Guard> = Vec::new();
    while let Ok((rest, (side, key))) = port_side(i) {
        let (rest, negated) = not_equal(rest, key)?;
        let (rest, ports) = set(rest, Wanted::matched(&field::PORTS, key))?;
        let span = key.span.to(ports.span);
        if let Some(first) = guards.iter().find(|guard| guard.side == side) {
            return wrong(rest, vec![repeated(key.text, first.span, span)]);
        }
        guards.push(Guard { span, side, negated, set: ports });
        i = rest;
    }
    Ok((i, guards))
}

/// `flags = "flags" ( "{" flag { "," flag } "}" | flag { ( "|" | "," ) flag } )`
pub(super) fn flags(i: Cursor<'_>, outer: Protocol) -> Parsed<'_, Option<Flags>> {
    let Ok((mut i, key)) = keyword("flags")(i) else { return Ok((i, None)) };
    let braces = peek(i).is_some_and(|open| open.text == "{");
    if braces {
        i = piece(i)?.0;
    }
    let mut bits = 0;
    let mut span = key.span;
    let mut more = true;
    loop {
        let found = match piece(i) {
            Ok((_, found)) if found.text == "}" && braces => {
                i = piece(i)?.0;
                span = span.to(found.span);
                break;
            }
            // Without braces, the list goes on only behind a separator.
            Ok((rest, found)) if more || matches!(found.text, "," | "|") || found.text.starts_with('|') => {
                if help::is_keyword(found) || found.text == "}" {
                    break;
                }
                i = rest;
                found
            }
            Ok((rest, found)) if braces && !help::is_keyword(found) => {
                i = rest;
                found
            }
            _ => break,
        };
        span = span.to(found.span);
        more = found.text == "," || found.text.ends_with('|');
        for name in found.text.split(['|', ',']).filter(|name| !name.is_empty()) {
            match TCP_FLAGS.iter().find(|(known, _)| *known == name) {
                Some((_, bit)) => bits |= bit,
                None => return wrong(help::skip(i, Spoils::Word), vec![unknown_flag(name, found)]),
            }
        }
    }
    if bits == 0 {
        return wrong(i, vec![Diagnostic::error("no flags", span, "which ones?").help(EXAMPLE)]);
    }
    if outer == Protocol::Udp {
        let error = Diagnostic::error("a UDP header has no flags", span, "for `funnel tcp` only");
        return wrong(i, vec![error.help("leave `flags` out, or funnel through `tcp`")]);
    }
    Ok((i, Some(Flags { span, bits })))
}

fn unknown_flag(name: &str, found: Word<'_>) -> Diagnostic {
    let at = found.text.find(name).unwrap_or(0);
    let start = found.span.start + at;
    let span = Span { start, end: start + name.len() };
    let error = Diagnostic::error(format!("unknown TCP flag {}", quote(name)), span, "not a flag");
    let lower = name.to_lowercase();
    let lower = if lower == "ece" { "ecn" } else { lower.as_str() };
    match TCP_FLAGS.iter().find(|(known, _)| *known == lower) {
        Some((known, _)) => error.help(format!("write `{known}`")),
        None => error.help("flags are `fin`, `syn`, `rst`, `psh`, `ack`, `urg`, `ecn`, `cwr`"),
    }
}

/// `mark = "mark" "set" number`
pub(super) fn mark(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("mark")(i)?;
    let Ok((rest, set)) = keyword("set")(i) else {
        let number = peek(i).and_then(|word| value::number(word, &field::ANY, "mark set").ok());
        let help = format!("write `mark set {}`", number.unwrap_or(1));
        let error = Diagnostic::error("expected `set` after `mark`", key.span, "sets a packet's mark");
        return wrong(help::skip(i, Spoils::UntilAction), vec![error.help(help)]);
    };
    let key = Word { text: "mark set", span: key.span.to(set.span) };
    let read =
        |word: Word<'_>, key: &str| value::number(word, &field::ANY, key).map_err(|unread| unread.error);
    let (rest, (value, span)) = argument(rest, key, "a number", "1", &read)?;
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Mark { value } }))
}
