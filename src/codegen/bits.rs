//! Where do a byte's values lead, by their bits? As tests of one bit at a time.
//!
//! For flags, where runs of values mean nothing: one flag is 128 runs. Takes the same runs as [`search`](super::search),
//! and emits jumps. Never tests a bit twice on one way, nor one that makes no difference (V2).

use asm::{Cond, Reg};

use super::search::{Run, Search};

/// How many bits a value has.
const WIDTH: u32 = 8;

/// Goes where the value of `key` leads.
pub(super) fn search<S: Search>(s: &mut S, key: Reg, runs: &[Run<S::Place>]) {
    let mut next = 0;
    let mut places = Vec::new();
    for run in runs {
        places.extend((next..=run.last).map(|value| (value, run.then)));
        next = run.last.saturating_add(1);
    }
    split(s, key, &places);
}

/// The same for those values that are left.
fn split<S: Search>(s: &mut S, key: Reg, places: &[(u32, S::Place)]) {
    let Some((_, first)) = places.first() else { return };
    if places.iter().all(|(_, place)| place == first) {
        return s.go(*first);
    }
    let halves = |bit: u32| -> (Vec<_>, Vec<_>) { places.iter().partition(|(value, _)| value & bit == 0) };
    let bits = (0..WIDTH).map(|shift| 1 << shift);
    // The bit whose halves have the fewest places to tell apart.
    let cost = |bit: &u32| {
        let (clear, set) = halves(*bit);
        // A bit that has been tested already leaves one half empty.
        if clear.is_empty() || set.is_empty() { usize::MAX } else { distinct(&clear) + distinct(&set) }
    };
    let Some(bit) = bits.min_by_key(cost) else { return };
    let (clear, set) = halves(bit);
    let note = s.note("&", bit);
    // A short jump, if all values with the bit lead to one place near.
    if distinct(&set) == 1
        && let Some((_, place)) = set.first()
        && let Some(label) = s.label(*place)
    {
        s.emit().jump_if_note(Cond::set32(key, bit), label, &note);
        return split(s, key, &clear);
    }
    let with = s.other("with", bit);
    s.emit().jump_if_note(Cond::set32(key, bit), with, &note);
    split(s, key, &clear);
    s.emit().bind(with);
    split(s, key, &set);
}

fn distinct<T: Copy + PartialEq>(places: &[(u32, T)]) -> usize {
    let mut seen: Vec<T> = Vec::new();
    for (_, place) in places {
        if !seen.contains(place) {
            seen.push(*place);
        }
    }
    seen.len()
}
