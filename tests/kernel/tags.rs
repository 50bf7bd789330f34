//! Every list of up to three tags, on frames of every length, by rules about one version of IP or both.

use super::support::engine;
use super::support::model::{self, Link};
use super::support::packet::{Packet, hex};
use super::support::rules::Rule;
use super::support::testrun::{Loader, SkBuff, shortest};
use super::support::{Need, require};

const TAGS: [&str; 10] = [
    "",
    "vlan 1",
    "svlan 0xffff",
    "vlan 0",
    "vlan 1 vlan 2",
    "svlan 1 vlan 2",
    "vlan 1 svlan 2",
    "svlan 1 svlan 0xf000",
    "vlan 1 vlan 2 vlan 3",
    "svlan 1 vlan 2 vlan 3",
];
const RULES: [&str; 3] = ["", "ip ", "ip6 "];
const PACKETS: [&str; 6] = [
    "udp 25000 > 4739 len 3",
    "tcp 540 > 179 / udp 25000 > 4739 len 3",
    "tcp 25000 > 8080 flags 2 opts 020405b4 len 3",
    "tcp 25000 > 8081 len 3",
    "tcp 25000 > 22 len 3",
    "udp 25000 > 22 len 3",
];

#[test]
fn tags_are_looked_past_in_frames_of_every_length() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut loader = Loader::default();
    let mut changed = 0;
    for version in RULES {
        let lines = [
            "udp dport 4739 actions funnel tcp sport 540 dport 179",
            "tcp sport 540 dport 179 actions unfunnel udp",
            "tcp dport 8080 actions funnel udp sport 540 dport 180",
            "tcp dport 8081 actions alias dport 80",
            "tcp dport 22 actions drop",
            "udp dport 22 actions accept",
        ];
        let mut rules =
            Rule::parse_all(&lines.map(|line| format!("{version}{line}\n")).concat()).expect("rules");
        rules[lines.len() - 1].extra.set[0] = Some(7);
        for target in [None, Some(engine::OLDEST)] {
            let (_, loaded) = engine::load_for(target, &mut loader, &rules, sfunnel::codegen::Link::Ethernet)
                .expect("loaded");
            for tags in TAGS {
                for addresses in ["10.0.0.1 > 10.0.0.2", "10.0.0.1 > 10.0.0.2 options 2", "2001:db8::1 > ::2"]
                {
                    for words in PACKETS {
                        let words = format!("{tags} ip {addresses} {words}");
                        let whole = Packet::parse(&words).expect("words").frame();
                        for length in shortest(&whole)..=whole.len() {
                            let frame = &whole[..length];
                            let expected = model::run(&rules, frame, 0, Link::Ethernet);
                            let (verdict, after, skb) =
                                loaded.run_known(frame, SkBuff::default()).expect("a run");
                            let at = || format!("{version}: {length} bytes of {words}");
                            assert_eq!(verdict, expected.verdict.code(), "{}", at());
                            assert!(verdict == 2 || skb == expected.skb, "{}", at());
                            assert!(verdict == 2 || after == expected.frame, "{}: {}", at(), hex(&after));
                            changed += usize::from(after.len() > length);
                        }
                    }
                }
            }
        }
    }
    assert!(changed > 100, "hardly any was funneled: {changed}");
}
