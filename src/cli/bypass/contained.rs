//! The container's entry point, where it is told of an overlay: what the original's DaemonSet sets, this understands.
//!
//! Input: OVERLAY_IF, HOST_IF and variables that begin with ROUTER_, and rules where the original has them (/etc/rules), or where
//! sfunnel has them. Output: a bypass that is attached and followed until the container is told to stop.

use std::path::{Path, PathBuf};

use super::given::Given;
use super::{fast, watch};
use crate::cli::args::{BypassGiven, PeersArg};
use crate::cli::log::Level;
use crate::cli::{Console, Failure, attach, settings};
use crate::net::detach::Whose;
use crate::net::{self, Hook, links};

/// Each with what it is when it is not set.
pub(in crate::cli) const VARIABLES: [(&str, &str); 7] = [
    ("OVERLAY_IF", "auto"),
    ("HOST_IF", "auto"),
    ("ROUTER_PORT", "1234"),
    ("ROUTER_LOGLEVEL", "INFO"),
    ("ROUTER_PODS", ""),
    ("ROUTER_FAST", "no"),
    ("ROUTER_FLOWS", "65536"),
];
/// Where the original looks.
const ROUTER_RULES: &str = "/etc/rules";

/// Whether the environment speaks of an overlay.
pub(in crate::cli) fn is_wanted(console: &Console<'_>) -> bool {
    ["OVERLAY_IF", "HOST_IF"].into_iter().any(|name| console.variable(name).is_some())
}

/// From here on, only what matters so much is said.
pub(in crate::cli) fn log_level(console: &mut Console<'_>) -> Result<(), Failure> {
    let Some(text) = console.variable("ROUTER_LOGLEVEL") else {
        console.least = Level::Info;
        return Ok(());
    };
    console.least = Level::read(text.trim()).ok_or_else(|| {
        Failure::Usage(format!("ROUTER_LOGLEVEL is `{text}`; it must be DEBUG, INFO, WARNING or ERROR"))
    })?;
    Ok(())
}

pub(in crate::cli) fn run(console: &mut Console<'_>) -> Result<(), Failure> {
    let clean = settings::truth("CLEAN", console)?;
    let given = Given::read(&from_variables(clean, console), console)?;
    if clean {
        return take_away(&given, console);
    }
    watch::follow(&given, watch::EVERY, console)
}

fn from_variables(clean: bool, console: &mut Console<'_>) -> BypassGiven {
    let name = |variable| Some(console.variable(variable).unwrap_or_else(|| "auto".to_owned()));
    let mut given = BypassGiven {
        overlay_if: name("OVERLAY_IF"),
        host_if: name("HOST_IF"),
        peers: Some(PeersArg::Auto),
        debug: console.least == Level::Debug,
        ..BypassGiven::default()
    };
    let said = ["SFUNNEL_RULESET", "SFUNNEL_RULESET_INGRESS", "SFUNNEL_RULESET_EGRESS"]
        .into_iter()
        .any(|name| console.variable(name).is_some());
    if said {
        console.say("[INFO] Rules: of the environment");
    } else if Path::new(ROUTER_RULES).is_dir() {
        console.say(format!("[INFO] Rules: those in {ROUTER_RULES}"));
        given.router_rules = Some(PathBuf::from(ROUTER_RULES));
        given.pods = console.variable("ROUTER_PODS").map(PathBuf::from);
    } else if Path::new(settings::RULESET_FILE).exists() {
        console.say(format!("[INFO] Rules: {}", settings::RULESET_FILE));
    } else {
        if !clean {
            console.say("[WARNING] No rule configured: all TCP between pods of different nodes is bypassed");
        }
        given.ruleset = Some("tcp actions bypass".to_owned());
    }
    given
}

/// What sends first: who has no program left to receive with is not to be sent to.
fn take_away(given: &Given, console: &mut Console<'_>) -> Result<(), Failure> {
    console.say("[INFO] Cleaning sfunnel's BPF programs of the bypass...");
    let mut netlink = attach::open(&given.target)?;
    let _turn = attach::turn(&given.target, &mut netlink, console)?;
    let devices = links::devices(&mut netlink)?;
    let ends = given.ends(&mut netlink, &devices)?;
    fast::leave(&mut netlink, &ends)?;
    for (interface, hook) in [(&ends.overlay, Hook::Egress), (&ends.host, Hook::Ingress)] {
        net::detach(&mut netlink, std::slice::from_ref(interface), &[hook], Whose::Ours)?;
        console.say(format!(
            "[INFO] Successfully cleaned BPF program(s) on '{}' DIRECTION={hook}.",
            interface.name
        ));
    }
    Ok(())
}
