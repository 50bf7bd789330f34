//! Values to ranks: of all values that a field can have, only the places matter where some rule begins or ends.
//!
//! Rules' sets go in, and the packets that are asked about; out come the same sets over a few numbers in a row, each
//! standing for a run of values that no rule tells apart. A 128-bit address costs no more than a port from here on.

use std::ops::RangeInclusive;

use super::sets::{EMPTY, FULL, Sets};
use crate::field::Field;
use crate::matches::{Matches, common};
use crate::protocol::Family;

/// A field that some rule matches on, and its values by rank.
#[derive(Debug)]
pub(super) struct Scale {
    pub field: Field,
    /// The first value of each rank; the first of all is the smallest there is.
    pub firsts: Vec<u128>,
    /// The field's largest value.
    max: u128,
}

impl Scale {
    /// How many ranks there are.
    pub fn len(&self) -> u32 {
        u32::try_from(self.firsts.len()).unwrap_or(u32::MAX)
    }

    /// Words of 32 bits that a test has to look at.
    pub fn words(&self, family: Family) -> usize {
        let bits = u128::BITS - self.field.largest(family).leading_zeros();
        usize::try_from(bits.div_ceil(32)).unwrap_or(1)
    }

    /// The last value of a rank; of one beyond the last, the last of all.
    pub fn last(&self, rank: u32) -> u128 {
        match self.firsts.get(rank as usize + 1) {
            Some(next) => next - 1,
            None => self.max,
        }
    }

    fn rank(&self, value: u128) -> u32 {
        u32::try_from(self.firsts.partition_point(|first| *first <= value)).unwrap_or(u32::MAX) - 1
    }

    fn ranges(&self, ranges: impl Iterator<Item = RangeInclusive<u128>>) -> Vec<(u32, u32)> {
        ranges.map(|range| (self.rank(*range.start()), self.rank(*range.end()))).collect()
    }
}

/// The scales of all fields on which these rules differ about some packet `of` these, and each rule's sets over them:
/// for each scale, the number of a set among `sets`. `None`: the rule matches none of the packets.
pub(super) fn compress<'a>(
    rules: impl Iterator<Item = &'a Matches> + Clone,
    of: &Matches,
    family: Family,
    sets: &mut Sets,
) -> (Vec<Scale>, Vec<Option<Vec<u32>>>) {
    let scales: Vec<Scale> =
        Field::all().filter_map(|field| scale(rules.clone(), of, field, family)).collect();
    sets.sizes(scales.iter().map(Scale::len).collect());
    let number = |rule: &Matches, sets: &mut Sets| {
        let fields =
            scales.iter().enumerate().map(|(at, scale)| match (rule.get(scale.field), of.get(scale.field)) {
                (None, _) => Some(FULL),
                (Some(set), None) => Some(sets.intern(at, scale.ranges(set.ranges()))),
                (Some(set), Some(of)) => {
                    Some(sets.intern(at, scale.ranges(common(set, of)))).filter(|number| *number != EMPTY)
                }
            });
        // Fields that all rules which match anything agree on have no scale.
        if rule.meets(of) { fields.collect() } else { None }
    };
    let numbered = rules.map(|rule| number(rule, sets)).collect();
    (scales, numbered)
}

fn scale<'a>(
    rules: impl Iterator<Item = &'a Matches>,
    of: &Matches,
    field: Field,
    family: Family,
) -> Option<Scale> {
    let max = field.largest(family);
    let of = of.get(field);
    // Values that no packet has are gaps, which belong to the rank before them.
    let mut firsts: Vec<u128> =
        of.map_or(vec![field.smallest(family)], |of| of.ranges().map(|range| *range.start()).collect());
    let mut add = |range: RangeInclusive<u128>| {
        firsts.push(*range.start());
        firsts.extend(
            range.end().checked_add(1).filter(|next| *next <= max && of.is_none_or(|of| of.contains(*next))),
        );
    };
    for set in rules.filter_map(|matches| matches.get(field)) {
        match of {
            None => set.ranges().for_each(&mut add),
            Some(of) => common(set, of).for_each(&mut add),
        }
    }
    firsts.sort_unstable();
    firsts.dedup();
    if let Some(first) = firsts.first_mut() {
        *first = field.smallest(family);
    }
    (firsts.len() > 1).then_some(Scale { field, firsts, max })
}
