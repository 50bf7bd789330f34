//! `bypass attach --check`: is what stands what these rules, and the nodes that receive now, make?
//!
//! Input: what the user wants. Output: every difference in words. Asks the nodes; changes nothing and loads nothing.

use super::given::Given;
use super::known::Known;
use super::{Seen, mark, pods, received};
use crate::cli::rules::Rules;
use crate::cli::{Console, Failure};
use crate::codegen::Features;
use crate::ir::Side;
use crate::net::mark::Reach;
use crate::net::{self, Filter, Hook, Mark, Netlink};

pub(super) fn check(given: &Given, netlink: &mut Netlink, console: &mut Console<'_>) -> Result<(), Failure> {
    let known = given.known(&given.source()?, netlink, &mut Seen::default(), console)?;
    let interfaces = [known.ends.host.clone(), known.ends.overlay.clone()];
    let seen = net::look(netlink, &interfaces, &Hook::ALL)?;
    let mut found: Vec<String> = seen.unfinished().iter().map(ToString::to_string).collect();
    let of_host = on(&seen.ours, &known, Side::Ingress);
    let mut differs = difference(&known, of_host, Side::Ingress, Some((&known.receiving, None)))?;
    if let (None, Some(filter)) = (&differs, of_host) {
        differs = given.how.where_to.misses(netlink, filter)?;
    }
    found.extend(differs.map(|why| format!("{} ingress: {why}", known.ends.host.name)));
    if !given.receive_only {
        let sending = known.sending(&received(&known.ask(netlink, given.port)?));
        let of_overlay = on(&seen.ours, &known, Side::Egress);
        let wanted = sending.as_ref().map(|(rules, reach)| (rules, Some(*reach)));
        let mut differs = difference(&known, of_overlay, Side::Egress, wanted)?;
        if let (None, Some(filter)) = (&differs, of_overlay) {
            differs = given.how.where_to.misses(netlink, filter)?;
        }
        found.extend(differs.map(|why| format!("{} egress: {why}", known.ends.overlay.name)));
    }
    let pods = pods::judge(&known, given.fast.is_some(), netlink)?;
    found.extend(pods.into_iter().filter(|pod| pod.state == pods::State::Differs).map(|pod| {
        let why = pod.why.unwrap_or_default();
        format!("{}: {why}", pod.interface)
    }));
    found.iter().for_each(|line| console.say(line));
    match found.len() {
        0 => Ok(()),
        1 => Err(Failure::Drift("one hook is not as these rules make it".to_owned())),
        n => Err(Failure::Drift(format!("{n} hooks are not as these rules make them"))),
    }
}

/// What of ours is on the hook of this side.
pub(super) fn on<'a>(ours: &'a [Filter], known: &Known, side: Side) -> Option<&'a Filter> {
    let (interface, hook) = match side {
        Side::Ingress => (&known.ends.host, Hook::Ingress),
        Side::Egress => (&known.ends.overlay, Hook::Egress),
    };
    ours.iter().find(|filter| filter.interface == *interface && filter.hook == hook)
}

fn difference(
    known: &Known,
    filter: Option<&Filter>,
    side: Side,
    wanted: Option<(&Rules, Option<Reach>)>,
) -> Result<Option<String>, Failure> {
    let (filter, (rules, reach)) = match (filter, wanted) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Ok(Some("nothing of sfunnel's is attached".to_owned())),
        (Some(_), None) => {
            return Ok(Some("it sends past the overlay, and no other node receives".to_owned()));
        }
        (Some(filter), Some(wanted)) => (filter, wanted),
    };
    let name = filter.name.as_deref().unwrap_or_default();
    let Some(there) = Mark::read(name) else {
        return Ok(Some(format!("another version of sfunnel has attached `{name}`")));
    };
    if is_of(known, rules, reach, side, &there)? {
        return Ok(None);
    }
    Ok(Some(match (there.reach, reach) {
        (Some(there), Some(wanted)) if there != wanted => format!(
            "it sends to {} of {} nodes, and {} of {} receive",
            there.reached, there.all, wanted.reached, wanted.all
        ),
        _ => format!(
            "a program with the hash {} is attached, and these rules and nodes make another one",
            there.hash
        ),
    }))
}

/// Whether a filter's name is that of these rules, for whatever kernel they were compiled.
pub(super) fn is_of(
    known: &Known,
    rules: &Rules,
    reach: Option<Reach>,
    side: Side,
    there: &Mark,
) -> Result<bool, Failure> {
    // What the kernel has could only be found out by loading.
    for features in Features::EVERY {
        if mark(rules, known.options_for(features, side), reach)? == *there {
            return Ok(true);
        }
    }
    Ok(false)
}
