//! One packet at a time, from every state that there may be: the programs in the kernel, and the model.

use super::bench::{Bench, now};
use super::flow::Flow;
use super::model::{Place, Segment, Verdict, step};
use super::support::{Need, require};

/// Numbers that are the same each time (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() >> 33) as usize % all.len()]
    }

    /// True so often in a hundred.
    fn percent(&mut self, percent: u64) -> bool {
        (self.next() >> 33) % 100 < percent
    }
}

/// How far a time may be from a limit: nothing is decided by how long a test takes.
const AWAY: u64 = 300;

fn segment(chance: &mut Chance) -> Segment {
    let plain = chance.percent(70);
    let mut flag = |percent| !plain && chance.percent(percent);
    let (syn, fin, rst, urg) = (flag(25), flag(15), flag(15), flag(15));
    let (no_ack, urgent) = (flag(25), flag(50));
    Segment {
        syn,
        fin,
        rst,
        urg,
        ack: !no_ack,
        urgent: if urgent { chance.of(&[0xfffe, 0xfffe, 1]) } else { 0 },
        sequence: chance.of(&[7, 0x7fff_fff0, 0xffff_ff00, 0x1234_5678]),
        length: chance.of(&[0, 0, 1, 100, 1400]),
        acknowledged: chance.of(&[9, 0x8000_0000, 0xffff_fff0]),
        scale: chance.of(&[None, Some(0), Some(7), Some(14), Some(200)]),
    }
}

fn flow(chance: &mut Chance, bench: &Bench, now: u64, segment: &Segment) -> Flow {
    let times = [0, now, now - 2384 + AWAY, now - 2384 - AWAY, now - 57_220 - AWAY];
    let asked = [0, now - 1, now - 954 + AWAY, now - 954 - AWAY];
    let scales = [0xff, 0, 7, 14];
    let end = segment.sequence.wrapping_add(segment.length);
    let mut around = |of: u32| {
        let by = chance.of(&[0_u32, 0, 1, 100, 8191, 8192, 40_000, 1 << 18, 1 << 24]);
        if chance.percent(50) { of.wrapping_add(by) } else { of.wrapping_sub(by) }
    };
    let (end_out, end_in, ahead_out, ahead_in) = (around(end), around(end), around(end), around(end));
    let acked = segment.acknowledged;
    let (acked_out, acked_in) =
        if around(0) == 0 { (around(end), around(acked)) } else { (around(acked), around(end)) };
    let fresh = chance.percent(60);
    let time = |chance: &mut Chance| if fresh { chance.of(&times[1..3]) } else { chance.of(&times) };
    let (out, inwards) = (time(chance), time(chance));
    let (interface, pod) =
        chance.of(&[bench.here, bench.here, bench.here, bench.other, (0, 0), (bench.here.0, bench.gone)]);
    let likely = chance.percent(70);
    let truth = |chance: &mut Chance| likely || chance.percent(50);
    Flow {
        noted: chance.of(&times),
        out,
        inwards,
        asked_out: chance.of(&asked),
        asked_in: chance.of(&asked),
        interface,
        pod,
        pod_mac: [2, 0, 0, 0, 1, 1],
        gateway_mac: [2, 0, 0, 0, 1, 2],
        end_out,
        end_in,
        ahead_out,
        ahead_in,
        acked_out,
        acked_in,
        real_out: truth(chance),
        real_in: truth(chance),
        probed_out: truth(chance),
        probed_in: truth(chance),
        closing: chance.percent(10),
        opener: chance.of(&[0, 1, 2]),
        scale_out: chance.of(&scales),
        scale_in: chance.of(&scales),
        ..Flow::default()
    }
}

/// The same, though the clock has gone on between the two.
fn alike(a: &Flow, b: &Flow) -> bool {
    let near = |a: u64, b: u64| a.abs_diff(b) < 60;
    let times = |flow: &Flow| [flow.noted, flow.out, flow.inwards, flow.asked_out, flow.asked_in];
    let timeless = |flow: &Flow| Flow { noted: 0, out: 0, inwards: 0, asked_out: 0, asked_in: 0, ..*flow };
    timeless(a) == timeless(b) && times(a).into_iter().zip(times(b)).all(|(a, b)| near(a, b))
}

#[test]
fn programs_and_model_agree_on_every_packet() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut bench = Bench::new();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let mut late = 0;
    for _ in 0..20_000 {
        let place = chance.of(&[Place::Leaving, Place::Passed, Place::Arriving, Place::Delivered]);
        let segment = segment(&mut chance);
        // That one, `unbypass` leaves alone before it comes to flows.
        let segment = Segment { urg: segment.urg && place != Place::Arriving, ..segment };
        let start = now();
        let known = chance.percent(92).then(|| flow(&mut chance, &bench, start, &segment));
        bench.know(known);
        let (verdict, frame) = bench.run(place, &segment);
        let found = bench.known();
        if now() - start > 40 {
            // Somebody else had the processor: what was about to be decided by the time may have been.
            late += 1;
            continue;
        }
        let world = bench.world(start);
        let (expected, then) = step(place, &world, known, &segment);
        let told =
            || format!("{place:?} {segment:?}\nfrom {known:?}\nto {found:?}\nnot {then:?}, {expected:?}");
        assert_eq!(verdict, expected, "{}", told());
        let same = match (&found, &then) {
            (Some(found), Some(then)) => alike(found, then),
            (found, then) => found == then,
        };
        assert!(same, "{}", told());
        *seen.entry(format!("{place:?} {verdict:?}")).or_default() += 1;
        match (place, verdict) {
            // As the rule at the overlay's interface would have sent it.
            (Place::Leaving, Verdict::Fast) => {
                bench.know(None);
                assert_eq!(frame, bench.run(Place::Passed, &segment).1, "{}", told());
            }
            // As it would have come to the overlay's interface, but for link addresses.
            (Place::Arriving, Verdict::Fast) => {
                let known = known.expect("a flow");
                assert_eq!(frame[..12], [known.pod_mac, known.gateway_mac].concat());
                bench.know(None);
                assert_eq!(frame[12..], bench.run(Place::Arriving, &segment).1[12..], "{}", told());
            }
            _ => {}
        }
    }
    assert!(late < 10_000, "{late} runs took too long");
    for (what, least) in
        ["Leaving Fast", "Arriving Fast", "Passed Ends", "Delivered Ends"].map(|what| (what, 50))
    {
        assert!(seen.get(what).is_some_and(|times| *times >= least), "{what}: {seen:?}");
    }
}
