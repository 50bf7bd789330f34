//! Rules beside instructions in the kernel: what bpftool shows, what the verifier says, and that nothing depends on it.

use std::fs;
use std::process::Command;

use asm::{Assembler, Insn, Program, Reg::*};
use sfunnel::elf::{self, Line};
use sfunnel::kernel::{self, LoadError};

use super::confined::with_capabilities;
use super::support::*;

/// What bpftool says, if it is here.
fn bpftool(args: &[&str]) -> Option<String> {
    let mut command = cleared(Command::new("bpftool"));
    match command.args(args).output() {
        Ok(output) => {
            assert!(output.status.success(), "bpftool {args:?}: {}", talk(&output));
            Some(String::from_utf8(output.stdout).expect("text"))
        }
        Err(_) => {
            let required = std::env::var("SFUNNEL_REQUIRE_KERNEL").as_deref() == Ok("1");
            assert!(!required, "this test needs the Debian package bpftool");
            eprintln!("skipped: no bpftool (Debian package bpftool)");
            None
        }
    }
}

#[test]
fn bpftool_shows_the_rule_beside_its_instructions() {
    in_netns(|_| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        for counter in ["", "counter "] {
            let rules = format!(
                "# two\ntcp  dport 23 actions {counter}drop\n\nudp dport 9 funnel tcp sport 1 dport 2\n"
            );
            fs::write(&file, rules).unwrap();
            succeed(sfunnel().args(["attach", "-i", "lo", "--rules"]).arg(&file));
            let status = succeed(sfunnel().args(["status", "--json"])).stdout;
            let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
            let id = status[0]["program"].to_string();
            let Some(dump) = bpftool(&["prog", "dump", "xlated", "id", &id, "linum"]) else { return };
            let name = file.display();
            for (rule, line) in [
                (format!("tcp dport 23 actions {counter}drop"), 2),
                ("udp dport 9 funnel tcp sport 1 dport 2".to_owned(), 4),
            ] {
                let wanted = format!("; {rule} [file:{name} line_num:{line} line_col:0]");
                assert!(dump.contains(&wanted), "{wanted}\n{dump}");
            }
            assert!(dump.contains("; (shared) [file:"), "{dump}");
        }
    });
}

#[test]
fn status_shows_the_rules_of_programs_whether_or_not_they_count() {
    in_netns(|_| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        let longer = format!(
            "udp dport {{ {} }} drop",
            (1..200).map(|port| port.to_string()).collect::<Vec<_>>().join(", ")
        );
        // The second is never reached, so no instruction is for it. Two are the same.
        let rules = format!(
            "tcp  dport 23 drop\ntcp dport 23 accept\nudp dport 53 drop # \u{202e}\n{longer}\n{longer}\n"
        );
        fs::write(&file, &rules).unwrap();
        let shown = format!(
            "  rule 0: tcp dport 23 drop\n  rule 1: tcp dport 23 accept\n  rule 2: udp dport 53 drop\n  rule 3: {long}...\n  rule 4: {long}...\n",
            long = &longer[..200],
        );
        succeed(sfunnel().args(["attach", "-i", "lo", "--direction", "both", "--rules"]).arg(&file));
        let status = String::from_utf8(succeed(sfunnel().arg("status")).stdout).unwrap();
        assert!(status.contains(&shown), "{shown}{status}");
        // Once for all that have the same.
        assert_eq!(status.matches("rule 0").count(), 1, "{status}");
        assert!(status.contains("\n  the rules of lo "), "{status}");

        let json = succeed(sfunnel().args(["status", "--json"])).stdout;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        for at in 0..2 {
            assert_eq!(json[at]["text"].as_array().map(Vec::len), Some(5), "{json}");
            assert_eq!(json[at]["text"][1], "tcp dport 23 accept");
        }

        // Without the capability to find programs by their number.
        let output = succeed(with_capabilities(",+net_admin").arg(binary()).arg("status"));
        let status = String::from_utf8(output.stdout).unwrap();
        assert_eq!(status.matches("  showing rules needs CAP_SYS_ADMIN\n").count(), 2, "{status}");

        // Between those that count, the others.
        fs::write(&file, "tcp dport 1 drop\ntcp dport 2 actions counter drop\ntcp dport 3 drop\n").unwrap();
        succeed(sfunnel().args(["attach", "-i", "lo", "--direction", "both", "--rules"]).arg(&file));
        let status = String::from_utf8(succeed(sfunnel().arg("status")).stdout).unwrap();
        let shown = "  rule 0: tcp dport 1 drop\n  rule 1: 0 packets, 0 bytes: tcp dport 2 actions counter drop\n  rule 2: tcp dport 3 drop\n";
        assert_eq!(status.matches(shown).count(), 2, "{status}");
    });
}

/// One instruction, which is `r0 = r2`, and the end: nobody has given `r2` a value.
fn refused() -> Program {
    let mut asm = Assembler::new();
    asm.push(Insn::mov64(R1, R1));
    asm.origin(Some(0));
    asm.push(Insn::mov64(R0, R2));
    asm.push(Insn::exit());
    asm.finish().expect("a program")
}

fn fine() -> Program {
    let mut asm = Assembler::new();
    asm.push(Insn::mov64(R0, 0));
    asm.push(Insn::exit());
    asm.finish().expect("a program")
}

const RULE: Line<'_> = Line { text: "udp dport 9 drop", number: 7 };

#[test]
fn the_verifiers_log_names_the_rule() {
    if !require_root() {
        return;
    }
    let (bad, name) = (refused(), "bad");
    let with = elf::wrap_with_rules(&[(name, &bad)], "rules.sf", &[RULE]).unwrap();
    let without = elf::wrap(&[(name, &bad)]).unwrap();
    let error = kernel::load_with_rules(&with, &without, &[name]).unwrap_err();
    let LoadError::Refused { refusal, .. } = &error else { panic!("{error}") };
    assert!(refusal.log.contains("; udp dport 9 drop @ rules.sf:7"), "{}", refusal.log);
    assert_eq!(error.at(), Some((name, 1)));
}

#[test]
fn what_the_kernel_does_not_take_of_them_is_left_out() {
    if !require_root() {
        return;
    }
    let (good, name) = (fine(), "good");
    let without = elf::wrap(&[(name, &good)]).unwrap();
    let with = elf::wrap_with_rules(&[(name, &good)], "rules.sf", &[RULE]).unwrap();
    // The type of a function becomes one that no kernel knows.
    let mut other = with.clone();
    let magic = 0xeb9f_u16.to_ne_bytes();
    let at = other.windows(4).position(|bytes| bytes[..2] == magic && bytes[2] == 1).expect("BTF");
    other[at + 24 + 4..at + 24 + 8].fill(0xff);
    assert_ne!(other, with);
    for broken in [&other[..], &[]] {
        assert_eq!(kernel::load_with_rules(broken, &without, &[name]).expect("the program")[0].name, name);
    }
    // No bytes are more than a kernel takes, and then there is nothing beside.
    let long = "x".repeat(1 << 20);
    let rules = vec![Line { text: &long, number: 1 }; 4];
    assert!(elf::wrap_with_rules(&[(name, &good)], "rules.sf", &rules).unwrap().len() < 1 << 16);
}
