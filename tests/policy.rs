//! `compile`, `explain` and `doctor` against `attach`: what is shown is what is done.
//!
//! Programs are compared by the hash in the filter's name, packets by the counters of the attached program: each one is
//! explained, then really sent over an interface with the same rules and options. Needs root.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use sfunnel::codegen::counters::Reason;
use sfunnel::diag::Source;
use sfunnel::explain::words;
use sfunnel::ir::Side;
use sfunnel::net::Mark;
use sfunnel::{check, codegen, diagram, kernel, policy};
use support::lab::{DEADLINE, Ns};
use support::wire::Wire;
use support::{Need, require};

const NEEDS: [Need; 2] = [Need::Root, Need::Tool("ip", "iproute2")];

/// Everything that has a program of its own, with a counter each.
const RULES: [&str; 3] = [
    "udp dport 4739 actions counter funnel tcp sport 540 dport 179\n\
     tcp dport 80 actions counter funnel udp sport 543 dport 179\n\
     tcp dport 81 actions counter drop\n\
     tcp dport 82 actions counter accept\n\
     tcp dport 83 actions counter alias dport 84\n\
     tcp dport 85 actions counter unalias { 86 }\n\
     tcp sport 540 dport 179 actions counter unfunnel udp dport 4739\n\
     udp sport 541 dport 179 actions counter unfunnel tcp\n\
     udp sport 542 dport 179 actions counter unfunnel udp\n\
     tcp sport 544 dport 179 actions counter unfunnel tcp\n",
    "tcp sport 540 dport 179 actions unfunnel tcp dport 80\n",
    "tcp dport 80 actions drop\n",
];

/// Packets of every kind that the first of the rules treats differently.
const PACKETS: [&str; 22] = [
    "udp 10.1.0.1:5000 > 10.1.0.2:4739 len 100",
    "udp 10.1.0.1:5000 > 10.1.0.2:4739 len 100 nosum",
    "udp [2001:db8::1]:5000 > [2001:db8::2]:4739 len 100",
    "udp 10.1.0.1:5000 > 10.1.0.2:4739 len 2500 gso 1000",
    "udp [2001:db8::1]:5000 > [2001:db8::2]:4739 len 2500 gso 1000",
    "tcp 10.1.0.1:5000 > 10.1.0.2:80 syn",
    "tcp 10.1.0.1:5000 > 10.1.0.2:80 len 3000 gso 1400",
    "tcp [2001:db8::1]:5000 > [2001:db8::2]:80 len 3000 gso 1400",
    "tcp 10.1.0.1:5000 > 10.1.0.2:80 len 8 seq 3405691582 ackno 3133065982",
    "tcp 10.1.0.1:5000 > 10.1.0.2:81 len 9",
    "tcp 10.1.0.1:5000 > 10.1.0.2:82 len 9",
    "tcp 10.1.0.1:5000 > 10.1.0.2:83 len 9",
    "tcp 10.1.0.1:5000 > 10.1.0.2:83 urgent 7",
    "tcp 10.1.0.1:5000 > 10.1.0.2:85 urgent 86",
    "tcp 10.1.0.1:5000 > 10.1.0.2:85 urgent 87",
    "udp 10.1.0.1:5000 > 10.1.0.2:4739 in tcp 540 > 179 len 9",
    "udp 10.1.0.1:5000 > 10.1.0.2:53 in tcp 540 > 179 len 9",
    "tcp 10.1.0.1:5000 > 10.1.0.2:8080 in udp 541 > 179 len 9",
    "udp 10.1.0.1:5000 > 10.1.0.2:53 in udp 542 > 179 len 9",
    "udp 10.1.0.1:5000 > 10.1.0.2:53 in udp 541 > 179 len 9",
    "tcp 10.1.0.1:5000 > 10.1.0.2:8080 in tcp 544 > 179 len 9",
    "tcp 10.1.0.1:5000 > 10.1.0.2:8080 len 9",
];

fn sfunnel(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sfunnel")).args(args).stdin(Stdio::null()).output().expect("sfunnel")
}

