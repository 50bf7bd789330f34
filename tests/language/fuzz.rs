//! Garbage in: diagnostics out, never a panic, never a hang.
//!
//! `SFUNNEL_SEED=N` repeats a run; every failure prints the seed.

// The seed must be seen when a run hangs or is killed, too.
#![allow(clippy::print_stdout)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use sfunnel::diag::{Diagnostic, Severity, Source, render};

use super::read;

const RULESETS: usize = 1_000_000;

/// xorshift64*: small, and the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }
}

const GOOD: [&str; 24] = [
    "ip tcp dport 80 sport 540 actions unfunnel tcp",
    "ip daddr 10.0.0.1 tcp dport 8080 actions funnel tcp dport 80 sport 540",
    "udp ip dport 80 saddr != 10.0.0.0/8 actions drop # why; not",
    "ip saddr 10.0.0.5/255.0.0.0 udp sport != 53 actions funnel encap tcp sport 179 dport 540",
    "tcp drop;udp accept",
    "\ttcp dport!=80 unfunnel decap udp\r\n",
    "ip daddr 0.0.0.0/0 tcp accept",
    "tcp sport 1 dport 65535 actions funnel udp dport 1 sport 65535",
    "ip daddr 10.0.0.1 tcp dport 8080 actions alias dport 80; tcp sport 8080 alias sport 80",
    "tcp dport 80 actions unalias { 8080, 8443 }; tcp sport 80 dport != 1 unalias 8080",
    "ip saddr 10.0.0.1 tcp sport 80 unalias {8080,8443,}",
    "tcp dport 80 actions unfunnel udp dport { 53, 4739 } sport != 1-1023 mark set 7",
    "udp dport 53 actions funnel tcp sport 540 dport 80 flags syn|ack mark set 0xff",
    "udp dport 54 mark set 1 accept; udp dport 55 funnel tcp dport 1 sport 2 flags { psh, ack }",
    "tcp dport { 80, 443, 8000-8080 } drop; udp sport != 1-1023 accept",
    "service funnel tcp sport 540 dport 179 { udp dport 4739; udp accept }; service alias dport 80 { tcp }",
    "chain ingress { tcp dport 80 drop }; chain egress {\n  tcp drop # }\n  udp drop\n}",
    "define A = 80; define B = { $A, 90-99 }\ntcp dport { $B, $A-81 } sport != $A drop; tcp sport 3 alias sport $A",
    "tcp dport 80 dnat 10.0.0.1:80; ip6 udp snat [::1]:5 unfunnel udp; define A = 10.0.0.1\nudp dnat $A mark set 1",
    "define N={10.0.0.0/8,::1}\ndefine P = 5\nsaddr $N tcp dport $P funnel udp sport $P dport $P",
    "chain egress\n{ tcp dport { 80, 81 } drop; }",
    "ip saddr { 10.0.0.0/8, 192.168.1.1, 172.16.0.1-172.16.0.9 } udp drop",
    "ip daddr != {\n  10.0.0.1, # one\n  10.0.0.2 - 10.0.0.7\n} tcp dport 1 - 9 drop",
    "tcp sport {1,2,3} dport != { 4, 5-6 } funnel udp sport 7 dport 8",
];

