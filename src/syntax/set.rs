//! Sets and ranges: `80`, `8000-8080`, `{ 80, 443, 8000-8080 }`, and the same of addresses.
//!
//! One production for both, over the kind of value. A set between braces may span lines. Never merges or
//! sorts anything: the elements come out as they were written, each with its place.

use std::net::IpAddr;

use super::ast::{Item, Set, Values};
use super::define;
use super::help::{self, Spoils};
use super::list::bare_list;
use super::value as values;
use super::word::{Cursor, Parsed, Word, line_end, lines, peek, piece, wrong};
use crate::diag::{Diagnostic, Span, quote};

/// A kind of value that sets are made of.
pub(super) trait Value: Copy {
    /// One value, as in "expected a port number".
    const WHAT: &'static str;
    const KIND: &'static str;
    /// Examples for remedies.
    const ONE: &'static str;
    const MANY: &'static str;

    /// A word that stands for itself, or for a range, as a prefix does.
    fn read(word: Word<'_>, key: &str) -> Result<(Self, Self), Diagnostic>;

    /// One end of a range.
    fn end(word: Word<'_>, key: &str) -> Result<Self, Diagnostic>;

    /// Values of this kind.
    fn of(values: &Values) -> Option<&[Item<Self>]>;

    /// Why the two are not the ends of a range.
    fn range(first: Self, last: Self) -> Result<(), NoRange>;
}

pub(super) enum NoRange {
    /// The first end lies behind the last.
    Backwards,
    /// From an IPv4 address to an IPv6 address, or the other way round.
    Mixed,
}

impl Value for u16 {
    const WHAT: &'static str = "a port number";
    const KIND: &'static str = "port";
    const ONE: &'static str = "80";
    const MANY: &'static str = "{ 80, 443 }";

    fn read(word: Word<'_>, key: &str) -> Result<(u16, u16), Diagnostic> {
        values::port(word, key).map(|port| (port, port))
    }

    fn end(word: Word<'_>, key: &str) -> Result<u16, Diagnostic> {
        values::port(word, key)
    }

    fn of(values: &Values) -> Option<&[Item<u16>]> {
        match values {
            Values::Ports(set) => Some(&set.items),
            Values::Addresses(_) | Values::Unknown => None,
        }
    }

    fn range(first: u16, last: u16) -> Result<(), NoRange> {
        if first <= last { Ok(()) } else { Err(NoRange::Backwards) }
    }
}

impl Value for IpAddr {
    const WHAT: &'static str = "an IP address";
    const KIND: &'static str = "address";
    const ONE: &'static str = "10.0.0.1";
    const MANY: &'static str = "{ 10.0.0.1, 10.0.1.0/24 }";

    fn read(word: Word<'_>, key: &str) -> Result<(IpAddr, IpAddr), Diagnostic> {
        values::address(word, key)
    }

    fn end(word: Word<'_>, key: &str) -> Result<IpAddr, Diagnostic> {
        if word.text.contains('/') {
            return Err(Diagnostic::error("a range runs from address to address", word.span, "a prefix")
                .help(format!("write `{key} 10.0.0.0-10.0.0.9`, or a set of prefixes")));
        }
        values::address(word, key).map(|(first, _)| first)
    }

    fn of(values: &Values) -> Option<&[Item<IpAddr>]> {
        match values {
            Values::Addresses(set) => Some(&set.items),
            Values::Ports(_) | Values::Unknown => None,
        }
    }

    fn range(first: IpAddr, last: IpAddr) -> Result<(), NoRange> {
        match first.is_ipv4() == last.is_ipv4() {
            true if first <= last => Ok(()),
            true => Err(NoRange::Backwards),
            false => Err(NoRange::Mixed),
        }
    }
}

/// `set = element | "{" element { "," element } [ "," ] "}"`
pub(super) fn set<'a, T: Value>(i: Cursor<'a>, key: Word<'_>) -> Parsed<'a, Set<T>> {
    let example = if key.text == "unalias" { "8080" } else { T::ONE };
    let help = format!("write for example `{} {example}`", key.text);
    match peek(i) {
        None => {
            if let Some(parsed) = help::in_next_line(i, key, true, |next| set(next, key)) {
                return parsed;
            }
            let message = format!("expected {} after `{}`", T::WHAT, key.text);
            wrong(i, vec![Diagnostic::error(message, key.span, "has no value").help(help)])
        }
        Some(found) if help::is_keyword(found) || found.text == "}" => {
            let message = format!("expected {}, found `{}`", T::WHAT, found.text);
            let missing =
                Diagnostic::error(message, found.span, "not a value").with(key.span, "has no value");
            wrong(i, vec![missing.help(help)])
        }
        Some(open) if open.text == "{" => braces(i, key),
        Some(found) => {
            if let Some((rest, error)) = bare_list(i, key) {
                return wrong(rest, vec![error]);
            }
            match element(i, key, false) {
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
fn element<'a, T: Value>(
    i: Cursor<'a>,
    key: Word<'_>,
    inside: bool,
) -> (Cursor<'a>, Result<Vec<Item<T>>, Vec<Diagnostic>>) {
    let next = |i| piece(if inside { lines(i) } else { i });
    let Ok((rest, found)) = piece(i) else { return (i, Err(vec![not_closed(i.here(), key, "")])) };
    let split = match found.text.find('-').filter(|at| *at > 0) {
        Some(at) if looks_like_a_value(found.text) && !found.text[..at].ends_with('/') => {
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
            let items = i.names.values(found).map_err(|error| vec![error]);
            return (rest, items.and_then(|items| items.ok_or_else(Vec::new)));
        }
        None => {
            let item = T::read(found, key.text).map(|(first, last)| Item { span: found.span, first, last });
            return (rest, item.map(|item| vec![item]).map_err(|error| vec![error]));
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
    let ends = T::end(meant_first, key.text).and_then(|first| Ok((first, T::end(meant_last, key.text)?)));
    let item = ends.map_err(|error| range_remedy(error, first, last)).and_then(|(from, to)| {
        T::range(from, to).map(|()| Item { span, first: from, last: to }).map_err(|why| match why {
            NoRange::Backwards => {
                Diagnostic::error("the range runs backwards", span, "its first value is the larger one")
                    .help(format!("write `{}-{}`", last.text, first.text))
            }
            NoRange::Mixed => Diagnostic::error("a range over both versions of IP", span, "IPv4 and IPv6")
                .help("write two addresses of one version"),
        })
    });
    (rest, item.map(|item| vec![item]).map_err(|error| vec![error]))
}

/// "Leave it out" is no remedy for one end of a range.
fn range_remedy(error: Diagnostic, first: Word<'_>, last: Word<'_>) -> Diagnostic {
    if !error.message.starts_with("port must be") {
        return error;
    }
    let value = |word: Word<'_>| word.text.parse::<u16>().ok().filter(|value| *value > 0);
    let at_first = error.primary.span == first.span;
    let help = match (value(first), value(last)) {
        (None, Some(last)) if at_first => format!("write `1-{last}`"),
        (Some(first), None) => format!("write `{first}-65535`"),
        _ => "write both ends from 1 to 65535".to_string(),
    };
    error.help(help)
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
        format!("write `}}` behind the last value of `{}`", key.text)
    } else {
        format!("write {}", quote(&format!("{} {{ {} }}", key.text, words.join(" ").trim_end_matches(','))))
    };
    Diagnostic::error("the set is not closed", open, "has no `}`").help(help)
}

/// Whatever is wrong in it, reading goes on behind the closing brace. Without one, it goes on with the
/// next line: a set may span lines, but a mistake should not.
fn braces<'a, T: Value>(start: Cursor<'a>, key: Word<'_>) -> Parsed<'a, Set<T>> {
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
                    format!("expected {}, found `,`", T::WHAT),
                    found.span,
                    "nothing in front of it",
                )
                .help(format!("write one `,` between two {}", plural(T::KIND))),
            ),
            "," => comma = true,
            _ => {
                if !comma && depth == 1 {
                    let label = format!("another {}", T::KIND);
                    let help = format!("write `,` between two {}", plural(T::KIND));
                    diagnostics.push(Diagnostic::error("expected `,` or `}`", found.span, label).help(help));
                }
                comma = false;
                let (rest, item) = element(i, key, true);
                match item {
                    Ok(more) => items.extend(more),
                    Err(faults) => {
                        wrong_element = true;
                        diagnostics.extend(faults.into_iter().map(in_set));
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
        let error = Diagnostic::error("the set is empty", span, format!("no {}", T::KIND));
        let help = format!("write for example `{} {}`", key.text, T::MANY);
        diagnostics.push(error.help(help));
    }
    if wrong_element || !diagnostics.is_empty() {
        return wrong(i, diagnostics);
    }
    Ok((i, Set { span, items }))
}

/// "Leave it out" is no remedy here.
fn in_set(error: Diagnostic) -> Diagnostic {
    match error.help.as_deref() {
        Some(help) if help.starts_with("to match any") => error.help("list ports from 1 to 65535"),
        _ => error,
    }
}

fn plural(kind: &str) -> String {
    if kind.ends_with('s') { format!("{kind}es") } else { format!("{kind}s") }
}
