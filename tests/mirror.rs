//! Mirrored rules in the running kernel: what one end hides, the mirrored end restores byte for byte.
//!
//! In: random rules for a client's egress, random packets. Each packet that the client's program changes goes
//! through a NAT to the pod's, and its answer all the way back, each of the four programs being mirrored
//! from the first. NAT is done here, the way routers do: addresses and the checksums of the headers they see.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use sfunnel::codegen::Link;
use sfunnel::diag::Source;
use sfunnel::ir::Ruleset;
use sfunnel::mirror::{Role, mirror};
use support::case::Case;
use support::model;
use support::packet::{ETHERNET, hex};
use support::testrun::{Loaded, Loader, SkBuff};
use support::{Need, arb, engine, require, rules};

const RULESETS: usize = 1_000;
/// What the client's address becomes on the way, and the address of the pod behind the Service.
const NAT: [[u8; 4]; 2] = [[100, 64, 7, 9], [172, 31, 200, 3]];

fn read(text: &str) -> Ruleset {
    let checked = sfunnel::read(&Source::new("test", text));
    checked.unwrap_or_else(|faults| panic!("{}\n{text}", faults[0].message)).ruleset
}

#[derive(Debug, Default)]
struct Counts {
    mirrored: AtomicUsize,
    requests: AtomicUsize,
    answers: AtomicUsize,
}

#[test]
fn what_one_end_hides_the_mirrored_end_restores_through_a_nat() {
    if !require(&[Need::Root]) {
        return;
    }
    let counts = Counts::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| random_rulesets(&counts))).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let (requests, answers) = (counts.requests.into_inner(), counts.answers.into_inner());
    assert!(requests > 5 * RULESETS, "hardly any packet was hidden: {requests}");
    assert_eq!(requests, answers, "each request that is hidden has an answer that is");
}

fn random_rulesets(counts: &Counts) {
    let mut loader = Loader::default();
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let cases = arb::egress_case(1..6usize);
    let mut refused = 0;
    while counts.mirrored.load(Ordering::Relaxed) < RULESETS {
        let case = cases.new_tree(&mut runner).expect("a case").current();
        // With addresses that stay, rules that differ in addresses alone can be told apart.
        let nat = refused % 3 != 0;
        match there_and_back(&mut loader, &case, nat, counts) {
            Ok(true) => {
                counts.mirrored.fetch_add(1, Ordering::Relaxed);
            }
            Ok(false) => refused += 1,
            Err(error) => panic!("{error:#}\nnat {nat}, rules:\n{}", rules::text(&case.rules)),
        }
        assert!(refused < 50 * RULESETS, "nearly all rulesets are refused");
    }
}