const WORDS: &[&str] = &[
    "dscp",
    "af11-ef",
    "ttl",
    "hoplimit",
    "length",
    "mark",
    "flags",
    "syn / syn,ack",
    "{ syn, syn|ack }",
    "ip",
    "tcp",
    "udp",
    "saddr",
    "daddr",
    "sport",
    "dport",
    "actions",
    "accept",
    "drop",
    "funnel",
    "unfunnel",
    "encap",
    "decap",
    "ip6",
    "chain",
    "ingress",
    "egress",
    "chain ingress {",
    "define",
    "define X = 80\n",
    "define X = { 10.0.0.1 }\n",
    "alias",
    "unalias",
    "mark",
    "counter",
    "dnat",
    "snat",
    "dnat 10.0.0.1:80",
    "[::1]:80",
    "flags",
    "!=",
    "!",
    "=",
    "==",
    "<",
    "{",
    "}",
    "{80,443}",
    "80-90",
    "90-80",
    "set",
    "syn|ack",
    "|",
    "mark set 7",
    "flags syn",
    "80-",
    "-90",
    "{80-90,",
    "10.0.0.1-10.0.0.9",
    "10.0.0.9-10.0.0.1",
    "{\n",
    "$X",
    ",",
    "/",
    "-",
    "+",
    "0",
    "1",
    "80",
    "080",
    "65535",
    "65536",
    "99999999999",
    "0x50",
    "1+2",
    "10.0.0.1",
    "10.0.0.0/8",
    "10.0.0.0/33",
    "10.0.0.0/255.0.0.0",
    "10.0.0.0/255.0.255.0",
    "::1",
    "256.0.0.1",
    "\n",
    ";",
    "#",
    "\r\n",
    "\0",
    "\u{a0}",
    "\u{feff}",
    "é",
    "日本",
    "iptcpdport80",
    "TCP",
];

/// Words in any order.
fn babble(rng: &mut Rng, text: &mut String) {
    for _ in 0..=rng.below(24) {
        text.push_str(rng.pick(WORDS));
        if rng.below(8) > 0 {
            text.push(' ');
        }
    }
}

/// Good rules with a few words or characters changed, doubled, lost or swapped.
fn mutated(rng: &mut Rng, text: &mut String) {
    for _ in 0..=rng.below(3) {
        text.push_str(rng.pick(&GOOD));
        text.push('\n');
    }
    for _ in 0..rng.below(4) {
        if rng.below(2) == 0 {
            let mut words: Vec<&str> = text.split(' ').collect();
            let at = rng.below(words.len());
            match rng.below(4) {
                0 => words[at] = rng.pick(WORDS),
                1 => words.insert(at, rng.pick(WORDS)),
                2 => drop(words.remove(at)),
                _ => {
                    let other = rng.below(words.len());
                    words.swap(at, other);
                }
            }
            *text = words.join(" ");
        } else {
            let Some((at, _)) = text.char_indices().nth(rng.below(text.len().max(1))) else { continue };
            match rng.below(3) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, char::from_u32(u32::try_from(rng.below(0x250)).unwrap()).unwrap_or(' ')),
                _ => text.truncate(at),
            }
        }
    }
}

/// What must hold of every diagnostic of every text.
fn sane(text: &str, diagnostic: &Diagnostic) {
    for label in diagnostic.secondary.iter().chain([&diagnostic.primary]) {
        assert!(
            text.get(label.span.start..label.span.end).is_some(),
            "{:?} is no place in {text:?}",
            label.span
        );
        assert!(!label.text.is_empty());
    }
    assert!(diagnostic.help.is_some(), "no remedy: {diagnostic:?}");
    for line in diagnostic.help.iter().chain([&diagnostic.message]) {
        assert!(!line.contains(char::is_control) && !line.ends_with('.'), "{line:?}");
    }
}

fn one(text: &str, rendered: bool) -> bool {
    let (ok, diagnostics) = match read(text) {
        Ok((rules, warnings)) => {
            assert!(!rules.is_empty());
            assert!(warnings.iter().all(|warning| warning.severity == Severity::Warning));
            (true, warnings)
        }
        Err(faults) => {
            assert!(faults.iter().any(|fault| fault.severity == Severity::Error), "no error in {text:?}");
            (false, faults)
        }
    };
    assert!(diagnostics.is_sorted_by_key(|diagnostic| diagnostic.primary.span.start));
    diagnostics.iter().for_each(|diagnostic| sane(text, diagnostic));
    if rendered {
        let source = Source::new("rules", text);
        assert_eq!(render(&source, &diagnostics, false).is_empty(), diagnostics.is_empty());
    }
    ok
}

