//! The productions of `alias` and `unalias`.
//!
//! Like the rest of the grammar: a node out, or what is wrong and where to read on. Never decides
//! which of a packet's ports `unalias` is about: that is in the rule's matches.

use super::ast::{Action, ActionKind};
use super::help::{self, Spoils};
use super::parser::{argument, not_equal, port_side};
use super::set::set;
use super::value::{Wanted, port};
use super::word::{Cursor, Parsed, Word, keyword, peek, wrong};
use crate::diag::Diagnostic;
use crate::field;

const ALIAS: &str = "write for example `alias dport 80`";

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
    let read = |found: Word<'_>, keyword: &str| port(found, keyword).map_err(|unread| unread.advise(ALIAS));
    let (rest, (port, span)) = argument(after, name, "a port number", "80", &read)?;
    Ok((rest, Action { span: key.span.to(span), kind: ActionKind::Alias { side, port } }))
}

/// `unalias = "unalias" ports`
pub(super) fn unalias(i: Cursor<'_>) -> Parsed<'_, Action> {
    let (i, key) = keyword("unalias")(i)?;
    if let Ok((after, (_, name))) = port_side(i) {
        const LONGEST: usize = 60;
        let (rest, value) = match set(after, Wanted::listed_by(&field::PORTS, key)) {
            Ok((rest, ports)) => (rest, i.text(ports.span)),
            Err(_) => (help::skip(after, Spoils::UntilAction), "8080"),
        };
        let value = if value.len() > LONGEST || value.contains(['\n', '#']) { "{ ... }" } else { value };
        let message = format!("`unalias` takes ports, no `{}`", name.text);
        let error = Diagnostic::error(message, name.span, "the rule's matches say which port it is");
        return wrong(rest, vec![error.help(format!("write `unalias {value}`"))]);
    }
    let (rest, ports) = set(i, Wanted::listed_by(&field::PORTS, key))?;
    Ok((rest, Action { span: key.span.to(ports.span), kind: ActionKind::Unalias { ports } }))
}
