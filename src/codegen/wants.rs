//! What rulesets need besides a program.
//!
//! Input: rules. Output: whether they ask for companion devices, or for another interface. Emits nothing.

use crate::ir::{Action, Proto, Rule, Ruleset};

/// Whether these rules meet packets of several segments that have to be cut: those to funnel, and what a receiver may
/// have merged.
pub fn wants_segments(ruleset: &Ruleset) -> bool {
    funnels(ruleset) || unfunnels_merged(ruleset)
}

/// Whether these rules unfunnel UDP, several packets of which a receiver may have merged into one. (It never merges
/// funneled TCP: the sequence number stands still, and SYN is set, `tcp_gro_receive`.)
fn unfunnels_merged(ruleset: &Ruleset) -> bool {
    let is_one = |rule: &Rule| matches!(rule.action, Action::Unfunnel { .. }) && rule.proto == Proto::Udp;
    ruleset.rules.iter().any(is_one)
}

/// Whether these rules push headers.
pub fn funnels(ruleset: &Ruleset) -> bool {
    ruleset.rules.iter().any(|rule| matches!(rule.action, Action::Funnel(_)))
}

/// Whether these rules send packets on to another interface.
pub fn bypasses(ruleset: &Ruleset) -> bool {
    ruleset.rules.iter().any(|rule| rule.action.is_bypass())
}

/// Whether these rules, on ingress, give the stack segments that it would rather have in one piece.
pub fn wants_merging(ruleset: &Ruleset) -> bool {
    ruleset.rules.iter().any(|rule| matches!(rule.action, Action::Unfunnel { inner: Proto::Tcp, .. }))
}

/// Whether these rules need the segments of what they cut with finished checksums: if `all` that is funneled is wanted
/// so, or to unfunnel what has been merged. Such a packet is `CHECKSUM_PARTIAL` for its outer header, and so would be
/// its segments: behind `unfunnel`, whoever finishes them would write where that header was.
pub fn wants_checksums(ruleset: &Ruleset, all: bool) -> bool {
    all && funnels(ruleset) || unfunnels_merged(ruleset)
}
