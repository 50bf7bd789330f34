//! The reference model: what a ruleset does to one packet, in the plainest way there is.
//!
//! In: rules, a frame, its `gso_size`, and whether it has a link header. Out: the verdict, the
//! rule that matched, and the frame afterwards. Rules are scanned in order, offsets are spelled
//! out, checksums are recomputed from scratch. Never imports the crate's `packet`, `tree` or
//! `codegen`: a mistake made there must not be repeated here.

use std::net::IpAddr;

use super::actions::Action;
use super::fields::{self, Skb, View};
use super::rules::{HOPS6, Key, Node, Rule, nodes_of};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A funneling TCP header from its fifth byte on: sequence, acknowledgement, no options.
const FUNNELED: [u8; 9] = [0xca, 0xfe, 0xba, 0xbe, 0xba, 0xbe, 0xca, 0xfe, 0x50];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The frame starts with an Ethernet header.
    Ethernet,
    /// The same on a device that has none: the kernel has put it back, and there are no tags.
    Rebuilt,
    /// The frame starts with an IP header (tun, wireguard, ipip).
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `TC_ACT_UNSPEC`: whatever else hangs on the hook runs next.
    Pass,
    /// `TC_ACT_SHOT`.
    Drop,
    /// `TC_ACT_REDIRECT`: the kernel sends it on elsewhere.
    Redirect,
}

