//! Rules over several lines, which no rule can be.
//!
//! The rules of a text go in; which of them are parts of one comes out, and what to write instead. Never
//! looks at values.

use std::collections::BTreeSet;

use crate::diag::Diagnostic;
use crate::syntax::LONGEST_QUOTED;
use crate::syntax::ast::{MatchKind, Rule};

/// Whether each rule is a part of one, and an error for each that has parts.
pub(super) fn parts(rules: &[Rule], faults: &mut Vec<Diagnostic>) -> Vec<bool> {
    let mut is_part = vec![false; rules.len()];
    let mut start = 0;
    while let Some(first) = rules.get(start) {
        let mut seen = fields(first);
        let mut end = start + 1;
        while let [.., last, next] = &rules[..rules.len().min(end + 1)]
            && end < rules.len()
            && !first.matches.is_empty()
            && goes_on(last, next, &seen)
        {
            seen.extend(fields(next));
            end += 1;
        }
        if end - start > 1 {
            is_part[start..end].fill(true);
            faults.extend(told(&rules[start..end], seen.contains(PROTOCOL)));
        }
        start = end;
    }
    is_part
}

const PROTOCOL: &str = "protocol";

/// What a rule's matches are about.
fn fields(rule: &Rule) -> BTreeSet<&'static str> {
    let field = |kind: &MatchKind| match kind {
        MatchKind::Protocol(_) => PROTOCOL,
        MatchKind::Ip(_) => "version",
        kind => kind.keyword(),
    };
    rule.matches.iter().map(|m| field(&m.kind)).collect()
}

/// After this character, shells read on in the next line.
fn continued(rule: &Rule) -> bool {
    rule.text.ends_with('\\')
}

/// Whether `next` is no rule, but what `last` lacks; `seen` is matched by `last` and what it goes on.
fn goes_on(last: &Rule, next: &Rule, seen: &BTreeSet<&'static str>) -> bool {
    let found = fields(next);
    if last.chain != next.chain || found.contains(PROTOCOL) {
        return false;
    }
    if continued(last) {
        return true;
    }
    let acts = next.actions_word.is_some() || !next.actions.is_empty();
    // The ports of a `funnel` look like matches.
    let arguments = last.damaged && !acts;
    let fits = match last.actions_word {
        Some(_) => found.is_empty() && next.actions_word.is_none(),
        None => found.is_disjoint(seen) && (!last.damaged || found.is_empty()),
    };
    last.actions.is_empty() && (fits || arguments) && (!next.damaged || next.actions_word.is_some())
}

/// A `\` has been told already, and so has a value in a line of its own.
fn told(parts: &[Rule], has_protocol: bool) -> Option<Diagnostic> {
    let [first, next, ..] = parts else { return None };
    if parts.iter().any(|part| continued(part) || part.over_lines) {
        return None;
    }
    let whole = parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join(" ");
    let error = Diagnostic::error("a rule ends with its line or at `;`", next.span, "goes on here")
        .with(first.span, "is not complete");
    Some(match whole.len() <= LONGEST_QUOTED && !parts.iter().any(|part| part.damaged) {
        true if has_protocol => error.help(format!("join the lines: `{whole}`")),
        true => error.help(format!("join the lines, and write `tcp` or `udp` first: `tcp {whole}`")),
        false => error.help("join the lines"),
    })
}
