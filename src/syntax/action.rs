//! The grammar of actions: which word starts which, and what follows it.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides which
//! actions go together.

use nom::branch::alt;
use nom::combinator::opt;
use nom::{Err, Parser};

use super::ast::{Action, ActionKind, Guard, Protocol};
use super::help::{self, Spoils};
use super::parser::{argument, not_equal, port_side, protocol, repeated};
use super::set::set;
use super::value::{self, Wanted};
use super::word::{Cursor, Parsed, Word, keyword, no, peek, word, wrong};
use super::{alias, bypass, flags, nat};
use crate::diag::{Diagnostic, Span};
use crate::field::{self, Field};

/// `action = "accept" | "drop" | funnel | unfunnel | alias | unalias | bypass | unbypass | set | "counter" | nat`
pub(super) fn action(i: Cursor<'_>) -> Parsed<'_, Action> {
    alt((
        keyword("accept").map(|word| Action { span: word.span, kind: ActionKind::Accept }),
        keyword("drop").map(|word| Action { span: word.span, kind: ActionKind::Drop }),
        funnel,
        unfunnel,
        alias::alias,
        alias::unalias,
        bypass::bypass,
        bypass::unbypass,
        set_field,
        nat::nat,
        keyword("counter").map(|word| Action { span: word.span, kind: ActionKind::Counter }),
    ))
    .parse(i)
}

/// Those that a service may have before its rules.
pub(super) fn hiding(i: Cursor<'_>) -> Parsed<'_, Action> {
    alt((funnel, alias::alias)).parse(i)
}

/// `unfunnel = "unfunnel" [ "decap" ] protocol { guard }`
fn unfunnel(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("unfunnel")(i)?;
    let (i, _) = opt(keyword("decap")).parse(i)?;
    let (i, (inner, word)) = action_protocol(i, key, "unfunnel tcp")?;
    let (i, guards) = guards(i)?;
    let end = guards.last().map_or(word.span, |guard| guard.span);
    Ok((i, Action { span: key.span.to(end), kind: ActionKind::Unfunnel { inner, guards } }))
}

/// `funnel = "funnel" [ "encap" ] protocol ( "sport" port "dport" port | "dport" port "sport" port ) [ flags ]`
fn funnel(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("funnel")(i)?;
    let (i, _) = opt(keyword("encap")).parse(i)?;
    let (mut i, (outer, word)) = action_protocol(i, key, "funnel tcp sport 540 dport 80")?;

    let mut diagnostics = Vec::new();
    let [mut sport, mut dport] = [Argument::Missing, Argument::Missing];
    let mut end = word.span;
    while let Some(name) = peek(i).filter(|next| matches!(next.text, "sport" | "dport")) {
        let slot = if name.text == "sport" { &mut sport } else { &mut dport };
        let (rest, given) = funnel_port(i, name, &mut diagnostics);
        match slot {
            Argument::Missing => *slot = Argument::Given(given, name.span),
            Argument::Given(_, first) => diagnostics.push(repeated(name.text, *first, name.span)),
        }
        end = Span { start: name.span.start, end: rest.here().end };
        i = rest;
    }
    let span = key.span.to(end);
    match (sport, dport) {
        (Argument::Given(Some(sport), _), Argument::Given(Some(dport), _)) if diagnostics.is_empty() => {
            let (i, flags) = flags::pushed(i, outer)?;
            let span = span.to(flags.map_or(span.after(), |flags| flags.span));
            return Ok((i, Action { span, kind: ActionKind::Funnel { outer, sport, dport, flags } }));
        }
        (Argument::Given(..), Argument::Given(..)) => {}
        (sport, dport) => diagnostics.push(missing_ports(span, outer, &sport, &dport)),
    }
    wrong(i, diagnostics)
}

/// What is known of one of `funnel`'s ports: its value may be unreadable.
enum Argument {
    Missing,
    Given(Option<u16>, Span),
}

fn funnel_port<'a>(
    i: Cursor<'a>,
    key: Word<'a>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Cursor<'a>, Option<u16>) {
    let parsed = word(i).and_then(|(i, _)| {
        if let Ok((rest, not)) = keyword("!=")(i) {
            let diagnostic =
                Diagnostic::error("`funnel` writes a port, it compares none", not.span, "no operator here")
                    .help(format!("write `{} N`", key.text));
            return wrong(help::skip(rest, Spoils::Word), vec![diagnostic]);
        }
        let (i, _) = not_equal(i, key)?;
        // "Leave it out" is no remedy here: both ports must be written.
        let advice = "choose a port between 1 and 65535 for the funneling header";
        let read = |word: Word<'_>, key: &str| value::port(word, key).map_err(|unread| unread.advise(advice));
        argument(i, key, "a port number", "540", &read)
    });
    match parsed {
        Ok((rest, (port, _))) => (rest, Some(port)),
        Err(Err::Error(fault) | Err::Failure(fault)) => {
            diagnostics.extend(fault.diagnostics);
            (fault.rest, None)
        }
        Err(Err::Incomplete(_)) => (i, None),
    }
}

fn missing_ports(span: Span, outer: Protocol, sport: &Argument, dport: &Argument) -> Diagnostic {
    let shown = |argument: &Argument, example: u16| match argument {
        Argument::Given(Some(port), _) => *port,
        _ => example,
    };
    let missing = match (sport, dport) {
        (Argument::Missing, Argument::Missing) => "`sport` and `dport` are missing",
        (Argument::Missing, _) => "`sport` is missing",
        _ => "`dport` is missing",
    };
    Diagnostic::error("`funnel` needs both ports of the funneling header", span, missing).help(format!(
        "write for example `funnel {} sport {} dport {}`",
        outer.keyword(),
        shown(sport, 540),
        shown(dport, 80),
    ))
}

/// The protocol of `funnel` or `unfunnel`, which must be there, once.
fn action_protocol<'a>(i: Cursor<'a>, key: Word<'_>, example: &str) -> Parsed<'a, (Protocol, Word<'a>)> {
    let Ok((rest, (first, word))) = protocol(i) else {
        let message = format!("expected `tcp` or `udp` after `{}`", key.text);
        let (rest, diagnostic) = match word(i) {
            Ok((rest, found)) if !help::is_keyword(found) => {
                (rest, Diagnostic::error(message, found.span, "not a protocol"))
            }
            _ => (i, Diagnostic::error(message, key.span, "which protocol?")),
        };
        return wrong(
            help::skip(rest, Spoils::UntilAction),
            vec![diagnostic.help(format!("write for example `{example}`"))],
        );
    };
    if let Ok((after, (_, second))) = protocol(rest) {
        let diagnostic =
            Diagnostic::error(format!("`{}` with two protocols", key.text), second.span, "second protocol")
                .with(word.span, "first protocol")
                .help(format!("write `{} {}`", key.text, first.keyword()));
        return wrong(help::skip(after, Spoils::UntilAction), vec![diagnostic]);
    }
    Ok((rest, (first, word)))
}

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

/// Whether a field that rules may set comes next, and `set`.
pub(super) fn sets(i: Cursor<'_>) -> bool {
    settable(i).is_ok_and(|(rest, _)| keyword("set")(rest).is_ok())
}

fn settable(i: Cursor<'_>) -> Parsed<'_, (Field, Word<'_>)> {
    let (rest, word) = word(i)?;
    match Field::settable().find(|field| field.keyword() == word.text) {
        Some(field) => Ok((rest, (field, word))),
        None => no(i),
    }
}

/// `set = FIELD "set" number`, of a field that rules may set
pub(super) fn set_field(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, (field, key)) = settable(i)?;
    let words = format!("{field} set");
    let Ok((rest, set)) = keyword("set")(i) else {
        let number = peek(i).and_then(|word| value::number(word, &field::ANY, &words).ok());
        let help = format!("write `{words} {}`", number.unwrap_or(1));
        let label = format!("sets a packet's {field}");
        let error = Diagnostic::error(format!("expected `set` after `{field}`"), key.span, label);
        return wrong(help::skip(i, Spoils::UntilAction), vec![error.help(help)]);
    };
    let key = Word { text: &words, span: key.span.to(set.span) };
    let read =
        |word: Word<'_>, key: &str| value::number(word, &field::ANY, key).map_err(|unread| *unread.error);
    let (rest, (value, span)) = argument(rest, key, "a number", "1", &read)?;
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Set { field, value } }))
}
