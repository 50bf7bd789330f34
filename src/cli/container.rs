//! The container's entry point: no arguments, everything from the environment, a banner first.

use nix::sys::utsname::uname;

use super::args::{Attach, Place};
use super::attach::{attach_to, detach_from};
use super::how::How;
use super::settings::{self, Target};
use super::{Console, Failure};
use crate::net::detach::Whose;
use crate::policy;

/// Every variable with what it means when it is not set.
const VARIABLES: [(&str, &str); 17] = [
    ("SFUNNEL_RULESET", "from /etc/sfunnel/ruleset"),
    ("SFUNNEL_RULESET_INGRESS", "none"),
    ("SFUNNEL_RULESET_EGRESS", "none"),
    ("SFUNNEL_END", "none"),
    ("IFACES", "all"),
    ("DIRECTION", "ingress"),
    ("NETNS", "this one"),
    ("SFUNNEL_HOOK", "auto"),
    ("SFUNNEL_ORDER", "as before, or first"),
    ("SFUNNEL_GSO", "segment"),
    ("SFUNNEL_FINISH_CHECKSUMS", "0"),
    ("SFUNNEL_NO_MERGE", "0"),
    ("CLEAN", "0"),
    ("SFUNNEL_COUNTERS", "0"),
    ("DEBUG", "0"),
    ("N_ATTEMPTS", "6"),
    ("RETRY_DELAY", "3"),
];

pub fn run(console: &mut Console<'_>) -> Result<(), Failure> {
    banner(console);
    let args = Attach::default();
    let target = Target::read(&Place::default(), policy::DEFAULT_SIDE.into(), console)?;
    let how = How::read(&args, console)?;
    let clean = settings::truth("CLEAN", console)?;
    if clean {
        return detach_from(&target, how.patience, Whose::OursAndTheOriginals, console);
    }
    let source = settings::source(&args, console)?;
    for piece in source.pieces() {
        console.say(format!("ruleset ({}):", piece.name));
        for line in source.text[piece.span.start..piece.span.end].lines() {
            console.say(format!("  {line}"));
        }
    }
    attach_to(&target, how, source, console)
}

fn banner(console: &mut Console<'_>) {
    let kernel = uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    console.say(format!("sfunnel {}, Linux {kernel}", env!("CARGO_PKG_VERSION")));
    for (name, default) in VARIABLES {
        let value = match console.variable(name) {
            // The rules are said below, a line a line.
            Some(_) if name.starts_with("SFUNNEL_RULESET") => "set".to_owned(),
            Some(value) => value,
            None => format!("{default} (not set)"),
        };
        console.say(format!("  {name:<23} {value}"));
    }
}
