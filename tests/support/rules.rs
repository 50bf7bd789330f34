//! Rules as the tests know them: a structure, the text it stands for, and what it matches.
//!
//! In: fields, or text in the plain one-rule-a-line form that [`Rule`]'s `Display` prints. Out:
//! text for the parser under test, and [`Rule::matches`] for the model. Shares nothing with the
//! crate's parser and sets, so that a mistake there cannot hide here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::actions::Action;
use super::fields::{Other, SKB, Values};
use super::packet::{TCP, UDP};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub proto: u8,
    /// Of the same version of IP.
    pub saddr: IpAddr,
    pub daddr: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub others: Values,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// 4 or 6: it says `ip` or `ip6`.
    pub ip: Option<u8>,
    /// 6 or 17.
    pub proto: u8,
    pub saddr: Option<Match<Addr>>,
    pub daddr: Option<Match<Addr>>,
    pub sport: Option<Match<Ports>>,
    pub dport: Option<Match<Ports>>,
    /// Each field at most once.
    pub others: Vec<Other>,
    pub action: Action,
    pub extra: Extra,
}

/// What stands besides the action.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extra {
    /// `KEYWORD set N`, by field.
    pub set: [Option<u32>; SKB.len()],
    /// Of the header that `funnel tcp` pushes.
    pub flags: Option<u8>,
    /// The inner source and destination ports that `unfunnel` lets through.
    pub guard: [Option<Match<Ports>>; 2],
    /// The source and destination that a packet is given.
    pub nat: [Option<(IpAddr, Option<u16>)>; 2],
}

impl Extra {
    pub fn allows(&self, sport: u16, dport: u16) -> bool {
        let allows = |m: &Option<Match<Ports>>, port| m.as_ref().is_none_or(|m| m.matches(port));
        allows(&self.guard[0], sport) && allows(&self.guard[1], dport)
    }
}

/// One of the values, or none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<T> {
    pub negated: bool,
    pub values: Vec<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addr {
    Cidr(Cidr),
    Range(IpAddr, IpAddr),
}

/// From the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports(pub u16, pub u16);

/// An address with a prefix length; host bits may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub addr: IpAddr,
    pub len: u8,
    /// IPv4: written as a netmask, `10.0.0.0/255.0.0.0`.
    pub masked: bool,
}

/// A host, and the first and the last of its pods.
pub type Node = ([u8; 4], [u8; 4], [u8; 4]);

const NODES: [Node; 7] = [
    ([192, 168, 254, 1], [10, 0, 0, 0], [10, 0, 0, 255]),
    ([192, 168, 0, 1], [10, 255, 0, 128], [10, 255, 0, 255]),
    ([192, 168, 0, 1], [10, 255, 0, 0], [10, 255, 0, 63]),
    ([172, 16, 0, 1], [127, 255, 255, 254], [127, 255, 255, 255]),
    ([10, 255, 0, 64], [128, 0, 0, 0], [128, 0, 0, 0]),
    ([10, 1, 0, 1], [128, 0, 1, 0], [128, 0, 1, 255]),
    // With these, that host's differ in more than the last byte: they are numbered.
    ([172, 16, 0, 1], [10, 255, 1, 0], [10, 255, 1, 3]),
];

/// The same of IPv6, which only `bypass direct` knows.
pub static HOPS6: LazyLock<Vec<(Ipv6Addr, Ipv6Addr, Ipv6Addr)>> = LazyLock::new(|| {
    let hop = |(host, pods, length): &(&str, &str, u32)| {
        let first: Ipv6Addr = pods.parse().expect("an address");
        let last = first.to_bits() | u128::MAX.checked_shr(*length).unwrap_or(0);
        (host.parse().expect("an address"), first, Ipv6Addr::from(last))
    };
    WRITTEN6.iter().map(hop).collect()
});

/// Of any length; some within one word of the address, others of one.
const WRITTEN6: [(&str, &str, u32); 5] = [
    ("2001:db9:1::1", "2001:db8::", 112),
    ("2001:db9:1::2", "2001:db8:0:0:7fff:ffff::", 96),
    ("2001:db9:1::1", "2001:db8:8000::", 33),
    ("2001:db9:1::3", "fd00::1", 128),
    ("2001:db9:1::3", "2001:db8::ffff:ffff:ffff:ffff", 128),
];

/// Those of a ruleset that has rules about any. Every other one has pods that are numbered.
pub fn nodes_of(rules: &[Rule]) -> &'static [Node] {
    if rules.len().is_multiple_of(2) { &NODES } else { &NODES[..6] }
}

