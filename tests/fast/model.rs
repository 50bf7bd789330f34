//! What becomes of a packet and of what is remembered of its flow: the state machine of docs/bypass.md, written down once more.
//!
//! In: where the packet is, what it says, what is known. Out: what happens to it, and what is known then. Shares nothing with
//! the programs but the entry's fields: it has its own numbers, in milliseconds.

use super::flow::Flow;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The pod sends it.
    Leaving,
    /// It has come out of netfilter, towards another node.
    Passed,
    /// It has come from another node.
    Arriving,
    /// It has come out of netfilter, towards the pod.
    Delivered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The way it would have gone without all this.
    Usual,
    Fast,
    /// Ours, and at its end.
    Ends,
}

/// As far as it matters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Segment {
    pub syn: bool,
    pub fin: bool,
    pub rst: bool,
    pub ack: bool,
    pub urg: bool,
    pub urgent: u16,
    pub sequence: u32,
    pub length: u32,
    pub acknowledged: u32,
    /// Of the option, in a SYN.
    pub scale: Option<u8>,
}

/// Where interfaces and pods are.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// In ticks.
    pub now: u64,
    /// The interface at which the packet is, and the number of its pod.
    pub here: (u32, u32),
    /// Another pod's.
    pub other: (u32, u32),
    pub macs: [[u8; 6]; 2],
}

const UNKNOWN: u8 = 0xff;

impl World {
    fn interface(&self, pod: u32) -> Option<u32> {
        [self.here, self.other].into_iter().find(|(_, known)| *known == pod).map(|(interface, _)| interface)
    }

    /// Whether that is so many milliseconds ago, or more.
    fn past(&self, then: u64, milliseconds: u64) -> bool {
        (self.now - then) * 1_048_576 >= milliseconds * 1_000_000
    }

    fn fresh(&self, flow: &Flow) -> bool {
        !self.past(flow.out, 2500) && !self.past(flow.inwards, 2500)
    }

    fn rested(&self, flow: &Flow) -> bool {
        let long_ago = |then: u64| then != 0 && self.past(then, 60_000);
        !flow.closing && long_ago(flow.out) && long_ago(flow.inwards)
    }
}

fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

fn raise(field: &mut u32, to: u32) {
    if before(*field, to) {
        *field = to;
    }
}

fn unprove(flow: &mut Flow) {
    (flow.out, flow.inwards) = (0, 0);
    unproven(flow);
}

fn unproven(flow: &mut Flow) {
    (flow.real_out, flow.real_in, flow.probed_out, flow.probed_in) = (false, false, false, false);
}

/// One direction of a flow, and of the other what this one depends on.
struct Way<'a> {
    probed: bool,
    asked: &'a mut u64,
    end: u32,
    ahead: u32,
    acked: u32,
    probed_back: bool,
    acked_back: u32,
    window: u32,
    window_back: u32,
}

fn window(flow: &Flow, scale: u8) -> u32 {
    let scaled = flow.scale_out != UNKNOWN && flow.scale_in != UNKNOWN;
    0xffff << if scaled { scale } else { 0 }
}

/// Whether a packet of a proven flow goes fast; asks netfilter if it is time to.
fn decide(world: &World, flow: &mut Flow, segment: &Segment, outwards: bool) -> Verdict {
    if flow.closing || !world.fresh(flow) || !flow.real_out || !flow.real_in {
        return Verdict::Usual;
    }
    let armed = flow.probed_out && flow.probed_in;
    let [to_peer, to_pod] = [flow.scale_in, flow.scale_out].map(|scale| window(flow, scale));
    let way = if outwards {
        Way {
            probed: flow.probed_out,
            end: flow.end_out,
            ahead: flow.ahead_out,
            acked: flow.acked_out,
            probed_back: flow.probed_in,
            acked_back: flow.acked_in,
            window: to_peer,
            window_back: to_pod,
            asked: &mut flow.asked_out,
        }
    } else {
        Way {
            probed: flow.probed_in,
            end: flow.end_in,
            ahead: flow.ahead_in,
            acked: flow.acked_in,
            probed_back: flow.probed_out,
            acked_back: flow.acked_out,
            window: to_pod,
            window_back: to_peer,
            asked: &mut flow.asked_in,
        }
    };
    let end = segment.sequence.wrapping_add(segment.length);
    let again = !way.probed && world.past(*way.asked, 50);
    let used_up = segment.length < way.window / 4
        && before(way.ahead, end.wrapping_add(way.window / 8))
        && before(way.ahead, way.acked.wrapping_add(way.window / 2));
    let more = segment.acknowledged.wrapping_sub(way.acked_back).cast_signed();
    let acknowledges = i64::from(more) > i64::from(way.window_back / 8);
    if world.past(*way.asked, 1000) || again || way.probed_back && (used_up || acknowledges) {
        *way.asked = world.now;
    }
    if armed && !before(way.end, end) { Verdict::Fast } else { Verdict::Usual }
}

pub fn step(place: Place, world: &World, known: Option<Flow>, segment: &Segment) -> (Verdict, Option<Flow>) {
    match place {
        Place::Leaving => leaving(world, known, segment),
        Place::Passed => passed(world, known, segment),
        Place::Arriving => arriving(world, known, segment),
        Place::Delivered => delivered(world, known, segment),
    }
}

