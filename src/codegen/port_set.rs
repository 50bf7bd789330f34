//! Is a value on a list of ports? As compares, some in a row or halving the list.
//!
//! Takes a register and a set, and emits jumps. Never a compare that could go one way only (V2).

use asm::{Cond, Label, Reg};
use range_set_blaze::RangeSetBlaze;

use super::emit::Emit;

/// Where values go that are not on the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Miss {
    pub label: Label,
    /// What is returned there, if that is all: for exits in place (V3).
    pub verdict: Option<i32>,
}

impl Miss {
    fn exit(self, e: &mut Emit) {
        match self.verdict {
            Some(verdict) => e.exit(verdict),
            None => e.goto(self.label),
        }
    }
}

/// How many single ports are compared one after the other.
const CHAIN: usize = 4;

/// Goes to `listed`, or falls through to it, if `value`, which has 16 bits, is on the list.
pub(super) fn one_of(e: &mut Emit, value: Reg, ports: &RangeSetBlaze<u16>, listed: Label, miss: Miss) {
    let ranges: Vec<(u16, u16)> = ports.ranges().map(|range| range.into_inner()).collect();
    Search { value, listed, miss }.among(e, &ranges, u16::MAX, true);
}

struct Search {
    value: Reg,
    listed: Label,
    miss: Miss,
}

impl Search {
    /// The value is `most` at most; the `last` part of the search falls through to `listed`. There is a
    /// gap between any two ranges, so every compare can go either way, but for one with 0.
    fn among(&self, e: &mut Emit, ranges: &[(u16, u16)], most: u16, last: bool) {
        let Search { value, listed, miss } = *self;
        if let [(0, end)] = ranges
            && *end == most
        {
            return e.goto(listed); // there is nothing else that it could be
        }
        if ranges.len() <= CHAIN && ranges.iter().all(|(first, end)| first == end) {
            let (jumping, falling) = ranges.split_at(ranges.len() - usize::from(last));
            for (port, _) in jumping {
                e.jump_if(Cond::eq32(value, *port), listed);
            }
            match falling {
                [(port, _), ..] => e.jump_if_note(Cond::ne32(value, *port), miss.label, "not listed"),
                [] => miss.exit(e),
            }
        } else if let [(first, end)] = ranges {
            if last {
                if *first > 0 {
                    e.jump_if_note(Cond::lt32(value, *first), miss.label, "not listed");
                }
                if *end < most {
                    e.jump_if_note(Cond::gt32(value, *end), miss.label, "not listed");
                }
            } else {
                // Some range above has been split off at this one's end.
                e.jump_if(Cond::ge32(value, *first), listed);
                miss.exit(e);
            }
        } else {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let Some((_, split)) = lower.last() else { return };
            let above = e.label(format!("above_{split}"));
            e.jump_if(Cond::gt32(value, *split), above);
            self.among(e, lower, *split, false);
            e.bind(above);
            self.among(e, upper, most, last);
        }
    }
}
