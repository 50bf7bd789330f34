//! The generated programs against the reference model, in the running kernel.
//!
//! Three engines (model, diagram, kernel) must agree on random rulesets and on packets at the rules'
//! boundaries; every program must pass the verifier without dead code. A failure is shrunk and
//! printed as a file to save in `testdata/regressions/`, which are replayed first. Also: rulesets
//! of 65,536 rules, devices without a link header, and loading with nothing but two capabilities.

mod support;

#[path = "kernel/goldens.rs"]
mod goldens;
#[path = "kernel/tags.rs"]
mod tags;

#[path = "kernel/boundaries.rs"]
mod boundaries;

#[path = "kernel/counters.rs"]
mod counters;

use std::cell::RefCell;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use range_set_blaze::RangeSetBlaze;
use sfunnel::codegen::{Link, Mtu, Target};
use sfunnel::explain;
use sfunnel::field::Field;
use sfunnel::ir;
use sfunnel::kernel::features;
use sfunnel::matches::{Key, Matches};
use sfunnel::settings::{self, Settings};
use support::actions::Action;
use support::case::Case;
use support::packet::{Packet, TCP, UDP, hex};
use support::rules::Rule;
use support::testrun::{Loader, SkBuff};
use support::{Need, arb, asked_cases, cases, engine, model, require};

/// Rulesets of random rules, each with [`arb::PACKETS`] packets.
const RULESETS: u32 = 5_000;

#[test]
fn cases_that_once_failed_do_not_fail_again() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for case in Case::read_all("regressions") {
        engine::agree(&mut loader, &case).unwrap_or_else(|e| panic!("{}: {e:#}", case.name));
    }
}

#[test]
fn model_diagram_and_kernel_agree_on_random_rulesets() {
    if !require(&[Need::Root]) {
        return;
    }
    let cases = asked_cases().unwrap_or(RULESETS);
    let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
    let share = cases.div_ceil(u32::try_from(threads).unwrap_or(1));
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || agree_on_random(None, share, &done);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    assert!(done.into_inner() >= cases as usize, "fewer rulesets were run than asked for");
}

/// What is compiled for kernels that lack things does the same in those that do not.
#[test]
fn what_old_kernels_lack_is_done_without() {
    if !require(&[Need::Root]) {
        return;
    }
    for target in [engine::OLDEST, Target { mtu: Mtu::Unknown, ..Target::NEWEST }] {
        agree_on_random(Some(target), cases(100), &AtomicUsize::new(0));
    }
}

