//! What the test binaries share: packets, rules, a reference model, generators, the kernel, a lab.
//!
//! Every binary compiles the whole module and uses a part of it, hence the first `allow`. Packets
//! are built and counted in bytes and sixteen-bit words, cut to size on purpose, hence the other.
//! Never imports anything from the crate but its public API, and `model.rs` not even that.
#![allow(dead_code)]
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

pub mod actions;
pub mod arb;
pub mod bpf_object;
pub mod case;
pub mod counts;
pub mod engine;
pub mod fields;
pub mod flagged;
pub mod flows;
pub mod golden;
pub mod iperf;
pub mod json;
pub mod lab;
pub mod model;
pub mod packet;
pub mod rules;
pub mod testrun;
pub mod wire;
pub mod words;
pub mod world;

use std::path::{Path, PathBuf};

/// `testdata/` of this repository.
pub fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

/// Where a package of npm is, if it has been installed.
pub fn npm(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules").join(package)
}

/// What a test cannot run without.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// Loading programs and making network namespaces.
    Root,
    /// A program of another project: its name, and the Debian package it comes in.
    Tool(&'static str, &'static str),
    /// The same, and the package of PyPI.
    Python(&'static str, &'static str),
    /// A package of npm, and its version, below `target/node`.
    Npm(&'static str, &'static str),
}

/// `SFUNNEL_CASES`: more random cases than usual in the test that has most, or less in all where a processor is emulated.
pub fn asked_cases() -> Option<u32> {
    std::env::var("SFUNNEL_CASES").ok().map(|cases| cases.parse().expect("SFUNNEL_CASES is a number"))
}

/// How many random cases, where this many are usual.
pub fn cases(usual: u32) -> u32 {
    asked_cases().map_or(usual, |most| usual.min(most))
}

/// True when everything is there. Otherwise says what is missing and lets the test return, or, with
/// `SFUNNEL_REQUIRE_KERNEL=1`, fails it: a skipped test must never look like a passed one in CI.
///
/// ```ignore
/// if !support::require(&[Need::Root, Need::Tool("nft", "nftables")]) { return; }
/// ```
#[must_use]
pub fn require(needs: &[Need]) -> bool {
    let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    let required = std::env::var("SFUNNEL_REQUIRE_KERNEL").is_ok_and(|v| v == "1");
    assert!(!required, "SFUNNEL_REQUIRE_KERNEL=1, but: {missing}");
    // Not eprintln!: the harness captures that of tests that pass.
    use std::io::Write;
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {missing}");
    false
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Need::Root if nix::unistd::geteuid().is_root() => None,
            Need::Root => Some("not root (needs CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)".into()),
            Need::Tool(tool, _) | Need::Python(tool, _) if lab::find_tool(tool).is_some() => None,
            Need::Npm(package, _) if npm(package).is_dir() => None,
            Need::Npm(package, version) => {
                Some(format!("no `{package}` (npm install --prefix target/node {package}@{version})"))
            }
            Need::Python(tool, package) => Some(format!("no `{tool}` (pip install {package})")),
            Need::Tool(tool, package) => {
                Some(format!("no `{tool}` (Debian package {package}: apt-get install {package})"))
            }
        }
    }
}
