//! Whether the kernel takes our programs and companion devices: every kind that `attach` may ask for.
//!
//! Input: rulesets, made up or the user's. Output: findings. Loads programs, and attaches them in a network namespace
//! of its own; nothing is left behind.

use std::fs::File;
use std::os::fd::AsFd;
use std::{fmt, thread};

use nix::sched::{CloneFlags, unshare};

use super::{Finding, Level};
use crate::codegen::Features;
use crate::diag::Source;
use crate::diagram::{self, Diagram};
use crate::ir::{Ruleset, Side};
use crate::kernel::{Counters, LoadError};
use crate::net::companion::CompanionProgram;
use crate::net::{self, Attachment, Hook, Mark, Netlink, gso, links, veth};
use crate::policy::{self, Choices, Gso, Needs};
use crate::{check, codegen, elf, kernel, system};

/// One ruleset for each kind of action, since what they ask of a kernel differs.
const SAMPLES: [(&str, &str); 6] = [
    (
        "funnel",
        "udp dport 1 actions funnel tcp sport 2 dport 3\ntcp dport 1 actions funnel udp sport 2 dport 3\n",
    ),
    ("unfunnel", "tcp sport 2 dport 3 actions unfunnel tcp\nudp sport 2 dport 3 actions unfunnel udp\n"),
    ("alias", "tcp dport 1 actions alias dport 2\ntcp dport 2 actions unalias { 1, 3 }\n"),
    ("nat", "ip udp dport 1 actions dnat 192.0.2.1:2\nip6 tcp dport 1 actions snat [2001:db8::1]:2\n"),
    (
        "bypass",
        "node 192.0.2.1 10.244.1.0/24\nnode 192.0.2.2 10.244.2.0/24\ntcp dport 1 actions bypass\n\
         ip saddr 192.0.2.1 daddr 192.0.2.2 tcp actions unbypass probe 2\n\
         udp dport 1 actions bypass direct\nip saddr 10.244.1.0/24 tcp actions unbypass direct probe 2\n",
    ),
    ("counter", "udp dport 1 actions funnel tcp sport 2 dport 3 counter\ntcp dport 4 actions counter drop\n"),
];
const PROGRAM: &str = "sfunnel_doctor";

/// Whether the kernel takes our programs, and takes them where `attach` puts them.
pub fn programs() -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, rules) in SAMPLES {
        let loaded = read(rules).and_then(|(ruleset, diagram)| every(&ruleset, &diagram));
        match loaded {
            Ok(()) => found.push(Finding::new(Level::Good, name, "the kernel takes its programs")),
            Err(why) => {
                found.push(Finding::new(Level::Bad, name, why));
                // The others would fail for the same reason, mostly a missing capability.
                return found;
            }
        }
    }
    found.extend(lacking(kernel::features()));
    let tried = match thread::Builder::new().spawn(attach) {
        Ok(thread) => thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)),
        Err(error) => {
            Err(Trying::Failed(format!("cannot start a thread to try it in: {}", system::said(&error))))
        }
    };
    match tried {
        Ok(notes) => {
            let text = "to clsact, on ingress and egress (in a namespace of its own)";
            found.push(Finding::new(Level::Good, "attaching", text));
            if notes.is_empty() {
                let text = "a segmentation pair, macvlans and a merging pair can be made";
                found.push(Finding::new(Level::Good, "devices", text));
            }
            found.extend(notes.into_iter().map(|note| Finding::new(Level::Note, "devices", note)));
        }
        Err(Trying::NotTried(errno)) => found.push(Finding::new(
            Level::Note,
            "attaching",
            format!("not tried: making a network namespace to try it in: {errno} (needs CAP_SYS_ADMIN, `attach` does not)"),
        )),
        Err(Trying::Failed(why)) => found.push(Finding::new(Level::Bad, "attaching", why)),
    }
    found
}

/// What the kernel lacks, and what is done instead.
fn lacking(Features { check_mtu, long_jumps, nested_tags }: Features) -> Vec<Finding> {
    let note = |text: &str| Finding::new(Level::Note, "kernel", text);
    let mut found = Vec::new();
    if !check_mtu {
        found.push(note(&format!("no bpf_check_mtu (Linux 5.12): {}", policy::UNASKED)));
    }
    if !long_jumps {
        let text =
            "no jumps of 32 bits (gotol, Linux 6.6): large programs jump by way of islands, a little slower";
        found.push(note(text));
    }
    if !nested_tags {
        found.push(note(&format!("no second VLAN tag on ingress (Linux 6.12): {}", policy::NOT_NESTED)));
    }
    found
}

/// Whether the kernel takes every program that these rules may become.
pub fn of_rules(ruleset: &Ruleset, diagram: &Diagram, about: &str) -> Finding {
    match every(ruleset, diagram) {
        Ok(()) => Finding::new(Level::Good, about, "the kernel takes the programs of these rules"),
        Err(why) => Finding::new(Level::Bad, about, why),
    }
}

