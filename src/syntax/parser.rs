//! The grammar: one function per production of docs/rules.md.
//!
//! A production returns its node, says "not mine", or says what is wrong and where to read on
//! (see [`Fault`](super::word::Fault)). Only [`rule`] and the [`ruleset`](super::ruleset) recover: all
//! errors of a text are found in one pass, in time linear in its length.

use nom::branch::alt;
use nom::combinator::opt;
use nom::{Err, Parser};

use super::action::{action, sets};
use super::ast::{Action, ActionKind, Match, MatchKind, Protocol, Rule, Side, Version};
use super::define;
use super::flags;
use super::help::{self, Spoils};
use super::list_errors::not_one;
use super::set::set;
use super::value::Wanted;
use super::word::{Cursor, Parsed, Word, keyword, no, peek, word, wrong};
use crate::diag::{Diagnostic, Span, quote};
use crate::field::{Field, Notation};

/// `rule = { match } [ "actions" ] action`
///
/// Any number of actions is read, so that `check` can point at the ones too many.
pub(super) fn rule<'a>(start: Cursor<'a>, diagnostics: &mut Vec<Diagnostic>) -> (Cursor<'a>, Option<Rule>) {
    let mut damaged = false;
    let mut rule = Rule {
        chain: None,
        span: start.here(),
        text: String::new(),
        matches: Vec::new(),
        actions_word: None,
        actions: Vec::new(),
        damaged: false,
        over_lines: false,
    };
    let known = diagnostics.len();
    let mut i = start;
    while let Ok((after, word)) = word(i) {
        if i.in_chain && word.text == "}" {
            break;
        }
        let at_actions = rule.actions_word.is_some() || !rule.actions.is_empty();
        match item(i, at_actions) {
            Ok((rest, item)) => {
                let disorder = out_of_order(&rule, &item);
                damaged |= disorder.is_some();
                diagnostics.extend(disorder);
                match item {
                    Item::Match(m) => rule.matches.push(m),
                    Item::Actions(span) => rule.actions_word = rule.actions_word.or(Some(span)),
                    Item::Action(action) => rule.actions.push(action),
                }
                i = rest;
            }
            Err(Err::Failure(fault)) => {
                diagnostics.extend(fault.diagnostics);
                damaged = true;
                i = fault.rest;
            }
            Err(_) => {
                damaged = true;
                let (diagnostic, spoils) = help::unknown_word(word, at_actions);
                diagnostics.push(diagnostic);
                if help::meant(word.text) == Some("actions") {
                    rule.actions_word = rule.actions_word.or(Some(word.span));
                }
                i = help::skip(after, spoils);
            }
        }
        rule.span.end = i.here().end;
    }
    rule.damaged = damaged;
    rule.over_lines = i.over_lines;
    rule.text = one_line(start.text(rule.span));
    if let (true, false, [told]) = (rule.over_lines, rule.actions.is_empty(), &mut diagnostics[known..])
        && rule.text.len() <= help::LONGEST_QUOTED
    {
        told.help = Some(format!("{}: `{}`", help::JOIN, rule.text));
    }
    let empty = rule.span.start == rule.span.end;
    (i, (!empty).then_some(rule))
}

/// Blanks collapsed, and without the comments that a set may have at the ends of its lines.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(line, _)| line));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

enum Item {
    Match(Match),
    Actions(Span),
    Action(Action),
}

