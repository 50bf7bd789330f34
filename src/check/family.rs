//! Which versions of IP a rule is about: what `ip`, `ip6` and its addresses leave of the two.
//!
//! A rule's matches go in, its families or why no packet is of them come out.

use std::net::IpAddr;

use crate::diag::Diagnostic;
use crate::ir::Family;
use crate::syntax::ast::{ActionKind, Item, Match, MatchKind, Rule, Version};

/// Both, or the one that is said; and what is said against it.
pub(super) fn family(rule: &Rule) -> Result<Option<Family>, Diagnostic> {
    let word = rule.matches.iter().find_map(|m| match m.kind {
        MatchKind::Ip(version) => Some((m, version)),
        _ => None,
    });
    let mut sets = rule.matches.iter().filter_map(|m| match &m.kind {
        MatchKind::Addr { set, .. } => Some((m, set.items.as_slice())),
        _ => None,
    });
    let (one, other) = (sets.next(), sets.next());
    if let (Some((_, one)), Some((_, other))) = (one, other) {
        for (these, those) in [(other, one), (one, other)] {
            let lonely =
                |item: &&Item<IpAddr>| !those.iter().any(|that| version_of(that) == version_of(item));
            if let Some(item) = these.iter().find(lonely) {
                return Err(one_sided(item, &those[0]));
            }
        }
    }
    for (m, items) in [one, other].into_iter().flatten() {
        if let Some((word, version)) = word
            && let Some(wrong) = items.iter().find(|item| version_of(item) != version)
        {
            return Err(against_word(word, version, m, wrong));
        }
    }
    let said = |version| {
        word.is_none_or(|(_, word)| word == version)
            && one.is_none_or(|(_, items)| items.iter().any(|item| version_of(item) == version))
            && other.is_none_or(|(_, items)| items.iter().any(|item| version_of(item) == version))
    };
    let family = match (said(Version::V4), said(Version::V6)) {
        (true, false) => Some(Version::V4),
        (false, true) => Some(Version::V6),
        _ => None,
    };
    let named = one.is_some();
    Ok(rewritten(rule, family, named)?.map(|version| match version {
        Version::V4 => Family::V4,
        Version::V6 => Family::V6,
    }))
}

/// What `dnat` and `snat` leave of it: they give a packet an address of its own version.
fn rewritten(rule: &Rule, mut family: Option<Version>, named: bool) -> Result<Option<Version>, Diagnostic> {
    for action in &rule.actions {
        let ActionKind::Nat { address, .. } = &action.kind else { continue };
        let version = version_of(address);
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

fn version_of(item: &Item<IpAddr>) -> Version {
    Version::of(item.first)
}

fn against_word(word: &Match, version: Version, m: &Match, wrong: &Item<IpAddr>) -> Diagnostic {
    let keyword = version.keyword();
    let actual = version_of(wrong);
    let help = match &m.kind {
        MatchKind::Addr { set, .. } if set.items.iter().any(|item| version_of(item) == version) => {
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

fn one_sided(item: &Item<IpAddr>, that: &Item<IpAddr>) -> Diagnostic {
    let (this, other) = (version_of(item), version_of(that));
    Diagnostic::error("no packet has addresses of both versions of IP", item.span, a(this))
        .with(that.span, a(other))
        .help(format!("write two rules, one for {} and one for {}", name(Version::V4), name(Version::V6)))
}

fn name(version: Version) -> &'static str {
    match version {
        Version::V4 => "IPv4",
        Version::V6 => "IPv6",
    }
}

fn a(version: Version) -> String {
    format!("an {} address", name(version))
}
