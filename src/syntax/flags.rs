//! TCP flags: matched by a rule, or given to `funnel`.
//!
//! Words in, values of the flags byte (RFC 9293 section 3.1) out, or what is wrong and where to read on. As in nftables:
//! `syn,ack` is any of the two, `syn / syn,ack` the first without the second, `{ syn, syn|ack }` exactly one of these.

use super::ast::{Flags, Item, Protocol, Set, Value};
use super::help::{self, Spoils};
use super::set::part;
use super::value::Wanted;
use super::word::{Cursor, Parsed, Word, keyword, peek, piece, wrong};
use crate::diag::{Diagnostic, Span, quote};
use crate::field::flag_names;
use crate::protocol::TCP_FLAGS;

const EXAMPLE: &str = "write for example `flags syn` or `flags psh|ack`";

/// Several flags, as they are listed.
struct List<'a> {
    rest: Cursor<'a>,
    span: Span,
    bits: u8,
    /// A `|` is between two of them.
    joined: bool,
}

/// `flags-value = flag { "," flag } | flags "/" flags`
pub(super) fn masked<'a>(i: Cursor<'a>, wanted: Wanted<'_>) -> Parsed<'a, Set> {
    let key = wanted.key.text;
    let value = match list(i, wanted, &[",", "|"]) {
        Ok(value) => value,
        Err((rest, faults)) => return wrong(help::skip(rest, Spoils::Word), faults),
    };
    let written = i.text(value.span);
    let Ok((rest, _)) = separator(value.rest, &["/"]) else {
        if value.joined {
            let message = format!("any of {}, or all of them?", quote(written));
            let error = Diagnostic::error(message, value.span, "could be either");
            let listed = written.replace('|', ",").replace(' ', "");
            let help = format!("write `{key} {listed}` for any, `{key} {listed} / {listed}` for all");
            return wrong(value.rest, vec![error.help(help)]);
        }
        if value.bits == 0 {
            let error = Diagnostic::error("no flags", value.span, "none of which?");
            let help = format!("write `{key} 0 / syn,ack`, naming those that are not set");
            return wrong(value.rest, vec![error.help(help)]);
        }
        return Ok((value.rest, set(value.span, |flags| flags & value.bits != 0)));
    };
    let mask = match list(rest, wanted, &[",", "|"]) {
        Ok(mask) => mask,
        Err((rest, faults)) => return wrong(help::skip(rest, Spoils::Word), faults),
    };
    let span = value.span.to(mask.span);
    if value.bits & !mask.bits != 0 || mask.bits == 0 {
        let error =
            Diagnostic::error("this can never match", value.span, "not among those that are looked at")
                .with(mask.span, "only these are looked at");
        let both = flag_names((value.bits | mask.bits).into(), ",");
        let help = format!("write `{key} {} / {both}`", flag_names(value.bits.into(), ","));
        return wrong(mask.rest, vec![error.help(help)]);
    }
    Ok((mask.rest, set(span, |flags| flags & mask.bits == value.bits)))
}

/// `!= syn,ack`: what is not any of the two?
pub(super) fn not_any(written: &str, set: &Set, key: Word<'_>) -> Option<Diagnostic> {
    if written.contains(['{', '/']) {
        return None;
    }
    let (key, listed) = (key.text, written.replace(' ', ""));
    let error = Diagnostic::error("none of these, or not all of them?", set.span, "could be either");
    Some(
        error
            .help(format!("write `{key} 0 / {listed}` for none, `{key} != {listed} / {listed}` for not all")),
    )
}

/// `combination = flag { "|" flag }`: an element of a set, these flags and no others.
pub(super) fn combination<'a>(
    i: Cursor<'a>,
    wanted: Wanted<'_>,
) -> (Cursor<'a>, Result<Vec<Item>, Vec<Diagnostic>>) {
    match list(i, wanted, &["|"]) {
        Ok(List { rest, span, bits, .. }) => {
            let value = Value::Number(bits.into());
            (rest, Ok(vec![Item { span, first: value, last: value }]))
        }
        Err((rest, faults)) => (rest, Err(faults)),
    }
}

/// The values of the flags byte for which it holds, as ranges.
fn set(span: Span, holds: impl Fn(u8) -> bool) -> Set {
    let values = (0..=u8::MAX).filter(|flags| holds(*flags)).map(u32::from);
    let mut items: Vec<Item> = Vec::new();
    for value in values {
        match items.last_mut() {
            Some(Item { last: Value::Number(last), .. }) if *last + 1 == value => *last = value,
            _ => items.push(Item { span, first: Value::Number(value), last: Value::Number(value) }),
        }
    }
    Set { span, items }
}

/// Flags with one of these between any two.
fn list<'a>(
    i: Cursor<'a>,
    wanted: Wanted<'_>,
    between: &[&str],
) -> Result<List<'a>, (Cursor<'a>, Vec<Diagnostic>)> {
    let missing = |i: Cursor<'a>, span: Span| {
        let error = Diagnostic::error(format!("expected {}", wanted.one()), span, "no flag");
        (i, vec![error.help(EXAMPLE)])
    };
    let Ok((mut rest, first)) = token(i) else { return Err(missing(i, wanted.key.span)) };
    if first.text.starts_with('$') {
        return Err((rest, i.names.values(first, wanted).err().into_iter().collect()));
    }
    let mut all = List {
        rest,
        span: first.span,
        bits: bit(first).map_err(|fault| (rest, vec![fault]))?,
        joined: false,
    };
    while let Ok((after, between)) = separator(rest, between) {
        let Ok((after, next)) = token(after) else { return Err(missing(after, between.span)) };
        all.bits |= bit(next).map_err(|fault| (after, vec![fault]))?;
        all.joined |= between.text == "|";
        all.span = all.span.to(next.span);
        rest = after;
    }
    Ok(List { rest, ..all })
}

/// A flag, or one of the signs between flags.
fn token(i: Cursor<'_>) -> Parsed<'_, Word<'_>> {
    let (rest, found) = piece(i)?;
    match found.text.find(['|', '/']) {
        None => Ok((rest, found)),
        Some(at) => {
            let one = part(found, 0, at.max(1));
            Ok((i.skip_to(one.span.end), one))
        }
    }
}

fn separator<'a>(i: Cursor<'a>, between: &[&str]) -> Parsed<'a, Word<'a>> {
    match token(i) {
        Ok((rest, sign)) if between.contains(&sign.text) => Ok((rest, sign)),
        _ => super::word::no(i),
    }
}

/// A flag by its name, or flags as a number.
pub(super) fn bit(word: Word<'_>) -> Result<u8, Diagnostic> {
    if let Some((_, bit)) = TCP_FLAGS.iter().find(|(name, _)| *name == word.text) {
        return Ok(*bit);
    }
    let number = match word.text.strip_prefix("0x") {
        Some(hex) => u8::from_str_radix(hex, 16),
        None => word.text.parse(),
    };
    number.map_err(|_| unknown_flag(word.text, word))
}

/// What `funnel tcp` may be given: `flags = "flags" ( "{" flag { "," flag } "}" | flag { ( "|" | "," ) flag } )`
pub(super) fn pushed(i: Cursor<'_>, outer: Protocol) -> Parsed<'_, Option<Flags>> {
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
            // Without braces, the list goes on only after a separator.
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
