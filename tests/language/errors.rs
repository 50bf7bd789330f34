//! Every trap and slip has a file in `testdata/errors`: prose, `-- rules --`, `-- stderr --`.

use std::fs;
use std::path::{Path, PathBuf};

use pretty_assertions::StrComparison;

use super::talk;

const BLESS: &str = "BLESS=1 cargo test --test language";

struct Case {
    path: PathBuf,
    prose: String,
    rules: String,
    stderr: String,
}

impl Case {
    fn read(path: PathBuf) -> Result<Case, String> {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let (prose, rest) =
            text.split_once("-- rules --\n").ok_or_else(|| wrong("no `-- rules --` section"))?;
        let (rules, stderr) =
            rest.split_once("-- stderr --\n").ok_or_else(|| wrong("no `-- stderr --` section"))?;
        if prose.trim().is_empty() {
            return Err(wrong("no prose on top: say what to look at"));
        }
        if [prose, rules, stderr].iter().any(|part| part.lines().any(|line| line.starts_with("-- "))) {
            return Err(wrong("has a section that nothing checks"));
        }
        let [prose, rules, stderr] = [prose, rules, stderr].map(String::from);
        Ok(Case { path, prose, rules, stderr })
    }

    fn check(&self) -> Result<(), String> {
        let got = talk("rules.sf", &self.rules);
        if got.is_empty() {
            return Err(format!("{}: these rules give no error and no warning", self.path.display()));
        }
        if got == self.stderr {
            return Ok(());
        }
        if std::env::var_os("BLESS").is_some() {
            let text = format!("{}-- rules --\n{}-- stderr --\n{got}", self.prose, self.rules);
            return fs::write(&self.path, text).map_err(|error| error.to_string());
        }
        let diff = StrComparison::new(&self.stderr, &got);
        Err(format!("{}:\n{diff}\nif this is right: {BLESS}", self.path.display()))
    }
}

#[test]
fn errors_are_told_as_in_the_golden_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/errors");
    let mut paths: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 30, "{} has lost its files", dir.display());
    let failures: Vec<String> =
        paths.into_iter().filter_map(|path| Case::read(path).and_then(|case| case.check()).err()).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn the_guard_that_is_proposed_silences_the_advice() {
    for (rules, guard) in [
        (
            "tcp sport 540 dport 179 unfunnel udp\nudp sport 4739 funnel tcp sport 179 dport 540",
            " dport 4739",
        ),
        (
            "udp dport 4739 funnel tcp sport 540 dport 179\nudp dport { 6343, 9995-9996 } funnel tcp sport 540 dport 179\n\
             tcp sport 179 dport 540 unfunnel udp",
            " sport { 4739, 6343, 9995-9996 }",
        ),
        (
            "udp dport 4739 funnel tcp sport 540 dport 179\ntcp sport 540 dport 179 unfunnel udp",
            " dport 4739",
        ),
        ("tcp dport 443 unfunnel tcp\ntcp drop", " dport 443"),
    ] {
        let proposed = format!("`unfunnel {}{guard}`", if guard.ends_with("443") { "tcp" } else { "udp" });
        let said = talk("rules.sf", rules);
        assert!(said.contains(&proposed), "{proposed}: {said}");
        let (before, after) = rules.split_once("unfunnel ").unwrap();
        let (inner, after) = after.split_at(3);
        assert_eq!(talk("rules.sf", &format!("{before}unfunnel {inner}{guard}{after}")), "");
        let every = format!("{before}unfunnel {inner} dport 1-65535{after}");
        assert_eq!(talk("rules.sf", &every), "");
    }
}
