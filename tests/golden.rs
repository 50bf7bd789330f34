//! Goldens: a ruleset, and what becomes of it on the way to the kernel.
//!
//! Each file of `testdata/golden/` is a test. Prose on top says what to look at; `-- rules --` is the input
//! (`-- rules, segmented on egress --`, or ingress: for an interface with a segmentation pair; `cut`: with a macvlan on
//! it); of the sections `diagram`, `listing` and `summary` those that are there are compared. `-- devices --` has no input:
//! the sections are the programs for the devices beside an interface.
//! `BLESS=1` (`cargo xtask bless`) rewrites them. Needs no privilege.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use asm::Program;
use libtest_mimic::{Arguments, Failed, Trial};
use pretty_assertions::StrComparison;
use sfunnel::codegen::{self, Large, Link, Options, Via};
use sfunnel::diag::{self, Source};
use sfunnel::diagram::{self, Diagram};
use sfunnel::ir::Side;
use sfunnel::ir::{Family, Proto, Ruleset};

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no goldens in {}", folder.display());
    let trials = files.into_iter().map(|path| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Trial::test(name, move || check(&path))
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// From a section's name to what belongs there.
type Show = Box<dyn Fn(&str) -> Result<String, Failed>>;

fn check(path: &Path) -> Result<(), Failed> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let (prose, sections) = sections(&text);
    if prose.trim().is_empty() {
        return Err("no prose on top: say what to look at".into());
    }
    let [(first, rules), expected @ ..] = sections.as_slice() else {
        return Err("no `-- rules --` section".into());
    };
    let show: Show = if *first == "devices" {
        Box::new(of_device)
    } else {
        let options = options(first).filter(|_| !expected.is_empty());
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

/// What the first section's head says of the interface.
fn options(head: &str) -> Option<Options> {
    let plain = Options::pass_gso(Link::Ethernet);
    match head {
        "rules" => Some(plain),
        "rules, segmented on egress" => {
            Some(Options { large: Large::Segment(Side::Egress, Via::Pair), ..plain })
        }
        "rules, segmented on ingress" => {
            Some(Options { large: Large::Segment(Side::Ingress, Via::Pair), ..plain })
        }
        "rules, cut on egress" => {
            Some(Options { large: Large::Segment(Side::Egress, Via::Macvlan), ..plain })
        }
        "rules, finished on egress" => {
            Some(Options { large: Large::Segment(Side::Egress, Via::Pair), finish: true, ..plain })
        }
        "rules, merged on ingress" => Some(Options { merge: true, ..plain }),
        _ => None,
    }
}

/// The program for a device beside an interface.
fn of_device(name: &str) -> Result<String, Failed> {
    let program = match name {
        "crossed, from egress" => codegen::compile_crossed(Side::Egress),
        "crossed, from ingress" => codegen::compile_crossed(Side::Ingress),
        "cut, from egress" => codegen::compile_cut(Side::Egress),
        "cut, from ingress" => codegen::compile_cut(Side::Ingress),
        "merged" => codegen::compile_merged(),
        other => return Err(format!("no device's program is called `{other}`").into()),
    };
    Ok(program.map_err(|e| e.to_string())?.listing(&|_| None))
}

/// The prose, then names and texts: `-- name --` on a line of its own begins a section.
fn sections(text: &str) -> (&str, Vec<(&str, &str)>) {
    let mut heads = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.trim_end().strip_prefix("-- ").and_then(|l| l.strip_suffix(" --")) {
            heads.push((at, at + line.len(), name));
        }
        at += line.len();
    }
    let prose = &text[..heads.first().map_or(text.len(), |head| head.0)];
    let ends = heads.iter().skip(1).map(|head| head.0).chain([text.len()]);
    let sections = heads.iter().zip(ends).map(|((_, start, name), end)| (*name, &text[*start..end]));
    (prose, sections.collect())
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
