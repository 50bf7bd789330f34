//! `bypass doctor`: would a bypass work here, what is in its way, and does the way between the nodes keep what it needs?
//!
//! Input: what `bypass attach` takes. Output: findings, a line each. Asks the nodes; changes nothing.

use super::given::Given;
use super::known::Known;
use super::{Seen, fast, why_not};
use crate::cli::doctor::report;
use crate::cli::{Console, Failure, args, attach};
use crate::doctor::{self, Finding, Level};
use crate::net::links::Device;
use crate::net::{Hook, Netlink, links, pods, qdisc, xfrm};

pub(super) fn run(args: &args::BypassGiven, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut given = Given::read(args, console)?;
    // What is in the way of flows past the stack is in the way of nothing else.
    let fast = given.fast.take().is_some();
    let mut netlink = attach::open(&given.target)?;
    let mut found = doctor::programs();
    let devices = links::devices(&mut netlink)?;
    // What cannot be an end of a bypass is the answer already.
    let known = match given.known(&given.source()?, &mut netlink, &mut Seen::default(), console) {
        Ok(known) => known,
        Err(Failure::Net(error)) => {
            found.push(Finding { level: Level::Bad, about: "bypass".to_owned(), text: error.to_string() });
            return report(&found, console);
        }
        Err(failure) => return Err(failure),
    };
    let qdiscs = qdisc::all(&mut netlink)?;
    for (interface, hook) in [(&known.ends.host, Hook::Ingress), (&known.ends.overlay, Hook::Egress)] {
        let device = devices.iter().find(|device| device.interface == *interface);
        let qdisc = qdiscs.get(&interface.index).copied().unwrap_or_default();
        if let Some(device) = device {
            found.extend(doctor::interface(&mut netlink, device, &devices, qdisc, &[hook])?);
        }
    }
    found.extend(doctor::overlay(&mut netlink, &devices, &known.ends, &known.others())?);
    if fast && known.nodes.is_empty() {
        let text = "it is for flows that are rewritten: leave it out, or `direct`".to_owned();
        found.push(Finding { level: Level::Bad, about: "fast".to_owned(), text });
    } else if fast {
        found.extend(past_the_stack(&known, &devices, &mut netlink)?);
    }
    for (way, answer) in known.ask(&mut netlink, given.port)? {
        let (level, text) = match why_not(answer, way, given.port) {
            None if way.direct => {
                (Level::Good, "it receives, and pods' addresses get there and back".to_owned())
            }
            None => {
                (Level::Good, "it receives, and the way to it and back keeps the urgent pointer".to_owned())
            }
            Some(why) => (Level::Note, format!("stays on the overlay: {why}")),
        };
        found.push(Finding { level, about: way.to_string(), text });
    }
    for (what, why) in known.stay() {
        found.push(Finding {
            level: Level::Note,
            about: "nodes".to_owned(),
            text: format!("{what} stays on the overlay: {why}"),
        });
    }
    report(&found, console)
}

/// What is in the way of `--fast`: on this node, and of single pods.
fn past_the_stack(known: &Known, devices: &[Device], netlink: &mut Netlink) -> Result<Vec<Finding>, Failure> {
    let finding = |level, about: &str, text| Finding { level, about: about.to_owned(), text };
    let about = |level, text| finding(level, "fast", text);
    let mut found = vec![match fast::try_to_load(known) {
        Ok(()) => about(Level::Good, "the kernel takes its programs".to_owned()),
        Err(failure) => about(Level::Bad, failure.to_string()),
    }];
    let rules = fast::rules_that_miss_packets(&known.rules);
    let node = pods::obstacle(devices, &known.ends, xfrm::policies()?);
    found.extend(rules.into_iter().chain(node).map(|why| about(Level::Bad, why)));
    let pods = pods::find(netlink, devices, &known.ends)?;
    for pod in &pods {
        if let Some(why) = &pod.obstacle {
            let text = format!("its flows stay on the way through the stack: it {why}");
            found.push(finding(Level::Note, &pod.interface.name, text));
        }
    }
    found.push(match pods.iter().filter(|pod| pod.obstacle.is_none()).count() {
        0 => about(Level::Note, "there is no pod here whose flows could go past the stack".to_owned()),
        1 => about(Level::Good, "flows of one pod can go past the stack".to_owned()),
        n => about(Level::Good, format!("flows of {n} pods can go past the stack")),
    });
    Ok(found)
}
