//! Goldens: a ruleset, and what becomes of it on the way to the kernel.
//!
//! Each file of `testdata/golden/` is a test. Prose on top says what to look at; `-- rules --` is the input
//! (`-- rules, segmented on egress --`, or ingress: for an interface with a segmentation pair; `cut`: with a macvlan on
//! it; `for the oldest kernels`: without `bpf_check_mtu` and `gotol`); of the sections `diagram`, `listing` and `summary` those that are there are compared. `-- devices --` has no input:
//! the sections are the programs for the devices beside an interface.
//! `BLESS=1` (`cargo xtask bless`) rewrites them. Needs no privilege.

#[path = "support/golden.rs"]
mod golden;

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use asm::Program;
use libtest_mimic::{Arguments, Failed, Trial};
use pretty_assertions::StrComparison;
use sfunnel::codegen::{self, Options};
use sfunnel::diag::{self, Source};
use sfunnel::diagram::{self, Diagram};
use sfunnel::ir::{Family, Proto, Ruleset};

fn main() {
    let files = golden::files().expect("testdata/golden");
    assert!(!files.is_empty(), "no goldens");
    let trials = files.into_iter().map(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Trial::test(name, move || check(&path))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// The program for a device beside an interface.
fn of_device(name: &str) -> Result<String, Failed> {
    let program = golden::device(name).ok_or_else(|| format!("no device's program is called `{name}`"))?;
    Ok(program.map_err(|e| e.to_string())?.listing(&|_| None))
}

/// From a section's name to what belongs there.
type Show = Box<dyn Fn(&str) -> Result<String, Failed>>;

fn check(path: &Path) -> Result<(), Failed> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let (prose, sections) = golden::sections(&text);
    if prose.trim().is_empty() {
        return Err("no prose on top: say what to look at".into());
    }
    let [(first, rules), expected @ ..] = sections.as_slice() else {
        return Err("no `-- rules --` section".into());
    };
    let show: Show = if *first == "devices" {
        Box::new(of_device)
    } else {
        let options = golden::options(first).filter(|_| !expected.is_empty());
        let why = "`-- rules --` or `-- devices --` comes first, and what is expected of them after it";
        let stages = Stages::of(rules, options.ok_or(why)?)?;
        Box::new(move |name| stages.section(name))
    };
    let mut actual = format!("{prose}-- {first} --\n{rules}");
    for (name, _) in expected {
        let _ = write!(actual, "-- {name} --\n{}", show(name)?);
    }
    if actual == text {
        return Ok(());
    }
    if env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        return fs::write(path, actual).map_err(|e| e.to_string().into());
    }
    let diff = StrComparison::new(&text, &actual);
    Err(format!("differs from the file; `cargo xtask bless` rewrites it\n{diff}").into())
}

struct Stages {
    ruleset: Ruleset,
    diagram: Diagram,
    program: Program,
}

impl Stages {
    fn of(rules: &str, options: Options) -> Result<Self, Failed> {
        let source = Source::new("rules", rules);
        let checked = sfunnel::read(&source).map_err(|d| diag::render(&source, &d, false))?;
        let ruleset = checked.ruleset;
        let diagram = diagram::build(&ruleset);
        let program = codegen::compile(&ruleset, &diagram, options).map_err(|e| e.to_string())?;
        Ok(Stages { ruleset, diagram, program })
    }

    fn section(&self, name: &str) -> Result<String, Failed> {
        match name {
            "diagram" => Ok(self.diagram.to_string()),
            "listing" => Ok(self.program.listing(&|rule| self.title(rule))),
            "summary" => {
                let depth = |family| Proto::ALL.map(|proto| self.diagram.depth(family, proto));
                let ([tcp, udp], [tcp6, udp6]) = (depth(Family::V4), depth(Family::V6));
                let (slots, long) = (self.program.slots(), self.program.long_jumps());
                let six = if tcp6 + udp6 == 0 {
                    String::new()
                } else {
                    format!(", ip6 tcp {tcp6}, ip6 udp {udp6}")
                };
                Ok(format!("slots {slots}\nlong jumps {long}\ncompares at most: tcp {tcp}, udp {udp}{six}\n"))
            }
            other => Err(format!("no section is called `{other}`").into()),
        }
    }

    fn title(&self, rule: u32) -> Option<String> {
        let index = usize::try_from(rule).ok()?;
        Some(format!("rule {rule}: {}", self.ruleset.rules.get(index)?.text))
    }
}