impl Verdict {
    /// What the program returns.
    pub fn code(self) -> i32 {
        match self {
            Verdict::Pass => -1,
            Verdict::Drop => 2,
            Verdict::Redirect => 7,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// What the rules are asked about; `None` for packets no rule can match.
    pub key: Option<Key>,
    /// The first rule that matches, whether or not its action could be carried out.
    pub rule: Option<usize>,
    /// What the kernel knows of it.
    pub skb: Skb,
    /// Means nothing when dropped.
    pub frame: Vec<u8>,
}

/// Runs one packet through the rules.
pub fn run(rules: &[Rule], frame: &[u8], gso_size: u32, link: Link) -> Outcome {
    run_known(rules, frame, gso_size, &Skb::default(), link)
}

/// The same for a packet of which the kernel knows this.
pub fn run_known(rules: &[Rule], frame: &[u8], gso_size: u32, skb: &Skb, link: Link) -> Outcome {
    let mut outcome =
        Outcome { verdict: Verdict::Pass, key: None, rule: None, skb: *skb, frame: frame.to_vec() };
    if link == Link::Ethernet
        && let Some(tagged) = without_tags(rules, frame)
    {
        let mut outcome = run_known(rules, &tagged.plain, gso_size, skb, Link::Rebuilt);
        if outcome.rule.is_some_and(|rule| rules[rule].action.is_bypass()) {
            (outcome.verdict, outcome.skb, outcome.frame) = (Verdict::Pass, *skb, tagged.plain);
        }
        if tagged.taken_out {
            outcome.frame.splice(12..12, tagged.inner);
        } else {
            outcome.frame = frame.to_vec();
        }
        return outcome;
    }
    let Some(packet) = Packet::find_big(frame, link, gso_size) else { return outcome };
    let key = packet.key(frame, skb);
    outcome.key = Some(key);
    outcome.rule = rules.iter().position(|rule| rule.matches(&key));
    let Some(rule) = outcome.rule.map(|index| &rules[index]) else { return outcome };
    let packet = Packet { nodes: nodes_of(rules), ..packet };
    let (changed, verdict) = Action::carry_out(rule, &packet, frame, gso_size);
    outcome.verdict = verdict;
    if changed.is_some() || rule.action == Action::Accept {
        outcome.skb = std::array::from_fn(|index| rule.extra.set[index].unwrap_or(skb[index]));
    }
    outcome.frame = changed.map_or(outcome.frame, |frame| nat(frame, &rule.extra.nat, link, gso_size));
    outcome
}

/// A frame that has one tag in it or two, and then IP.
pub struct Tagged {
    /// Without tags.
    pub plain: Vec<u8>,
    /// Whether some rule is about what is behind the tags, and the frame is long enough for that: the outermost tag is
    /// beside the frame afterwards.
    pub taken_out: bool,
    /// The one that is then in the frame again: the inner of two.
    inner: Vec<u8>,
}

impl Tagged {
    /// What has become of the frame, without the tag that is in it again.
    pub fn without_inner(&self, frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &frame[12 + self.inner.len()..]].concat()
    }
}

pub fn without_tags(rules: &[Rule], frame: &[u8]) -> Option<Tagged> {
    let is_tag = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let behind = match (is_tag(12), is_tag(16)) {
        (false, _) => return None,
        (true, false) => 16,
        (true, true) => 20,
    };
    let [four, six] = [false, true].map(|six| rules.iter().any(|rule| rule.is_about(six)));
    let wanted = match frame.get(behind..behind + 2)? {
        [0x08, 0x00] => four,
        [0x86, 0xdd] => six,
        _ => return None,
    };
    let least = if four { 14 + 28 } else { 14 + 48 };
    Some(Tagged {
        plain: [&frame[..12], &frame[behind..]].concat(),
        taken_out: wanted && frame.len() >= least,
        inner: frame[16..behind].to_vec(),
    })
}

/// New source and destination.
fn nat(
    frame: Vec<u8>,
    [source, destination]: &[Option<(IpAddr, Option<u16>)>; 2],
    link: Link,
    gso_size: u32,
) -> Vec<u8> {
    let Some(packet) = Packet::find_big(&frame, link, gso_size) else { return frame };
    packet.readdress(frame, |addresses, segment| {
        let len = addresses.len() / 2;
        for (side, new) in [source, destination].into_iter().enumerate() {
            let Some((address, port)) = new else { continue };
            let at = side * len..(side + 1) * len;
            match address {
                IpAddr::V4(address) => addresses[at].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => addresses[at].copy_from_slice(&address.octets()),
            }
            if let Some(port) = port {
                segment[side * 2..side * 2 + 2].copy_from_slice(&port.to_be_bytes());
            }
        }
    })
}

/// What the sender of an Ethernet frame is told of an MTU that it does not fit: ICMP *fragmentation needed*
/// from where the packet was going, with 68 bytes of it and 20 bytes of ones.
pub fn too_long(frame: &[u8], mtu: u16) -> Vec<u8> {
    let packet = &frame[14..];
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&packet[..68]);
    message.extend([0xff; 20]);
    let checksum = !(sum(&message) % 0xffff) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut header = vec![0x45, 0, 0, 116, 0, 0, 0x40, 0, 64, 1, 0, 0];
    header.extend(&packet[16..20]);
    header.extend(&packet[12..16]);
    let checksum = !(sum(&header) % 0xffff) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [&frame[6..12], &frame[..6], &[0x08, 0x00], &header, &message].concat()
}

/// Are the IP and the outermost L4 checksum of an Ethernet frame right? An absent one is.
pub fn checksums_are_right(frame: &[u8]) -> bool {
    let Some(packet) = Packet::find(frame, Link::Ethernet) else { return false };
    let segment = &frame[packet.l4..packet.end];
    let absent = packet.proto == UDP && be16(segment, 6) == 0;
    let header = &frame[packet.ip..packet.l4];
    (packet.six || sum(header).is_multiple_of(0xffff))
        && ((absent && !packet.six) || defect(packet.proto, packet.addresses(frame), segment) == 0)
}

/// Is the funneling header's checksum right for a segment inside that is (or will be, once somebody
/// finishes it)?
pub fn funneling_checksum_is_right(frame: &[u8], inner: u8) -> bool {
    let Some(packet) = Packet::find(frame, Link::Ethernet) else { return false };
    let pushed = if packet.proto == TCP { 20 } else { 8 };
    let mut segment = frame[packet.l4..packet.end].to_vec();
    fill(inner, &[0; 8], &mut segment[pushed..], 0);
    defect(packet.proto, packet.addresses(frame), &segment) == 0
}

