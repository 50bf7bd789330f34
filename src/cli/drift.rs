//! `attach --check`: is what is attached what these rules compile to?
//!
//! Comes in: rules and a place, as for attaching. Goes out: every difference in words. Changes nothing, loads
//! nothing: the name of a filter has the hash of its program.

use super::attach::{Place, hooks, lists, open, places};
use super::how::How;
use super::rules::Rules;
use super::settings::Target;
use super::{Console, Failure};
use crate::codegen::Features;
use crate::diag::Source;
use crate::ir::Side;
use crate::net::gso::HookSetup;
use crate::net::health::{self, Broken};
use crate::net::links::{self, Device};
use crate::net::mark::GsoSetup;
use crate::net::seen::Unfinished;
use crate::net::{self, Filter, Hook, Interface, Mark, card};
use crate::policy::{self, Gso, Needs};

pub(super) fn check(
    target: &Target,
    how: How,
    source: Source,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let found = differences(target, how, source, console)?;
    for line in &found {
        console.say(line);
    }
    match found.len() {
        0 => Ok(()),
        1 => Err(Failure::Drift("one hook is not as these rules make it".to_owned())),
        n => Err(Failure::Drift(format!("{n} hooks are not as these rules make them"))),
    }
}

/// One line for each hook that attaching would change.
pub(super) fn differences(
    target: &Target,
    how: How,
    source: Source,
    console: &mut Console<'_>,
) -> Result<Vec<String>, Failure> {
    let lists = lists(how, source, console)?;
    let rules = hooks(target, &lists)?;
    let mut netlink = open(target)?;
    let places = places(target, &mut netlink, console)?;
    let interfaces: Vec<Interface> = places.iter().map(|place| place.interface.clone()).collect();
    let seen = net::look(&mut netlink, &interfaces, &Hook::ALL)?;
    let (unfinished, standing) = (seen.unfinished(), seen.ours);
    let devices = links::devices(&mut netlink)?;
    let broken = health::broken(&mut netlink, &standing, &devices, &interfaces)?;
    let mut found = Vec::new();
    for place in &places {
        let interface = &place.interface;
        for (hook, rules) in &rules {
            let filter =
                standing.iter().find(|filter| filter.interface == *interface && filter.hook == *hook);
            let device = devices.iter().find(|device| device.interface == *interface);
            let mut differs = difference(filter, (place, *hook), device, rules, how)?;
            if let (None, Some(filter)) = (&differs, filter) {
                differs = how.where_to.misses(&mut netlink, filter)?;
            }
            if differs.is_none() {
                let broken = broken.iter().find(|broken| broken.interface == *interface);
                differs = broken.map(|Broken { pair, why, .. }| format!("the {pair} is broken: {why}"));
            }
            let half = unfinished.iter().find(|half| half.interface == *interface && half.hook == *hook);
            differs = half.map(Unfinished::to_string).or(differs);
            found.extend(differs.map(|differs| format!("{} {hook}: {differs}", interface.name)));
        }
    }
    Ok(found)
}

fn difference(
    filter: Option<&Filter>,
    (place, hook): (&Place, Hook),
    device: Option<&Device>,
    rules: &Rules,
    how: How,
) -> Result<Option<String>, Failure> {
    let Some(filter) = filter else { return Ok(Some("nothing of sfunnel's is attached".to_owned())) };
    let name = filter.name.as_deref().unwrap_or_default();
    let Some(mark) = Mark::read(name) else {
        return Ok(Some(format!("another version of sfunnel has attached `{name}`")));
    };
    let Mark { gso, merging, finishing, .. } = mark;
    let options =
        HookSetup { gso, merging, finishing, reach: None }.companions().options(place.link, hook.into());
    let made_for = |features| {
        let target = policy::target(features, hook.into(), &rules.ruleset, place.mtu);
        let program = rules.compile(options.on(target))?;
        Ok::<_, Failure>(Mark::new(&program.bytes(), rules.ruleset.rules.len()))
    };
    // What the kernel has could only be found out by loading.
    let [newest, older @ ..] = Features::EVERY;
    let wanted = made_for(newest)?;
    let mut known = wanted.hash == mark.hash;
    for features in older {
        known = known || made_for(features)?.hash == mark.hash;
    }
    if !known {
        return Ok(Some(format!(
            "a program of {} with the hash {} is attached, and these rules make one of {} with the hash {}",
            counted(mark.rules),
            mark.hash,
            counted(wanted.rules),
            wanted.hash
        )));
    }
    let needs = Needs::of(hook.into(), &rules.ruleset, how.choices);
    let distrusted =
        needs.funnels && how.choices.gso == Gso::Segment && !card::distrusted(device.into_iter())?.is_empty();
    Ok(beside(&mark, needs.on(distrusted), device, how.choices.gso).map(str::to_owned))
}

/// What differs in how packets of several segments are treated. Where something that is wanted cannot be had,
/// attaching has fallen back to less, and would again.
fn beside(mark: &Mark, needs: Needs, device: Option<&Device>, gso: Gso) -> Option<&'static str> {
    let bare = device.is_some_and(|device| device.interface.is_loopback());
    let merges = gso == Gso::Segment && !bare && !device.is_some_and(|device| device.per_packet);
    match mark.gso {
        GsoSetup::Pass if needs.cut && gso == Gso::Segment && !bare => {
            Some("packets of several segments pass as they are, and are to be cut")
        }
        GsoSetup::Pass if needs.cut && gso == Gso::Limit && needs.side == Side::Egress && !bare => {
            Some("its sockets make packets of several segments, and are to make none")
        }
        GsoSetup::Pair | GsoSetup::Macvlan if gso != Gso::Segment => {
            Some("packets of several segments are cut by companion devices, which it is not to have")
        }
        GsoSetup::Limited(_) if gso == Gso::Off => {
            Some("its sockets make no packets of several segments, and are to make them")
        }
        GsoSetup::Pair | GsoSetup::Macvlan if needs.finish_all && !mark.finishing => {
            Some("checksums are to be finished")
        }
        _ if mark.finishing && !needs.finish_all => Some("checksums are finished, and need not be"),
        _ if mark.merging && !needs.merge => Some("segments are merged, and are not to be"),
        _ if !mark.merging && needs.merge && merges => Some("segments are to be merged"),
        _ => None,
    }
}

fn counted(rules: usize) -> String {
    if rules == 1 { "1 rule".to_owned() } else { format!("{rules} rules") }
}
