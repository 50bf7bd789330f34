//! Which versions of IP a rule is about: what `ip`, `ip6` and its addresses leave of the two.
//!
//! A rule's matches go in, its families or why no packet is of them come out.

use crate::diag::Diagnostic;
use crate::field::Notation;
use crate::ir::Family;
use crate::syntax::ast::{Action, ActionKind, Ast, Item, Match, MatchKind, Rule, Value, Version};

/// Both, or the one that is said; and what is said against it.
pub(super) fn family(rule: &Rule, ast: &Ast) -> Result<Option<Family>, Diagnostic> {
    let word = rule.matches.iter().find_map(|m| match m.kind {
        MatchKind::Ip(version) => Some((m, version)),
        _ => None,
    });
    let mut sets = rule.matches.iter().filter_map(|m| match &m.kind {
        MatchKind::Field { field, set, .. } if matches!(field.row().notation, Notation::Address) => {
            Some((m, set.items.as_slice()))
        }
        _ => None,
    });
    let (one, other) = (sets.next(), sets.next());
    if let (Some((_, one)), Some((_, other))) = (one, other) {
        for (these, those) in [(other, one), (one, other)] {
            let lonely = |item: &&Item| !those.iter().any(|that| version_of(that) == version_of(item));
            if let Some(item) = these.iter().find(lonely)
                && let Some(version) = version_of(item)
            {
                return Err(one_sided(item, version, &those[0]));
            }
        }
    }
    for (m, items) in [one, other].into_iter().flatten() {
        if let Some((word, version)) = word
            && let Some(wrong) = items.iter().find(|item| version_of(item) != Some(version))
        {
            return Err(against_word(word, version, m, wrong));
        }
    }
    pinned_twice(rule)?;
    let named = |items: &[Item], version| items.iter().any(|item| version_of(item) == Some(version));
    let said = |version| {
        word.is_none_or(|(_, word)| word == version)
            && one.is_none_or(|(_, items)| named(items, version))
            && other.is_none_or(|(_, items)| named(items, version))
            && rule.matches.iter().all(|m| is_in(m, version))
    };
    let family = match (said(Version::V4), said(Version::V6)) {
        (true, false) => Some(Version::V4),
        (false, true) => Some(Version::V6),
        _ => None,
    };
    let named = one.is_some();
    Ok(bypassed(rule, ast, rewritten(rule, family, named)?, named)?.map(family_of))
}

/// Whether packets of this version have the field that is matched.
fn is_in(m: &Match, version: Version) -> bool {
    match m.kind {
        MatchKind::Field { field, .. } => field.is_in(family_of(version)),
        MatchKind::Ip(_) | MatchKind::Protocol(_) => true,
    }
}

/// Refuses two matches of which each is about another version of IP, one of them because of its field.
fn pinned_twice(rule: &Rule) -> Result<(), Diagnostic> {
    let only = |m: &Match| match &m.kind {
        MatchKind::Ip(version) => Some(*version),
        MatchKind::Protocol(_) => None,
        MatchKind::Field { set, .. } => match (is_in(m, Version::V4), is_in(m, Version::V6)) {
            (true, false) => Some(Version::V4),
            (false, true) => Some(Version::V6),
            _ => {
                let version = version_of(set.items.first()?)?;
                set.items.iter().all(|item| version_of(item) == Some(version)).then_some(version)
            }
        },
    };
    let mut pinned = rule.matches.iter().filter_map(|m| Some((m, only(m)?)));
    let Some((first, version)) = pinned.next() else { return Ok(()) };
    let Some((again, other)) = pinned.find(|(_, other)| *other != version) else { return Ok(()) };
    // Words and addresses that disagree have messages of their own.
    let by_field = |m: &Match| !Version::ALL.iter().all(|version| is_in(m, *version));
    if !by_field(first) && !by_field(again) {
        return Ok(());
    }
    let (one, two) = (first.kind.keyword(), again.kind.keyword());
    let error = Diagnostic::error(
        format!("`{one}` and `{two}` in one rule"),
        again.span,
        "no packet is of both versions",
    );
    let about = |version| format!("{} only", name(version));
    Err(error
        .with(first.span, about(version))
        .help(format!("write two rules: `{two}` is about {}", about(other))))
}