/// What a probe between two hosts has for its sequence number.
pub fn probe(nodes: &[Node], a: [u8; 4], b: [u8; 4]) -> Option<u32> {
    let digest = |wanted: [u8; 4]| {
        let mut of_host: Vec<_> = nodes.iter().filter(|(host, ..)| *host == wanted).collect();
        of_host.sort_by_key(|(_, first, _)| *first);
        let bytes: Vec<u8> = of_host.iter().flat_map(|(a, b, c)| [*a, *b, *c].concat()).collect();
        let hash = Sha256::digest(&bytes);
        (!of_host.is_empty()).then(|| u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]))
    };
    Some(digest(a)? ^ digest(b)?)
}

/// As they are written.
fn written(nodes: &[Node]) -> String {
    let node = |(host, first, last): &Node| {
        let [host, first, last] = [host, first, last].map(|address| Ipv4Addr::from(*address));
        let size = u32::from(last) - u32::from(first) + 1;
        format!("node {host} {first}/{}\n", 32 - size.ilog2())
    };
    nodes.iter().map(node).collect()
}

/// The address as a number.
pub fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

/// The address with that number, of the same version as `like`; numbers beyond the last start again.
pub fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

impl Cidr {
    fn width(self) -> u32 {
        if self.addr.is_ipv6() { 128 } else { 32 }
    }

    pub fn mask(self) -> u128 {
        let all = u128::MAX >> (128 - self.width());
        all & all.checked_shl(self.width() - u32::from(self.len)).unwrap_or(0)
    }

    pub fn first(self) -> IpAddr {
        address(self.addr, bits(self.addr) & self.mask())
    }

    pub fn last(self) -> IpAddr {
        address(self.addr, bits(self.addr) | !self.mask())
    }
}

impl Addr {
    pub fn first(self) -> IpAddr {
        match self {
            Addr::Cidr(cidr) => cidr.first(),
            Addr::Range(first, _) => first,
        }
    }

    pub fn last(self) -> IpAddr {
        match self {
            Addr::Cidr(cidr) => cidr.last(),
            Addr::Range(_, last) => last,
        }
    }

    pub fn is_ipv6(self) -> bool {
        self.first().is_ipv6()
    }

    fn contains(self, addr: IpAddr) -> bool {
        self.is_ipv6() == addr.is_ipv6()
            && match self {
                Addr::Cidr(cidr) => (bits(addr) ^ bits(cidr.addr)) & cidr.mask() == 0,
                Addr::Range(first, last) => bits(first) <= bits(addr) && bits(addr) <= bits(last),
            }
    }
}

impl<T> Match<T> {
    pub fn one(value: T) -> Match<T> {
        Match { negated: false, values: vec![value] }
    }
}

impl Match<Ports> {
    pub fn matches(&self, port: u16) -> bool {
        self.values.iter().any(|value| value.0 <= port && port <= value.1) != self.negated
    }

    /// The one port that matches.
    pub fn single(&self) -> Option<u16> {
        let port = self.values[0].0;
        let only = self.values.iter().all(|ports| *ports == Ports(port, port));
        (only && !self.negated).then_some(port)
    }
}

impl Rule {
    pub fn matches(&self, key: &Key) -> bool {
        // Also when negated: all others of the versions that are named.
        let addr = |m: &Option<Match<Addr>>, addr: IpAddr| match m {
            Some(m) => {
                m.values.iter().any(|value| value.is_ipv6() == addr.is_ipv6())
                    && m.values.iter().any(|value| value.contains(addr)) != m.negated
            }
            None => true,
        };
        let six = key.saddr.is_ipv6();
        let port = |m: &Option<Match<Ports>>, port: u16| match m {
            Some(m) => m.matches(port),
            None => true,
        };
        self.ip.is_none_or(|version| (version == 6) == six)
            && self.proto == key.proto
            && addr(&self.saddr, key.saddr)
            && addr(&self.daddr, key.daddr)
            && port(&self.sport, key.sport)
            && port(&self.dport, key.dport)
            && self.others.iter().all(|other| other.matches(six, &key.others))
    }

    /// Would some packet that this rule funnels match it again?
    pub fn matches_own_output(&self) -> bool {
        let Action::Funnel { outer, sport, dport } = self.action else { return false };
        self.ports_match(outer, sport, dport)
    }

    /// Does some packet with these ports match, as far as they say?
    fn ports_match(&self, proto: u8, sport: u16, dport: u16) -> bool {
        let ports = Rule { ip: None, saddr: None, daddr: None, others: Vec::new(), ..self.clone() };
        let any = Ipv4Addr::UNSPECIFIED.into();
        let others = Values::default();
        ports.matches(&Key { proto, saddr: any, daddr: any, sport, dport, others })
    }

    /// Would some packet that this rule funnels be funneled again by `other`? (Rules in front may take it
    /// first; this does not look at them.)
    pub fn is_funneled_again_by(&self, other: &Rule) -> bool {
        let Action::Funnel { outer, sport, dport } = self.action else { return false };
        matches!(other.action, Action::Funnel { .. })
            && other.ports_match(outer, sport, dport)
            && (self.extra.nat != [None; 2] || self.may_share_addresses(other))
    }

