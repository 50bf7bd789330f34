//! The production of `dnat` and `snat`.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides beside
//! which actions they may stand.

use std::net::Ipv6Addr;

use nom::Parser;
use nom::branch::alt;

use super::ast::{Action, ActionKind, Item, Side};
use super::define;
use super::help::{self, Spoils};
use super::list_errors::not_one;
use super::set::part;
use super::value as values;
use super::word::{Cursor, Parsed, Word, keyword, word, wrong};
use crate::diag::{Diagnostic, Span};

/// `nat = ( "dnat" | "snat" ) address [ ":" port ]`, an IPv6 address before a port between brackets.
pub(super) fn nat(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = alt((keyword("dnat"), keyword("snat"))).parse(i)?;
    let side = if key.text == "dnat" { Side::Destination } else { Side::Source };
    let example =
        format!("write for example `{0} 10.0.0.1`, `{0} 10.0.0.1:80` or `{0} [2001:db8::1]:80`", key.text);
    let missing = |rest, span: Span, label: &str| {
        let message = format!("expected an address after `{}`", key.text);
        wrong(rest, vec![Diagnostic::error(message, span, label).help(example.as_str())])
    };
    let (rest, found) = match word(i) {
        Err(_) => return missing(i, key.span, "to which one?"),
        Ok((_, found)) if help::is_keyword(found) || found.text == "}" => {
            return missing(i, key.span, "to which one?");
        }
        Ok((rest, to)) if to.text == "to" => {
            return missing(help::skip(rest, Spoils::Word), to.span, "not needed here");
        }
        Ok(found) => found,
    };
    if let Some((rest, error)) = not_one(i, key, "one address") {
        return wrong(help::skip(rest, Spoils::Word), vec![error.help(example)]);
    }
    let (address, port) = split(found);
    let [address, port] = match [Some(address), port].map(|half| meaning(i, half)) {
        [Ok(address), Ok(port)] => [address, port],
        [Err(faults), _] | [_, Err(faults)] => return wrong(help::skip(rest, Spoils::Word), faults),
    };
    let Some(address) = address else { return wrong(rest, Vec::new()) };
    let read = values::address(address, key.text).map_err(|error| match error.help.as_deref() {
        Some(help) if help.contains(&*format!("`{} ", key.text)) => error.help(example.as_str()),
        _ => error,
    });
    let item = read.and_then(|(first, last)| match first == last && !address.text.contains('/') {
        true => Ok(Item { span: found.span, first, last }),
        false => {
            let error =
                Diagnostic::error(format!("`{}` takes one address", key.text), address.span, "a prefix");
            Err(error.help(example.as_str()))
        }
    });
    let port = port
        .map(|port| values::port(port, key.text).map_err(|unread| unread.error.help(example.as_str())))
        .transpose();
    match (item, port) {
        (Ok(address), Ok(port)) => Ok((
            rest,
            Action { span: key.span.to(found.span), kind: ActionKind::Nat { side, address, port } },
        )),
        (item, port) => {
            let faults = item.err().into_iter().chain(port.err()).collect();
            wrong(help::skip(rest, Spoils::Word), faults)
        }
    }
}

/// Address and port. An address with several colons and no brackets has no port after it.
fn split(found: Word<'_>) -> (Word<'_>, Option<Word<'_>>) {
    let (text, len) = (found.text, found.text.len());
    if let Some(close) = text.strip_prefix('[').and_then(|text| text.find(']')).map(|at| at + 1)
        && text[1..close].parse::<Ipv6Addr>().is_ok()
    {
        let port = text[close + 1..].strip_prefix(':').map(|_| part(found, close + 2, len));
        if port.is_some() || close + 1 == len {
            return (part(found, 1, close), port);
        }
    }
    match text.split_once(':') {
        Some((address, port)) if !port.contains(':') => {
            (part(found, 0, address.len()), Some(part(found, address.len() + 1, len)))
        }
        _ => (found, None),
    }
}

/// What a name stands for, or the word itself.
fn meaning<'a>(i: Cursor<'a>, half: Option<Word<'a>>) -> Result<Option<Word<'a>>, Vec<Diagnostic>> {
    match half {
        Some(name) if name.text.starts_with('$') => {
            // What is known to be wrong has been told.
            define::single(i, name).map_err(|error| vec![error])?.map(Some).ok_or_else(Vec::new)
        }
        half => Ok(half),
    }
}
