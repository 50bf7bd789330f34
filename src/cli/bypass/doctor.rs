//! `bypass doctor`: would a bypass work here, what is in its way, and does the way between the nodes keep what it needs?
//!
//! Input: what `bypass attach` takes. Output: findings, a line each. Asks the nodes; changes nothing.

use super::given::Given;
use super::{Seen, why_not};
use crate::cli::doctor::report;
use crate::cli::{Console, Failure, args, attach};
use crate::doctor::{self, Finding, Level};
use crate::net::{Hook, links, qdisc};

pub(super) fn run(args: &args::BypassGiven, console: &mut Console<'_>) -> Result<(), Failure> {
    let given = Given::read(args, console)?;
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
    found.extend(doctor::overlay(&mut netlink, &devices, &known.ends, &known.nodes, known.own)?);
    for (host, answer) in known.ask(given.port)? {
        let (level, text) = match why_not(answer, given.port) {
            None => {
                (Level::Good, "it receives, and the way to it and back keeps the urgent pointer".to_owned())
            }
            Some(why) => (Level::Note, format!("stays on the overlay: {why}")),
        };
        found.push(Finding { level, about: host.to_string(), text });
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
