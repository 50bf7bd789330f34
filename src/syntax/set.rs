//! Sets and ranges: `80`, `8000-8080`, `{ 80, 443, 8000-8080 }`, and the same of all other kinds of value.
//!
//! One production for all kinds; which one is [`Wanted`], and a single value is read by [`value`](super::value). A set
//! between braces may span lines. Never merges or sorts anything: the elements come out as they were written, each with
//! its place.

use std::net::IpAddr;

use super::ast::{Item, Set, Value};
use super::define;
use super::flags;
use super::help::{self, Spoils};
use super::list_errors::bare_list;
use super::value::{Unread, Wanted};
use super::word::{Cursor, Parsed, Word, line_end, lines, peek, piece, wrong};
use crate::diag::{Diagnostic, Span, quote};
use crate::field::Notation;

/// `set = element | "{" element { "," element } [ "," ] "}"`
pub(super) fn set<'a>(i: Cursor<'a>, wanted: Wanted<'_>) -> Parsed<'a, Set> {
    let key = wanted.key;
    let one = wanted.one();
    match peek(i) {
        None => {
            if let Some(parsed) = help::in_next_line(i, key, true, |next| set(next, wanted)) {
                return parsed;
            }
            let message = format!("expected {one} after `{}`", key.text);
            wrong(i, vec![Diagnostic::error(message, key.span, "has no value").help(wanted.example())])
        }
        Some(found) if help::is_keyword(found) || found.text == "}" => {
            let message = format!("expected {one}, found `{}`", found.text);
            let missing =
                Diagnostic::error(message, found.span, "not a value").with(key.span, "has no value");
            wrong(i, vec![missing.help(wanted.example())])
        }
        Some(open) if open.text == "{" => braces(i, wanted.listed()),
        Some(_) if matches!(wanted.notation, Notation::Flags) => flags::masked(i, wanted),
        Some(found) => {
            if let Some((rest, error)) = bare_list(i, key) {
                return wrong(rest, vec![error]);
            }
            match element(i, wanted, false) {
                (rest, Ok(items)) => {
                    let span = items.iter().fold(found.span, |span, item| span.to(item.span));
                    Ok((rest, Set { span, items }))
                }
                (rest, Err(faults)) => wrong(help::skip(rest, Spoils::Word), faults),
            }
        }
    }
}

/// `element = value [ "-" value ] | NAME`; a name may stand for several, or be known to be wrong.
fn element<'a>(
    i: Cursor<'a>,
    wanted: Wanted<'_>,
    inside: bool,
) -> (Cursor<'a>, Result<Vec<Item>, Vec<Diagnostic>>) {
    if let Notation::Flags = wanted.notation {
        return flags::combination(i, wanted);
    }
    let next = |i| piece(if inside { lines(i) } else { i });
    let Ok((rest, found)) = piece(i) else { return (i, Err(vec![not_closed(i.here(), wanted.key, "")])) };
    let split = match found.text.find('-').filter(|at| *at > 0) {
        Some(at) if wanted.may_be(found.text, at) && !found.text[..at].ends_with('/') => {
            let (first, last) = (part(found, 0, at), part(found, at + 1, found.text.len()));
            if last.text.is_empty() {
                next(rest).ok().map(|(rest, last)| (rest, first, last))
            } else {
                Some((rest, first, last))
            }
        }
        Some(_) => None,
        None => match next(rest) {
            Ok((rest, dash)) if dash.text == "-" => next(rest).ok().map(|(rest, last)| (rest, found, last)),
            Ok((rest, dash)) if dash.text.starts_with('-') => {
                Some((rest, found, part(dash, 1, dash.text.len())))
            }
            _ => None,
        },
    };
    let is_value = |word: Word<'_>| !matches!(word.text, "{" | "}" | ",") && !help::is_keyword(word);
    let (rest, first, last) = match split {
        Some(range @ (_, _, last)) if is_value(last) => range,
        Some((_, first, _)) => {
            let error = Diagnostic::error("the range has no end", found.span, "up to what?");
            return (
                rest,
                Err(vec![error.help(format!("write {}", quote(&format!("{}-LAST", first.text))))]),
            );
        }
        None if found.text.starts_with('$') => {
            let items = i.names.values(found, wanted).map_err(|error| vec![error]);
            return (rest, items.and_then(|items| items.ok_or_else(Vec::new)));
        }
        None => {
            let item = wanted.read(found).map(|(first, last)| vec![Item { span: found.span, first, last }]);
            return (rest, item.map_err(|unread| vec![unread.advise(wanted.advice())]));
        }
    };
    let span = first.span.to(last.span);
    let [meant_first, meant_last] = [first, last].map(|end| match end.text.starts_with('$') {
        false => Ok(end),
        true => define::single(i, end).map_err(|e| vec![e]).and_then(|end| end.ok_or_else(Vec::new)),
    });
    let (meant_first, meant_last) = match (meant_first, meant_last) {
        (Ok(first), Ok(last)) => (first, last),
        (Err(faults), _) | (_, Err(faults)) => return (rest, Err(faults)),
    };
    let item = wanted
        .end(meant_first)
        .and_then(|first| Ok((first, wanted.end(meant_last)?)))
        .map_err(|unread| range_remedy(unread, wanted, first, last))
        .and_then(|ends| range(ends, span, first, last));
    (rest, item.map(|item| vec![item]).map_err(|error| vec![error]))
}