/// Whether a TCP may have sent it: looked at where nothing else tells a funneled packet.
pub fn plausible(tcp: &[u8]) -> bool {
    let [fin, syn, rst, ack, urg] = [0x01, 0x02, 0x04, 0x10, 0x20].map(|flag| tcp[13] & flag != 0);
    let one_at_most = [fin, syn, rst].iter().filter(|set| **set).count() <= 1;
    let starts_or_acknowledges = ack || syn || rst;
    tcp[12] & 0x0e == 0 && one_at_most && starts_or_acknowledges && (urg || be16(tcp, 18) == 0)
}

/// Where things are in a frame that rules can match.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    /// IPv6.
    six: bool,
    ip: usize,
    pub(super) l4: usize,
    /// Where the IP packet ends; padding may follow.
    end: usize,
    pub(super) proto: u8,
    /// Those that the rules are about.
    nodes: &'static [Node],
}

impl Packet {
    fn find(frame: &[u8], link: Link) -> Option<Packet> {
        Packet::find_big(frame, link, 0)
    }

    /// The same where the kernel may have made it longer than the IP header can say, which then says 0.
    fn find_big(frame: &[u8], link: Link, gso_size: u32) -> Option<Packet> {
        let ip = match link {
            Link::Ethernet | Link::Rebuilt => 14,
            Link::None => 0,
        };
        let smallest = |proto| match proto {
            TCP => Some(20),
            UDP => Some(8),
            _ => None,
        };
        // Without a link header the kernel says what the packet is. `BPF_PROG_TEST_RUN` finds that where
        // the EtherType would be.
        let six = match be16(frame.get(..14)?, 12) {
            0x0800 => false,
            0x86dd => true,
            _ => return None,
        };
        if six {
            if frame.len() < ip + 40 || frame[ip] >> 4 != 6 {
                return None;
            }
            let (mut proto, mut length) = (frame[ip + 6], usize::from(be16(frame, ip + 4)));
            let mut l4 = ip + 40;
            if gso_size != 0 && length == 0 {
                if proto == 0 && frame.get(l4..l4 + 4)? == [TCP, 0, 0xc2, 4] {
                    (proto, l4) = (TCP, l4 + 8);
                }
                if proto == TCP {
                    length = frame.len().checked_sub(l4)?;
                }
            }
            let end = l4 + length;
            let whole = length >= smallest(proto)? && end <= frame.len();
            return whole.then_some(Packet { six, ip, l4, end, proto, nodes: &[] });
        }
        if frame.len() < ip + 28 {
            return None;
        }
        let version = frame[ip] >> 4;
        let header = usize::from(frame[ip] & 15) * 4;
        let mut total = usize::from(be16(frame, ip + 2));
        let fragment = be16(frame, ip + 6) & 0x3fff != 0;
        let proto = frame[ip + 9];
        if gso_size != 0 && total == 0 && proto == TCP {
            total = frame.len() - ip;
        }
        if version != 4 || header < 20 || fragment || total < header + smallest(proto)? {
            return None;
        }
        let (l4, end) = (ip + header, ip + total);
        (end <= frame.len()).then_some(Packet { six, ip, l4, end, proto, nodes: &[] })
    }

