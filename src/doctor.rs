//! `sfunnel doctor`: is this a place where rules can be attached, and what do they ask of the network?
//!
//! Input: interfaces, a ruleset if there is one. Output: findings. Asks the kernel by trying, never by its
//! version. Changes nothing: what it attaches to try it, it attaches in a network namespace of its own.

mod overlay;
mod programs;
pub mod size;

pub use self::overlay::overlay;
pub use self::programs::{of_rules, programs};

use std::fmt;

use crate::codegen::Link;
use crate::net::health::{self, Broken};
use crate::net::links::Device;
use crate::net::qdisc::Qdisc;
use crate::net::tcx::{self, Standing};
use crate::net::{self, Filter, Hook, Interface, Netlink, card, filter, unseen};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Good,
    /// Worth knowing.
    Note,
    /// `attach` would fail, or packets would not meet the rules.
    Bad,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Good => "ok",
            Level::Note => "note",
            Level::Bad => "BAD",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    pub about: String,
    pub text: String,
}

impl Finding {
    fn new(level: Level, about: impl Into<String>, text: impl Into<String>) -> Self {
        Finding { level, about: about.into(), text: text.into() }
    }
}

/// What prevents attaching to an interface. `devices` are all that there are.
pub fn interface(
    netlink: &mut Netlink,
    device: &Device,
    devices: &[Device],
    qdisc: Qdisc,
    hooks: &[Hook],
) -> net::Result<Vec<Finding>> {
    let interface = &device.interface;
    let about = interface.name.as_str();
    let mut found = Vec::new();
    let mtu = device.mtu.map_or(String::new(), |mtu| format!(", MTU {mtu}"));
    match device.link() {
        Some(Link::Ethernet) => found.push(Finding::new(Level::Good, about, format!("Ethernet{mtu}"))),
        Some(Link::Either) => found.push(Finding::new(
            Level::Good,
            about,
            format!("no link header (L3), or one that the kernel has put back{mtu}"),
        )),
        Some(Link::None) => found.push(Finding::new(Level::Good, about, format!("no link header (L3){mtu}"))),
        None => found.push(Finding::new(
            Level::Bad,
            about,
            format!(
                "a link header that sfunnel does not know (ARPHRD {}): attach above or below it",
                interface.link_type
            ),
        )),
    }
    match qdisc {
        Qdisc::Legacy => found.push(Finding::new(
            Level::Bad,
            about,
            format!("the legacy `ingress` qdisc is in the place of clsact; remove it, once nothing needs it: `tc qdisc del dev {about} ingress`"),
        )),
        Qdisc::Absent | Qdisc::Clsact(_) => {}
    }
    for &hook in hooks {
        let about = format!("{about} {hook}");
        if let Qdisc::Clsact(blocks) = qdisc
            && let Some(block) = blocks.of(hook)
        {
            let text = format!(
                "its filters are in the shared block {block}, and would concern other interfaces, too"
            );
            found.push(Finding::new(Level::Bad, &about, text));
            continue;
        }
        let filters = filter::list(netlink, interface, hook, qdisc)?;
        for filter in filters.iter().filter(|filter| filter.is_reached()) {
            let name = filter.name.as_deref().unwrap_or("without a name");
            let what = format!("{} {name}", filter.kind);
            if filter.is_ours() {
                found.push(Finding::new(Level::Good, &about, format!("{name} is attached")));
            } else if filter.priority == filter::PRIORITY {
                let text =
                    format!("a filter of somebody else at sfunnel's priority, {}: {what}", filter::PRIORITY);
                found.push(Finding::new(Level::Bad, &about, text));
            } else if filter.priority < filter::PRIORITY {
                let text = format!(
                    "a filter in front, at priority {}: {what}; what it decides on does not meet the rules",
                    filter.priority
                );
                found.push(Finding::new(Level::Note, &about, text));
            }
        }
        found.extend(on_tcx(&about, &tcx::look(interface, hook, &filters)?, &filters));
    }
    for &hook in hooks {
        if let Some(why) = unseen::why(device, hook, devices) {
            found.push(Finding::new(Level::Note, format!("{about} {hook}"), why));
        }
    }
    for card in card::distrusted(std::iter::once(device))? {
        let text = format!(
            "{}: `attach` finishes those of what its egress funnels; elsewhere, use --finish-checksums",
            card.why
        );
        found.push(Finding::new(Level::Note, about, text));
    }
    Ok(found)
}

/// What was attached and is not whole.
pub fn wholeness(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    devices: &[Device],
) -> net::Result<Vec<Finding>> {
    let seen = net::look(netlink, interfaces, &Hook::ALL)?;
    let half = health::half(&seen.unfinished())?;
    let mut found: Vec<Finding> =
        half.into_iter().map(|text| Finding::new(Level::Bad, "attaching", text)).collect();
    for Broken { interface, pair, why } in health::broken(netlink, &seen.ours, devices, interfaces)? {
        let text = format!("its {pair} is {why}; {}: attach again", pair.lost());
        found.push(Finding::new(Level::Bad, interface.name, text));
    }
    Ok(found)
}

/// What is on a hook's TCX, and what that means for filters of ours on its clsact.
fn on_tcx(about: &str, standing: &Option<Standing>, filters: &[Filter]) -> Vec<Finding> {
    let Some(standing) = standing else { return Vec::new() };
    let ours = standing.ours.iter().map(|filter| {
        let name = filter.name.as_deref().unwrap_or_default();
        let lost = if filter.is_note() { "" } else { ", but its note on clsact is gone: attach again" };
        let level = if filter.is_note() { Level::Good } else { Level::Bad };
        Finding::new(level, about, format!("{name} is attached to TCX{lost}"))
    });
    let mut found: Vec<Finding> = ours.collect();
    let others = standing.others();
    let before = standing.ours.first().and_then(|ours| ours.program).map_or(&others[..], |first| {
        let count = standing.programs().iter().take_while(|id| **id != first).count();
        others.get(..count).unwrap_or(&others)
    });
    if before.is_empty() {
        return found;
    }
    let names = tcx::describe(before);
    found.push(if !standing.ours.is_empty() {
        let text = format!("{names} (TCX) in front; packets that it decides on do not meet the rules");
        Finding::new(Level::Note, about, text)
    } else if filters.iter().any(Filter::is_ours) {
        let text = format!(
            "{names} (TCX) in front: sfunnel, on clsact, is hidden from it on; packets that it decides on \
             (TC_ACT_OK is enough) do not meet the rules; attach with `--hook tcx`"
        );
        Finding::new(Level::Bad, about, text)
    } else {
        let text = format!("{names} (TCX) come before clsact; `attach` will use TCX, before them");
        Finding::new(Level::Note, about, text)
    });
    found
}

/// What sfunnel has left in the namespace that nothing uses.
pub fn left_behind(netlink: &mut Netlink, devices: &[Device]) -> net::Result<Vec<Finding>> {
    let left = health::left_behind(netlink, devices)?;
    Ok(left.into_iter().map(|text| Finding::new(Level::Note, "pair", text)).collect())
}
