//! Sets of ranks, each known by a number: equal sets have equal numbers.
//!
//! What a test leaves of a set is a set again. Values that cannot occur any more are *don't cares*: they join whichever
//! neighbour is still possible, so that sets which differ in impossible values only are one. That is what makes
//! problems equal, and a tree of problems a graph.

use std::collections::HashMap;

/// Every rank: no test of the field is needed.
pub(super) const FULL: u32 = 0;
/// No rank: the rule is gone.
pub(super) const EMPTY: u32 = 1;

/// Inclusive ranges, in ascending order, never touching.
type Ranges = Box<[(u32, u32)]>;

#[derive(Debug, Default)]
pub(super) struct Sets {
    known: Vec<Ranges>,
    numbers: HashMap<Ranges, u32>,
    /// Of each scale, how many ranks there are.
    sizes: Vec<u32>,
    /// What is left of a set, by scale, set and cut.
    lower: HashMap<(usize, u32, u32), u32>,
    upper: HashMap<(usize, u32, u32), u32>,
}

impl Sets {
    /// Begins anew, for scales of so many ranks.
    pub fn sizes(&mut self, sizes: Vec<u32>) {
        *self = Sets { known: vec![Box::default(), Box::default()], sizes, ..Sets::default() };
    }

    /// The ranges of a set that is neither full nor empty.
    pub fn ranges(&self, set: u32) -> &[(u32, u32)] {
        &self.known[set as usize]
    }

    /// The number of the set that these ranges are, which are in order and may touch.
    pub fn intern(&mut self, scale: usize, mut ranges: Vec<(u32, u32)>) -> u32 {
        ranges.dedup_by(|next, range| {
            let touches = next.0 <= range.1 + 1;
            if touches {
                range.1 = next.1;
            }
            touches
        });
        match ranges.as_slice() {
            [] => return EMPTY,
            [(0, last)] if last + 1 == self.sizes[scale] => return FULL,
            _ => {}
        }
        if let Some(number) = self.numbers.get(ranges.as_slice()) {
            return *number;
        }
        let number = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        let ranges = ranges.into_boxed_slice();
        self.known.push(ranges.clone());
        self.numbers.insert(ranges, number);
        number
    }

    /// What is left where the rank is below `cut`: higher ranks join the last possible one.
    pub fn below(&mut self, scale: usize, set: u32, cut: u32) -> u32 {
        if set == FULL {
            return FULL;
        }
        if let Some(known) = self.lower.get(&(scale, set, cut)) {
            return *known;
        }
        let top = self.sizes[scale] - 1;
        let ranges = self.known[set as usize].iter().take_while(|range| range.0 < cut);
        let left = ranges.map(|&(first, last)| (first, if last + 1 >= cut { top } else { last })).collect();
        let number = self.intern(scale, left);
        self.lower.insert((scale, set, cut), number);
        number
    }

    /// What is left where the rank is `cut` or above: lower ranks join the first possible one.
    pub fn from(&mut self, scale: usize, set: u32, cut: u32) -> u32 {
        if set == FULL {
            return FULL;
        }
        if let Some(known) = self.upper.get(&(scale, set, cut)) {
            return *known;
        }
        let ranges = self.known[set as usize].iter().skip_while(|range| range.1 < cut);
        let left = ranges.map(|&(first, last)| (if first <= cut { 0 } else { first }, last)).collect();
        let number = self.intern(scale, left);
        self.upper.insert((scale, set, cut), number);
        number
    }

    /// Whether some rank of the set is below the cut, and some at it or above.
    pub fn sides(&self, set: u32, cut: u32) -> (bool, bool) {
        if set == FULL {
            return (true, true);
        }
        let ranges = &self.known[set as usize];
        (ranges.first().is_some_and(|range| range.0 < cut), ranges.last().is_some_and(|range| range.1 >= cut))
    }

    /// The ranks at which membership changes, added to `cuts`.
    pub fn cuts(&self, scale: usize, set: u32, cuts: &mut Vec<u32>) {
        if set == FULL {
            return;
        }
        for &(first, last) in &self.known[set as usize] {
            cuts.extend((first > 0).then_some(first));
            cuts.extend((last + 1 < self.sizes[scale]).then_some(last + 1));
        }
    }
}