    /// Both, one after the other.
    fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        match self.six {
            false => &frame[self.ip + 12..self.ip + 20],
            true => &frame[self.ip + 8..self.ip + 40],
        }
    }

    fn key(&self, frame: &[u8], skb: &Skb) -> Key {
        let (saddr, daddr) = match *self.addresses(frame) {
            [a, b, c, d, e, f, g, h] => (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h])),
            ref both => {
                let half = |half: &[u8]| IpAddr::from(<[u8; 16]>::try_from(half).expect("16 bytes"));
                (half(&both[..16]), half(&both[16..]))
            }
        };
        let (sport, dport) = (be16(frame, self.l4), be16(frame, self.l4 + 2));
        let view = View { six: self.six, ip: &frame[self.ip..], l4: &frame[self.l4..], skb };
        Key { proto: self.proto, saddr, daddr, sport, dport, others: fields::read(&view) }
    }

    pub(super) fn funnel(
        &self,
        frame: &[u8],
        outer: u8,
        sport: u16,
        dport: u16,
        flags: u8,
    ) -> Option<Vec<u8>> {
        let mut inner = frame[self.l4..self.end].to_vec();
        let absent = self.proto == UDP && be16(&inner, 6) == 0;
        let pushed = if outer == TCP { 20 } else { 8 };
        // What the length field counts: over IPv6, only what is behind the header.
        let total = self.end - if self.six { self.l4 } else { self.ip } + pushed;
        if total > 65535
            || (absent && self.six)
            || (self.proto == UDP && usize::from(be16(&inner, 4)) != inner.len())
            || (absent && outer == TCP && inner.len() > 9216)
            || (self.proto == TCP && inner[4..12] == FUNNELED[..8] && inner[12] >> 4 == 5)
        {
            return None;
        }

        // How wrong the inner checksum is. A packet that was wrong stays exactly as wrong: it must
        // not be made right on the way, and the funneling header assumes it right.
        let addresses = self.addresses(frame);
        let mut wrong = 0;
        if !absent {
            wrong = defect(self.proto, addresses, &inner);
            if self.proto == TCP {
                lower_mss(&mut inner, pushed as u16);
            }
            fill(self.proto, &[0; 8], &mut inner, wrong);
        }

        let mut segment = Vec::new();
        segment.extend(sport.to_be_bytes());
        segment.extend(dport.to_be_bytes());
        if outer == TCP {
            segment.extend(FUNNELED);
            segment.extend([flags, 0x04, 0x00, 0, 0, 0, 0]); // window 1024
        } else {
            segment.extend(((8 + inner.len()) as u16).to_be_bytes());
            segment.extend([0, 0]);
        }
        segment.extend(inner);
        if !(absent && outer == UDP) {
            fill(outer, addresses, &mut segment, wrong);
        }
        Some(self.replace(frame, outer, &segment))
    }

    pub(super) fn unfunnel(&self, frame: &[u8], proto: u8) -> Option<Vec<u8>> {
        let segment = &frame[self.l4..self.end];
        let pushed = if self.proto == TCP { 20 } else { 8 };
        let funneled = match self.proto {
            TCP => {
                be32(segment, 4) == 0xcafe_babe && be32(segment, 8) == 0xbabe_cafe && segment[12] >> 4 == 5
            }
            _ => usize::from(be16(segment, 4)) == segment.len(),
        };
        let mut inner = segment[pushed..].to_vec();
        let whole = match proto {
            TCP => {
                inner.len() >= 20
                    && (20..=inner.len()).contains(&(usize::from(inner[12] >> 4) * 4))
                    && (self.proto == TCP || plausible(&inner))
            }
            _ => inner.len() >= 8 && usize::from(be16(&inner, 4)) == inner.len(),
        };
        if !funneled || !whole {
            return None;
        }
        let absent = proto == UDP && be16(&inner, 6) == 0;
        if absent && self.six {
            return None;
        }
        if !absent {
            let wrong = defect(proto, &[0; 8], &inner);
            fill(proto, self.addresses(frame), &mut inner, wrong);
        }
        Some(self.replace(frame, proto, &inner))
    }

    /// The port goes to the urgent pointer and another takes its place, if that field means nothing
    /// (no URG) and is free.
    pub(super) fn alias(&self, frame: &[u8], destination: bool, port: u16) -> Option<Vec<u8>> {
        let at = if destination { 2 } else { 0 };
        let segment = &frame[self.l4..self.end];
        let old = be16(segment, at);
        let free = segment[13] & 0x20 == 0 && be16(segment, 18) == 0;
        (free && old != port).then(|| self.rename(frame, at, port, old))
    }

    pub(super) fn unalias(&self, frame: &[u8], destination: bool, ports: &[u16]) -> Option<Vec<u8>> {
        let at = if destination { 2 } else { 0 };
        let segment = &frame[self.l4..self.end];
        let hidden = be16(segment, 18);
        let listed = segment[13] & 0x20 == 0 && ports.contains(&hidden);
        listed.then(|| self.rename(frame, at, hidden, 0))
    }

    /// Another port and urgent pointer; the checksum stays as right or as wrong as it was.
    fn rename(&self, frame: &[u8], at: usize, port: u16, urgent: u16) -> Vec<u8> {
        let addresses = self.addresses(frame);
        let mut segment = frame[self.l4..self.end].to_vec();
        let wrong = defect(TCP, addresses, &segment);
        segment[at..at + 2].copy_from_slice(&port.to_be_bytes());
        segment[18..20].copy_from_slice(&urgent.to_be_bytes());
        fill(TCP, addresses, &mut segment, wrong);
        [&frame[..self.l4], &segment, &frame[self.end..]].concat()
    }

    /// Both addresses in a row and the segment, changed. Checksums stay as right or as wrong as they were, and absent
    /// ones absent.
    fn readdress(&self, mut frame: Vec<u8>, change: impl FnOnce(&mut [u8], &mut [u8])) -> Vec<u8> {
        let mut segment = frame[self.l4..self.end].to_vec();
        let wrong = defect(self.proto, self.addresses(&frame), &segment);
        let absent = self.proto == UDP && be16(&segment, 6) == 0;
        let header = sum(&frame[self.ip..self.l4]) % 0xffff;
        let addresses = if self.six { self.ip + 8..self.ip + 40 } else { self.ip + 12..self.ip + 20 };
        change(&mut frame[addresses], &mut segment);
        if !absent {
            fill(self.proto, self.addresses(&frame), &mut segment, wrong);
        }
        if !self.six {
            let checksum = self.ip + 10;
            frame[checksum..checksum + 2].copy_from_slice(&[0, 0]);
            let right = sum(&frame[self.ip..self.l4]) % 0xffff;
            let written = ((0xffff + header - right) % 0xffff) as u16;
            frame[checksum..checksum + 2].copy_from_slice(&written.to_be_bytes());
        }
        frame.splice(self.l4..self.end, segment);
        frame
    }

    /// From a node's pod to a node's pod becomes from host to host; the numbers of both go to the urgent pointer, if
    /// that is free and they are not both 0.
    pub(super) fn bypass(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let segment = &frame[self.l4..self.end];
        let of = |address: &[u8]| {
            let (host, ..) =
                self.nodes.iter().find(|(_, first, last)| &first[..] <= address && address <= &last[..])?;
            let number = pods(self.nodes, host).iter().find(|(_, pod)| pod[..] == *address)?.0;
            Some((*host, number))
        };
        let (source, destination) = self.addresses(frame).split_at(4);
        let ((from, source), (to, destination)) = (of(source)?, of(destination)?);
        let urgent = [source, destination];
        let free = segment[13] & 0x20 == 0 && be16(segment, 18) == 0 && urgent != [0, 0];
        free.then(|| {
            self.readdress(frame.to_vec(), |addresses, segment| {
                addresses.copy_from_slice(&[from, to].concat());
                segment[18..20].copy_from_slice(&urgent);
            })
        })
    }

    /// A probe at that port, answered; or an answer, left alone. `None` for anything else.
    pub(super) fn probed(&self, frame: &[u8], port: u16) -> Option<Option<Vec<u8>>> {
        let segment = &frame[self.l4..self.end];
        let (source, destination) = self.addresses(frame).split_at(4);
        let hosts = [source, destination].map(|host| host.try_into().expect("4 bytes"));
        let is_probe = be16(segment, 18) != 0
            && Some(be32(segment, 4)) == super::rules::probe(self.nodes, hosts[0], hosts[1]);
        if !is_probe || self.l4 != self.ip + 20 {
            return None;
        }
        match (be16(segment, 0), be16(segment, 2), segment[13]) {
            (_, to, 0x02) if to == port => {
                let mut answer = self.readdress(frame.to_vec(), |addresses, segment| {
                    addresses.rotate_left(4);
                    segment[..4].rotate_left(2);
                    segment[13] = 0x12;
                });
                if self.ip == 14 {
                    answer[..12].rotate_left(6);
                }
                Some(Some(answer))
            }
            (from, to, 0x12) if from == port && to != port => Some(None),
            _ => None,
        }
    }

    /// Whether `bypass direct` knows both ends: where the next hop leads, a test run does not say.
    pub(super) fn has_hop(&self, frame: &[u8]) -> bool {
        let width = if self.six { 16 } else { 4 };
        self.addresses(frame).chunks(width).all(|address| {
            let known = |(first, last): (&[u8], &[u8])| first <= address && address <= last;
            match self.six {
                false => self.nodes.iter().any(|(_, first, last)| known((first, last))),
                true => HOPS6.iter().any(|(_, first, last)| known((&first.octets(), &last.octets()))),
            }
        })
    }

    /// To the overlay's device, which is given no address but zeros; a probe at that port is answered, and an answer
    /// ends.
    pub(super) fn undirect(&self, frame: &[u8], probe: Option<u16>) -> (Option<Vec<u8>>, Verdict) {
        let plain = self.l4 - self.ip == if self.six { 40 } else { 20 };
        if let Some(port) = probe.filter(|_| plain) {
            let segment = &frame[self.l4..self.end];
            let marked = be32(segment, 4) == !be32(segment, 8);
            match (be16(segment, 0), be16(segment, 2), segment[13]) {
                (_, to, 0x02) if to == port && marked => {
                    let mut answer = self.readdress(frame.to_vec(), |addresses, segment| {
                        addresses.rotate_left(addresses.len() / 2);
                        segment[..4].rotate_left(2);
                        segment[13] = 0x12;
                    });
                    if self.ip == 14 {
                        answer[..12].rotate_left(6);
                    }
                    return (Some(answer), Verdict::Redirect);
                }
                (from, to, 0x12) if from == port && to != port && marked => {
                    return (Some(frame.to_vec()), Verdict::Drop);
                }
                _ => {}
            }
        }
        let mut handed = frame.to_vec();
        if self.ip == 14 {
            handed[..6].fill(0);
        }
        (Some(handed), Verdict::Redirect)
    }

    /// And back. The kernel has to take the frame for its own: tests give the overlay's device no address but zeros.
    pub(super) fn unbypass(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let segment = &frame[self.l4..self.end];
        let pod = |host: &[u8], number| {
            let known = pods(self.nodes, host);
            let listed = known.iter().find(|(known, _)| *known == number).map(|(_, pod)| *pod);
            let (_, [a, b, c, _]) = known.first()?;
            // Where the last byte is the number, nobody asks whether there is such a pod.
            listed.or(known.iter().all(|(_, pod)| pod[..3] == [*a, *b, *c]).then_some([*a, *b, *c, number]))
        };
        let (source, destination) = self.addresses(frame).split_at(4);
        let pods = [pod(source, segment[18])?, pod(destination, segment[19])?].concat();
        let bypassed = segment[13] & 0x20 == 0 && be16(segment, 18) != 0;
        bypassed.then(|| {
            let mut frame = self.readdress(frame.to_vec(), |addresses, segment| {
                addresses.copy_from_slice(&pods);
                segment[18..20].fill(0);
            });
            if self.ip == 14 {
                frame[..6].fill(0);
            }
            frame
        })
    }

    /// The frame with another segment, and the IP header that goes with it.
    fn replace(&self, frame: &[u8], proto: u8, segment: &[u8]) -> Vec<u8> {
        let mut header = frame[self.ip..self.l4].to_vec();
        if self.six {
            header[4..6].copy_from_slice(&(segment.len() as u16).to_be_bytes());
            header[6] = proto;
            return [&frame[..self.ip], &header, segment, &frame[self.end..]].concat();
        }
        let wrong = sum(&header) % 0xffff;
        let total = (header.len() + segment.len()) as u16;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[9] = proto;
        header[10..12].copy_from_slice(&[0, 0]);
        let checksum = (0xffff + wrong - sum(&header) % 0xffff) % 0xffff;
        header[10..12].copy_from_slice(&(checksum as u16).to_be_bytes());
        [&frame[..self.ip], &header, segment, &frame[self.end..]].concat()
    }
}