    /// Would the far end have to guess which of the two rules a packet comes from?
    pub fn is_ambiguous_with(&self, other: &Rule) -> bool {
        matches!(self.action, Action::Funnel { .. })
            && self.action == other.action
            && self.proto != other.proto
            && (self.extra.nat != [None; 2]
                || other.extra.nat != [None; 2]
                || self.may_share_addresses(other))
    }

    /// May one packet's addresses be matched by both? Says yes whenever a `!=` is involved.
    fn may_share_addresses(&self, other: &Rule) -> bool {
        let meet = |a: &Option<Match<Addr>>, b: &Option<Match<Addr>>| match (a, b) {
            (Some(a), Some(b)) if !a.negated && !b.negated => a
                .values
                .iter()
                .any(|a| b.values.iter().any(|b| a.first() <= b.last() && b.first() <= a.last())),
            _ => true,
        };
        [false, true].iter().any(|six| self.is_about(*six) && other.is_about(*six))
            && meet(&self.saddr, &other.saddr)
            && meet(&self.daddr, &other.daddr)
    }

    /// May packets of this version match?
    pub fn is_about(&self, six: bool) -> bool {
        let of = |m: &Option<Match<Addr>>| match m {
            Some(m) => m.values.iter().any(|value| value.is_ipv6() == six),
            None => true,
        };
        self.ip.is_none_or(|version| (version == 6) == six)
            && of(&self.saddr)
            && of(&self.daddr)
            && self.others.iter().all(|other| other.row().versions[usize::from(six)])
            && self.extra.nat.iter().flatten().all(|(address, _)| address.is_ipv6() == six)
            && !(six && matches!(self.action, Action::Bypass | Action::Unbypass { .. }))
    }

    /// Which port `unalias` is about: the destination port, the source port, or neither for sure.
    pub fn restores_destination(&self) -> Option<bool> {
        let single = |port: &Option<Match<Ports>>| port.as_ref().is_some_and(|m| m.single().is_some());
        (single(&self.sport) != single(&self.dport)).then(|| single(&self.dport))
    }

    /// Reads a rule in upstream's words. For rulesets known to be right: says only that, not where,
    /// something is wrong.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let wrong = || format!("not a rule the tests can read: `{text}`");
        let (matches, actions) = text.split_once(" actions ").ok_or_else(wrong)?;
        let mut rule = Rule {
            ip: None,
            proto: 0,
            saddr: None,
            daddr: None,
            sport: None,
            dport: None,
            others: Vec::new(),
            action: Action::Accept,
            extra: Extra::default(),
        };
        let matches = matches.replace(',', " ").replace('{', " { ").replace('}', " } ");
        let mut words = matches.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "ip" => rule.ip = Some(4),
                "ip6" => rule.ip = Some(6),
                "tcp" => rule.proto = TCP,
                "udp" => rule.proto = UDP,
                _ => {
                    let mut value = words.next().ok_or_else(wrong)?;
                    let negated = value == "!=";
                    if negated {
                        value = words.next().ok_or_else(wrong)?;
                    }
                    let values: Vec<&str> = match value {
                        "{" => words.by_ref().take_while(|word| *word != "}").collect(),
                        one => vec![one],
                    };
                    let mut ahead = words.clone();
                    let values = match (ahead.next(), ahead.next()) {
                        (Some("/"), Some(mask)) => {
                            words = ahead;
                            [values, vec!["/", mask]].concat()
                        }
                        _ => values,
                    };
                    let addrs = || {
                        let values: Option<_> = values.iter().map(|value| Addr::parse(value)).collect();
                        values.map(|values| Match { negated, values }).ok_or_else(wrong)
                    };
                    let ports = || {
                        let values: Option<_> = values.iter().map(|value| Ports::parse(value)).collect();
                        values.map(|values| Match { negated, values }).ok_or_else(wrong)
                    };
                    match word {
                        "saddr" => rule.saddr = Some(addrs()?),
                        "daddr" => rule.daddr = Some(addrs()?),
                        "sport" => rule.sport = Some(ports()?),
                        "dport" => rule.dport = Some(ports()?),
                        _ => rule.others.push(Other::parse(word, negated, &values).ok_or_else(wrong)?),
                    }
                }
            }
        }
        let words: Vec<&str> =
            actions.split_whitespace().filter(|w| !matches!(*w, "encap" | "decap")).collect();
        rule.action = Action::parse(&words).ok_or_else(wrong)?;
        if rule.proto == 0 { Err(wrong()) } else { Ok(rule) }
    }

    /// Reads rules, one a line or between semicolons; blank lines and `#` comments are skipped.
    pub fn parse_all(text: &str) -> Result<Vec<Rule>, String> {
        // All rulesets have the same nodes.
        let lines = text.lines().filter(|line| !line.starts_with("node "));
        let lines = lines.map(|line| line.split('#').next().unwrap_or(""));
        let rules = lines.flat_map(|line| line.split(';')).map(str::trim);
        rules.filter(|rule| !rule.is_empty()).map(Rule::parse).collect()
    }
}

