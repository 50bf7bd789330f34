//! How rulesets grow: instructions, nodes, depth, parts, seconds and nanoseconds, from one rule to 65,536.
//!
//! `cargo xtask bench scale` runs it, as root. Nothing is asserted: a number is for a person to judge.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

#[path = "../support/mod.rs"]
mod support;

#[path = "scale/shapes.rs"]
mod shapes;

use std::env;
use std::time::Instant;

use anyhow::{Context, Result};
use sfunnel::codegen::{self, Link};
use sfunnel::diag::Source;
use sfunnel::ir::{Family, Proto};
use sfunnel::{diagram, elf};
use support::testrun::Loader;

fn main() -> Result<()> {
    // `cargo test --benches` calls it without this word: building it is all that is asked then.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let filter = env::args().skip(1).find(|arg| !arg.starts_with("--")).unwrap_or_default();
    let mut loader = Loader::default();
    println!(
        "{:<28} {:>6} {:>8} {:>8} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>8}",
        "shape",
        "rules",
        "nodes",
        "slots",
        "a rule",
        "depth",
        "parts",
        "check",
        "build",
        "emit",
        "load",
        "verified"
    );
    for (name, text) in shapes::all()?.into_iter().filter(|(name, _)| name.contains(&filter)) {
        let start = Instant::now();
        let checked = sfunnel::read(&Source::new("scale", text.as_str()));
        let ruleset = checked.map_err(|all| anyhow::anyhow!("{name}: {}", all[0].message))?.ruleset;
        let check = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let diagram = diagram::build(&ruleset);
        let build = start.elapsed().as_secs_f64();
        let kinds = || Family::ALL.into_iter().flat_map(|f| Proto::ALL.map(|p| (f, p)));
        let depth = kinds().map(|(f, p)| diagram.depth(f, p)).max().unwrap_or_default();
        let parts: usize = kinds().map(|(f, p)| diagram.parts(f, p).len()).sum();
        let start = Instant::now();
        let program = codegen::compile(&ruleset, &diagram, codegen::Options::pass_gso(Link::Ethernet));
        let emit = start.elapsed().as_secs_f64();
        let rules = ruleset.rules.len();
        let (slots, load, verified) = match &program {
            Err(error) => (0, 0.0, error.to_string()),
            Ok(program) => {
                let elf = elf::wrap(&[("scale", program)])?;
                let start = Instant::now();
                let loaded = loader.load(&elf, "scale").with_context(|| name.clone());
                let load = start.elapsed().as_secs_f64();
                let verified = match loaded {
                    Ok(loaded) => loaded.verified()?.to_string(),
                    Err(error) => format!("{error:#}").chars().take(200).collect(),
                };
                (program.slots(), load, verified)
            }
        };
        println!(
            "{name:<28} {rules:>6} {:>8} {slots:>8} {:>7.1} {depth:>6} {parts:>6} {check:>6.2} {build:>6.2} {emit:>6.2} {load:>6.2} {verified:>8}",
            diagram.size(),
            slots as f64 / rules as f64,
        );
    }
    Ok(())
}
