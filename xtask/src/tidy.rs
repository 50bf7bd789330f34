//! Conventions as checks: what docs/architecture.md promises and no compiler enforces.
//!
//! Reads the sources as text. Reports everything that is wrong at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Lines a source file may have.
const LONGEST: usize = 400;

/// A word that may stand only in some places, because a layer is what it does not know.
struct Rule {
    word: &'static str,
    under: &'static str,
    except: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        word: "bpf_ins",
        under: "asm/src",
        except: &["asm/src/encode.rs"],
        why: "only encode.rs names bpf_ins",
    },
    Rule { word: "bpf_ins", under: "src", except: &[], why: "only asm/src/encode.rs names bpf_ins" },
    Rule { word: "sfunnel::", under: "asm/src", except: &[], why: "asm knows no packets and no rules" },
    Rule {
        word: "aya::",
        under: "src",
        except: &["src/kernel", "src/demo"],
        why: "only kernel loads programs",
    },
    Rule { word: "rtnetlink", under: "src", except: &["src/net"], why: "only net speaks netlink" },
    Rule { word: "annotate_snippets", under: "src", except: &["src/diag"], why: "only diag.rs draws carets" },
    Rule { word: "println!", under: "src", except: &["src/main.rs"], why: "only main.rs prints" },
    Rule {
        word: "unsafe ",
        under: "src",
        except: &["src/kernel/bpf.rs"],
        why: "nothing but the system call that no crate has needs unsafe",
    },
    Rule { word: "unsafe ", under: "asm/src", except: &[], why: "nothing here needs unsafe" },
    Rule { word: "#[ignore", under: "tests", except: &[], why: "a test runs, or says what it lacks" },
    Rule { word: "todo!(", under: "src", except: &[], why: "no stub is called done" },
];

/// The stages, in the order in which data passes through them; in front, what all of them are made of.
const STAGES: [&str; 13] = [
    "packet",
    "protocol",
    "field",
    "matches",
    "ir",
    "syntax",
    "rule_text",
    "diagram",
    "check",
    "codegen",
    "elf",
    "kernel",
    "net",
];

pub fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for folder in ["src", "asm/src", "xtask/src", "tests", "asm/tests"] {
        for path in rust_files(Path::new(folder))? {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            file(&path, &text, &mut wrong);
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("conventions:\n{}", wrong.join("\n"));
}

fn file(path: &Path, text: &str, wrong: &mut Vec<String>) {
    let name = path.to_string_lossy();
    if !text.starts_with("//!") {
        wrong.push(format!("{name}:1: does not say its job in its first line (`//!`)"));
    }
    let lines = text.lines().count();
    if lines > LONGEST && !name.contains("tests/") {
        wrong.push(format!("{name}: {lines} lines, more than {LONGEST}: split it"));
    }
    for (index, line) in text.lines().enumerate() {
        let at = index + 1;
        if line.trim_end() != line {
            wrong.push(format!("{name}:{at}: white space at the end of the line"));
        }
        if line.trim_start().starts_with("//") {
            continue;
        }
        for rule in RULES {
            let excepted = rule.except.iter().any(|except| name.starts_with(except));
            if name.starts_with(&format!("{}/", rule.under)) && line.contains(rule.word) && !excepted {
                wrong.push(format!("{name}:{at}: `{}`: {}", rule.word.trim(), rule.why));
            }
        }
        if let Some(later) = looks_right(&name, line) {
            wrong.push(format!("{name}:{at}: a stage knows only what is to its left, not `{later}`"));
        }
    }
}

/// The stage to the right of this file's that the line imports, by itself or in a list.
fn looks_right(name: &str, line: &str) -> Option<&'static str> {
    let stage = name.strip_prefix("src/")?.split(['/', '.']).next()?;
    let own = STAGES.iter().position(|known| *known == stage)?;
    let list = line.split_once("crate::{").map_or("", |(_, list)| list);
    let listed: Vec<&str> =
        list.split([',', '}']).filter_map(|item| item.trim().split([':', ' ']).next()).collect();
    let names = |later: &str| {
        let path = format!("crate::{later}");
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        listed.contains(&later) || line.split_once(&path).is_some_and(|(_, rest)| ends(rest))
    };
    STAGES[own + 1..].iter().copied().find(|later| names(later))
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
