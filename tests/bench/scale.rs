//! How rulesets grow, from one rule to 65,536: instructions, nodes, depth, parts, seconds, memory, nanoseconds; beside
//! a linear program and nftables, on the same machine with the same packets.
//!
//! `cargo xtask bench scale` runs it, as root, and makes docs/performance.md of what it says; `SFUNNEL_SCALE` names the
//! file. `SFUNNEL_BESIDE` names a folder with objects of another version, `SHAPE.o` (`compile --emit elf`), to be run
//! in turn with ours. Without `--bench`, as `cargo test` calls it, it goes through small sizes once, and makes sure that
//! all of them decide alike. No number is asserted: that is for a person to judge.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

#[path = "../support/mod.rs"]
mod support;

#[path = "scale/linear.rs"]
mod linear;
#[path = "scale/nft.rs"]
mod nft;
#[path = "scale/packets.rs"]
mod packets;
#[path = "scale/shapes.rs"]
mod shapes;
#[path = "scale/timing.rs"]
mod timing;

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use packets::{Packet, Packets};
use serde_json::{Map, Value, json};
use sfunnel::codegen::{self, Link, Options};
use sfunnel::diag::Source;
use sfunnel::diagram::{Diagram, Node};
use sfunnel::ir::{Action, Family, Proto, Ruleset};
use support::testrun::Loader;
use support::{Need, require};
use timing::{Compiled, Copies, Device};

/// How large a diagram may become, in arms of its tests: src/diagram/parts.rs.
const ARMS_PER_END: usize = 3;
const ARMS_PER_CHAIN: usize = 256;

/// How thorough to be.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    copies: usize,
}

struct Bench {
    loader: Loader,
    device: Device,
    empty: Copies,
    effort: Effort,
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [word, file] = args.as_slice()
        && word == "--compile"
    {
        println!("{}", serde_json::to_string(&Compiled::here(Path::new(file))?)?);
        return Ok(());
    }
    let measured = args.iter().any(|arg| arg == "--bench");
    let filter = args.iter().find(|arg| !arg.starts_with('-')).cloned().unwrap_or_default();
    // The words of `cargo test` name tests; this is one.
    if !measured && !"scale".contains(&filter) {
        return Ok(());
    }
    if !require(&[Need::Root, Need::Tool("nft", "nftables")]) {
        return Ok(());
    }
    let effort = if measured { Effort { rounds: 8, copies: 2 } } else { Effort { rounds: 1, copies: 1 } };
    let mut loader = Loader::as_the_product();
    let device = Device::new(&mut loader)?;
    let empty = timing::empty(&mut loader, effort.copies)?;
    let mut bench = Bench { loader, device, empty, effort };
    let shapes = if measured { shapes::all()? } else { shapes::small()? };
    let chosen = |name: &str| !measured || name.contains(&filter);
    let mut rows = Vec::new();
    for (name, text) in shapes.into_iter().filter(|(name, _)| chosen(name)) {
        let row = bench.row(&name, &text).with_context(|| name.clone())?;
        println!("{row}");
        rows.push(row);
    }
    ensure!(!rows.is_empty(), "no shape is called `{filter}`");
    if let Some(file) = env::var_os("SFUNNEL_SCALE") {
        let document = json!({ "version": 1, "machine": machine(), "rows": rows });
        fs::write(file, serde_json::to_string_pretty(&document)? + "\n")?;
    }
    Ok(())
}

fn machine() -> Value {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    json!({
        "optimised": !cfg!(debug_assertions),
        "processor": model.trim_start_matches([':', '\t', ' ']),
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default().trim(),
        "load": read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    })
}

impl Bench {
    fn row(&mut self, name: &str, text: &str) -> Result<Value> {
        let checked = sfunnel::read(&Source::new("scale", text));
        let ruleset = checked.map_err(|all| anyhow::anyhow!("{}", all[0].message))?.ruleset;
        let diagram = sfunnel::diagram::build(&ruleset);
        let program = codegen::compile(&ruleset, &diagram, Options::pass_gso(Link::Ethernet))?;
        let large = program.slots() > 100_000;
        let copies = if large { 1 } else { self.effort.copies };
        let ours = Copies::of(&mut self.loader, &program, copies)?;
        let packets = Packets::of(&ruleset, &diagram);
        agree("sfunnel", &ruleset, &packets, |packet| Ok(ours.verdict(packet)? == 2))?;
        let bound = ARMS_PER_END * ends(&ruleset) + ARMS_PER_CHAIN * chains(&diagram);
        ensure!(arms(&diagram) <= bound, "{} arms, and no more than {bound} were promised", arms(&diagram));
        let compiled = Compiled::measure(text, self.effort.rounds.min(3))?;
        let kinds = || Family::ALL.into_iter().flat_map(|f| Proto::ALL.map(|p| (f, p)));
        let mut row = json!({
            "shape": name,
            "rules": ruleset.rules.len(),
            "nodes": diagram.size(),
            "slots": program.slots(),
            "depth": kinds().map(|(f, p)| diagram.depth(f, p)).max(),
            "chains": chains(&diagram),
            "arms": arms(&diagram),
            "ends": ends(&ruleset),
            "seconds": { "read": compiled.read, "build": compiled.build, "emit": compiled.emit, "load": ours.seconds },
            "megabytes": compiled.megabytes,
            "verified": ours.verified()?,
        });
        let mut ns = Map::new();
        for (kind, packets) in packets.kinds() {
            ns.insert(kind.to_owned(), self.alone(&ours, packets)?);
        }
        row["ns"] = Value::Object(ns);
        row["linear"] = self.linear(&ruleset, &packets)?;
        if let Some(folder) = env::var_os("SFUNNEL_BESIDE") {
            let file = Path::new(&folder).join(format!("{}.o", name.replace(' ', "-")));
            if file.exists() {
                let elf = fs::read(&file)?;
                let other = Copies::load(&mut self.loader, &elf, "sfunnel", copies)?;
                agree("the other version", &ruleset, &packets, |packet| Ok(other.verdict(packet)? == 2))?;
                row["beside"] =
                    json!({ "miss": self.alone(&other, packets.kinds()[0].1)?, "load": other.seconds });
            }
        }
        drop(ours);
        row["device"] = self.on_device(text, &ruleset, &packets)?;
        Ok(row)
    }