/// False: the rules cannot be mirrored, as their diagnostics say.
fn there_and_back(loader: &mut Loader, case: &Case, nat: bool, counts: &Counts) -> Result<bool> {
    let original = read(&rules::text(&case.rules));
    let mut programs = Vec::new();
    for to in Role::ALL {
        let Ok(mirrored) = mirror(&original, Role::ClientEgress, to, nat) else { return Ok(false) };
        programs.push(mirrored.text());
    }
    let programs: Result<Vec<Loaded>> = programs
        .iter()
        .map(|text| loader.load(&engine::compile(text, Link::Ethernet)?.elf, engine::PROGRAM))
        .collect();
    let programs = programs?;
    let [client_out, pod_in, pod_out, client_in] = &programs[..] else { unreachable!() };
    for sample in &case.packets {
        let context = SkBuff { gso_size: sample.gso, skb: sample.skb, ..SkBuff::default() };
        let (verdict, hidden) = client_out.run(&sample.frame, context)?;
        // NAT below is IPv4's. A tag in the frame ends up beside it: `kernel/tags.rs` has those.
        let of_another_kind = match sample.frame[12..14] {
            [0x08, 0x00] => false,
            [0x86, 0xdd] => nat,
            _ => true,
        };
        if of_another_kind
            || verdict != -1
            || hidden == sample.frame
            || !is_whole(&sample.frame)
            || has_mss(&sample.frame)
            || has_port_0(&sample.frame)
        {
            continue;
        }
        let words = || format!("{}\n{}", sample.words, start(&sample.frame));
        let way = |frame: &[u8]| if nat { readdressed(frame, NAT) } else { frame.to_vec() };
        let arrived = way(&sample.frame);
        let (_, restored) = pod_in.run(&way(&hidden), SkBuff::default())?;
        same("request", &restored, &arrived).with_context(words)?;
        counts.requests.fetch_add(1, Ordering::Relaxed);

        let answer = turned(&arrived);
        let (_, hidden_answer) = pod_out.run(&answer, SkBuff::default())?;
        ensure!(hidden_answer != answer, "the answer is not hidden: {}", words());
        let forth = turned(&way(&hidden));
        same("answer's ports", outer(&hidden_answer), outer(&forth)).with_context(words)?;
        let addresses: [[u8; 4]; 2] = [address(&sample.frame, 16), address(&sample.frame, 12)];
        let way_back = |frame: &[u8]| if nat { readdressed(frame, addresses) } else { frame.to_vec() };
        let (_, delivered) = client_in.run(&way_back(&hidden_answer), SkBuff::default())?;
        same("answer", &delivered, &way_back(&answer)).with_context(words)?;
        counts.answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(true)
}

/// A TCP header must end within the packet, and be one that TCP sends: funneled like others, what is not is not
/// restored, and worth nothing.
fn is_whole(frame: &[u8]) -> bool {
    let l4 = l4(frame);
    let length =
        |at: usize| usize::from(u16::from_be_bytes([frame[ETHERNET + at], frame[ETHERNET + at + 1]]));
    let end = if is_ip6(frame) { l4 + length(4) } else { ETHERNET + length(2) };
    proto(frame) == 17
        || (l4 + 20..=end).contains(&(l4 + usize::from(frame[l4 + 12] >> 4) * 4))
            && model::plausible(&frame[l4..])
}

/// Whether it may ask for a segment size, which `funnel` lowers on purpose: a SYN with options.
fn has_mss(frame: &[u8]) -> bool {
    let l4 = l4(frame);
    proto(frame) == 6 && frame[l4 + 13] & 2 != 0 && frame[l4 + 12] >> 4 > 5
}

/// Which `alias` cannot keep: it is the urgent pointer's way to say that there is none.
fn has_port_0(frame: &[u8]) -> bool {
    let l4 = l4(frame);
    frame[l4..l4 + 4].chunks(2).any(|port| port == [0, 0])
}

/// Headers, for messages.
fn start(frame: &[u8]) -> String {
    hex(&frame[..frame.len().min(120)])
}

fn same(what: &str, got: &[u8], expected: &[u8]) -> Result<()> {
    ensure!(got == expected, "{what}:\n  got      {}\n  expected {}", start(got), start(expected));
    Ok(())
}

fn is_ip6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}

fn l4(frame: &[u8]) -> usize {
    ETHERNET + if is_ip6(frame) { 40 } else { usize::from(frame[ETHERNET] & 15) * 4 }
}

fn proto(frame: &[u8]) -> u8 {
    frame[ETHERNET + if is_ip6(frame) { 6 } else { 9 }]
}

/// Protocol, addresses and ports that the way sees.
fn outer(frame: &[u8]) -> &[u8] {
    &frame[l4(frame)..l4(frame) + 4]
}

fn address(frame: &[u8], at: usize) -> [u8; 4] {
    frame[ETHERNET + at..][..4].try_into().expect("four bytes")
}

/// The answer to a packet: from its destination to its source. No checksum changes: sums do not know order.
fn turned(frame: &[u8]) -> Vec<u8> {
    let mut answer = frame.to_vec();
    let (ip, l4) = (ETHERNET, l4(frame));
    let (source, length) = if is_ip6(frame) { (ip + 8, 16) } else { (ip + 12, 4) };
    let (destination, end) = (source + length, source + 2 * length);
    answer[source..destination].copy_from_slice(&frame[destination..end]);
    answer[destination..end].copy_from_slice(&frame[source..destination]);
    answer[l4..l4 + 2].copy_from_slice(&frame[l4 + 2..l4 + 4]);
    answer[l4 + 2..l4 + 4].copy_from_slice(&frame[l4..l4 + 2]);
    answer
}

/// NAT: other addresses, and the two checksums that cover them updated (RFC 1624, equation 3).
fn readdressed(frame: &[u8], [source, destination]: [[u8; 4]; 2]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let (ip, l4) = (ETHERNET, l4(&frame));
    let old = frame[ip + 12..ip + 20].to_vec();
    let new = [source, destination].concat();
    frame[ip + 12..ip + 20].copy_from_slice(&new);
    update(&mut frame, ip + 10, &old, &new);
    let udp = frame[ip + 9] == 17;
    let at = l4 + if udp { 6 } else { 16 };
    if udp && frame[at..at + 2] == [0, 0] {
        return frame; // it has no checksum
    }
    update(&mut frame, at, &old, &new);
    if udp && frame[at..at + 2] == [0, 0] {
        frame[at..at + 2].fill(0xff);
    }
    frame
}

fn update(frame: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let word = |two: &[u8]| u32::from(u16::from_be_bytes([two[0], two[1]]));
    let mut sum = u32::from(!u16::from_be_bytes([frame[at], frame[at + 1]]));
    sum += old.chunks(2).map(|two| !word(two) & 0xffff).sum::<u32>() + new.chunks(2).map(word).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[at..at + 2].copy_from_slice(&(!u16::try_from(sum).expect("folded")).to_be_bytes());
}

