//! Packets that would be funneled twice, and funnels that the far end cannot tell apart.
//!
//! Legal rules go in, errors come out. Exact, and bounded: where finding out would cost too much, nothing is said.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::{Meaning, Pair};
use crate::diag::{Diagnostic, Span};
use crate::diagram::Diagram;
use crate::diagram::question::ask;
use crate::field::Field;
use crate::ir::{Action, Family, Funnel, Proto, Rule, about};
use crate::matches::{Matches, only};

/// More reports than this do not help.
const MOST_REPORTED: usize = 1000;
/// Steps through the diagram, and rules looked at, in all.
const MOST_STEPS: usize = 10_000_000;
/// Pairs of funnels with one header.
const MOST_COMPARED: usize = 4_000_000;
/// Rules looked at to answer all questions.
const EFFORT: usize = 5_000_000;
/// Sets of packets that one rule takes of another one's output.
const MOST_PIECES: usize = 640;

/// The header that a funnel pushes. In an order that has all source ports of a destination port together.
type Header = (Proto, u16, u16);

fn header(rule: &Rule) -> Option<(Header, Funnel)> {
    let Action::Funnel(funnel) = rule.action else { return None };
    Some(((funnel.outer, funnel.dport, funnel.sport), funnel))
}

/// What the packets of a rule that funnels look like afterwards.
fn output(rule: &Rule, funnel: Funnel, family: Family) -> Option<Matches> {
    let funneled = rule.of(family)?.funneled(family, funnel.sport, funnel.dport);
    let rewritten = [(Field::SADDR, rule.nat.saddr), (Field::DADDR, rule.nat.daddr)];
    let moved = rewritten.into_iter().fold(funneled, |matches, (field, address)| match address {
        None => matches,
        Some(IpAddr::V4(new)) => matches.with(field, family, only(new.to_bits().into())),
        Some(IpAddr::V6(new)) => matches.with(field, family, only(new.to_bits())),
    });
    Some(moved)
}

/// Funnels whose output is funneled again at the next hook that it passes, by the same rule or another, as no rule in
/// front takes it first.
pub(super) fn funneled_again(rules: &[Pair<'_>], meaning: &Meaning) -> Vec<Diagnostic> {
    let ruleset = &meaning.ruleset;
    let outers: BTreeSet<Proto> = ruleset.rules.iter().filter_map(|rule| Some(header(rule)?.0.0)).collect();
    let funneled = |rule: &Rule| matches!(rule.action, Action::Funnel(_)) && outers.contains(&rule.proto);
    if !ruleset.rules.iter().any(funneled) {
        return Vec::new();
    }
    let mut search =
        Search { rules: &ruleset.rules, diagram: meaning.diagram(), steps: MOST_STEPS, effort: EFFORT };
    let mut found = Vec::new();
    for (index, rule) in ruleset.rules.iter().enumerate() {
        let Some((_, funnel)) = header(rule) else { continue };
        if found.len() == MOST_REPORTED {
            break;
        }
        if let Some(taker) = search.taker(index, funnel) {
            found.push(again(&rules[index], &rules[taker], index == taker, funnel));
        }
    }
    found
}

struct Search<'a> {
    rules: &'a [Rule],
    diagram: &'a Diagram,
    steps: usize,
    effort: usize,
}

impl Search<'_> {
    /// The first rule that funnels again what the rule has funneled.
    fn taker(&mut self, index: usize, funnel: Funnel) -> Option<usize> {
        let rule = &self.rules[index];
        for (family, packets) in rule.each() {
            let Some(output) = output(rule, funnel, family) else { continue };
            // A quick look that misses nothing, and finds nothing in nearly all rulesets.
            let reached = self.diagram.reached(family, funnel.outer, &output, &mut self.steps)?;
            let funnels = |at: &usize| matches!(self.rules[*at].action, Action::Funnel(_));
            if !reached.iter().any(funnels) {
                continue;
            }
            let takers = self.meeting(self.rules, funnel.outer, family, &output)?;
            let answer = ask(&output, family, &takers, &mut self.effort)?;
            for taker in answer.rules().into_iter().filter(funnels) {
                let taken = answer.packets(&|outcome| outcome[0] == Some(taker), MOST_PIECES);
                if !rule.nat.is_none() || self.is_made(index, family, packets, &taken)? {
                    return Some(taker);
                }
            }
        }
        None
    }

    /// Whether the rule makes any of these packets: rules before it may take what it would make them of.
    fn is_made(
        &mut self,
        index: usize,
        family: Family,
        packets: &Matches,
        taken: &[(Matches, [Option<usize>; 2])],
    ) -> Option<bool> {
        for (piece, _) in taken {
            let Some(source) = packets.intersection(&piece.without_l4()) else { continue };
            let earlier = self.meeting(&self.rules[..index], self.rules[index].proto, family, &source)?;
            if ask(&source, family, &earlier, &mut self.effort)?.misses() {
                return Some(true);
            }
        }
        Some(false)
    }

    /// The rules that some of the packets may meet.
    fn meeting<'r>(
        &mut self,
        rules: &'r [Rule],
        proto: Proto,
        family: Family,
        packets: &Matches,
    ) -> Option<Vec<(usize, &'r Matches)>> {
        self.steps = self.steps.checked_sub(rules.len())?;
        Some(about(rules, family, proto).filter(|(_, matches)| matches.meets(packets)).collect())
    }
}