fn internal(what: &dyn fmt::Display) -> String {
    format!("internal error, please report: {what}")
}

fn read(rules: &str) -> Result<(Ruleset, Diagram), String> {
    let checked = check::read(&Source::new("doctor", rules)).map_err(|_| internal(&"refused"))?;
    let diagram = diagram::build(&checked.ruleset);
    Ok((checked.ruleset, diagram))
}

/// Loads one program after the other, and forgets it.
fn every(ruleset: &Ruleset, diagram: &Diagram) -> Result<(), String> {
    policy::every(ruleset, kernel::features())
        .into_iter()
        .try_for_each(|options| load(ruleset, diagram, options).map(drop))
}

fn load(ruleset: &Ruleset, diagram: &Diagram, options: codegen::Options) -> Result<kernel::Program, String> {
    let mut program = codegen::compile(ruleset, diagram, options).map_err(|error| match error {
        asm::Error::TooLarge { .. } => error.to_string(),
        other => internal(&other),
    })?;
    let name = policy::name(options);
    let refused = |error: LoadError| match error {
        LoadError::Permission(_) => error.to_string(),
        other => format!("{name}: {other}"),
    };
    // Held until the program is loaded, which then holds them.
    let counters = if ruleset.counts() { Some(Counters::create(ruleset).map_err(refused)?) } else { None };
    if let Some(counters) = &counters {
        program = program.with_maps(&counters.descriptors());
    }
    let object = elf::wrap(&[(PROGRAM, &program)]).map_err(|error| internal(&error))?;
    let loaded = kernel::load(&object, &[PROGRAM]).map_err(refused)?;
    loaded.into_iter().next().ok_or_else(|| internal(&"nothing was loaded"))
}

enum Trying {
    NotTried(nix::errno::Errno),
    Failed(String),
}

/// In a thread of its own, whose namespace goes with it. Returns what could not be made, and what is done instead.
fn attach() -> Result<Vec<String>, Trying> {
    let failed = |error: &dyn fmt::Display| Trying::Failed(error.to_string());
    unshare(CloneFlags::CLONE_NEWNET).map_err(Trying::NotTried)?;
    let [(_, rules), ..] = SAMPLES;
    let (ruleset, diagram) = read(rules).map_err(Trying::Failed)?;
    let target = policy::target(kernel::features(), Side::Egress, &ruleset, None);
    let options = policy::usual(net::Link::Ethernet, Side::Egress, &ruleset, Choices::default()).on(target);
    let program = load(&ruleset, &diagram, options).map_err(Trying::Failed)?;
    let mut netlink = Netlink::open().map_err(|error| failed(&error))?;
    let interfaces = links::list(&mut netlink).map_err(|error| failed(&error))?;
    let attachments = interfaces.into_iter().flat_map(|interface| {
        Hook::ALL.map(|hook| Attachment::new(interface.clone(), hook, &program, PROGRAM.to_owned()))
    });
    let plan = net::plan(&mut netlink, attachments.collect()).map_err(|error| failed(&error))?;
    plan.apply(&mut netlink).map_err(|error| failed(&error))?;
    devices(&mut netlink)
}

/// Makes an interface with all companion devices there are.
fn devices(netlink: &mut Netlink) -> Result<Vec<String>, Trying> {
    const NAME: &str = "doctor0";
    let failed = |error: &dyn fmt::Display| Trying::Failed(error.to_string());
    let here = File::open("/proc/thread-self/ns/net").map_err(|error| failed(&error))?;
    if let Err(error) = veth::pair(netlink, [NAME, "doctor1"], [8, 9], here.as_fd()) {
        return Ok(vec![format!("no veth pair can be made ({error}): `attach` falls back to `--gso limit`")]);
    }
    let compiled = policy::companions().map_err(|error| Trying::Failed(internal(&error)))?;
    let named = compiled.each_ref().map(|(name, _, _, program)| (*name, program));
    let object = elf::wrap(&named).map_err(|error| Trying::Failed(internal(&error)))?;
    let loaded = kernel::load(&object, &named.map(|(name, _)| name)).map_err(|error| failed(&error))?;
    let back: Vec<CompanionProgram<'_>> = compiled
        .iter()
        .zip(&loaded)
        .map(|((_, at, side, compiled), program)| CompanionProgram {
            at: *at,
            hook: (*side).into(),
            program: program.as_fd(),
            name: Mark::new(&compiled.bytes(), 0).end(),
        })
        .collect();
    let interfaces = links::find(netlink, &[NAME.to_owned()]).map_err(|error| failed(&error))?;
    let needs = [Side::Ingress, Side::Egress].map(|side| Needs {
        side,
        cut: true,
        finish: false,
        finish_all: false,
        funnels: true,
        merge: side == Side::Ingress,
    });
    let made = gso::prepare(netlink, Gso::Segment, &interfaces, &needs, &[], &back, &[]);
    Ok(made.map_err(|error| failed(&error))?.notes)
}
