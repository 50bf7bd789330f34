//! Random rulesets, and packets at their boundaries, as proptest strategies that shrink.
//!
//! Out: [`Case`]s of 64 packets. Addresses and ports come from small pools, so that rules overlap;
//! a packet is a choice of rule and of small steps away from what that rule matches, resolved only
//! when both are known, so that rules and packets shrink independently. All rulesets are legal.

use std::iter;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::actions::{Action, repair};
use super::case::{Case, Sample};
use super::fields::{FIELDS, Notation, Numbers, Other, SKB};
use super::packet::{Csum, Kind, L4, Packet, SERVICE_VLAN, TCP, UDP, VLAN};
use super::rules::{Addr, Cidr, Extra, Match, Ports, Rule, address, bits, nodes_of, probe};
use super::testrun::{LONGEST, shortest};

pub const PACKETS: usize = 64;

pub(super) const PORTS: [u16; 12] = [1, 2, 53, 80, 81, 179, 540, 4739, 8080, 32_767, 32_768, 65_535];
const ADDRESSES: [&str; 12] = [
    "0.0.0.0",
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.5",
    "10.0.0.255",
    "10.255.0.1",
    "127.255.255.255", // the last that is positive as 32 bits with a sign
    "128.0.0.0",
    "172.16.0.1",
    "192.168.254.1",
    "192.168.0.1",
    "255.255.255.255",
];
/// Neighbours at the boundaries of each 32-bit word, and the ends of each word.
const ADDRESSES6: [&str; 18] = [
    "::",
    "::1",
    "64:ff9b::a00:1",
    "2001:db8::",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8::ffff:ffff",
    "2001:db8::1:0:0",
    "2001:db8::7fff:ffff:8000:0",
    "2001:db8::ffff:ffff:ffff:ffff",
    "2001:db8:0:1::",
    "2001:db8:8000::7fff:ffff",
    "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db9::",
    "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "8000::",
    "fd00::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

fn pool(six: bool) -> &'static [&'static str] {
    if six { &ADDRESSES6 } else { &ADDRESSES }
}

fn known(six: bool) -> impl Strategy<Value = IpAddr> + Clone {
    select(pool(six)).prop_map(|text| text.parse().expect("an address"))
}