/// The range, unless these are not the ends of one.
fn range(
    (from, to): (Value, Value),
    span: Span,
    first: Word<'_>,
    last: Word<'_>,
) -> Result<Item, Diagnostic> {
    let family = |value: Value| match value {
        Value::Number(_) => None,
        Value::Address(address) => Some(IpAddr::is_ipv4(&address)),
    };
    if family(from) != family(to) {
        let error = Diagnostic::error("a range over both versions of IP", span, "IPv4 and IPv6");
        return Err(error.help("write two addresses of one version"));
    }
    if from > to {
        let error = Diagnostic::error("the range runs backwards", span, "its first value is the larger one");
        return Err(error.help(format!("write `{}-{}`", last.text, first.text)));
    }
    Ok(Item { span, first: from, last: to })
}

/// "Leave it out" is no remedy for one end of a range.
fn range_remedy(unread: Unread, wanted: Wanted<'_>, first: Word<'_>, last: Word<'_>) -> Diagnostic {
    let Notation::Number(number) = wanted.notation else { return *unread.error };
    let right = |word: Word<'_>| {
        word.text.parse::<u32>().ok().filter(|value| (number.min..=number.max).contains(value))
    };
    let at_first = unread.error.primary.span == first.span;
    let help = match (right(first), right(last)) {
        (None, Some(last)) if at_first => format!("write `{}-{last}`", number.min),
        (Some(first), None) => format!("write `{first}-{}`", number.max),
        _ => format!("write both ends from {} to {}", number.min, number.max),
    };
    unread.advise(help)
}

/// Not the name of a service, such as `http-alt`.
pub(super) fn looks_like_a_value(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '$' | ':'))
        || text.contains(':') && text.starts_with(|c: char| c.is_ascii_hexdigit())
}

pub(super) fn part<'a>(word: Word<'a>, from: usize, to: usize) -> Word<'a> {
    let start = word.span.start;
    Word { text: &word.text[from..to], span: Span { start: start + from, end: start + to } }
}

/// `set`: what there is of it.
fn not_closed(open: Span, key: Word<'_>, set: &str) -> Diagnostic {
    const LONGEST: usize = 60;
    let words: Vec<&str> = set.split_whitespace().collect();
    let help = if words.is_empty() || set.len() > LONGEST || set.contains(['#', '{']) {
        format!("write `}}` after the last value of `{}`", key.text)
    } else {
        format!("write {}", quote(&format!("{} {{ {} }}", key.text, words.join(" ").trim_end_matches(','))))
    };
    Diagnostic::error("the set is not closed", open, "has no `}`").help(help)
}

/// Whatever is wrong in it, reading goes on after the closing brace. Without one, it goes on with the
/// next line: a set may span lines, but a mistake should not.
fn braces<'a>(start: Cursor<'a>, wanted: Wanted<'_>) -> Parsed<'a, Set> {
    let key = wanted.key;
    let (mut i, open) = piece(start)?;
    let mut items = Vec::new();
    let mut diagnostics = Vec::new();
    let mut depth = 1;
    let mut comma = true;
    let mut wrong_element = false;
    let close = loop {
        i = lines(i);
        let found = match piece(i) {
            Ok((_, found)) if !help::is_keyword(found) => found,
            _ => {
                let end = line_end(start);
                let rest = if end.here().start < i.here().start { end } else { i };
                let inside = open.span.after().to(rest.here());
                diagnostics.push(not_closed(open.span, key, start.text(inside)));
                return wrong(rest, diagnostics);
            }
        };
        match found.text {
            "}" => {
                depth -= 1;
                if depth == 0 {
                    break found;
                }
            }
            "{" => {
                depth += 1;
                if depth == 2 {
                    let error = Diagnostic::error("a set in a set", found.span, "opens another set")
                        .with(open.span, "the set begins here");
                    diagnostics.push(error.help("list all values in one set"));
                }
            }
            "," if comma => diagnostics.push(
                Diagnostic::error(
                    format!("expected {}, found `,`", wanted.one()),
                    found.span,
                    "nothing before it",
                )
                .help(format!("write one `,` between two {}", wanted.several())),
            ),
            "," => comma = true,
            _ => {
                if !comma && depth == 1 {
                    let label = format!("another {}", wanted.name());
                    let help = format!("write `,` between two {}", wanted.several());
                    diagnostics.push(Diagnostic::error("expected `,` or `}`", found.span, label).help(help));
                }
                comma = false;
                let (rest, item) = element(i, wanted, true);
                match item {
                    Ok(more) => items.extend(more),
                    Err(faults) => {
                        wrong_element = true;
                        diagnostics.extend(faults);
                    }
                }
                i = rest;
                continue;
            }
        }
        i = piece(i)?.0;
    };
    i = piece(i)?.0;
    let span = open.span.to(close.span);
    if items.is_empty() && diagnostics.is_empty() && !wrong_element {
        let error = Diagnostic::error("the set is empty", span, format!("no {}", wanted.name()));
        diagnostics.push(error.help(wanted.example_of_set()));
    }
    if wrong_element || !diagnostics.is_empty() {
        return wrong(i, diagnostics);
    }
    Ok((i, Set { span, items }))
}
