//! The productions of `bypass` and `unbypass`, and of the nodes between which they are.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides whether the
//! nodes of a ruleset go together.

use std::net::IpAddr;

use nom::Parser;
use nom::combinator::opt;

use super::ast::{Action, ActionKind, Item, Node};
use super::help::{self, Spoils};
use super::parser::argument;
use super::value as values;
use super::word::{Cursor, Parsed, Word, keyword, peek, wrong};
use crate::diag::Diagnostic;

const EXAMPLE: &str = "write for example `node 192.0.2.1 10.244.1.0/24`: a host, and the prefix of its pods";

/// `bypass = "bypass" [ "direct" ]`
pub(super) fn bypass(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("bypass")(i)?;
    let (i, direct) = opt(keyword("direct")).parse(i)?;
    let span = key.span.to(direct.map_or(key.span, |word| word.span));
    Ok((i, Action { span, kind: ActionKind::Bypass { direct: direct.is_some() } }))
}

/// `unbypass = "unbypass" [ "direct" ] [ "probe" port ]`
pub(super) fn unbypass(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("unbypass")(i)?;
    let (i, word) = opt(keyword("direct")).parse(i)?;
    let direct = word.is_some();
    let Ok((after, probe)) = keyword("probe")(i) else {
        let span = key.span.to(word.map_or(key.span, |word| word.span));
        return Ok((i, Action { span, kind: ActionKind::Unbypass { direct, probe: None } }));
    };
    const ADVICE: &str = "choose a port between 1 and 65535, where nothing listens";
    let read = |word: Word<'_>, key: &str| values::port(word, key).map_err(|unread| unread.advise(ADVICE));
    let (rest, (port, span)) = argument(after, probe, "a port number", "1234", &read)?;
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Unbypass { direct, probe: Some(port) } }))
}

/// `node = "node" ( prefix | "$" name ) ( prefix | "$" name )`, after the keyword: a host's, and those of its pods.
pub(super) fn node<'a>(i: Cursor<'a>, key: Word<'a>) -> Parsed<'a, Node> {
    let (i, host) = addresses(i, key, "the address of a host", "192.0.2.1 10.244.1.0/24")?;
    if host.first != host.last {
        let error = Diagnostic::error("a host has one address", host.span, "several");
        return wrong(help::skip(i, Spoils::Rule), vec![error.help(EXAMPLE)]);
    }
    let behind = Word { text: "node HOST", span: key.span.to(host.span) };
    let (i, pods) = addresses(i, behind, "the prefix of its pods", "10.244.1.0/24")?;
    let span = key.span.to(pods.span);
    match peek(i).filter(|more| !(i.in_chain && more.text == "}")) {
        None => Ok((i, Node { span, host, pods })),
        Some(more) => {
            let error = Diagnostic::error("expected the end of the node", more.span, "too much");
            let error =
                error.help("write a line for each prefix of its pods, and rules in lines of their own");
            wrong(help::skip(i, Spoils::Rule), vec![error])
        }
    }
}

fn addresses<'a>(i: Cursor<'a>, key: Word<'a>, what: &str, example: &str) -> Parsed<'a, Item<IpAddr>> {
    let read = |found, keyword: &str| values::address(found, keyword).map_err(|error| error.help(EXAMPLE));
    let (rest, ((first, last), span)) = argument(i, key, what, example, &read)?;
    Ok((rest, Item { span, first, last }))
}