/// A legal ruleset of `rules` rules and [`PACKETS`] packets.
pub fn case(rules: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Case> {
    (vec((rule(), extra()), rules), vec(pick(), PACKETS)).prop_map(|(rules, picks)| {
        let (mut rules, extras): (Vec<Rule>, Vec<Extra>) = rules.into_iter().unzip();
        // Where packets go makes a difference to which funnels are in each other's way.
        for (rule, extra) in rules.iter_mut().zip(&extras) {
            rule.extra.nat = legal(extra.clone(), rule).nat;
        }
        disentangle(&mut rules);
        for (rule, extra) in rules.iter_mut().zip(extras) {
            rule.extra = legal(extra, rule);
        }
        let packets = picks.iter().map(|pick| pick.resolve(&rules)).collect();
        Case { name: "random".into(), rules, packets }
    })
}

/// The same with rules for egress only: none restores what another end has hidden.
pub fn egress_case(rules: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Case> {
    let rule = rule().prop_filter("for egress", |rule| !rule.action.restores());
    (vec(rule, rules), vec(pick(), PACKETS)).prop_filter_map(
        "no rule for egress is left",
        move |(mut rules, picks)| {
            disentangle(&mut rules);
            rules.retain(|rule| !rule.action.restores());
            if rules.is_empty() {
                return None;
            }
            let packets = picks.iter().map(|pick| pick.resolve(&rules)).collect();
            Some(Case { name: "random, egress".into(), rules, packets })
        },
    )
}

pub fn rule() -> impl Strategy<Value = Rule> {
    let versions = prop_oneof![
        4 => Just(Versions::Four),
        4 => Just(Versions::Six),
        2 => Just(Versions::Both),
    ];
    (versions, any::<bool>()).prop_flat_map(|(versions, says)| rule_of(versions, says))
}

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versions {
    Four,
    Six,
    Both,
}

fn rule_of(versions: Versions, says: bool) -> impl Strategy<Value = Rule> {
    let matches = (
        select(&[UDP, TCP][..]),
        weighted(0.35, addrs(versions)),
        weighted(0.35, addrs(versions)),
        weighted(0.35, ports()),
        weighted(0.65, ports()),
        others(),
    );
    (matches, Action::any()).prop_map(move |((proto, saddr, daddr, sport, dport, others), action)| {
        let addresses = saddr.is_some() || daddr.is_some();
        let ip = match versions {
            Versions::Four if says || !addresses => Some(4),
            Versions::Six if says || !addresses => Some(6),
            _ => None,
        };
        let mut rule =
            Rule { ip, proto, saddr, daddr, sport, dport, others, action, extra: Extra::default() };
        repair(&mut rule);
        keep_legal_others(&mut rule);
        if rule.matches_own_output() {
            // Refused, and rightly: it would funnel without end. Another protocol cannot match.
            if let Action::Funnel { outer, .. } = &mut rule.action {
                *outer = TCP + UDP - *outer;
            }
        }
        rule
    })
}

/// No other field mostly; sometimes one, rarely two.
fn others() -> impl Strategy<Value = Vec<Other>> {
    let other = (any::<Index>(), vec((any::<Index>(), any::<Index>(), prop::bool::weighted(0.2)), 1..4));
    let count = prop_oneof![6 => 0usize..=0, 3 => 1usize..=1, 1 => 2usize..=2];
    let other = (other, prop::bool::weighted(0.2)).prop_map(|((field, picks), negated)| {
        let field = field.index(FIELDS.len().max(1));
        let value = |(first, last, is_range): (Index, Index, bool)| {
            let pool = FIELDS[field].values;
            let (first, last) = (*first.get(pool), *last.get(pool));
            if is_range { Numbers(first.min(last), first.max(last)) } else { Numbers(first, first) }
        };
        let is_masked = picks[0].2;
        let mut values: Vec<Numbers> = picks.into_iter().map(value).collect();
        if FIELDS[field].notation == Notation::Masked {
            match is_masked {
                true => values = vec![Numbers(values[0].0 & values[0].1, values[0].1)],
                false => values.iter_mut().for_each(|value| value.1 = 0xff),
            }
        }
        Other { field, values: Match { negated, values } }
    });
    count.prop_flat_map(move |n| vec(other.clone(), if FIELDS.is_empty() { 0 } else { n }))
}

/// Each field once, of the rule's protocol, of one version that the rule is about, and with some value left.
fn keep_legal_others(rule: &mut Rule) {
    for other in std::mem::take(&mut rule.others) {
        let row = other.row();
        let ranges = other.values.values.iter().map(|value| (value.0.into(), value.1.into())).collect();
        let nothing_left = other.values.negated && are_all(ranges, 0, row.largest.into());
        let is_new = rule.others.iter().all(|known| known.field != other.field);
        let proto = row.proto.is_none_or(|proto| proto == rule.proto);
        rule.others.push(other);
        let some_version = rule.is_about(false) || rule.is_about(true);
        if nothing_left || !is_new || !proto || !some_version {
            rule.others.pop();
        }
    }
}

fn extra() -> impl Strategy<Value = Extra> {
    let set = SKB.map(|_| weighted(0.1, select(&[0, 7, u32::MAX][..])));
    let flags = select(&[0x01, 0x02, 0x12, 0x18, 0x20, 0xff][..]);
    let nat = || {
        let port = weighted(0.5, select(&PORTS[..]));
        weighted(0.2, (any::<bool>(), known(false), known(true), port))
    };
    let guards = (weighted(0.1, ports()), weighted(0.3, ports()));
    (set, weighted(0.2, flags), guards, (nat(), nat())).prop_map(
        |(set, flags, (sport, dport), (source, destination))| {
            // Of the version that the first of them says; the rule may want another.
            let six = source.as_ref().or(destination.as_ref()).is_some_and(|(six, ..)| *six);
            let one = |(_, v4, v6, port)| (if six { v6 } else { v4 }, port);
            Extra { set, flags, guard: [sport, dport], nat: [source.map(one), destination.map(one)] }
        },
    )
}

/// As much of it as may stand beside the action.
fn legal(extra: Extra, rule: &Rule) -> Extra {
    let Extra { set, flags, guard, nat } = extra;
    let action = &rule.action;
    let natable = matches!(action, Action::Accept | Action::Funnel { .. } | Action::Unfunnel { .. });
    let fits = |address: IpAddr| {
        rule.is_about(address.is_ipv6()) && (!rule.is_about(!address.is_ipv6()) || rule.ip.is_some())
    };
    let nat = nat.map(|nat| nat.filter(|(address, _)| natable && fits(*address)));
    let nat = match action {
        Action::Funnel { .. } => nat.map(|nat| nat.map(|(address, _)| (address, None))),
        _ => nat,
    };
    Extra {
        set: set.map(|value| value.filter(|_| *action != Action::Drop)),
        flags: flags.filter(|_| matches!(action, Action::Funnel { outer: TCP, .. })),
        guard: if matches!(action, Action::Unfunnel { .. }) { guard } else { [None, None] },
        nat,
    }
}

/// Refused, and rightly: funnels that take what another one makes, and funnels that the far end could
/// not tell apart. Such a rule is given other ports or the other protocol; if none will do, it unfunnels.
fn disentangle(rules: &mut [Rule]) {
    let clash =
        |a: &Rule, b: &Rule| a.is_funneled_again_by(b) || b.is_funneled_again_by(a) || a.is_ambiguous_with(b);
    for index in 1..rules.len() {
        let (before, rest) = rules.split_at_mut(index);
        let rule = &mut rest[0];
        let Action::Funnel { outer, sport, dport } = rule.action else { continue };
        let others = PORTS.iter().flat_map(|port| {
            [(outer, sport, *port), (outer, *port, dport), (TCP + UDP - outer, *port, dport)]
        });
        let legal = iter::once((outer, sport, dport)).chain(others).find_map(|(outer, sport, dport)| {
            let action = Action::Funnel { outer, sport, dport };
            let candidate = Rule { action, ..rule.clone() };
            let clashes = before.iter().any(|other| clash(&candidate, other));
            (!clashes && !candidate.matches_own_output()).then_some(candidate)
        });
        *rule = legal.unwrap_or_else(|| Rule { action: Action::Unfunnel { inner: outer }, ..rule.clone() });
    }
}

/// One value mostly; a set sometimes, whose elements may well overlap.
fn several<T: Clone + std::fmt::Debug + 'static>(
    value: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![3 => 1usize..=1, 1 => 2usize..6].prop_flat_map(move |n| vec(value.clone(), n))
}

fn addrs(versions: Versions) -> impl Strategy<Value = Match<Addr>> {
    let values = match versions {
        Versions::Four => several(addr(false)).boxed(),
        Versions::Six => several(addr(true)).boxed(),
        Versions::Both => (several(addr(false)), several(addr(true)))
            .prop_map(|(four, six)| [four, six].concat())
            .prop_shuffle()
            .boxed(),
    };
    (values, prop::bool::weighted(0.2)).prop_map(|(values, negated)| {
        let all = |six: bool| {
            let of = values.iter().filter(|value| value.is_ipv6() == six);
            let ranges = of.map(|value| (bits(value.first()), bits(value.last()))).collect();
            are_all(ranges, 0, if six { u128::MAX } else { u32::MAX.into() })
        };
        // `!= 0.0.0.0/0` matches nothing, and is refused.
        Match { negated: negated && !all(false) && !all(true), values }
    })
}

fn addr(six: bool) -> impl Strategy<Value = Addr> + Clone {
    let width = if six { 128u8 } else { 32 };
    let usual: &[u8] = if six { &[31, 32, 33, 48, 63, 64, 65, 95, 96, 97, 112] } else { &[8, 16, 24] };
    let len = prop_oneof![3 => Just(width), 3 => select(usual), 2 => 0..=width];
    let cidr = (known(six), len, prop::bool::weighted(0.1))
        .prop_map(move |(addr, len, masked)| Addr::Cidr(Cidr { addr, len, masked: masked && !six }));
    let range = (known(six), known(six)).prop_map(|(a, b)| Addr::Range(a.min(b), a.max(b)));
    prop_oneof![4 => cidr, 1 => range]
}

fn ports() -> impl Strategy<Value = Match<Ports>> {
    let range = (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(a, b)| Ports(a.min(b), a.max(b)));
    let value = prop_oneof![4 => select(&PORTS[..]).prop_map(|port| Ports(port, port)), 1 => range];
    (several(value), prop::bool::weighted(0.15)).prop_map(|(values, negated)| {
        let ranges = values.iter().map(|value| (value.0.into(), value.1.into())).collect();
        // All but port 0, which is a single one.
        Match { negated: negated && !are_all(ranges, 1, u16::MAX.into()), values }
    })
}

/// Whether the ranges leave nothing out.
fn are_all(mut ranges: Vec<(u128, u128)>, first: u128, last: u128) -> bool {
    ranges.sort_unstable();
    let mut next = first;
    for (from, to) in ranges {
        if from <= next {
            match to.checked_add(1) {
                Some(after) => next = next.max(after),
                None => return true,
            }
        }
    }
    next > last
}

/// A packet, relative to rules that are not known yet.
#[derive(Debug, Clone)]
struct Pick {
    rule: Index,
    /// Of the elements of the rule's sets.
    which: Index,
    other_proto: bool,
    /// IPv6, if the rule is about both.
    six: bool,
    /// The version that the rule is not about.
    other_version: bool,
    saddr: Near,
    daddr: Near,
    sport: Near,
    dport: Near,
    other: Near,
    /// With a layer inside: usual for rules that unfunnel, rare for others.
    nested: Nested,
    payload: usize,
    changes: Vec<Change>,
}

/// A step away from what a rule names.
#[derive(Debug, Clone, Copy)]
enum Near {
    Same,
    First,
    Last,
    Before,
    After,
    Any(Index),
}

#[derive(Debug, Clone, Copy)]
enum Nested {
    AsTheRuleSays,
    Never,
    Always(u8),
}

/// Something unusual. `bool`: about the innermost layer, not the outermost.
#[derive(Debug, Clone)]
enum Change {
    Absent(bool),
    Wrong(bool),
    /// The pseudo-header's sum.
    Unfinished(bool),
    UdpLen(bool, i8),
    Doff(bool, u8),
    TcpOptions(bool, u8),
    Flags(bool, u8),
    /// With this list of options.
    Syn(bool, Vec<u8>),
    /// The sequence and acknowledgement numbers of a funneling header; with its flags and data offset.
    Marked(bool),
    Window(bool, u16),
    Urgent(bool, u16),
    Seq(u32),
    Ack(u32),
    Options(u8),
    Ihl(u8),
    Version(u8),
    Total(i8),
    AnyTotal(u16),
    WrongIp,
    More,
    DontFragment,
    Fragment(u16),
    Tos(u8),
    Id(u16),
    Proto(u8),
    /// Of 802.1ad if `true`.
    Tags(Vec<(bool, u16)>),
    Arp,
    Ext(u8),
    Pad(usize),
    Truncated(Index),
    Gso(u32),
    /// A length of 0, with a hop-by-hop header or without, and mostly GSO.
    Big(bool, u32),
    Flip(Index, u8),
}

fn pick() -> impl Strategy<Value = Pick> {
    let payload = prop_oneof![
        6 => 0usize..24,
        2 => select(&[64usize, 255, 256, 1399, 1400, 1472][..]),
        1 => 1473usize..3200,
    ];
    let nested = prop_oneof![
        10 => Just(Nested::AsTheRuleSays),
        1 => Just(Nested::Never),
        1 => select(&[UDP, TCP][..]).prop_map(Nested::Always),
    ];
    let changes = prop_oneof![
        4 => Just(Vec::new()),
        5 => vec(change(), 1),
        2 => vec(change(), 2..4),
    ];
    let key = (near(), near(), near(), near(), near());
    let which = (any::<Index>(), any::<Index>());
    let others = (prop::bool::weighted(0.05), any::<bool>(), prop::bool::weighted(0.05));
    (which, others, key, nested, payload, changes).prop_map(
        |(
            (rule, which),
            (other_proto, six, other_version),
            (saddr, daddr, sport, dport, other),
            nested,
            payload,
            changes,
        )| Pick {
            rule,
            which,
            other_proto,
            six,
            other_version,
            saddr,
            daddr,
            sport,
            dport,
            other,
            nested,
            payload,
            changes,
        },
    )
}

fn near() -> impl Strategy<Value = Near> {
    prop_oneof![
        8 => Just(Near::Same),
        2 => Just(Near::First),
        2 => Just(Near::Last),
        1 => Just(Near::Before),
        1 => Just(Near::After),
        2 => any::<Index>().prop_map(Near::Any),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    use Change::*;
    let inner = any::<bool>;
    let by = || prop_oneof![Just(-1i8), Just(1), -40i8..40];
    prop_oneof![
        prop_oneof![
            3 => inner().prop_map(Absent),
            2 => inner().prop_map(Wrong),
            2 => inner().prop_map(Unfinished),
            2 => (inner(), by()).prop_map(|(i, n)| UdpLen(i, n)),
            2 => (inner(), 0u8..16).prop_map(|(i, n)| Doff(i, n)),
            2 => (inner(), 1u8..11).prop_map(|(i, n)| TcpOptions(i, n)),
            1 => (inner(), any::<u8>()).prop_map(|(i, n)| Flags(i, n)),
            5 => (prop::bool::weighted(0.2), tcp_options()).prop_map(|(i, list)| Syn(i, list)),
            1 => inner().prop_map(Marked),
            1 => (inner(), any::<u16>()).prop_map(|(i, n)| Window(i, n)),
            1 => (inner(), any::<u16>()).prop_map(|(i, n)| Urgent(i, n)),
            1 => select(&[0xcafe_babd_u32, 0xcafe_babf, 0xbeba_feca, 0][..]).prop_map(Seq),
            1 => select(&[0xbabe_cafd_u32, 0xbabe_caff, 0xfeca_beba, 0][..]).prop_map(Ack),
        ],
        prop_oneof![
            4 => (1u8..11).prop_map(Options),
            1 => (0u8..16).prop_map(Ihl),
            1 => (0u8..16).prop_map(Version),
            2 => by().prop_map(Total),
            1 => any::<u16>().prop_map(AnyTotal),
            1 => Just(WrongIp),
            1 => Just(More),
            1 => Just(DontFragment),
            1 => select(&[1u16, 0x00ff, 0x0100, 0x1fff][..]).prop_map(Fragment),
            1 => any::<u8>().prop_map(Tos),
            1 => any::<u16>().prop_map(Id),
            1 => any::<u8>().prop_map(Proto),
        ],
        prop_oneof![
            4 => vec(any::<(bool, u16)>(), 1..4).prop_map(Tags),
            1 => Just(Arp),
            2 => select(&[0u8, 43, 44, 51, 60][..]).prop_map(Ext),
            3 => (1usize..50).prop_map(Pad),
            6 => any::<Index>().prop_map(Truncated),
            3 => select(&[1u32, 500, 1448, 65_535][..]).prop_map(Gso),
            2 => (inner(), select(&[1448u32, 1448, 1448, 0][..])).prop_map(|(header, size)| Big(header, size)),
            2 => (any::<Index>(), any::<u8>()).prop_map(|(i, n)| Flip(i, n)),
        ],
    ]
}

/// Lists of TCP options with the MSS anywhere, several times or not at all; well-formed, cut off, or
/// with lengths that are none.
pub fn tcp_options() -> impl Strategy<Value = Vec<u8>> {
    let mss = prop_oneof![4 => 500u16..9000, 1 => 0u16..80, 1 => any::<u16>()];
    let option = prop_oneof![
        4 => Just(vec![1]),
        4 => mss.prop_map(|mss| [&[2, 4][..], &mss.to_be_bytes()].concat()),
        1 => (0u8..6, any::<u16>()).prop_map(|(len, mss)| [&[2, len][..], &mss.to_be_bytes()].concat()),
        2 => Just(vec![3, 3, 7]),
        2 => Just(vec![4, 2]),
        1 => Just(vec![8, 10, 2, 4, 5, 180, 0, 0, 0, 0]),
        1 => Just(vec![29, 4, 1, 2]),
        1 => Just(vec![0]),
        1 => (3u8.., 0u8..12, any::<bool>()).prop_map(|(kind, len, lies)| {
            let mut option = vec![2; usize::from(len.max(2))];
            option[0] = kind;
            option[1] = if lies { len.wrapping_sub(1) } else { len };
            option
        }),
    ];
    let list = prop_oneof![8 => vec(option, 0..9).prop_map(|all| all.concat()), 1 => vec(0u8..5, 0..40)];
    (list, prop::bool::weighted(0.3)).prop_map(|(mut list, at_the_end)| {
        if at_the_end {
            list.splice(0..0, vec![1; 40 - list.len().min(40)]);
        }
        list.truncate(40);
        list
    })
}

impl Near {
    /// Of the version that is asked for, whatever the rule names.
    fn addr(self, rule: &Option<Match<Addr>>, which: Index, six: bool) -> IpAddr {
        let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
        let named: Vec<Addr> = match rule {
            Some(m) => m.values.iter().copied().filter(|value| value.is_ipv6() == six).collect(),
            None => Vec::new(),
        };
        let usual = parse(pool(six)[1]);
        let value = if named.is_empty() { Addr::Range(usual, usual) } else { *which.get(&named) };
        let (first, last) = (bits(value.first()), bits(value.last()));
        let number = match self {
            Near::Same => match value {
                Addr::Cidr(cidr) => return cidr.addr,
                Addr::Range(..) => first / 2 + last / 2,
            },
            Near::First => first,
            Near::Last => last,
            Near::Before => first.wrapping_sub(1),
            Near::After => last.wrapping_add(1),
            Near::Any(index) => {
                let pool = pool(six);
                return parse(pool[index.index(pool.len())]);
            }
        };
        address(usual, number)
    }

    fn port(self, rule: &Option<Match<Ports>>, which: Index) -> u16 {
        let Ports(first, last) = rule.as_ref().map_or(Ports(PORTS[3], PORTS[3]), |m| *which.get(&m.values));
        match self {
            Near::Same => first / 2 + last / 2 + (first & last & 1),
            Near::First => first,
            Near::Last => last,
            Near::Before => first.wrapping_sub(1),
            Near::After => last.wrapping_add(1),
            Near::Any(index) => PORTS[index.index(PORTS.len())],
        }
    }
}

impl Near {
    fn number(self, other: &Other, which: Index) -> u32 {
        let Numbers(first, last) = *which.get(&other.values.values);
        match self {
            Near::Same | Near::First => first,
            Near::Last => last,
            Near::Before => first.saturating_sub(1),
            Near::After => last.saturating_add(1).min(other.row().largest),
            Near::Any(index) => *index.get(other.row().values),
        }
    }
}

impl Pick {
    /// An urgent pointer that is listed, or just beside one that is.
    fn hidden(&self, ports: &[u16]) -> u16 {
        let port = ports[self.rule.index(usize::MAX) % ports.len()];
        match self.daddr {
            Near::Before => port.wrapping_sub(1),
            Near::After => port.wrapping_add(1),
            _ => port,
        }
    }

    /// Half of the packets between hosts that some rule answers probes of are probes or answers, or nearly.
    fn probe(&self, rules: &[Rule], rule: &Rule, packet: &mut Packet) {
        if let Action::Undirect { probe: Some(port) } = rule.action {
            return self.probe_direct(port, packet);
        }
        let Action::Unbypass { probe: Some(port) } = rule.action else { return };
        let (IpAddr::V4(from), IpAddr::V4(to)) = (packet.ip.src, packet.ip.dst) else { return };
        let choice = self.rule.index(usize::MAX);
        let Some(sequence) =
            probe(nodes_of(rules), from.octets(), to.octets()).filter(|_| choice.is_multiple_of(2))
        else {
            return;
        };
        let l4 = &mut packet.layers[0];
        l4.seq = Some(sequence.wrapping_add(u32::from(choice.is_multiple_of(14))));
        match choice / 2 % 3 {
            0 => l4.sport = port,
            _ => l4.dport = port,
        }
        l4.flags = Some([0x12, 0x02, 0x02, 0x12, 0x02, 0x10][choice / 2 % 6]);
        l4.urg = 0xa55a;
    }

    /// The same of `unbypass direct`: between any two addresses.
    fn probe_direct(&self, port: u16, packet: &mut Packet) {
        let choice = self.rule.index(usize::MAX);
        if packet.layers.len() != 1 || packet.layers[0].proto != TCP || !choice.is_multiple_of(2) {
            return;
        }
        let l4 = &mut packet.layers[0];
        match choice / 2 % 3 {
            0 => l4.sport = port,
            _ => l4.dport = port,
        }
        l4.flags = Some([0x12, 0x02, 0x02, 0x12, 0x02, 0x10][choice / 2 % 6]);
        let sequence = u32::try_from(choice % 0xffff_ffff).expect("32 bits");
        l4.seq = Some(sequence);
        l4.ack = Some(!sequence ^ u32::from(choice.is_multiple_of(14)));
    }

    fn resolve(&self, rules: &[Rule]) -> Sample {
        let rule = &rules[self.rule.index(rules.len())];
        let proto = if self.other_proto { TCP + UDP - rule.proto } else { rule.proto };
        let which = self.which;
        let (sport, dport) = (self.sport.port(&rule.sport, which), self.dport.port(&rule.dport, which));
        let mut layers = vec![L4::new(proto, sport, dport)];
        match (self.nested, &rule.action) {
            (Nested::AsTheRuleSays, Action::Unalias { ports }) => {
                layers[0].urg = self.hidden(ports);
            }
            (Nested::AsTheRuleSays, Action::Unbypass { .. }) => {
                // The end of either half, or anything.
                layers[0].urg = [0x0100, 0x0001, 0xff00, 0x00ff, 0, 0x0406, 0x0605, 0x0007]
                    [self.rule.index(usize::MAX) % 8];
            }
            (Nested::AsTheRuleSays, &Action::Unfunnel { inner }) | (Nested::Always(inner), _) => {
                let (_, dport) = (0, &rule.extra.guard[1]);
                let sport = self
                    .sport
                    .port(&rule.extra.guard[0].clone().or(Some(Match::one(Ports(25_000, 25_000)))), which);
                layers.push(L4::new(inner, sport, self.dport.port(dport, which)));
            }
            _ => {}
        }
        let six = if rule.is_about(self.six) { self.six } else { !self.six } != self.other_version;
        let saddr = self.saddr.addr(&rule.saddr, which, six);
        let daddr = self.daddr.addr(&rule.daddr, which, six);
        let mut packet = Packet::new(saddr, daddr, layers);
        packet.payload = self.payload;
        for other in &rule.others {
            (other.row().write)(&mut packet, self.other.number(other, which));
        }
        self.probe(rules, rule, &mut packet);
        let mut late = Vec::new();
        for change in &self.changes {
            match change {
                Change::Truncated(_) | Change::Flip(..) | Change::Total(_) => late.push(change),
                _ => change.apply(&mut packet),
            }
        }
        for change in late {
            let frame = packet.frame();
            let (len, least) = (frame.len(), shortest(&frame));
            match *change {
                Change::Truncated(to) => {
                    packet.truncated = Some(least + to.index(len.saturating_sub(least) + 1));
                }
                Change::Total(by) => {
                    let headers = if packet.ip.src.is_ipv6() { 14 + 40 } else { 14 };
                    let total = (len - packet.pad.min(len)).saturating_sub(headers);
                    packet.ip.total = u16::try_from(total).ok().map(|t| t.wrapping_add_signed(by.into()));
                }
                _ => {}
            }
        }
        let mut sample = Sample::new(&packet);
        for change in &self.changes {
            if let Change::Flip(at, bits) = change {
                let at = at.index(sample.frame.len().clamp(1, 80));
                sample.frame[at] ^= bits;
                sample.words += &format!(", byte {at} xor {bits:#04x}");
            }
        }
        let least = shortest(&sample.frame);
        if sample.frame.len() < least {
            sample.frame.resize(least, 0);
            sample.words += ", filled up to what the kernel takes";
        }
        if sample.frame.len() > LONGEST {
            sample.frame.truncate(LONGEST);
            sample.words += ", cut to what the kernel takes";
        }
        sample
    }
}

impl Change {
    fn apply(&self, packet: &mut Packet) {
        let last = packet.layers.len() - 1;
        let inside = match self {
            Change::UdpLen(true, _) => packet.payload,
            _ => {
                packet.layers[1..].iter().map(|l| if l.proto == UDP { 8 } else { 20 }).sum::<usize>()
                    + packet.payload
            }
        };
        let at = |inner: bool| if inner { last } else { 0 };
        let layers = &mut packet.layers;
        match *self {
            Change::Absent(inner) => layers[at(inner)].csum = Csum::Zero,
            Change::Wrong(inner) => layers[at(inner)].csum = Csum::Wrong,
            Change::Unfinished(inner) => layers[at(inner)].csum = Csum::Pseudo,
            Change::UdpLen(inner, by) => {
                let right = u16::try_from(inside + 8).unwrap_or(u16::MAX);
                layers[at(inner)].udplen = Some(right.wrapping_add_signed(by.into()));
            }
            Change::Doff(inner, doff) => layers[at(inner)].doff = Some(doff),
            Change::TcpOptions(inner, words) => layers[at(inner)].tcpopt = words,
            Change::Flags(inner, flags) => layers[at(inner)].flags = Some(flags),
            Change::Syn(inner, ref list) => {
                let l4 = &mut layers[at(inner)];
                (l4.flags, l4.opts) = (Some(0x02), list.clone());
            }
            Change::Marked(exactly) => {
                let l4 = &mut layers[0];
                (l4.seq, l4.ack) = (Some(0xcafe_babe), Some(0xbabe_cafe));
                l4.flags = exactly.then_some(0x02).or(l4.flags);
            }
            Change::Window(inner, window) => layers[at(inner)].window = Some(window),
            Change::Urgent(inner, urgent) => layers[at(inner)].urg = urgent,
            Change::Seq(seq) => layers[0].seq = Some(seq),
            Change::Ack(ack) => layers[0].ack = Some(ack),
            Change::Options(words) => packet.ip.options = words.min(10),
            Change::Ihl(ihl) => packet.ip.ihl = Some(ihl),
            Change::Version(version) => packet.ip.version = Some(version & 15),
            Change::AnyTotal(total) => packet.ip.total = Some(total),
            Change::WrongIp => packet.ip.bad = true,
            Change::More => packet.ip.mf = true,
            Change::DontFragment => packet.ip.df = true,
            Change::Fragment(offset) => packet.ip.frag = offset,
            Change::Tos(tos) => packet.ip.tos = tos,
            Change::Id(id) => packet.ip.id = id,
            Change::Proto(proto) => layers[0].proto = proto,
            Change::Tags(ref tags) => {
                let kind = |service| if service { SERVICE_VLAN } else { VLAN };
                packet.tags = tags.iter().map(|(service, tci)| (kind(*service), *tci)).collect();
            }
            Change::Arp => packet.kind = Kind::Arp,
            Change::Ext(number) => packet.ip.ext = Some(number),
            Change::Pad(bytes) => packet.pad = bytes,
            Change::Gso(size) => packet.gso = size,
            Change::Big(header, size) => (packet.ip.big, packet.gso) = (Some(header), size),
            // These need the finished packet.
            Change::Total(_) | Change::Truncated(_) | Change::Flip(..) => {}
        }
    }
}

/// The ruleset of `count` rules that the big tests load: one `/32` and port each, of both
/// protocols, with every action in turn.
pub fn many(count: usize) -> Vec<Rule> {
    let rule = |i: usize| {
        let n = u32::try_from(i).unwrap_or(0);
        let port = u16::try_from(1 + i % 65_000).unwrap_or(1);
        let other = |i: usize| if i.is_multiple_of(2) { UDP } else { TCP };
        let addr = |n: u32| Ipv4Addr::from(0x0a00_0000 + n).into();
        let addr = Addr::Cidr(Cidr { addr: addr((n / 7) * 3), len: 32, masked: false });
        Rule {
            ip: Some(4),
            proto: if i % 6 < 4 { other(i / 3) } else { TCP },
            saddr: None,
            daddr: Some(Match::one(addr)),
            sport: None,
            dport: Some(Match::one(Ports(port, port))),
            others: Vec::new(),
            action: match i % 6 {
                0 => Action::Accept,
                1 => Action::Drop,
                2 => Action::Funnel { outer: other(i / 4), sport: 540, dport: 65_100 },
                3 => Action::Unfunnel { inner: other(i / 5) },
                4 => Action::Alias { destination: true, port: 65_200 },
                _ => Action::Unalias { ports: vec![65_300, 65_302 + port % 50] },
            },
            extra: Extra::default(),
        }
    };
    (0..count).map(rule).collect()
}

/// The same over IPv6: a prefix of 64 bits that all share, and neighbours below it.
pub fn many6(count: usize) -> Vec<Rule> {
    let six = |rule: Rule| {
        let daddr = rule.daddr.as_ref().map(|m| bits(m.values[0].first())).unwrap_or_default();
        let addr = Ipv6Addr::from(0x2001_0db8_0000_0001 << 64 | daddr).into();
        let daddr = Some(Match::one(Addr::Cidr(Cidr { addr, len: 128, masked: false })));
        Rule { ip: Some(6), daddr, ..rule }
    };
    many(count).into_iter().map(six).collect()
}
