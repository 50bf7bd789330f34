//! Every golden's program in the running kernel: accepted, and at what cost.
//!
//! Prints `golden NAME SLOTS PROCESSED` for each program: the instructions that the verifier has gone through. `cargo
//! xtask kernels` makes a table of these lines. Loaded without aya, which keeps the verifier's log of refusals only:
//! kernels before 5.16 tell the number nowhere else.

use std::fs;

use anyhow::{Context, Result, anyhow};
use asm::Program;
use sfunnel::codegen::{self, Options, Target};
use sfunnel::diag::Source;
use sfunnel::ir::Side;
use sfunnel::kernel::{self, Counters};
use sfunnel::{diagram, policy};

use super::support::flagged::{self, Flagged};
use super::support::{Need, golden, require};

#[test]
#[allow(clippy::print_stdout, reason = "lines that `cargo xtask kernels` reads")]
fn every_golden_is_accepted() {
    if !require(&[Need::Root]) {
        return;
    }
    // Raises the limit of locked memory where that counts.
    kernel::features();
    let mut refused = Vec::new();
    let mut said = |name: String, result: Result<(usize, u64)>| match result {
        Ok((slots, count)) => println!("golden {name} {slots} {count}"),
        Err(why) => refused.push(format!("{name}: {why:#}")),
    };
    for file in golden::files().expect("testdata/golden") {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a golden");
        let (_, sections) = golden::sections(&text);
        let [(first, rules), others @ ..] = sections.as_slice() else { panic!("{name}: no sections") };
        match golden::options(first) {
            Some(options) => said(name, of_rules(rules, options)),
            None => {
                for (device, _) in others {
                    let program = golden::device(device).expect("a device").expect("a program");
                    said(
                        format!("{name}:{}", device.replace(", ", "-").replace(' ', "-")),
                        processed(&program),
                    );
                }
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n\n"));
}

/// As it would be attached to egress here.
fn of_rules(rules: &str, options: Options) -> Result<(usize, u64)> {
    let read = sfunnel::read(&Source::new("rules", rules));
    let ruleset = read.map_err(|faults| anyhow!("{} faults in the rules", faults.len()))?.ruleset;
    let target = policy::target(kernel::features(), Side::Egress, &ruleset, Some(1500));
    // What is for the oldest kernels is so everywhere.
    let options = if options.target == Target::NEWEST { options.on(target) } else { options };
    let program = codegen::compile(&ruleset, &diagram::build(&ruleset), options)?;
    if !ruleset.counts() {
        return processed(&program);
    }
    let counters = Counters::create(&ruleset)?;
    processed(&program.with_maps(&counters.descriptors()))
}

/// Slots of the program, and how many instructions the verifier has gone through. It takes the program with its test
/// flags as well.
fn processed(program: &Program) -> Result<(usize, u64)> {
    let bytes = program.bytes();
    let (_, said) = flagged::load(&bytes, 0)?;
    let count = said.split_once("processed ").and_then(|(_, rest)| rest.split_once(' '));
    let (count, _) = count.with_context(|| format!("the log has no count: {said}"))?;
    Flagged::take(&bytes)?;
    Ok((program.slots(), count.parse()?))
}
