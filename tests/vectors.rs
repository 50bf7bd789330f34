//! The packets that the original program made, byte for byte (`testdata/vectors/`).
//!
//! In both directions: `plain` funneled is `funneled`, and `funneled` unfunneled is `plain`. The
//! model must agree without a kernel; the compiled program must agree in the kernel.

mod support;

use std::fs;

use serde::Deserialize;
use sfunnel::codegen;
use support::model::{self, Link, Verdict};
use support::packet::{hex, unhex};
use support::rules::Rule;
use support::testrun::{Loader, SkBuff};
use support::{Need, engine, require};

#[derive(Debug, Deserialize)]
struct Vector {
    rules: Vec<String>,
    plain: String,
    funneled: String,
}

impl Vector {
    /// `(before, after, the rule that does it)`, both ways.
    fn directions(&self) -> [(Vec<u8>, Vec<u8>, usize); 2] {
        let plain = unhex(&self.plain).expect("hex");
        let funneled = unhex(&self.funneled).expect("hex");
        [(plain.clone(), funneled.clone(), 0), (funneled, plain, 1)]
    }
}

fn vectors() -> Vec<(usize, Vector)> {
    let text = fs::read_to_string(support::testdata("vectors/upstream-wire.jsonl")).expect("file");
    let parsed = text.lines().map(|line| serde_json::from_str(line).expect("a vector"));
    let vectors: Vec<_> = parsed.enumerate().map(|(i, vector)| (i + 1, vector)).collect();
    assert!(vectors.len() >= 160, "vectors are missing");
    vectors
}

#[test]
fn the_model_makes_the_packets_that_the_original_made() {
    for (line, vector) in vectors() {
        let rules = Rule::parse_all(&vector.rules.join("\n")).expect("rules");
        for (before, after, rule) in vector.directions() {
            let outcome = model::run(&rules, &before, 0, Link::Ethernet);
            assert_eq!(hex(&outcome.frame), hex(&after), "line {line}, rule {rule}");
            assert_eq!((outcome.verdict, outcome.rule), (Verdict::Pass, Some(rule)), "line {line}");
        }
    }
}

#[test]
fn the_program_makes_the_packets_that_the_original_made() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for (line, vector) in vectors() {
        let compiled = engine::compile(&vector.rules.join("\n"), codegen::Link::Ethernet);
        let compiled = compiled.unwrap_or_else(|error| panic!("line {line}: {error:#}"));
        let loaded = loader.load(&compiled.elf, engine::PROGRAM).expect("a program");
        for (before, after, rule) in vector.directions() {
            let (verdict, frame) = loaded.run(&before, SkBuff::default()).expect("a run");
            assert_eq!(hex(&frame), hex(&after), "line {line}, rule {rule}");
            assert_eq!(verdict, -1, "line {line}, rule {rule}");
        }
    }
}
