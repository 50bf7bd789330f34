//! The arguments of actions that are not a production of their own: guards, and `mark`.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides which
//! actions go together.

use super::ast::{Action, ActionKind, Guard};
use super::help::{self, Spoils};
use super::parser::{argument, not_equal, port_side, repeated};
use super::set::set;
use super::value::{self, Wanted};
use super::word::{Cursor, Parsed, Word, keyword, peek, wrong};
use crate::diag::Diagnostic;
use crate::field;

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
        |word: Word<'_>, key: &str| value::number(word, &field::ANY, key).map_err(|unread| *unread.error);
    let (rest, (value, span)) = argument(rest, key, "a number", "1", &read)?;
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Mark { value } }))
}