    /// Over an empty program: the mean over the packets of the least that each has taken.
    fn alone(&self, program: &Copies, packets: &[Packet]) -> Result<Value> {
        let mut total = 0.0;
        for packet in packets {
            let rounds = self.effort.rounds;
            total += program.nanoseconds(packet, rounds)? - self.empty.nanoseconds(packet, rounds)?;
        }
        Ok(mean(total, packets.len()))
    }

    fn linear(&mut self, ruleset: &Ruleset, packets: &Packets) -> Result<Value> {
        let program = match linear::program(ruleset) {
            Ok(program) => program,
            Err(error) => return Ok(json!({ "error": reason(&error) })),
        };
        let copies = if program.slots() > 100_000 { 1 } else { self.effort.copies };
        let loaded = match Copies::of(&mut self.loader, &program, copies) {
            Ok(loaded) => loaded,
            Err(error) => return Ok(json!({ "slots": program.slots(), "error": reason(&error) })),
        };
        agree("the linear program", ruleset, packets, |packet| Ok(loaded.verdict(packet)? == 2))?;
        let mut row = json!({ "slots": program.slots(), "load": loaded.seconds });
        for (kind, packets) in packets.kinds() {
            row[kind] = self.alone(&loaded, packets)?;
        }
        Ok(row)
    }

    /// What a packet takes on a device's way out: with our program attached, with nftables' rules, and with a map.
    fn on_device(&self, text: &str, ruleset: &Ruleset, packets: &Packets) -> Result<Value> {
        let mut row = json!({});
        let attached = self.device.attach(text)?;
        row["sfunnel"] =
            self.through("sfunnel, attached", attached, ruleset, packets, &|| self.device.detach())?;
        for (name, way) in [("rules", nft::Way::Rules), ("map", nft::Way::Map)] {
            let loaded =
                nft::script(ruleset, way, timing::DEVICE).and_then(|script| self.device.nft(&script));
            row[name] = match loaded {
                Ok(seconds) => self.through(name, seconds, ruleset, packets, &|| {
                    self.device.no_nft();
                    Ok(())
                })?,
                Err(error) => json!({ "error": reason(&error) }),
            };
        }
        Ok(row)
    }

    fn through(
        &self,
        name: &str,
        seconds: f64,
        ruleset: &Ruleset,
        packets: &Packets,
        remove: &dyn Fn() -> Result<()>,
    ) -> Result<Value> {
        let kinds = packets.kinds();
        let mut with = Vec::new();
        agree(name, ruleset, packets, |packet| Ok(!self.device.passes(packet)?))?;
        for packet in kinds.iter().flat_map(|(_, packets)| *packets) {
            with.push(self.device.nanoseconds(packet, self.effort.rounds)?);
        }
        remove()?;
        let mut row = json!({ "load": seconds });
        let mut with = with.into_iter();
        for (kind, packets) in &kinds {
            let mut total = 0.0;
            for packet in *packets {
                let bare = self.device.nanoseconds(packet, self.effort.rounds)?;
                total += with.next().context("a time")? - bare;
            }
            row[*kind] = mean(total, packets.len());
        }
        Ok(row)
    }
}

/// Nanoseconds with one decimal; null without packets.
fn mean(total: f64, count: usize) -> Value {
    if count == 0 { Value::Null } else { json!((total / count as f64 * 10.0).round() / 10.0) }
}

/// Why a program or a ruleset was refused, in the kernel's words where it has any.
fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let complex = text.lines().find(|line| line.contains("too complex") || line.contains("too large"));
    complex.or(text.lines().next()).unwrap_or_default().chars().take(160).collect()
}

/// Every packet has the fate that the rule which takes it says.
fn agree(
    who: &str,
    ruleset: &Ruleset,
    packets: &Packets,
    drops: impl Fn(&Packet) -> Result<bool>,
) -> Result<()> {
    for packet in packets.all() {
        let wanted = packet.rule.is_some_and(|rule| ruleset.rules[rule].action == Action::Drop);
        ensure!(
            drops(packet)? == wanted,
            "{who} does not do to {:?} as rule {:?} says",
            packet.key,
            packet.rule
        );
    }
    Ok(())
}

fn chains(diagram: &Diagram) -> usize {
    let kinds = Family::ALL.into_iter().flat_map(|family| Proto::ALL.map(|proto| (family, proto)));
    kinds.map(|(family, proto)| diagram.parts(family, proto).len()).sum()
}

fn arms(diagram: &Diagram) -> usize {
    let arms = |node: &Node| if let Node::Test { arms, .. } = node { arms.len() } else { 0 };
    diagram.nodes().map(|(_, node)| arms(node)).sum()
}

/// The ends of the ranges of all rules' sets, by which a diagram's size is bounded.
fn ends(ruleset: &Ruleset) -> usize {
    let matches = ruleset.rules.iter().flat_map(|rule| rule.each());
    matches.map(|(_, matches)| 1 + matches.sets().map(|(_, set)| 2 * set.ranges_len()).sum::<usize>()).sum()
}
