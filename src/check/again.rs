//! Work done twice or told apart by nobody: output that a funnel of the same ruleset takes again, and
//! two funnels that look the same to the far end.
//!
//! Legal rules as sets go in, errors come out. Work is bounded, whatever the ruleset: beyond a
//! million comparisons, which takes tens of thousands of rules that nearly do it, only rules that match
//! their own output are found.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use range_set_blaze::{Integer, RangeSetBlaze};

use super::overlap::Pair;
use crate::diag::{Diagnostic, Span};
use crate::ir::{Action, Addresses, Family, Funnel, Proto, Rule};

/// Who has this many funnels that do it will fix them all alike.
const MOST_TOLD: usize = 1000;
/// Comparisons of two rules.
const MOST_COMPARED: usize = 1_000_000;
/// Once too much has been compared, what takes a rule's own output first must be among this many.
const MOST_FIRST: usize = 2000;
/// Pieces that the addresses of one rule may fall into. Beyond, they count as taken.
const MOST_PIECES: usize = 64;

/// What a funneled packet shows to rules, its addresses aside. In an order that has all source ports of
/// a destination port together.
type Output = (Proto, u16, u16);

fn output(rule: &Rule) -> Option<(Output, Funnel)> {
    let Action::Funnel(funnel) = rule.action else { return None };
    Some(((funnel.outer, funnel.dport, funnel.sport), funnel))
}

/// Funnels whose output is funneled again at the next hook it passes, by the same rule or another, as no
/// rule before takes it first.
pub(super) fn funneled_again(rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let mut left = MOST_COMPARED;
    let takers = takers(rules, &mut left);
    let mut found = Vec::new();
    for (index, (_, rule)) in rules.iter().enumerate() {
        let Some((output, funnel)) = output(rule) else { continue };
        if found.len() == MOST_TOLD {
            break;
        }
        if left == 0
            && takes(rule, output)
            && Area::behind(rule).meets(&Area::of(rule))
            && !rules[..index.min(MOST_FIRST)].iter().any(|(_, first)| takes_all(first, rule, output))
        {
            found.push(again(&rules[index], &rules[index], true, funnel));
        }
        let Some(takers) = takers.get(&output) else { continue };
        let mut pieces = vec![Area::behind(rule)];
        for &taker in takers {
            if pieces.is_empty() || left == 0 {
                break;
            }
            let area = Area::of(&rules[taker].1);
            if !meets(&pieces, &area, &mut left) {
                continue;
            }
            let funnels = matches!(rules[taker].1.action, Action::Funnel(_));
            // Where packets come from and go to another place, who takes which of them first is not looked at.
            let reach = |pieces: Vec<_>, left: &mut usize| match rule.nat.is_none() {
                true => what_reaches(&rules[..index], rule, pieces, left),
                false => pieces,
            };
            if funnels && meets(&reach(pieces.clone(), &mut left), &area, &mut left) {
                found.push(again(&rules[index], &rules[taker], index == taker, funnel));
                break;
            }
            pieces = without(&pieces, &area);
        }
    }
    found
}

/// Whether the rule takes the output, addresses aside.
fn takes(rule: &Rule, (proto, dport, sport): Output) -> bool {
    rule.proto == proto && rule.dport.contains(dport) && rule.sport.contains(sport)
}

/// Whether `first` takes all of the output between the addresses of `rule`.
fn takes_all(first: &Rule, rule: &Rule, output: Output) -> bool {
    let behind = Area::behind(rule);
    takes(first, output) && behind.saddr.is_subset(&first.saddr) && behind.daddr.is_subset(&first.daddr)
}

/// The pieces of the rule's addresses less those that `earlier` rules take from it.
fn what_reaches<'a>(
    earlier: &[Pair<'_>],
    rule: &Rule,
    mut pieces: Vec<Area<'a>>,
    left: &mut usize,
) -> Vec<Area<'a>> {
    for (_, earlier) in earlier {
        *left = left.saturating_sub(1);
        if *left == 0 {
            break;
        }
        let all_ports = || rule.dport.is_subset(&earlier.dport) && rule.sport.is_subset(&earlier.sport);
        if earlier.proto == rule.proto && all_ports() {
            pieces = without(&pieces, &Area::of(earlier));
        }
    }
    pieces
}