fn agree_on_random(target: Option<Target>, cases: u32, done: &AtomicUsize) {
    let mut loader = Loader::default();
    // Few rules mostly: their packets hit more often. Many sometimes: their diagram is deeper.
    let rulesets = prop_oneof![
        8 => arb::case(1..9usize),
        3 => arb::case(9..33usize),
        1 => arb::case(33..120usize),
    ];
    let config = Config { cases, max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() };
    let loader_cell = std::cell::RefCell::new(&mut loader);
    let result = TestRunner::new(config).run(&rulesets, |case| {
        done.fetch_add(1, Ordering::Relaxed);
        let agreed = engine::agree_for(target, &mut loader_cell.borrow_mut(), &case);
        agreed.map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    if let Err(TestError::Fail(why, case)) = result {
        let case = smallest(target, &mut loader, case);
        panic!("{why}\nSave this as testdata/regressions/NAME.txt:\n\n{case}");
    }
    result.expect("no case was given up");
}

/// Drops every packet and rule that the failure does not need.
fn smallest(target: Option<Target>, loader: &mut Loader, mut case: Case) -> Case {
    let mut fails = |case: &Case| engine::agree_for(target, loader, case).is_err();
    let alone = case.packets.iter().map(|packet| Case { packets: vec![packet.clone()], ..case.clone() });
    if let Some(one) = alone.into_iter().find(|case| fails(case)) {
        case = one;
    }
    let mut at = 0;
    while at < case.rules.len() {
        let mut less = case.clone();
        less.rules.remove(at);
        if !less.rules.is_empty() && fails(&less) {
            case = less;
        } else {
            at += 1;
        }
    }
    case
}

/// No kernel needed: the diagram against a plain scan, at every rule's boundaries.
#[test]
fn the_diagram_finds_the_first_rule_that_matches() {
    let config = Config { cases: cases(1_000), failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&arb::case(1..60usize), |case| {
        let compiled = engine::compile(&support::rules::text(&case.rules), Link::Ethernet);
        let compiled = compiled.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        for packet in &case.packets {
            let outcome = model::run_known(&case.rules, &packet.frame, 0, &packet.skb, model::Link::Ethernet);
            if let Some(key) = outcome.key {
                let found = engine::lookup(&compiled.diagram, &key).expect("a protocol");
                prop_assert_eq!(found, outcome.rule, "{}", packet.words);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Sets of IPv6 addresses: sets of any ranges, against the sets
/// themselves, at and beside their ends.
#[test]
fn the_diagram_finds_ipv6_addresses_in_sets_of_any_ranges() {
    let word = || prop_oneof![3 => Just(0u32), 3 => Just(u32::MAX), 2 => 0u32..3, 1 => any::<u32>()];
    let address = || {
        (word(), word(), word(), word()).prop_map(|(a, b, c, d)| {
            [a, b, c, d].iter().fold(0, |address: u128, word| address << 32 | u128::from(*word))
        })
    };
    let ranges = || proptest::collection::vec((address(), address()), 1..5);
    let set = |ranges: &[(u128, u128)]| -> RangeSetBlaze<u128> {
        ranges.iter().map(|(a, b)| *a.min(b)..=*a.max(b)).collect()
    };
    let config = Config { cases: cases(1_000), failure_persistence: None, ..Config::default() };
    let rulesets = proptest::collection::vec((ranges(), ranges(), any::<bool>()), 1..6);
    let result = TestRunner::new(config).run(&rulesets, |rules| {
        let rule = |(saddr, daddr, any): &(Vec<_>, Vec<_>, bool)| {
            let v6 = ir::Family::V6;
            let to = Matches::default().with(Field::DADDR, v6, Arc::new(set(daddr)));
            let from = |matches: Matches| matches.with(Field::SADDR, v6, Arc::new(set(saddr)));
            ir::Rule {
                text: String::new(),
                span: sfunnel::diag::Span::default(),
                proto: ir::Proto::Tcp,
                matches: [None, Some(if *any { to } else { from(to) })],
                action: ir::Action::Accept,
                nat: ir::Nat::default(),
                settings: Settings::default(),
                counter: false,
            }
        };
        let ruleset = ir::Ruleset { rules: rules.iter().map(rule).collect() };
        let diagram = sfunnel::diagram::build(&ruleset);
        let near = |ranges: &Vec<(u128, u128)>| -> Vec<u128> {
            let ends = ranges.iter().flat_map(|(a, b)| [*a, *b]);
            ends.flat_map(|end| [end, end.wrapping_add(1), end.wrapping_sub(1)]).collect()
        };
        for saddr in rules.iter().flat_map(|rule| near(&rule.0)) {
            for daddr in rules.iter().flat_map(|rule| near(&rule.1)) {
                let key = Key::new(ir::Family::V6, ir::Proto::Tcp)
                    .with(Field::SADDR, saddr)
                    .with(Field::DADDR, daddr)
                    .with_ports(1, 2);
                let expected = ruleset.rules.iter().position(|rule| rule.matches(&key));
                prop_assert_eq!(diagram.lookup(&key), expected, "{:x} > {:x}", saddr, daddr);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// By name what the random packets hold as well. (Longer ones than `BPF_PROG_TEST_RUN` takes are for
/// the end-to-end tests.)
#[test]
fn ipv6_packets_that_are_not_plain_pass_unchanged() {
    if !require(&[Need::Root]) {
        return;
    }
    let rules = "udp dport 4739 actions funnel tcp sport 540 dport 179\n\
                 udp dport 4740 actions funnel udp sport 540 dport 180\n\
                 tcp sport 540 dport 179 actions unfunnel udp\n\
                 tcp dport 8080 actions alias dport 80\n\
                 tcp dport 9 actions drop\n";
    let rules = Rule::parse_all(rules).expect("rules");
    let mut loader = Loader::default();
    let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
    for l4 in [
        "udp 1 > 4739 len 8",
        "udp 1 > 4740 len 8",
        "tcp 540 > 179 / udp 1 > 2 len 8",
        "tcp 1 > 8080 len 8",
        "tcp 1 > 9 len 8",
    ] {
        let run = |words: &str| {
            let packet = Packet::parse(&format!("ip 2001:db8::1 > 2001:db8::2 {words} {l4}")).expect("words");
            let frame = packet.frame();
            let (verdict, after) = loaded.run(&frame, SkBuff::default()).expect("a run");
            (verdict == -1 && after == frame, packet)
        };
        assert!(!run("").0, "{l4}: as it is, a rule acts");
        for words in [
            "ext 0",
            "ext 43",
            "ext 44",
            "ext 60",
            "ext 135",
            "version 4",
            "total 0",
            "total 7",
            "total 65535",
            "truncated 54",
            "truncated 61",
            "truncated 69",
        ] {
            let (same, packet) = run(words);
            assert!(same, "{packet}");
        }
    }
    for words in [
        "udp 1 > 4739 nosum len 8",
        "udp 1 > 4740 nosum len 8",
        "tcp 540 > 179 / udp 1 > 2 nosum len 8",
        "udp 1 > 4739 udplen 15 len 8",
    ] {
        let frame = Packet::parse(&format!("ip 2001:db8::1 > 2001:db8::2 {words}")).expect("words").frame();
        let (verdict, after) = loaded.run(&frame, SkBuff::default()).expect("a run");
        assert_eq!((verdict, hex(&after)), (-1, hex(&frame)), "{words}");
    }
}

/// No kernel needed: what `explain` says about a packet against the model.
#[test]
fn explain_names_the_rule_that_matches() {
    let config = Config { cases: cases(500), failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&arb::case(1..12usize), |case| {
        let compiled = engine::compile(&support::rules::text(&case.rules), Link::Ethernet);
        let compiled = compiled.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        for packet in &case.packets {
            // A capture does not say what is still to be cut.
            let skb = &packet.skb;
            let outcome = model::run_known(&case.rules, &packet.frame, 0, skb, model::Link::Ethernet);
            let mut settings = Settings::default();
            for ((field, _), value) in settings::fields().zip(*skb) {
                settings.set(field, value);
            }
            let key = explain::key(&packet.frame, &settings);
            prop_assert_eq!(key.is_ok(), outcome.key.is_some(), "{}: {:?}", packet.words, key);
            let Ok(key) = key else { continue };
            let matching = explain::matching(&compiled.ruleset, &key);
            prop_assert_eq!(matching.rule, outcome.rule, "{}", packet.words);
            prop_assert_eq!(matching.misses.len(), outcome.rule.unwrap_or(case.rules.len()));
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Every way to push and pop, with packets that are and are not what the rule expects.
#[test]
fn every_combination_of_protocols_there_and_back() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for (inner, outer) in [(UDP, UDP), (UDP, TCP), (TCP, UDP), (TCP, TCP)] {
        let name = |proto| support::rules::proto_name(proto);
        let (i, o) = (name(inner), name(outer));
        let text = format!(
            "{i} dport 4739 actions funnel {o} sport 540 dport 179\n\
             {o} sport 540 dport 179 actions unfunnel {i}\n"
        );
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        let four = ["", "options 3", "pad 11", "df tos 184", "options 10 pad 1"]
            .map(|words| format!("ip 10.1.2.3 > 192.168.254.1 {words}"));
        let six = ["", "pad 11", "tos 184 id 65535 ttl 1"]
            .map(|words| format!("ip 2001:db8::1 > ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff {words}"));
        for words in four.iter().chain(&six) {
            for tail in ["len 0", "len 1", "len 1400", "len 777", "badsum len 9", "nosum len 33"] {
                let words = format!("{words} {i} 25000 > 4739 {tail}");
                let plain = Packet::parse(&words).expect("words").frame();
                let (verdict, funneled) = loaded.run(&plain, SkBuff::default()).expect("a run");
                let expected = model::run(&rules, &plain, 0, model::Link::Ethernet);
                assert_eq!((verdict, hex(&funneled)), (-1, hex(&expected.frame)), "{words}");
                if words.contains(':') && i == "udp" && tail.contains("nosum") {
                    assert_eq!(funneled, plain, "{words}: not legal");
                    continue;
                }
                assert_ne!(funneled, plain, "{words}");
                let (verdict, back) = loaded.run(&funneled, SkBuff::default()).expect("a run");
                assert_eq!((verdict, back), (-1, plain), "{words}, there and back");
            }
        }
    }
}

/// Behind whatever stands in front of it, at even and odd offsets, with IP options and without, in SYN and
/// SYN-ACK.
#[test]
fn mss_is_lowered_wherever_the_option_stands() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for (outer, pushed) in [("tcp", 20), ("udp", 8)] {
        let text = format!("tcp dport 8080 actions funnel {outer} sport 540 dport 80");
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        let timestamps = [8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
        let fronts: [&[u8]; 6] =
            [&[1], &[3, 3, 7], &[4, 2], &timestamps, &[253, 5, 2, 4, 2], &[1, 4, 2, 3, 3, 2]];
        for front in fronts {
            for times in 0..=36 / front.len() {
                for ip in ["", "options 2", "options 10", "pad 7"] {
                    for flags in [0x02, 0x12, 0xc2] {
                        let options = hex(&front.repeat(times));
                        let words = |funneling: &str, mss: u16| {
                            let tcp = format!("tcp 9 > 8080 flags {flags} opts {options}0204{mss:04x}");
                            let words = format!("ip 10.1.2.3 > 10.0.0.1 {ip} {funneling} {tcp} len 3");
                            Packet::parse(&words).expect("words").frame()
                        };
                        let (_, frame) = loaded.run(&words("", 1460), SkBuff::default()).expect("a run");
                        let expected = words(&format!("{outer} 540 > 80 /"), 1460 - pushed);
                        assert_eq!(hex(&frame), hex(&expected), "{ip}, {options}");
                    }
                }
            }
        }
    }
}

/// No option, one that is too low already, lists that nobody can read, segments that open nothing, UDP.
#[test]
fn mss_is_left_alone_where_there_is_none_to_lower() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let rules = Rule::parse_all("tcp dport 8080 actions funnel tcp sport 540 dport 80").expect("rules");
    let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
    for (what, l4) in [
        ("no options", "flags 2"),
        ("no such option", "flags 2 opts 0303070402"),
        ("behind the end of the list", "flags 2 opts 00020405b4"),
        ("an option of no length", "flags 2 opts fd000101020405b4"),
        ("an option of length one", "flags 2 opts fd01020405b4"),
        ("longer than the header", "flags 2 opts fd20010101010101020405b4"),
        ("cut off by the end of the header", "flags 2 opts 0303070303070101010102040505 doff 8"),
        ("an MSS of another length", "flags 2 opts 020505b400"),
        ("less than is left of it", "flags 2 opts 02040043"),
        ("none", "flags 2 opts 02040000"),
        ("an ACK", "flags 16 opts 020405b4"),
        ("a RST", "flags 4 opts 020405b4"),
        ("a header longer than the packet", "flags 2 doff 15 opts 020405b4"),
        ("a header shorter than a header", "flags 2 doff 4 opts 020405b4"),
    ] {
        for ip in ["", "options 3"] {
            let words = |ip: &str, l4: &str| {
                let words = format!("ip 10.1.2.3 > 10.0.0.1 {ip} {l4} len 3");
                Packet::parse(&words).expect("words").frame()
            };
            let plain = words(ip, &format!("tcp 9 > 8080 {l4}"));
            let (_, frame) = loaded.run(&plain, SkBuff::default()).expect("a run");
            let expected = words(ip, &format!("tcp 540 > 80 / tcp 9 > 8080 {l4}"));
            assert_eq!(hex(&frame), hex(&expected), "{what} {ip}");
        }
    }
}

/// Lists are all that varies here, so that the walk sees many of them.
#[test]
fn model_and_kernel_agree_on_random_option_lists() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let rules = Rule::parse_all("tcp dport 8080 actions funnel udp sport 540 dport 80").expect("rules");
    let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
    let config = Config { cases: cases(20_000), failure_persistence: None, ..Config::default() };
    let least = usize::try_from(config.cases).expect("a number") / 4;
    let lowered = AtomicUsize::new(0);
    let result = TestRunner::new(config).run(&(arb::tcp_options(), 0u8..4), |(opts, options)| {
        let mut packet = Packet::parse("ip 10.1.2.3 > 10.0.0.1 tcp 9 > 8080 flags 2").expect("words");
        (packet.ip.options, packet.layers[0].opts) = (options, opts);
        let plain = packet.frame();
        let (_, frame) = loaded.run(&plain, SkBuff::default()).expect("a run");
        let model = model::run(&rules, &plain, 0, model::Link::Ethernet).frame;
        let header = plain.len() - 14 - 4 * usize::from(options) - 20;
        lowered.fetch_add(
            usize::from(frame[frame.len() - header..][18..] != plain[plain.len() - header..][18..]),
            Ordering::Relaxed,
        );
        prop_assert_eq!(hex(&frame), hex(&model));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(lowered.into_inner() > least, "the lists hardly have an MSS");
}

/// What its funneling header says: this one has been through a funnel.
#[test]
fn tcp_that_is_funneled_already_is_left_alone() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for outer in ["tcp", "udp"] {
        let text = format!("tcp dport 179 actions funnel {outer} sport 9 dport 80");
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        for options in ["", "options 1", "options 10"] {
            for inner in ["udp 25000 > 4739", "tcp 25000 > 8080", "tcp 25000 > 8080 flags 2 opts 020405b4"] {
                let run = |l4: &str| {
                    let words = format!("ip 10.1.2.3 > 10.0.0.1 {options} {l4} / {inner} len 8");
                    let frame = Packet::parse(&words).expect("words").frame();
                    let model = model::run(&rules, &frame, 0, model::Link::Ethernet).frame;
                    let (_, after) = loaded.run(&frame, SkBuff::default()).expect("a run");
                    assert_eq!(hex(&after), hex(&model), "{words}");
                    frame == after
                };
                for flags in ["", "flags 0x12", "flags 0x10"] {
                    assert!(run(&format!("tcp 540 > 179 {flags}")), "{inner}: {flags}");
                }
                // A real connection that has come across some of these numbers.
                for other in ["seq 1", "ack 1", "doff 6"] {
                    assert!(!run(&format!("tcp 540 > 179 {other}")), "{inner}: {other}");
                }
            }
        }
    }
}

/// There and back, with whatever else is unusual about the packet; GSO or not makes no difference.
#[test]
fn alias_and_unalias_undo_each_other() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for (end, ports) in [("dport", "25000 > 8080"), ("sport", "8080 > 25000")] {
        let text =
            format!("tcp {end} 80 actions unalias {{ 8080, 8443 }}\ntcp {end} 8080 actions alias {end} 80");
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        let four = ["", "options 1", "options 10", "pad 11", "df tos 184"]
            .map(|words| format!("ip 10.1.2.3 > 192.168.254.1 {words}"));
        let six = ["", "pad 11", "tos 184"].map(|words| format!("ip 2001:db8::1 > fd00::1 {words}"));
        for words in four.iter().chain(&six) {
            for tail in ["len 0", "len 1", "len 1400", "badsum len 9", "nosum len 3", "tcpopt 10 len 5"] {
                for gso_size in [0, 1448] {
                    let context = SkBuff { gso_size, ..SkBuff::default() };
                    let words = format!("{words} tcp {ports} {tail}");
                    let plain = Packet::parse(&words).expect("words").frame();
                    let (verdict, aliased) = loaded.run(&plain, context).expect("a run");
                    let expected = model::run(&rules, &plain, gso_size, model::Link::Ethernet);
                    assert_eq!((verdict, hex(&aliased)), (-1, hex(&expected.frame)), "{words}");
                    assert_ne!(aliased, plain, "{words}");
                    assert_eq!(aliased.len(), plain.len(), "{words}");
                    let (verdict, back) = loaded.run(&aliased, context).expect("a run");
                    assert_eq!((verdict, hex(&back)), (-1, hex(&plain)), "{words}, there and back");
                }
            }
        }
    }
}

/// Of the two zeros of ones' complement TCP's checksum takes 0, whatever is added to it or taken away.
#[test]
fn aliased_checksums_that_come_out_as_zero() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let mut zeros = 0;
    for port in [1, 80, 65_535] {
        let text =
            format!("tcp dport 8080 actions alias dport {port}\ntcp dport {port} actions unalias 8080\n");
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        let mut packet = Packet::parse("ip 10.1.0.1 > 10.0.0.1 tcp 9 > 8080 len 4").expect("words");
        for sport in 0..=u16::MAX {
            packet.layers[0].sport = sport;
            let plain = packet.frame();
            let aliased = model::run(&rules, &plain, 0, model::Link::Ethernet).frame;
            if [&plain, &aliased].iter().all(|frame| frame[50..52] != [0, 0]) {
                continue;
            }
            zeros += 1;
            for (before, after) in [(&plain, &aliased), (&aliased, &plain)] {
                let (_, frame) = loaded.run(before, SkBuff::default()).expect("a run");
                assert_eq!(hex(&frame), hex(after), "{port}: {packet}");
            }
        }
    }
    // 65535 is another zero: there, one packet has it before and after.
    assert!(zeros >= 5, "only {zeros} such packets");
}

/// Urgent data, packets that are aliased already, and ports that are on no list.
#[test]
fn alias_and_unalias_leave_alone_what_is_not_theirs() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let rules = Rule::parse_all("tcp dport 8080 actions alias dport 80\ntcp dport 80 actions unalias 8080\n")
        .expect("rules");
    let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
    for options in ["", "options 4"] {
        for l4 in [
            "tcp 1 > 8080 flags 0x38 urg 1",
            "tcp 1 > 8080 flags 0x30",
            "tcp 1 > 8080 urg 9090",
            "tcp 1 > 80 urg 22",
            "tcp 1 > 80",
            "tcp 1 > 80 flags 0x38 urg 8080",
            "tcp 1 > 80 urg 8081",
            "tcp 1 > 80 urg 36895", // 8080 with its bytes swapped
        ] {
            for gso_size in [0, 1448] {
                let words = format!("ip 10.1.2.3 > 10.0.0.1 {options} {l4} len 40");
                let plain =
                    Packet::parse(&words.replace("0x38", "56").replace("0x30", "48")).expect("words").frame();
                let context = SkBuff { gso_size, ..SkBuff::default() };
                let (verdict, frame) = loaded.run(&plain, context).expect("a run");
                assert_eq!((verdict, hex(&frame)), (-1, hex(&plain)), "{words}");
            }
        }
    }
}

/// A search in a list of any shape, against the list: every port of the 16 bits.
#[test]
fn unalias_restores_exactly_the_ports_on_its_list() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let lists: [Vec<u16>; 5] = [
        vec![8080, 8443],
        vec![1, 65_535],
        vec![1, 2, 3, 100, 200, 201, 300, 400, 500, 65_534, 65_535],
        (1..2_000).map(|n| n * 31).collect(),
        (1_000..1_300).chain(2_000..2_010).chain([3_000, 3_002, 3_004, 3_006, 3_008]).collect(),
    ];
    for list in lists {
        let action = Action::Unalias { ports: list.clone() };
        let dport = Some(support::rules::Match::one(support::rules::Ports(80, 80)));
        let rules = [Rule {
            ip: None,
            proto: TCP,
            saddr: None,
            daddr: None,
            sport: None,
            dport,
            others: Vec::new(),
            action,
            extra: Default::default(),
        }];
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        let mut packet = Packet::parse("ip 10.1.2.3 > 10.0.0.1 tcp 9 > 80").expect("words");
        for port in 0..=u16::MAX {
            packet.layers[0].urg = port;
            let (_, frame) = loaded.run(&packet.frame(), SkBuff::default()).expect("a run");
            let restored = if list.contains(&port) { port } else { 80 };
            assert_eq!(frame[36..38], restored.to_be_bytes(), "{port}, list {list:?}");
        }
    }
}

/// What a load balancer does to funneled packets on the way must not matter.
#[test]
fn addresses_may_change_between_funnel_and_unfunnel() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for (i, o) in [("udp", "udp"), ("udp", "tcp"), ("tcp", "udp"), ("tcp", "tcp")] {
        let text = format!(
            "{i} dport 4739 actions funnel {o} sport 540 dport 179\n\
             {o} dport 179 actions unfunnel {i}\n"
        );
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        for (len, sum) in [(0, ""), (1, ""), (33, ""), (1400, ""), (40, "nosum")] {
            if i == "tcp" && sum == "nosum" {
                continue; // TCP has no absent checksum
            }
            let tail = format!("{i} 25000 > 4739 {sum} len {len}");
            // And the bytes that the IP checksum, if there is one, and the addresses are.
            for (before, after, changed) in [
                ("10.1.2.3 > 10.96.0.1", "172.18.0.2 > 10.244.1.7", 24..34),
                ("2001:db8::1 > fd00:96::1", "2001:db8:1:2:3:4:5:6 > fd00:244::ffff", 22..54),
            ] {
                if before.contains(':') && sum == "nosum" {
                    continue; // not legal
                }
                let packet = |addresses: &str| {
                    let words = format!("ip {addresses} {tail}");
                    Packet::parse(&words).expect("words").frame()
                };
                let (before, after) = (packet(before), packet(after));
                let (_, mut funneled) = loaded.run(&before, SkBuff::default()).expect("a run");
                assert_ne!(funneled, before);
                funneled[changed.clone()].copy_from_slice(&after[changed]);
                let (_, there) = loaded.run(&funneled, SkBuff::default()).expect("a run");
                // The IP checksum is the funneled packet's with the plain one's bytes: ignore it.
                let same = |frame: &[u8]| [&frame[..24], &frame[26..]].concat();
                assert_eq!(hex(&same(&there)), hex(&same(&after)), "{tail} over {o}");
            }
        }
    }
}

/// The two zeros of ones' complement: one packet in 65,536 has a checksum that comes out as 0, which
/// UDP has to send as 0xffff, and others must not. Sweeps an address and a port over all values, and
/// takes the packets that the model gives such a checksum.
#[test]
fn checksums_that_come_out_as_zero() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    for (i, o) in [("udp", "udp"), ("udp", "tcp"), ("tcp", "udp"), ("tcp", "tcp")] {
        let text = format!(
            "{i} dport 4739 actions funnel {o} sport 540 dport 179\n\
             {o} dport 179 actions unfunnel {i}\n"
        );
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut loader, &rules, Link::Ethernet).expect("a program");
        for (addresses, at_least) in [("10.1.0.0 > 192.168.254.1", 4), ("2001:db8::1 > fd00::2", 3)] {
            let mut zeros = 0;
            let mut try_both_ways = |packet: &Packet| {
                let plain = packet.frame();
                let funneled = model::run(&rules, &plain, 0, model::Link::Ethernet).frame;
                for (before, after) in [(&plain, &funneled), (&funneled, &plain)] {
                    let sums = checksums(after, i, o);
                    if sums.iter().any(|sum| [0, 0xffff].contains(sum)) {
                        zeros += 1;
                        let expected = model::run(&rules, before, 0, model::Link::Ethernet);
                        let (_, frame) = loaded.run(before, SkBuff::default()).expect("a run");
                        assert_eq!(frame, expected.frame, "{i} over {o}: {packet}");
                    }
                }
            };
            let words = format!("ip {addresses} {i} 0 > 4739 len 4");
            let base = Packet::parse(&words).expect("words");
            for value in 0..=u16::MAX {
                let mut packet = base.clone();
                packet.ip.src = support::rules::address(
                    base.ip.src,
                    support::rules::bits(base.ip.src) + u128::from(value),
                );
                try_both_ways(&packet);
                let mut packet = base.clone();
                packet.layers[0].sport = value;
                try_both_ways(&packet);
            }
            // The IP checksum and the outer one by address, the inner one by port, and back again.
            assert!(zeros >= at_least, "{i} over {o}, {addresses}: only {zeros} such packets");
        }
    }
}

/// Of IP, of the outermost segment, and of the one inside.
fn checksums(frame: &[u8], inner: &str, outer: &str) -> Vec<u16> {
    let at = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let six = at(12) == Some(0x86dd);
    let start = if six { 54 } else { 34 };
    let sum = |proto: &str| if proto == "tcp" { 16 } else { 6 };
    let header = if outer == "tcp" { 20 } else { 8 };
    let funneled = at(start + 2) == Some(179);
    let l4 = if funneled { outer } else { inner };
    let mut sums: Vec<u16> = [at(24).filter(|_| !six), at(start + sum(l4))].into_iter().flatten().collect();
    sums.extend(funneled.then(|| at(start + header + sum(inner))).flatten());
    sums
}

/// States that have been seen are recognised: no branch doubles what comes behind it. Each of the routines
/// that funnel TCP leads to the walk through its options in two ways.
#[test]
fn the_verifier_walks_through_options_once() {
    if !require(&[Need::Root]) {
        return;
    }
    let text = "tcp dport 1 actions funnel tcp sport 540 dport 80\n\
                tcp dport 2 actions funnel udp sport 540 dport 80\n";
    let rules = Rule::parse_all(text).expect("rules");
    for link in [Link::Ethernet, Link::None] {
        let (compiled, loaded) = engine::load(&mut Loader::default(), &rules, link).expect("a program");
        // Kernels before 5.16 do not tell.
        let Ok(verified) = loaded.verified() else {
            assert!(!features().check_mtu, "a count");
            continue;
        };
        let slots = compiled.slots;
        assert!(verified < slots * 3, "{verified} looked at of {slots}");
    }
}

#[test]
fn programs_have_no_maps() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let (_, loaded) = engine::load(&mut loader, &arb::many(64), Link::Ethernet).expect("a program");
    assert_eq!(loaded.maps(), 0);
    assert_eq!(loaded.program().and_then(|p| Ok(p.info()?.map_ids()?)).expect("info"), Some(vec![]));
}

#[test]
fn the_verifier_accepts_65536_rules() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let of_both = [arb::many(32_768), arb::many6(32_768)].concat();
    let mut all = Vec::new();
    for rules in [arb::many(1_000), arb::many(10_000), arb::many(65_536), arb::many6(65_536), of_both] {
        all.push((None, rules));
    }
    // By way of islands, where there are no long jumps.
    all.extend([arb::many(10_000), arb::many(65_536)].map(|rules| (Some(engine::OLDEST), rules)));
    for (target, rules) in all {
        let count = rules.len();
        let (compiled, loaded) = engine::load_for(target, &mut loader, &rules, Link::Ethernet)
            .unwrap_or_else(|error| panic!("{count} rules: {error:#}"));
        assert!(target.is_none() || compiled.islands > 0, "{count} rules: no island");
        assert_eq!(compiled.ruleset.rules.len(), count);
        // The first, the last, and some between; and a miss beside each.
        for index in [0, 1, 2, 3, 4, 5, count / 2, count / 2 + 1, count - 4, count - 3, count - 2, count - 1]
        {
            let rule = &rules[index];
            for step in [0, 1] {
                let packet = aimed(rule, step);
                let model = model::run(&rules, &packet, 0, model::Link::Ethernet);
                let (verdict, frame) = loaded.run(&packet, SkBuff::default()).expect("a run");
                assert_eq!(verdict, model.verdict.code(), "rule {index} of {count}, +{step}");
                assert!(verdict == 2 || frame == model.frame, "rule {index} of {count}, +{step}");
            }
        }
    }
}

/// A packet for a rule of [`arb::many`], `step` ports beside it.
fn aimed(rule: &Rule, step: u16) -> Vec<u8> {
    let daddr = rule.daddr.as_ref().expect("an address").values[0].first();
    let dport = rule.dport.as_ref().expect("a port").values[0].0 + step;
    let proto = support::rules::proto_name(rule.proto);
    let inside = match &rule.action {
        Action::Unfunnel { inner } => format!("/ {} 9 > 10", support::rules::proto_name(*inner)),
        Action::Unalias { ports } => format!("urg {}", ports[1]),
        _ => String::new(),
    };
    let saddr = if daddr.is_ipv6() { "2001:db8::7" } else { "10.9.8.7" };
    let words = format!("ip {saddr} > {daddr} {proto} 540 > {dport} {inside} len 21");
    Packet::parse(&words).expect("words").frame()
}

/// `BPF_PROG_TEST_RUN` always makes an Ethernet frame. Its first 14 bytes are as good a start of an
/// IPv4 header as any when the source address is in 8.0.0.0/16: bytes 12 and 13 are then also
/// the EtherType of IPv4. For IPv6, the source address is in 2001:db8:86dd::/48. (What is pushed on such devices is for the end-to-end tests.)
#[test]
fn without_a_link_header_the_packet_starts_with_ip() {
    if !require(&[Need::Root]) {
        return;
    }
    let rules = Rule::parse_all(
        "ip saddr 8.0.0.1 udp dport 53 actions drop\n\
         ip saddr 8.0.0.0/24 tcp sport 80 actions accept\n\
         ip tcp actions drop\n\
         saddr 2001:db8:86dd::1 udp dport 53 actions drop\n\
         ip6 tcp sport 81 actions drop\n",
    )
    .expect("rules");
    let mut loader = Loader::default();
    let (compiled, loaded) = engine::load(&mut loader, &rules, Link::None).expect("a program");
    let (four, six): (&[&str], &[&str]) = (
        &["", "options 2", "mf", "frag 3", "truncated 48", "truncated 55", "version 6"],
        &["", "ext 0", "ext 44", "total 0", "truncated 70", "truncated 80", "version 4"],
    );
    let mut dropped = 0;
    for (addresses, words) in [
        ("8.0.0.0 > 10.0.0.1", four),
        ("8.0.0.1 > 10.0.0.1", four),
        ("8.0.0.255 > 10.0.0.1", four),
        ("8.0.1.0 > 10.0.0.1", four),
        ("2001:db8:86dd::1 > ::1", six),
        ("2001:db8:86dd::2 > ::1", six),
    ] {
        for l4 in ["udp 1 > 53", "udp 1 > 54", "tcp 80 > 1", "tcp 81 > 1", "proto 1"] {
            for words in words {
                let words = format!("ip {addresses} {words} {l4} len 12");
                let packet = &Packet::parse(&words).expect("words").frame()[14..];
                let model = model::run(&rules, packet, 0, model::Link::None);
                if let Some(key) = &model.key {
                    assert_eq!(engine::lookup(&compiled.diagram, key).expect("a protocol"), model.rule);
                }
                let (verdict, frame) = loaded.run(packet, SkBuff::default()).expect("a run");
                assert_eq!(verdict, model.verdict.code(), "{words}");
                assert_eq!(frame, packet, "{words}");
                dropped += usize::from(verdict == 2);
            }
        }
    }
    assert!(dropped > 10, "the rules were hardly reached");
}

/// Of devices that may or may not have a link header. In a test run the network header is behind an Ethernet header,
/// as where the kernel has put that back (`skb_mac_header_rebuild`).
#[test]
fn a_link_header_that_the_device_does_not_have_is_found() {
    if !require(&[Need::Root]) {
        return;
    }
    let loader = RefCell::new(Loader::default());
    let changed = RefCell::new(0);
    let config = Config { cases: cases(60), failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&arb::case(1..12usize), |case| {
        let fail = |error: anyhow::Error| TestCaseError::fail(format!("{error:#}"));
        let (_, loaded) = engine::load(&mut loader.borrow_mut(), &case.rules, Link::Either).map_err(fail)?;
        for packet in &case.packets {
            let (frame, gso, skb) = (&packet.frame, packet.gso, packet.skb);
            let model = model::run_known(&case.rules, frame, gso, &skb, model::Link::Rebuilt);
            let context = SkBuff { gso_size: gso, skb, ..SkBuff::default() };
            let (verdict, frame) = loaded.run(&packet.frame, context).map_err(fail)?;
            prop_assert_eq!(verdict, model.verdict.code(), "{}", packet.words);
            if model.verdict == model::Verdict::Pass {
                prop_assert_eq!(hex(&frame), hex(&model.frame), "{}", packet.words);
                *changed.borrow_mut() += usize::from(frame != packet.frame);
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(changed.into_inner() > 50, "hardly a packet was changed");
}

/// Runs this binary again with two capabilities and no others: what it then loads must include
/// every shape of program.
#[test]
fn two_capabilities_are_enough() {
    const CHILD: &str = "SFUNNEL_TEST_CHILD";
    // The same kernels that have no bpf_check_mtu compare pointers into the packet only with a third one.
    let old = !features().check_mtu;
    if std::env::var_os(CHILD).is_some() {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a status");
        // Bits 39 (BPF) and 12 (NET_ADMIN); 38 (PERFMON).
        let effective = if old { "CapEff:\t000000c000001000\n" } else { "CapEff:\t0000008000001000\n" };
        assert!(status.contains(effective), "{status}");
        let mut loader = Loader::default();
        for link in [Link::Ethernet, Link::None] {
            engine::load(&mut loader, &arb::many(1_000), link).expect("1,000 rules");
        }
        agree_on_random(None, 100, &AtomicUsize::new(0));
        counters::agree_on_random(30);
        return;
    }
    if !require(&[Need::Root, Need::Tool("setpriv", "util-linux")]) {
        return;
    }
    let caps = if old { "-all,+bpf,+net_admin,+perfmon" } else { "-all,+bpf,+net_admin" };
    let output = Command::new(support::lab::find_tool("setpriv").expect("setpriv"))
        .args([&format!("--bounding-set={caps}"), &format!("--inh-caps={caps}"), "--"])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", "two_capabilities_are_enough", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("setpriv");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}{err}");
}