fn leaving(world: &World, known: Option<Flow>, segment: &Segment) -> (Verdict, Option<Flow>) {
    if segment.urg || segment.urgent != 0 {
        return (Verdict::Usual, known);
    }
    if segment.syn {
        let scale_out = segment.scale.map_or(UNKNOWN, |scale| scale.min(14));
        let new = Flow { scale_out, scale_in: UNKNOWN, ..Flow::default() };
        return (
            Verdict::Usual,
            Some(match (segment.ack, known) {
                (false, _) => Flow { opener: 1, ..new },
                (true, None) => new,
                (true, Some(known)) => Flow { opener: known.opener, scale_in: known.scale_in, ..new },
            }),
        );
    }
    if segment.fin || segment.rst {
        return (Verdict::Usual, known.map(close));
    }
    if !segment.ack {
        return (Verdict::Usual, known);
    }
    let mut flow = known.unwrap_or(Flow { scale_out: UNKNOWN, scale_in: UNKNOWN, ..Flow::default() });
    match world.interface(flow.pod) {
        Some(interface) if interface == world.here.0 => {}
        Some(_) if world.fresh(&flow) => return (Verdict::Usual, Some(flow)),
        _ => {
            unprove(&mut flow);
            (flow.interface, flow.pod) = world.here;
            [flow.pod_mac, flow.gateway_mac] = world.macs;
        }
    }
    flow.noted = world.now;
    // Of a closing flow as well.
    let closing = flow.closing;
    if !closing && !world.fresh(&flow) {
        unproven(&mut flow);
    }
    (decide(world, &mut flow, segment, true), Some(flow))
}

fn close(flow: Flow) -> Flow {
    let mut flow = Flow { closing: true, noted: 0, ..flow };
    unprove(&mut flow);
    flow
}

fn is_probe(segment: &Segment) -> bool {
    let Segment { syn, fin, rst, ack, urg, urgent, length, .. } = *segment;
    urgent == 0xfffe && ack && !(syn || fin || rst || urg) && length == 0
}

fn passed(world: &World, known: Option<Flow>, segment: &Segment) -> (Verdict, Option<Flow>) {
    let end = segment.sequence.wrapping_add(segment.length);
    let probe = is_probe(segment);
    let verdict = if probe { Verdict::Ends } else { Verdict::Usual };
    let Some(mut flow) = known else { return (verdict, None) };
    if segment.syn {
        unprove(&mut flow);
    } else if !segment.fin && !segment.rst && segment.ack && !world.past(flow.noted, 2500) {
        if !probe && !flow.real_out {
            (flow.end_out, flow.ahead_out, flow.acked_in) = (end, end, segment.acknowledged);
        }
        raise(&mut flow.end_out, end);
        raise(&mut flow.acked_in, segment.acknowledged);
        *(if probe { &mut flow.probed_out } else { &mut flow.real_out }) = true;
        flow.out = world.now;
    }
    (verdict, Some(flow))
}

fn arriving(world: &World, known: Option<Flow>, segment: &Segment) -> (Verdict, Option<Flow>) {
    let Some(mut flow) = known else { return (Verdict::Usual, None) };
    if segment.syn {
        return (Verdict::Usual, Some(flow));
    }
    if segment.fin || segment.rst {
        return (Verdict::Usual, Some(close(flow)));
    }
    if flow.opener == 1 && flow.pod != 0 && world.past(flow.asked_in, 200) && world.rested(&flow) {
        flow.asked_in = world.now;
    }
    let verdict = decide(world, &mut flow, segment, false);
    let there = world.interface(flow.pod).is_some();
    (if there { verdict } else { Verdict::Usual }, Some(flow))
}

fn delivered(world: &World, known: Option<Flow>, segment: &Segment) -> (Verdict, Option<Flow>) {
    let end = segment.sequence.wrapping_add(segment.length);
    let probe = is_probe(segment);
    let verdict = if probe { Verdict::Ends } else { Verdict::Usual };
    let scale = segment.scale.map_or(UNKNOWN, |scale| scale.min(14));
    let mut flow = match known {
        Some(flow) if !segment.syn || segment.ack => flow,
        _ if segment.syn => {
            let opener = if segment.ack { 0 } else { 2 };
            let new = Flow { opener, scale_out: UNKNOWN, scale_in: scale, ..Flow::default() };
            return (verdict, Some(new));
        }
        _ => return (verdict, None),
    };
    if segment.syn {
        flow.scale_in = scale;
        unprove(&mut flow);
    } else if !segment.fin && !segment.rst && segment.ack && flow.interface == world.here.0 {
        if !probe && !flow.real_in {
            (flow.end_in, flow.ahead_in, flow.acked_out) = (end, end, segment.acknowledged);
        }
        raise(&mut flow.end_in, end);
        raise(&mut flow.acked_out, segment.acknowledged);
        *(if probe { &mut flow.probed_in } else { &mut flow.real_in }) = true;
        flow.inwards = world.now;
    }
    (verdict, Some(flow))
}