/// Every pod of a host and its number: the last byte of its address, if they differ in nothing else; or one after the
/// other, from 1 if there are less than 256.
fn pods(nodes: &[Node], host: &[u8]) -> Vec<(u8, [u8; 4])> {
    let of_host = nodes.iter().filter(|(of, ..)| of[..] == *host);
    let each = of_host.flat_map(|(_, first, last)| u32::from_be_bytes(*first)..=u32::from_be_bytes(*last));
    let mut all: Vec<u32> = each.collect();
    all.sort_unstable();
    let alike = all.iter().all(|pod| pod >> 8 == all[0] >> 8);
    let start = u32::from(all.len() < 256);
    let number = |at: u32, pod: u32| if alike { pod as u8 } else { (at + start) as u8 };
    (0..).zip(all).map(|(at, pod)| (number(at, pod), pod.to_be_bytes())).collect()
}

/// The sum of 16-bit words, not folded. Modulo 0xffff it is the Internet checksum's sum (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u64::from(high) << 8 | u64::from(low),
        [high] => u64::from(high) << 8,
        _ => 0,
    });
    words.sum()
}

/// 0 when the segment's checksum is right; otherwise by how much it is not.
fn defect(proto: u8, addresses: &[u8], segment: &[u8]) -> u64 {
    (sum(addresses) + u64::from(proto) + segment.len() as u64 + sum(segment)) % 0xffff
}