impl Addr {
    fn parse(text: &str) -> Option<Addr> {
        match text.split_once('-') {
            None => Cidr::parse(text).map(Addr::Cidr),
            Some((first, last)) => {
                let addr = |text: &str| text.parse::<IpAddr>().ok();
                Some(Addr::Range(addr(first)?, addr(last)?))
            }
        }
    }
}

impl Ports {
    fn parse(text: &str) -> Option<Ports> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Ports(first.parse().ok()?, last.parse().ok()?))
    }
}

impl Cidr {
    fn parse(text: &str) -> Option<Cidr> {
        let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
        let addr: IpAddr = addr.parse().ok()?;
        let whole = if addr.is_ipv6() { 128 } else { 32 };
        if let Some(mask) = len.and_then(|len| len.parse::<Ipv4Addr>().ok()) {
            let len = u32::from(mask).leading_ones() as u8;
            return Some(Cidr { addr, len, masked: true });
        }
        let len = len.map_or(Some(whole), |len| len.parse().ok())?;
        Some(Cidr { addr, len, masked: false })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = self.addr;
        match u32::from(self.len) {
            _ if self.masked => write!(f, "{addr}/{}", address(addr, self.mask())),
            len if len == self.width() => write!(f, "{addr}"),
            len => write!(f, "{addr}/{len}"),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Addr::Cidr(cidr) => write!(f, "{cidr}"),
            Addr::Range(first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}-{}", self.0, self.1) }
    }
}

impl<T: fmt::Display> fmt::Display for Match<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values: Vec<String> = self.values.iter().map(T::to_string).collect();
        f.write_str(if self.negated { "!= " } else { "" })?;
        match &values[..] {
            [one] => f.write_str(one),
            many => write!(f, "{{ {} }}", many.join(", ")),
        }
    }
}

pub fn proto_name(proto: u8) -> &'static str {
    if proto == TCP { "tcp" } else { "udp" }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(6) => f.write_str("ip6 ")?,
            Some(_) => f.write_str("ip ")?,
            None => {}
        }
        if let Some(m) = &self.saddr {
            write!(f, "saddr {m} ")?;
        }
        if let Some(m) = &self.daddr {
            write!(f, "daddr {m} ")?;
        }
        f.write_str(proto_name(self.proto))?;
        for other in &self.others {
            write!(f, " {other}")?;
        }
        if let Some(m) = &self.sport {
            write!(f, " sport {m}")?;
        }
        if let Some(m) = &self.dport {
            write!(f, " dport {m}")?;
        }
        write!(f, " actions")?;
        if self.action != Action::Accept || self.extra.nat == [None; 2] {
            write!(f, " {}", self.action)?;
        }
        self.extra.fmt(f)
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, guard) in ["sport", "dport"].iter().zip(&self.guard) {
            if let Some(guard) = guard {
                write!(f, " {word} {guard}")?;
            }
        }
        if let Some(flags) = self.flags {
            let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];
            let names =
                names.iter().enumerate().filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, name)| *name);
            write!(f, " flags {}", names.collect::<Vec<_>>().join("|"))?;
        }
        for (word, nat) in ["snat", "dnat"].iter().zip(&self.nat) {
            match nat {
                None => {}
                Some((address, None)) => write!(f, " {word} {address}")?,
                Some((IpAddr::V4(address), Some(port))) => write!(f, " {word} {address}:{port}")?,
                Some((IpAddr::V6(address), Some(port))) => write!(f, " {word} [{address}]:{port}")?,
            }
        }
        for ((word, _), value) in SKB.iter().zip(self.set) {
            if let Some(value) = value {
                write!(f, " {word} set {value}")?;
            }
        }
        Ok(())
    }
}

/// What stands in front of the rules.
pub fn head(rules: &[Rule]) -> String {
    let bypasses = rules.iter().any(|rule| rule.action.is_bypass());
    let mut text = if bypasses { written(nodes_of(rules)) } else { String::new() };
    if rules.iter().any(|rule| rule.action == Action::Direct) {
        text.extend(WRITTEN6.iter().map(|(host, pods, length)| format!("node {host} {pods}/{length}\n")));
    }
    text
}

/// The ruleset's text, one rule a line.
pub fn text(rules: &[Rule]) -> String {
    head(rules) + &rules.iter().map(|rule| format!("{rule}\n")).collect::<String>()
}