/// What `dnat` and `snat` leave of it: they give a packet an address of its own version.
fn rewritten(rule: &Rule, mut family: Option<Version>, named: bool) -> Result<Option<Version>, Diagnostic> {
    for action in &rule.actions {
        let ActionKind::Nat { address, .. } = &action.kind else { continue };
        let version = Version::of(address.first);
        let other = family.filter(|family| *family != version);
        if family.is_none() && named || other.is_some() {
            let word = action.kind.keyword();
            let about = other.map_or("about both versions of IP", |other| match other {
                Version::V4 => "about IPv4",
                Version::V6 => "about IPv6",
            });
            let message = format!("`{word}` to {} in a rule {about}", a(version));
            return Err(Diagnostic::error(message, address.span, "packets keep their version")
                .help("write a rule for each version, with an address of its own"));
        }
        family = Some(version);
    }
    Ok(family)
}

/// What `bypass` and `unbypass` leave of it: the urgent pointer has no room for IPv6. What goes direct is of any
/// version that nodes are of.
fn bypassed(
    rule: &Rule,
    ast: &Ast,
    family: Option<Version>,
    named: bool,
) -> Result<Option<Version>, Diagnostic> {
    let Some(action) = rule.actions.iter().find(|action| action.kind.is_bypass()) else { return Ok(family) };
    match action.kind {
        ActionKind::Bypass { direct: true } => return directed(action, ast, family),
        ActionKind::Unbypass { direct: true, .. } => return Ok(family),
        _ => {}
    }
    let about = match family {
        Some(Version::V4) => return Ok(family),
        None if !named => return Ok(Some(Version::V4)),
        Some(Version::V6) => "about IPv6",
        None => "about both versions of IP",
    };
    let message = format!("`{}` in a rule {about}", action.kind.keyword());
    let error = Diagnostic::error(message, action.span, "takes IPv4, whose addresses are short enough");
    Err(error.help("write the rule for IPv4; IPv6 stays on the overlay"))
}

/// Those of the rule's versions that there are nodes of.
fn directed(action: &Action, ast: &Ast, family: Option<Version>) -> Result<Option<Version>, Diagnostic> {
    let [v4, v6] =
        Version::ALL.map(|version| ast.nodes.iter().any(|node| Version::of(node.host.first) == version));
    let known = match (v4, v6) {
        (true, false) => Version::V4,
        (false, true) => Version::V6,
        // If there are none, that is said elsewhere.
        _ => return Ok(family),
    };
    match family.filter(|family| *family != known && !ast.unread) {
        None => Ok(Some(known)),
        Some(other) => {
            let message = format!("`bypass direct` in a rule about {}", name(other));
            let error = Diagnostic::error(message, action.span, "no node has pods of this version");
            Err(error.help("write the nodes' addresses of this version as well: `node HOST PREFIX`"))
        }
    }
}

/// Of an address.
fn version_of(item: &Item) -> Option<Version> {
    match item.first {
        Value::Address(address) => Some(Version::of(address)),
        Value::Number(_) => None,
    }
}

fn family_of(version: Version) -> Family {
    match version {
        Version::V4 => Family::V4,
        Version::V6 => Family::V6,
    }
}

fn against_word(word: &Match, version: Version, m: &Match, wrong: &Item) -> Diagnostic {
    let keyword = version.keyword();
    let actual = other(version);
    let help = match &m.kind {
        MatchKind::Field { set, .. } if set.items.iter().any(|item| version_of(item) == Some(version)) => {
            format!("leave `{keyword}` out: the addresses say it")
        }
        _ => format!(
            "write `{}` instead of `{keyword}`, or leave it out: the address says it",
            actual.keyword()
        ),
    };
    Diagnostic::error(format!("`{keyword}` and {}", a(actual)), wrong.span, "not of this version")
        .with(word.span, format!("{} only", name(version)))
        .help(help)
}

/// An address of a version that the other side has none of.
fn one_sided(item: &Item, version: Version, that: &Item) -> Diagnostic {
    Diagnostic::error("no packet has addresses of both versions of IP", item.span, a(version))
        .with(that.span, a(other(version)))
        .help(format!("write two rules, one for {} and one for {}", name(Version::V4), name(Version::V6)))
}

fn other(version: Version) -> Version {
    match version {
        Version::V4 => Version::V6,
        Version::V6 => Version::V4,
    }
}

fn name(version: Version) -> &'static str {
    family_of(version).name()
}

fn a(version: Version) -> String {
    format!("an {} address", name(version))
}
