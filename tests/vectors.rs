//! The packets that the original program made, byte for byte (`testdata/vectors/`).
//!
//! In both directions: `plain` funneled is `funneled`, and `funneled` unfunneled is `plain`. The
//! model must agree without a kernel; the compiled program must agree in the kernel. There is one
//! difference on purpose: we lower the MSS of what is funneled, and the original does not.

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
        [(plain.clone(), with_lower_mss(funneled.clone()), 0), (funneled, plain, 1)]
    }
}

/// Among these packets, IP has no options, and an MSS comes before TCP's other options.
fn with_lower_mss(mut frame: Vec<u8>) -> Vec<u8> {
    let pushed: u8 = if frame[23] == 6 { 20 } else { 8 };
    let tcp = &mut frame[34 + usize::from(pushed)..];
    if let Some([2, 4, _, mss]) = tcp.get(20..24)
        && tcp[13] & 2 != 0
        && tcp[12] > 0x50
    {
        // 1460 is 05 b4: nothing to borrow.
        tcp[23] = mss - pushed;
        let (sum, carry) = u16::from_be_bytes([tcp[16], tcp[17]]).overflowing_add(pushed.into());
        tcp[16..18].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    }
    frame
}

#[test]
fn among_them_are_connections_that_open() {
    let lowered = |(_, vector): &(usize, Vector)| {
        let [(_, ours, _), (original, ..)] = vector.directions();
        ours != original
    };
    assert!(vectors().iter().filter(|vector| lowered(vector)).count() >= 10);
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
