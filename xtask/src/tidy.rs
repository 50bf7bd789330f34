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
    Rule {
        word: "#[ignore",
        under: "tests",
        // `cargo xtask kernels` runs these.
        except: &["tests/affinity.rs", "tests/gso/kinds.rs"],
        why: "a test runs, or says what it lacks",
    },
    Rule { word: "todo!(", under: "src", except: &[], why: "no stub is called done" },
];

/// All modules of the main crate, each to the right of all that it may import.
const ORDER: &[&str] = &[
    "system",
    "paint",
    "diag",
    "packet",
    "flow",
    "protocol",
    "hops",
    "nodes",
    "field",
    "settings",
    "matches",
    "value_text",
    "action",
    "ir",
    "syntax",
    "rule_text",
    "dissect",
    "diagram",
    "drawing",
    "check",
    "router_rules",
    "diff",
    "mirror",
    "codegen",
    "json",
    "stored",
    "policy",
    "elf",
    "kernel",
    "net",
    "explain",
    "doctor",
    "demo",
    "page",
    "cli",
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
    }
    if let Some(module) = name.strip_prefix("src/").and_then(|path| path.split(['/', '.']).next()) {
        wrong.extend(arrows(module, text).map(|(line, what)| format!("{name}:{line}: {what}")));
    }
}

/// What a module must not import, each with its line.
fn arrows(module: &str, text: &str) -> impl Iterator<Item = (usize, String)> {
    let place = |module: &str| ORDER.iter().position(|known| *known == module);
    let own = match module {
        // The crate's root and the program are to the right of everything.
        "lib" | "main" => ORDER.len(),
        _ => place(module).unwrap_or(0),
    };
    let unknown = (own == 0 && place(module).is_none())
        .then(|| (1, format!("`{module}` has no place in the order of modules: xtask/src/tidy.rs")));
    let wrong = imports(text).into_iter().filter_map(move |(line, name)| match place(&name) {
        Some(there) if there <= own => None,
        Some(_) => {
            Some((line, format!("a module knows only what is to its left in the order, not `{name}`")))
        }
        None => Some((line, format!("`crate::{name}`: say the module that has it"))),
    });
    unknown.into_iter().chain(wrong)
}

/// What follows each `crate::`, one name or a list of them over several lines, with its line. Comments do not count,
/// nor do unit tests, which are at the end and may ask later stages for their input.
fn imports(text: &str) -> Vec<(usize, String)> {
    let code = text.lines().take_while(|line| *line != "#[cfg(test)]");
    let code: Vec<&str> = code.map(|line| line.split("//").next().unwrap_or(line)).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        let before = &code[..at];
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue; // `asm_crate::`, or a macro's `$crate::`
        }
        let line = before.matches('\n').count() + 1;
        let rest = &code[at + path.len()..];
        let mut depth = 0;
        let mut list = rest;
        if rest.starts_with('{') {
            let end = rest.find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            });
            list = &rest[1..end.unwrap_or(rest.len())];
        } else {
            list = list.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(list);
        }
        // Of `a::{b, c}`, only `a`.
        let mut depth = 0;
        let items = list.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == ','
        });
        let name = |item: &str| item.trim().split([':', ' ']).next().unwrap_or_default().to_owned();
        found.extend(items.map(name).filter(|name| !name.is_empty()).map(|name| (line, name)));
    }
    found
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

#[cfg(test)]
mod tests {
    use super::{arrows, imports};

    #[test]
    fn imports_are_found_however_they_are_written() {
        let text = "use crate::ir::Rule;\n\
                    use crate::{\n    codegen::{self, Link},\n    kernel as k,\n};\n\
                    // crate::cli\n\
                    fn f() -> crate::diag::Span { other_crate::x() }\n\
                    #[cfg(test)]\nmod tests { use crate::read; }\n";
        let found = imports(text);
        let names: Vec<(usize, &str)> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
        assert_eq!(names, [(1, "ir"), (2, "codegen"), (2, "kernel"), (7, "diag")]);
    }

    #[test]
    fn arrows_to_the_right_are_reported() {
        let wrong = |module, text| arrows(module, text).count();
        assert_eq!(wrong("kernel", "use crate::{codegen, ir};"), 0);
        assert_eq!(wrong("ir", "use crate::{codegen as _a, kernel as _b};"), 2);
        assert_eq!(wrong("ir", "use crate::cli;"), 1);
        assert_eq!(wrong("lib", "use crate::cli;"), 0);
        assert_eq!(wrong("ir", "use crate::read;"), 1, "a name that hides the module");
        assert_eq!(wrong("new", ""), 1, "a module without a place");
    }
}