#[test]
fn a_million_random_and_mutated_rulesets_give_rules_or_diagnostics() {
    let seed = std::env::var("SFUNNEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5f_u64);
    println!("SFUNNEL_SEED={seed}");
    let mut rng = Rng(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut text = String::new();
    let mut good = 0;
    for n in 0..RULESETS {
        text.clear();
        if rng.below(4) == 0 {
            babble(&mut rng, &mut text)
        } else {
            mutated(&mut rng, &mut text)
        }
        // Drawing the carets is most of the work, and sees nothing new most of the time.
        let rendered = n % 64 == 0;
        match catch_unwind(AssertUnwindSafe(|| one(&text, rendered))) {
            Ok(ok) => good += usize::from(ok),
            Err(_) => panic!("ruleset {n} of SFUNNEL_SEED={seed}: {text:?}"),
        }
    }
    println!("{good} of {RULESETS} were good");
    assert!(good > RULESETS / 50 && good < RULESETS / 2, "{good}: the mutations are too harsh or too kind");
}

/// No clock is asked: work that grows with the square of these sizes would not end while anybody waits.
#[test]
fn large_and_hostile_texts_are_read_to_their_end() {
    const MANY: usize = 100_000;
    let (long, short) = (1 << 20, 1 << 16);
    let texts = [
        "x".repeat(long),
        "x ".repeat(long / 2),
        "x;".repeat(long / 2),
        "tpc ".repeat(long / 4),
        "tcp ".repeat(long / 4),
        "drop ".repeat(long / 5),
        "é".repeat(long),
        "é;".repeat(long / 3),
        "日;".repeat(long / 3) + "tcp dport 0 drop",
        "{ ".repeat(long / 2),
        "dport { ".repeat(long / 8),
        "dport {\n".repeat(short / 8),
        "dport {1,\n".repeat(short / 10),
        "dport 1,".repeat(short / 8),
        format!("tcp dport {{ {} }} drop", "80, ".repeat(short / 4)),
        format!("tcp dport {{ {} drop", "80,\n".repeat(short / 4)),
        format!("ip saddr {{ {} }} tcp drop", "10.0.0.0/8, 10.0.0.1-10.0.0.9, ".repeat(short / 31)),
        format!("tcp dport {} drop", "1,".repeat(short / 2)),
        format!("tcp dport {} drop", "1-".repeat(short / 2)),
        format!("tcp dport {{ {} }} drop", "{".repeat(short)),
        "!=".repeat(long / 2),
        "! = ".repeat(long / 4),
        "#".repeat(long),
        "\0".repeat(long),
        "0".repeat(long),
        format!("tcp dport {} drop", "9".repeat(long)),
        format!("ip saddr 10.0.0.0/{} tcp drop", "9".repeat(long)),
        format!("ip saddr {} tcp drop", "1.".repeat(long / 2)),
        "chain a {\n".repeat(MANY),
        "define X = 80\n".repeat(MANY),
        "define X = { 80, \n".repeat(MANY),
        "tcp dport $X drop\n".repeat(MANY),
        (0..MANY).map(|n| format!("define X{n} = {n}\n")).collect(),
        "chain ingress { }\n".repeat(MANY),
        "chain egress { tcp drop\n".repeat(MANY),
        "funnel tcp sport 1 ".repeat(long / 19),
        "tcp actions funnel tcp sport 1 dport 2\n".repeat(MANY),
        "tcp dport 0 actions drop\n".repeat(MANY),
        "tcp dport 80 actions drop\n".repeat(MANY),
        "tcp dport 80 actions drop\n".repeat(1999) + "udp drop",
        "tcp dport 80 actions drop; ".repeat(MANY) + "tcp",
    ];
    let doubled = |n: usize| format!("define X{} = {{ $X{n}, $X{n} }}\n", n + 1);
    let doubled = "define X0 = 80\n".to_owned() + &(0..40).map(doubled).collect::<String>();
    let own_output = |n: usize| format!("saddr 10.{}.{}.1 tcp funnel tcp sport 1 dport 2\n", n >> 8, n & 255);
    let texts = texts.into_iter().chain([(0..65_536).map(own_output).collect(), doubled]);
    for text in texts {
        one(&text, true);
    }
}