fn item(i: Cursor<'_>, at_actions: bool) -> Parsed<'_, Item> {
    // `mark` starts a match, `mark set` an action; where an action must be, it can be nothing else.
    let next = peek(i).map(|word| word.text);
    let is_action = next.is_some_and(ActionKind::starts_with);
    if is_action && (at_actions || sets(i)) {
        return action.map(Item::Action).parse(i);
    }
    // Where no match can be, they are those of `funnel tcp`, out of place.
    if at_actions && next == Some("flags") {
        return no(i);
    }
    alt((
        match_.map(Item::Match),
        keyword("actions").map(|word| Item::Actions(word.span)),
        action.map(Item::Action),
    ))
    .parse(i)
}

/// What is wrong with meeting `item` after what was read of `rule` so far.
fn out_of_order(rule: &Rule, item: &Item) -> Option<Diagnostic> {
    let action = rule.actions.first().map(|action| action.span);
    match item {
        Item::Match(m) => rule.actions_word.or(action).map(|before| {
            Diagnostic::error("match after the action", m.span, "must come first")
                .with(before, "the matches end here")
                .help("write all matches, then `actions`, then the action")
        }),
        Item::Actions(span) => rule.actions_word.or(action).map(|before| {
            let message = if rule.actions_word.is_some() {
                "`actions` is repeated"
            } else {
                "`actions` after the action"
            };
            Diagnostic::error(message, *span, "this one is too many")
                .with(before, if rule.actions_word.is_some() { "first one" } else { "the action" })
                .help("write `actions` once, between the matches and the action")
        }),
        Item::Action(_) => None,
    }
}

/// `match = "ip" | "ip6" | protocol | field-match`
fn match_(i: Cursor<'_>) -> Parsed<'_, Match> {
    alt((
        keyword("ip").map(|word| Match { span: word.span, kind: MatchKind::Ip(Version::V4) }),
        keyword("ip6").map(|word| Match { span: word.span, kind: MatchKind::Ip(Version::V6) }),
        protocol.map(|(protocol, word)| Match { span: word.span, kind: MatchKind::Protocol(protocol) }),
        field_match,
    ))
    .parse(i)
}

/// `protocol = "tcp" | "udp"`
pub(super) fn protocol(i: Cursor<'_>) -> Parsed<'_, (Protocol, Word<'_>)> {
    alt((keyword("tcp").map(|word| (Protocol::Tcp, word)), keyword("udp").map(|word| (Protocol::Udp, word))))
        .parse(i)
}

/// `field-match = field [ "!=" ] set`
fn field_match(i: Cursor<'_>) -> Parsed<'_, Match> {
    let (rest, key) = word(i)?;
    let Some(field) = Field::named(key.text) else { return no(i) };
    let (rest, negated) = not_equal(rest, key)?;
    let notation = &field.row().notation;
    let (rest, set) = set(rest, Wanted::matched(notation, key))?;
    if let (true, Notation::Flags) = (negated, notation)
        && let Some(error) = flags::not_any(i.text(set.span), &set, key)
    {
        return wrong(rest, vec![error]);
    }
    Ok((rest, Match { span: key.span.to(set.span), kind: MatchKind::Field { field, negated, set } }))
}

pub(super) fn port_side(i: Cursor<'_>) -> Parsed<'_, (Side, Word<'_>)> {
    let side = |side| move |word| (side, word);
    alt((keyword("sport").map(side(Side::Source)), keyword("dport").map(side(Side::Destination)))).parse(i)
}

/// `[ "!=" ]`, refusing everything else that looks like an operator.
pub(super) fn not_equal<'a>(i: Cursor<'a>, key: Word<'_>) -> Parsed<'a, bool> {
    let (rest, found) = opt(keyword("!=")).parse(i)?;
    if found.is_some() {
        return Ok((rest, true));
    }
    let Ok((mut rest, operator)) = word(i) else { return Ok((i, false)) };
    let mut span = operator.span;
    let equal = ["==", "="].into_iter().find_map(|equal| operator.text.strip_prefix(equal));
    let (message, help, mut operand) = match (operator.text, equal) {
        ("!", _) if peek(rest).is_some_and(|next| next.text.starts_with('=')) => {
            let (after, next) = word(rest)?;
            (rest, span) = (after, span.to(next.span));
            ("`!` and `=` are apart".to_string(), "!= ", &next.text[1..])
        }
        ("!" | "not", _) => (format!("{} is not an operator", quote(operator.text)), "!= ", ""),
        (_, Some(operand)) => ("`=` is not an operator".to_string(), "", operand),
        (text, _) if text.starts_with(['<', '>']) => (format!("{} is not an operator", quote(text)), "", ""),
        _ => return Ok((i, false)),
    };
    // The value goes with the operator, or it would be taken for a word of its own.
    if operand.is_empty()
        && let Some(next) = peek(rest).filter(|next| !help::is_keyword(*next))
    {
        (rest, _) = word(rest)?;
        operand = next.text;
    }
    let operand = if operand.is_empty() { "VALUE" } else { operand };
    let value = quote(&format!("{} {help}{operand}", key.text));
    let help = match operator.text.starts_with(['<', '>']) {
        true => format!("write {}", help::compared(operator.text, operand, key)),
        false => format!("write {value}"),
    };
    wrong(rest, vec![Diagnostic::error(message, span, "not an operator").help(help)])
}

/// The one value that must be there.
pub(super) fn argument<'a, T>(
    i: Cursor<'a>,
    key: Word<'_>,
    what: &str,
    example: &str,
    read: &dyn Fn(Word<'a>, &str) -> Result<T, Diagnostic>,
) -> Parsed<'a, (T, Span)> {
    let help = format!("write for example `{} {example}`", key.text);
    let Ok((rest, found)) = word(i) else {
        let read_there = |next| argument(next, key, what, example, read);
        if let Some(parsed) = help::in_next_line(i, key, false, read_there) {
            return parsed;
        }
        let missing =
            Diagnostic::error(format!("expected {what} after `{}`", key.text), key.span, "has no value");
        return wrong(i, vec![missing.help(help)]);
    };
    if help::is_keyword(found) {
        let message = format!("expected {what}, found `{}`", found.text);
        let missing = Diagnostic::error(message, found.span, "not a value").with(key.span, "has no value");
        return wrong(i, vec![missing.help(help)]);
    }
    if let Some((rest, error)) = not_one(i, key, what) {
        return wrong(help::skip(rest, Spoils::Word), vec![error]);
    }
    let meant = match found.text.starts_with('$') {
        false => found,
        true => match define::single(i, found) {
            Ok(Some(meant)) => meant,
            Ok(None) => return wrong(rest, Vec::new()),
            Err(diagnostic) => return wrong(help::skip(rest, Spoils::Word), vec![diagnostic]),
        },
    };
    match read(meant, key.text) {
        Ok(value) => Ok((rest, (value, found.span))),
        Err(diagnostic) => wrong(help::skip(rest, Spoils::Word), vec![diagnostic]),
    }
}

/// Something that may be written once.
pub(crate) fn repeated(what: &str, first: Span, again: Span) -> Diagnostic {
    Diagnostic::error(format!("`{what}` is repeated"), again, "second one")
        .with(first, "first one")
        .help(format!("keep one `{what}`"))
}