/// Insists on success; gives standard output.
fn succeed(args: &[&str]) -> String {
    let output = sfunnel(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sfunnel {args:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

/// The choices as `attach`, `compile` and `explain` take them.
const CHOICES: [&[&str]; 6] = [
    &[],
    &["--no-merge"],
    &["--finish-checksums"],
    &["--finish-checksums", "--no-merge"],
    &["--gso", "limit"],
    &["--gso", "off"],
];

/// Two namespaces and `eth0` in each.
fn hosts() -> (Ns, Ns) {
    let (host, far) = (Ns::new("host"), Ns::new("far"));
    host.tool("ip", &format!("link add eth0 type veth peer name eth0 netns {}", far.path().display()));
    for ns in [&host, &far] {
        ns.tool("ip", "link set eth0 up");
    }
    (host, far)
}

struct Rules {
    _directory: tempfile::TempDir,
    file: PathBuf,
}

impl Rules {
    fn new(text: &str) -> Rules {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("rules.sf");
        std::fs::write(&file, text).expect("a file");
        Rules { _directory: directory, file }
    }

    fn path(&self) -> &str {
        self.file.to_str().expect("a path")
    }
}

fn status(netns: &str, iface: &str) -> serde_json::Value {
    serde_json::from_str(&succeed(&["status", "--json", "-i", iface, "--netns", netns])).expect("JSON")
}

/// The hash of the program that `compile` shows, taken from its bytes.
fn shown(args: &[&str]) -> String {
    let listing = succeed(args);
    let mut bytes = Vec::new();
    for line in listing.lines() {
        let mut words = line.split_whitespace();
        let number = words.next().is_some_and(|word| word.parse::<usize>().is_ok());
        let slot: Vec<u8> = words.take(8).filter_map(|word| u8::from_str_radix(word, 16).ok()).collect();
        if number && slot.len() == 8 {
            bytes.extend(slot);
        }
    }
    Mark::new(&bytes, 0).hash
}

/// The hashes of all programs that `doctor` tries for these rules.
fn tried(rules: &str) -> Vec<String> {
    let ruleset = check::read(&Source::new("rules", rules)).expect("rules").ruleset;
    let diagram = diagram::build(&ruleset);
    let hash = |options| {
        Mark::new(&codegen::compile(&ruleset, &diagram, options).expect("a program").bytes(), 0).hash
    };
    policy::every(&ruleset, kernel::features()).into_iter().map(hash).collect()
}

/// On a kernel that lacks something, programs of one run may differ in nothing but what is done instead.
#[test]
fn no_two_programs_of_a_run_have_the_same_name() {
    let ruleset = check::read(&Source::new("rules", RULES[0])).expect("rules").ruleset;
    for features in codegen::Features::EVERY {
        let mut all = policy::every(&ruleset, features);
        // On 5.10, for each MTU another.
        for options in all.clone() {
            for mtu in [9_000, 65_535] {
                let other = options.on(policy::target(features, Side::Egress, &ruleset, Some(mtu)));
                if !all.contains(&other) {
                    all.push(other);
                }
            }
        }
        let names: BTreeSet<String> = policy::names(&all).into_iter().collect();
        assert_eq!(names.len(), all.len(), "{features:?}");
        assert!(names.iter().all(|name| name.len() < 16), "{names:?}: longer than the kernel takes");
    }
}

#[test]
fn attach_loads_what_compile_shows_and_doctor_tries() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = hosts();
    host.tool("ip", "link add vx0 type vxlan id 5 remote 10.1.0.2 dstport 4789 dev eth0");
    host.tool("ip", "link set vx0 up");
    let netns = host.path().display().to_string();
    for text in RULES {
        let rules = Rules::new(text);
        let tried = tried(text);
        for direction in [None, Some("ingress"), Some("egress")] {
            for choices in CHOICES {
                let direction: Vec<&str> = direction.iter().flat_map(|side| ["-d", side]).collect();
                let compile = [&["compile", rules.path(), "--emit", "hex"], choices, &direction].concat();
                let hash = shown(&compile);
                for iface in ["eth0", "vx0", "lo"] {
                    let place = ["attach", "--netns", &netns, "-i", iface, "--rules", rules.path()];
                    succeed(&[&place, choices, &direction].concat());
                    let there = status(&netns, iface)[0]["hash"].as_str().expect("a hash").to_owned();
                    assert!(tried.contains(&there), "{iface} {choices:?} {direction:?}: not tried by doctor");
                    // The others have not everything that an interface can have.
                    if iface == "eth0" {
                        assert_eq!(there, hash, "{choices:?} {direction:?}: {text}");
                    }
                    succeed(&["detach", "--netns", &netns, "-i", iface]);
                }
            }
        }
    }
}

/// What was counted, by rule and reason (`None`: the action was carried out).
type Counted = BTreeMap<(u64, Option<&'static str>), u64>;

fn counted(status: &serde_json::Value) -> Counted {
    let mut found = Counted::new();
    for rule in status[0]["counters"]["rules"].as_array().expect("rules") {
        let number = rule["rule"].as_u64().expect("a number");
        found.insert((number, None), rule["packets"].as_u64().expect("a number"));
        for reason in rule["reasons"].as_array().expect("reasons") {
            let key = Reason::ALL.into_iter().map(Reason::key).find(|key| reason["reason"] == *key);
            found.insert((number, key), reason["packets"].as_u64().expect("a number"));
        }
    }
    found.retain(|_, count| *count > 0);
    found
}

/// What a line of `explain --brief` says will be counted.
fn explained(line: &str) -> Counted {
    let mut expected = Counted::new();
    let Some((_, rest)) = line.split_once("  rule ") else { return expected };
    let (rule, verdict) = rest.split_once("; ").expect("a verdict");
    let rule = rule.parse().expect("a number");
    let pieces = match verdict.split_once("cut into ") {
        Some((_, rest)) => rest.split(' ').next().and_then(|count| count.parse().ok()).expect("a number"),
        None => 1,
    };
    let reason = Reason::ALL.into_iter().find(|reason| {
        let (_, why) = reason.text().split_once(": ").expect("what happened, and why");
        verdict.contains(&format!(": {why}"))
    });
    expected.insert((rule, reason.map(Reason::key)), pieces);
    expected
}

#[test]
fn explain_says_what_the_attached_program_then_does() {
    if !require(&NEEDS) {
        return;
    }
    let (host, far) = hosts();
    let netns = host.path().display().to_string();
    let rules = Rules::new(RULES[0]);
    let mut reasons = BTreeMap::new();
    for direction in ["egress", "ingress"] {
        let wire = Wire::new(if direction == "egress" { &host } else { &far }, "eth0");
        for choices in CHOICES {
            let place = ["attach", "--netns", &netns, "-i", "eth0", "--rules", rules.path(), "-d", direction];
            succeed(&[&place, choices].concat());
            let words_args: Vec<&str> = PACKETS.iter().flat_map(|words| ["--packet", words]).collect();
            let explain =
                [&["explain", rules.path(), "--brief", "-d", direction], choices, &words_args].concat();
            let lines = succeed(&explain);
            let lines: Vec<&str> = lines.lines().collect();
            assert_eq!(lines.len(), PACKETS.len());
            let mut before = Counted::new();
            for (words, line) in PACKETS.iter().zip(lines) {
                let mut expected = before.clone();
                for (what, count) in explained(line) {
                    *reasons.entry(what.1).or_insert(0) += 1;
                    *expected.entry(what).or_insert(0) += count;
                }
                let sample = words::packet(words).expect("words");
                wire.send(&sample.frame, sample.metadata.gso_size);
                let start = Instant::now();
                let mut now = counted(&status(&netns, "eth0"));
                while now != expected && start.elapsed() < DEADLINE {
                    now = counted(&status(&netns, "eth0"));
                }
                assert_eq!(now, expected, "{direction} {choices:?}\n{line}");
                before = now;
            }
            succeed(&["detach", "--netns", &netns, "-i", "eth0"]);
        }
    }
    let keys: Vec<Option<&str>> = reasons.into_keys().collect();
    let all = ["funneled-already", "gso", "guarded", "not-aliasable", "not-funneled", "not-listed"];
    let all: Vec<Option<&str>> = std::iter::once(None).chain(all.map(Some)).collect();
    assert_eq!(keys, all, "a reason that no packet had");
}