/// For each output that some funnel takes, addresses aside: all rules that take it, in their order.
fn takers(rules: &[Pair<'_>], left: &mut usize) -> BTreeMap<Output, Vec<usize>> {
    let made: BTreeSet<Output> = rules.iter().filter_map(|(_, rule)| Some(output(rule)?.0)).collect();
    // Nearly all rulesets end here: none of their funnels takes any output.
    let mut again: BTreeSet<Output> = BTreeSet::new();
    for (_, rule) in rules.iter().filter(|(_, rule)| matches!(rule.action, Action::Funnel(_))) {
        again.extend(taken(rule, &made, left));
    }
    let mut takers: BTreeMap<Output, Vec<usize>> = BTreeMap::new();
    for (index, (_, rule)) in rules.iter().enumerate() {
        for output in taken(rule, &again, left) {
            takers.entry(output).or_default().push(index);
        }
    }
    takers
}

/// Those of the `outputs` that the rule takes, addresses aside.
fn taken(rule: &Rule, outputs: &BTreeSet<Output>, left: &mut usize) -> Vec<Output> {
    let mut taken = Vec::new();
    for dports in rule.dport.ranges() {
        let (first, last) = dports.into_inner();
        for &output in outputs.range((rule.proto, first, 0)..=(rule.proto, last, u16::MAX)) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return taken;
            }
            if rule.sport.contains(output.2) {
                taken.push(output);
            }
        }
    }
    taken
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
    let mut groups: HashMap<Output, Vec<usize>> = HashMap::new();
    for (index, (_, rule)) in rules.iter().enumerate() {
        if let Some((output, _)) = output(rule) {
            groups.entry(output).or_default().push(index);
        }
    }
    let used: BTreeSet<Output> = groups.keys().copied().collect();
    let mut left = MOST_COMPARED;
    let mut clashes = Vec::new();
    for (output, group) in &groups {
        let (tcp, udp): (Vec<usize>, Vec<usize>) =
            group.iter().partition(|&&index| rules[index].1.proto == Proto::Tcp);
        // Rules that meet nothing of what all others match need no comparing, which is the usual case.
        let near = |list: &[usize], others: &[usize]| -> Vec<(usize, Area<'_>)> {
            let moved = others.iter().any(|&index| !rules[index].1.nat.is_none());
            let around = Around::new(others.iter().map(|&index| &rules[index].1));
            let meeting = list.iter().filter(|&&index| {
                let rule = &rules[index].1;
                !rule.nat.is_none() || moved || around.may_meet(rule)
            });
            meeting.map(|&index| (index, Area::behind(&rules[index].1))).collect()
        };
        let (tcp, udp) = (near(&tcp, &udp), near(&udp, &tcp));
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        'pairs: for (one, area) in &tcp {
            for (other, other_area) in &udp {
                left = left.saturating_sub(1);
                if left == 0 {
                    break 'pairs;
                }
                if !area.meets(other_area) {
                    continue;
                }
                let (first, second) = (*one.min(other), *one.max(other));
                if seen.insert(second) {
                    clashes.push((first, second, *output));
                }
            }
        }
    }
    clashes.sort_unstable();
    clashes.truncate(MOST_TOLD);
    clashes
        .into_iter()
        .map(|(first, second, output)| clash(&rules[first], &rules[second], output, &used))
        .collect()
}

fn clash(first: &Pair<'_>, second: &Pair<'_>, output: Output, used: &BTreeSet<Output>) -> Diagnostic {
    let (outer, dport, sport) = output;
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

/// Source and destination addresses, every one with every other of its family.
#[derive(Clone)]
struct Area<'a> {
    saddr: Cow<'a, Addresses>,
    daddr: Cow<'a, Addresses>,
}

impl<'a> Area<'a> {
    fn of(rule: &'a Rule) -> Self {
        Area { saddr: Cow::Borrowed(&rule.saddr), daddr: Cow::Borrowed(&rule.daddr) }
    }