fn again(maker: &Pair<'_>, taker: &Pair<'_>, itself: bool, funnel: Funnel) -> Diagnostic {
    let Funnel { outer, sport, dport, .. } = funnel;
    let message = match itself {
        true => "the rule matches its own output and would funnel it again",
        false => "another rule matches this one's output and would funnel it again",
    };
    let matches = taker.0.matches.first().map_or(taker.1.span, |first| {
        first.span.to(taker.0.matches.last().map_or(first.span, |last| last.span))
    });
    Diagnostic::error(message, action(maker), "makes such packets")
        .with(matches, format!("matches {outer} from port {sport} to port {dport}"))
        .help(format!("put this rule first: `{outer} sport {sport} dport {dport} actions accept`"))
}

/// Where the action stands.
fn action((written, rule): &Pair<'_>) -> Span {
    written.actions.first().map_or(rule.span, |action| action.span)
}

/// Funnels with the same header around different protocols, between addresses that may be the same: the
/// rule that unfunnels over there names one protocol.
pub(super) fn ambiguous(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let mut groups: HashMap<Header, [Vec<(usize, Funnel)>; 2]> = HashMap::new();
    for (index, (_, rule)) in rules.iter().enumerate() {
        if let Some((header, funnel)) = header(rule) {
            let inner = usize::from(rule.proto == Proto::Udp);
            groups.entry(header).or_default()[inner].push((index, funnel));
        }
    }
    let used: BTreeSet<Header> = groups.keys().copied().collect();
    let mut left = MOST_COMPARED;
    let mut clashes = Vec::new();
    for (header, [tcp, udp]) in &groups {
        let outputs = |list: &[(usize, Funnel)]| -> Vec<_> {
            let of = |(index, funnel): &(usize, Funnel)| {
                (*index, Family::ALL.map(|family| output(&rules[*index].1, *funnel, family)))
            };
            list.iter().map(of).collect()
        };
        // Most headers are pushed onto packets of one protocol only.
        if tcp.is_empty() || udp.is_empty() {
            continue;
        }
        let (tcp, udp) = (outputs(tcp), outputs(udp));
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        'pairs: for (one, areas) in &tcp {
            for (other, other_areas) in &udp {
                left = left.saturating_sub(1);
                if left == 0 {
                    break 'pairs;
                }
                let meets = |(area, other): (&Option<Matches>, &Option<Matches>)| match (area, other) {
                    (Some(area), Some(other)) => area.meets(other),
                    _ => false,
                };
                if !areas.iter().zip(other_areas).any(meets) {
                    continue;
                }
                let (first, second) = (*one.min(other), *one.max(other));
                if seen.insert(second) {
                    clashes.push((first, second, *header));
                }
            }
        }
    }
    clashes.sort_unstable();
    clashes.truncate(MOST_REPORTED);
    clashes
        .into_iter()
        .map(|(first, second, header)| clash(&rules[first], &rules[second], header, &used))
        .collect()
}

fn clash(first: &Pair<'_>, second: &Pair<'_>, header: Header, used: &BTreeSet<Header>) -> Diagnostic {
    let (outer, dport, sport) = header;
    let error = Diagnostic::error(
        "the far end cannot tell two funnels apart",
        action(second),
        format!("{} inside {outer} from port {sport} to port {dport}", second.1.proto),
    )
    .with(action(first), format!("{} inside the same", first.1.proto));
    let free = (sport..=u16::MAX).chain(1..sport).find(|sport| !used.contains(&(outer, dport, *sport)));
    match free {
        Some(free) => error.help(format!(
            "give one of them another source port: `funnel {outer} sport {free} dport {dport}`"
        )),
        None => error.help("give one of them another destination port"),
    }
}
