//! What guests printed, as the tables of `docs/kernels.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What came of one kernel.
#[derive(Debug)]
pub struct Outcome {
    /// Suite and processor.
    pub place: (String, String),
    pub result: Result<Said, String>,
}

#[derive(Debug, Default)]
pub struct Said {
    pub release: String,
    pub capabilities: String,
    /// In order; whether all of that name went well.
    pub steps: Vec<(String, bool)>,
    /// By golden, what the verifier went through.
    pub goldens: BTreeMap<String, String>,
    /// By golden and form, the sums of its program's bytes.
    pub bytes: BTreeMap<(String, String), String>,
    pub done: bool,
}

impl Said {
    pub fn read(console: &str, capabilities: &str) -> Said {
        let mut said = Said { capabilities: capabilities.to_owned(), ..Said::default() };
        // A filter that matches no test would pass.
        let mut nothing = false;
        for line in console.lines() {
            nothing |= line == "running 0 tests";
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["KERNEL", release] => (*release).clone_into(&mut said.release),
                ["STEP", name, result, _] => {
                    let right = !std::mem::take(&mut nothing) && *result == "ok";
                    match said.steps.iter_mut().find(|(known, _)| known == name) {
                        Some((_, ok)) => *ok &= right,
                        None => said.steps.push(((*name).to_owned(), right)),
                    }
                }
                ["BYTES", golden, form, sum] => {
                    said.bytes.insert(((*golden).to_owned(), (*form).to_owned()), (*sum).to_owned());
                }
                ["GUEST:", "done"] => said.done = true,
                // The harness may have begun a line of its own in front.
                [.., "golden", name, _, count] => {
                    drop(said.goldens.insert((*name).to_owned(), (*count).to_owned()))
                }
                _ => {}
            }
        }
        said
    }

    /// Whether the programs have the same bytes as on the processor here.
    pub fn compare_bytes(&mut self, here: &BTreeMap<(String, String), String>) {
        self.steps.push(("bytes".to_owned(), self.bytes == *here));
    }

    pub fn is_right(&self) -> bool {
        self.done && !self.steps.is_empty() && self.steps.iter().all(|(_, ok)| *ok)
    }
}

const HEAD: &str = "\
# Kernels

Made by `cargo xtask kernels`, which boots Debian's kernels under QEMU and runs the tests there: see
[testing.md](testing.md#other-kernels). Not run: the archive did not serve that suite any more.
Tests of what a kernel came too early for are left out there: TCX (6.6), telling senders on a
router's ingress that packets have become too long (5.12), forwarding what GRO has merged of UDP (5.12).

";

const COST: &str = "
## What the verifier goes through

Instructions that the kernel's verifier looks at before it accepts the program of a golden (`testdata/golden/`), as `attach` would
load it on egress. A kernel gives up at 1,000,000.

";

pub fn document(outcomes: &[Outcome]) -> String {
    let mut text = HEAD.to_owned();
    let heads: Vec<String> = outcomes.iter().map(|o| format!("{} {}", o.place.0, o.place.1)).collect();
    let row = |text: &mut String, name: &str, cell: &dyn Fn(&Outcome) -> String| {
        let cells: Vec<String> = outcomes.iter().map(cell).collect();
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    };
    let head = |text: &mut String, first: &str| {
        let _ = writeln!(text, "| {first} | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    };
    let said = |outcome: &Outcome, cell: &dyn Fn(&Said) -> String| match &outcome.result {
        Ok(said) => cell(said),
        Err(_) => "not run".to_owned(),
    };
    head(&mut text, "");
    row(&mut text, "kernel", &|o| said(o, &|said| said.release.clone()));
    row(&mut text, "capabilities", &|o| {
        said(o, &|said| said.capabilities.replace(['+', ','], " ").trim().to_owned())
    });
    let names = outcomes.iter().filter_map(|o| o.result.as_ref().ok()).map(|said| &said.steps);
    let names = names.max_by_key(|steps| steps.len()).cloned().unwrap_or_default();
    for (name, _) in names {
        row(&mut text, &name, &|o| {
            said(o, &|said| {
                let step = said.steps.iter().find(|(known, _)| *known == name);
                step.map_or("not reached", |(_, ok)| if *ok { "ok" } else { "**failed**" }).to_owned()
            })
        });
    }
    text.push_str(COST);
    head(&mut text, "golden");
    let mut goldens: Vec<&String> =
        outcomes.iter().filter_map(|o| o.result.as_ref().ok()).flat_map(|said| said.goldens.keys()).collect();
    goldens.sort();
    goldens.dedup();
    for golden in goldens {
        row(&mut text, golden, &|o| {
            said(o, &|said| said.goldens.get(golden).map_or("refused", String::as_str).to_owned())
        });
    }
    text
}