/// The rules that are mirrored at all, in normal form, each once.
fn normal(rules: &Ruleset) -> String {
    let here = mirror(rules, Role::ClientEgress, Role::ClientEgress, false).expect("the rules themselves");
    let mut lines: Vec<String> = Vec::new();
    for line in here.text().lines().filter(|line| !line.ends_with("actions drop")) {
        if !lines.iter().any(|known| known == line) {
            lines.push(line.to_owned());
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn mirroring_to_the_other_end_and_back_gives_the_original() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let cases = arb::egress_case(1..9usize);
    let mut seen = 0;
    while seen < 500 {
        let mut rules = cases.new_tree(&mut runner).expect("a case").current().rules;
        // Fields that say nothing at other places are left out on the way; without them, rules may be illegal.
        rules.iter_mut().for_each(|rule| rule.others.clear());
        let Ok(original) = sfunnel::read(&Source::new("test", rules::text(&rules))) else { continue };
        let original = original.ruleset;
        let Ok(there) = mirror(&original, Role::ClientEgress, Role::PodEgress, false) else { continue };
        let back = mirror(&read(&there.text()), Role::PodEgress, Role::ClientEgress, false)
            .unwrap_or_else(|e| panic!("{}: {}", e[0].message, there.text()));
        assert_eq!(back.text(), normal(&original));
        seen += 1;
    }
}

#[test]
fn fields_that_say_nothing_elsewhere_are_left_out_with_a_note() {
    let rules = read("udp dscp ef dport 53 actions funnel tcp sport 540 dport 80");
    for (to, expected) in [
        (Role::ClientEgress, "dscp 46 udp dport 53 actions funnel tcp sport 540 dport 80\n"),
        (Role::PodIngress, "tcp sport 540 dport 80 actions unfunnel udp dport 53\n"),
        (Role::PodEgress, "udp sport 53 actions funnel tcp sport 80 dport 540\n"),
        (Role::ClientIngress, "tcp sport 80 dport 540 actions unfunnel udp sport 53\n"),
    ] {
        let there = mirror(&rules, Role::ClientEgress, to, false).expect("rules");
        assert_eq!(there.text(), expected, "{to}");
        let notes: Vec<&str> = there.notes.iter().map(|note| note.text.as_str()).collect();
        assert_eq!(notes.iter().any(|note| note.contains("`dscp` is left out")), to != Role::ClientEgress);
    }
    for (text, expected) in [
        // Packets that are excepted here could not be told from the others there.
        ("tcp dscp 1 dport 80 accept; tcp dport 80 funnel udp sport 1 dport 2", "an exception by `dscp`"),
        (
            "tcp dscp 1 dport 80 funnel udp sport 1 dport 2; tcp dport 80 funnel udp sport 3 dport 4",
            "without `dscp`, the other end cannot tell these two apart",
        ),
    ] {
        let faults = mirror(&read(text), Role::ClientEgress, Role::PodEgress, false).expect_err(text);
        assert!(faults[0].message.contains(expected), "{}", faults[0].message);
    }
}

#[test]
fn rules_with_different_marks_are_not_taken_for_one() {
    let rules = |action: &str, marks: [&str; 2]| {
        let [one, other] = marks;
        read(&format!("ip daddr 10.0.0.1 {action}{one}\nip daddr 10.0.0.2 {action}{other}\n",))
    };
    let funnel = "udp dport 53 actions funnel udp sport 9 dport 99";
    let alias = "tcp dport 8080 actions alias dport 80";
    for (action, to, help) in [
        (funnel, Role::PodEgress, "one Service at a time"),
        (funnel, Role::PodIngress, "another source port"),
        (alias, Role::PodEgress, "one Service at a time"),
        (alias, Role::PodIngress, "the same mark in both"),
    ] {
        let marked = rules(action, [" mark set 1", " mark set 2"]);
        let faults = mirror(&marked, Role::ClientEgress, to, true).expect_err("two marks");
        assert!(faults[0].help.as_ref().is_some_and(|text| text.contains(help)), "{to}: {faults:?}");
        let alike = rules(action, [" mark set 1", " mark set 1"]);
        let mirrored = mirror(&alike, Role::ClientEgress, to, true).expect("one rule");
        assert_eq!(
            mirrored.rules.iter().map(|rule| rule.settings.to_string()).collect::<Vec<_>>(),
            ["mark set 1"],
            "{to}"
        );
        // With their addresses, they can be told apart.
        assert_eq!(mirror(&marked, Role::ClientEgress, to, false).expect("two rules").rules.len(), 2);
    }
    // Which of them counts makes no difference to a packet.
    let counted = rules(&alias.replace("actions", "actions counter"), ["", ""]);
    let mut half = counted.clone();
    half.rules[0].counter = false;
    let mirrored = mirror(&half, Role::ClientEgress, Role::PodIngress, true).expect("one rule");
    assert_eq!(mirrored.rules.iter().map(|rule| rule.counter).collect::<Vec<_>>(), [true]);
}

#[test]
fn aliases_are_found_again_from_what_restores_them() {
    let text = "ip daddr 10.0.0.1 tcp dport { 8080, 8443 } actions alias dport 80\n\
                ip daddr 10.0.0.2 tcp dport 22 actions alias dport 443\n";
    for via in [Role::PodIngress, Role::ClientIngress] {
        let there = mirror(&read(text), Role::ClientEgress, via, false).expect("there");
        let back = mirror(&read(&there.text()), via, Role::ClientEgress, false).expect("back");
        assert_eq!(back.text(), text, "via {via}: {}", there.text());
    }
}

#[test]
fn only_ports_that_one_end_funnels_are_reached_at_the_other() {
    for (client, pod_in, client_in) in [
        (
            "udp dport 4739 actions funnel tcp sport 540 dport 179",
            "tcp sport 540 dport 179 actions unfunnel udp dport 4739",
            "tcp sport 179 dport 540 actions unfunnel udp sport 4739",
        ),
        // One header, one guard.
        (
            "daddr 10.0.0.1 udp dport 53 actions funnel udp sport 1 dport 2\n\
             daddr 10.0.0.2 udp dport 54-60 sport 9 actions funnel udp sport 1 dport 2",
            "ip udp sport 1 dport 2 actions unfunnel udp dport 53-60",
            "ip saddr 10.0.0.1 udp sport 2 dport 1 actions unfunnel udp sport 53\n\
             ip saddr 10.0.0.2 udp sport 2 dport 1 actions unfunnel udp sport 54-60 dport 9",
        ),
        // Two headers, two guards; and whatever is funneled may come.
        (
            "tcp dport != 22 sport 1024-65535 actions funnel udp sport 1 dport 2\n\
             udp actions funnel tcp sport 3 dport 4",
            "udp sport 1 dport 2 actions unfunnel tcp sport 1024-65535 dport != 22\n\
             tcp sport 3 dport 4 actions unfunnel udp",
            "udp sport 2 dport 1 actions unfunnel tcp sport != 22 dport 1024-65535\n\
             tcp sport 4 dport 3 actions unfunnel udp",
        ),
    ] {
        // What matches its own output is no matter here.
        let client =
            format!("udp sport 1 dport 2 actions accept\ntcp sport 3 dport 4 actions accept\n{client}");
        for (to, expected) in [(Role::PodIngress, pod_in), (Role::ClientIngress, client_in)] {
            let mirrored = mirror(&read(&client), Role::ClientEgress, to, true).expect("rules");
            assert_eq!(mirrored.text(), format!("{expected}\n"), "{to}");
        }
    }
}

/// The first takes packets of the second, and the second of the third: none is in another's way.
#[test]
fn where_two_restore_from_the_same_packets_each_lets_in_the_ports_of_both() {
    let client = "ip daddr 10.0.0.1-10.0.0.2 udp dport 1 actions funnel udp sport 9 dport 99\n\
                  ip daddr 10.0.0.2-10.0.0.3 udp dport 3 actions funnel udp sport 9 dport 99\n\
                  ip daddr 10.0.0.3-10.0.0.4 udp dport 5 actions funnel udp sport 9 dport 99\n";
    let mirrored = mirror(&read(client), Role::ClientEgress, Role::PodIngress, false).expect("rules");
    let guards: Vec<_> =
        mirrored.text().lines().map(|rule| rule.rsplit_once("unfunnel udp ").unwrap().1.to_owned()).collect();
    assert_eq!(guards, ["dport { 1, 3 }", "dport { 1, 3, 5 }", "dport { 3, 5 }"]);
    let lists = sfunnel::read_lists(&Source::new("test", mirrored.text())).expect("rules");
    assert_eq!(lists.remarks(), [], "what is mirrored has the guard that `check` asks for");
}

#[test]
fn a_guard_of_requests_is_one_of_answers_the_other_way_round() {
    let there = "tcp sport 540 dport 179 actions unfunnel udp sport != 1-1023 dport 4739\n";
    let back = "tcp sport 179 dport 540 actions unfunnel udp sport 4739 dport != 1-1023\n";
    for (from, to) in [(Role::PodIngress, Role::ClientIngress), (Role::ClientIngress, Role::PodIngress)] {
        let mirrored = mirror(&read(there), from, to, true).expect("rules");
        assert_eq!(mirrored.text(), back, "{from} to {to}");
    }
}