/// Writes the checksum that makes [`defect`] equal to `wrong`. Of the two zeros TCP takes 0, and
/// UDP 0xffff, as 0 says there is none (RFC 768).
fn fill(proto: u8, addresses: &[u8], segment: &mut [u8], wrong: u64) {
    let at = if proto == TCP { 16 } else { 6 };
    segment[at..at + 2].copy_from_slice(&[0, 0]);
    let mut checksum = (0xffff + wrong - defect(proto, addresses, segment)) % 0xffff;
    if checksum == 0 && proto == UDP {
        checksum = 0xffff;
    }
    segment[at..at + 2].copy_from_slice(&(checksum as u16).to_be_bytes());
}

/// Every MSS option of a SYN, made smaller by what is pushed onto each segment. The list is read as Linux reads it.
fn lower_mss(segment: &mut [u8], pushed: u16) {
    let end = usize::from(segment[12] >> 4) * 4;
    if segment[13] & 2 == 0 || end > segment.len() {
        return;
    }
    let mut lowered = segment.to_vec();
    let mut at = 20;
    while at < end {
        let length = match segment[at] {
            0 => break,
            1 => 1,
            _ if at + 1 == end => break,
            _ => usize::from(segment[at + 1]),
        };
        if segment[at] != 1 && (length < 2 || at + length > end) {
            break;
        }
        // TCP-AO signs the options. It takes four bytes at least (RFC 5925 section 2.2): where the longest list has no
        // room for them, it is no TCP-AO.
        if segment[at] == 29 && at + 4 <= 60 {
            return;
        }
        if (segment[at], length) == (2, 4) {
            let mss = be16(segment, at + 2);
            if mss >= pushed + 48 {
                lowered[at + 2..at + 4].copy_from_slice(&(mss - pushed).to_be_bytes());
            }
        }
        at += length;
    }
    segment.copy_from_slice(&lowered);
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}