    /// Of the rule's packets once it has been carried out.
    fn behind(rule: &'a Rule) -> Self {
        let becomes = |old: &'a Addresses, new: Option<IpAddr>| match new {
            None => Cow::Borrowed(old),
            Some(IpAddr::V4(new)) => Cow::Owned(RangeSetBlaze::from_iter([new.to_bits()]).into()),
            Some(IpAddr::V6(new)) => Cow::Owned(RangeSetBlaze::from_iter([new.to_bits()]).into()),
        };
        Area { saddr: becomes(&rule.saddr, rule.nat.saddr), daddr: becomes(&rule.daddr, rule.nat.daddr) }
    }

    fn meets(&self, other: &Area<'_>) -> bool {
        let (saddr, daddr) = ((&self.saddr, &other.saddr), (&self.daddr, &other.daddr));
        (!saddr.0.v4.is_disjoint(&saddr.1.v4) && !daddr.0.v4.is_disjoint(&daddr.1.v4))
            || (!saddr.0.v6.is_disjoint(&saddr.1.v6) && !daddr.0.v6.is_disjoint(&daddr.1.v6))
    }

    fn is_empty(&self) -> bool {
        !Family::ALL.into_iter().any(|family| self.saddr.has(family) && self.daddr.has(family))
    }

    /// What is left when the other is taken away.
    fn without(&self, other: &Area<'_>) -> impl Iterator<Item = Area<'a>> + use<'a> {
        let less = |all: &Addresses, taken: &Addresses| {
            Cow::Owned(Addresses { v4: &all.v4 - &taken.v4, v6: &all.v6 - &taken.v6 })
        };
        let both = Addresses { v4: &self.saddr.v4 & &other.saddr.v4, v6: &self.saddr.v6 & &other.saddr.v6 };
        let beside = Area { saddr: less(&self.saddr, &other.saddr), daddr: self.daddr.clone() };
        let rest = Area { saddr: Cow::Owned(both), daddr: less(&self.daddr, &other.daddr) };
        [beside, rest].into_iter().filter(|area| !area.is_empty())
    }
}

/// All addresses that some rules match, as ranges in order.
struct Around {
    saddr: (Ranges<u32>, Ranges<u128>),
    daddr: (Ranges<u32>, Ranges<u128>),
}

type Ranges<T> = Vec<(T, T)>;

impl Around {
    fn new<'a>(rules: impl Iterator<Item = &'a Rule> + Clone) -> Self {
        fn ranges<T: Integer>(set: RangeSetBlaze<T>) -> Ranges<T> {
            set.ranges().map(|range| range.into_inner()).collect()
        }
        let (sources, destinations) = (rules.clone().map(|rule| &rule.saddr), rules.map(|rule| &rule.daddr));
        Around {
            saddr: (
                ranges(sources.clone().flat_map(|set| set.v4.ranges()).collect()),
                ranges(sources.flat_map(|set| set.v6.ranges()).collect()),
            ),
            daddr: (
                ranges(destinations.clone().flat_map(|set| set.v4.ranges()).collect()),
                ranges(destinations.flat_map(|set| set.v6.ranges()).collect()),
            ),
        }
    }

    /// False if none of the rules shares an address with this one.
    fn may_meet(&self, rule: &Rule) -> bool {
        fn meet<T: Integer>(all: &[(T, T)], own: &RangeSetBlaze<T>) -> bool {
            own.ranges().any(|range| {
                let (first, last) = range.into_inner();
                let next = all.partition_point(|(_, end)| *end < first);
                all.get(next).is_some_and(|(start, _)| *start <= last)
            })
        }
        let Rule { saddr, daddr, .. } = rule;
        (meet(&self.saddr.0, &saddr.v4) && meet(&self.daddr.0, &daddr.v4))
            || (meet(&self.saddr.1, &saddr.v6) && meet(&self.daddr.1, &daddr.v6))
    }
}

/// Whether any piece meets the area; none does any more once nothing is `left`.
fn meets(pieces: &[Area<'_>], area: &Area<'_>, left: &mut usize) -> bool {
    *left = left.saturating_sub(pieces.len());
    *left > 0 && pieces.iter().any(|piece| piece.meets(area))
}

fn without<'a>(pieces: &[Area<'a>], area: &Area<'_>) -> Vec<Area<'a>> {
    let rest: Vec<Area<'a>> = pieces.iter().flat_map(|piece| piece.without(area)).collect();
    if rest.len() > MOST_PIECES { Vec::new() } else { rest }
}
