//! Sorted, disjoint intervals of a field's values, as the tree builder asks about them.
//!
//! `range-set-blaze` holds the rules' sets; a node of the tree is split tens of times a rule, and
//! asks other questions than set algebra: where a rule's edges lie among the values still possible.

use super::{Field, Op, Test, Word};
use crate::ir::Family;

/// Inclusive bounds, in ascending order, never touching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Intervals(pub(super) Vec<(u32, u32)>);

impl Intervals {
    pub(super) fn first(&self) -> Option<u32> {
        self.0.first().map(|r| r.0)
    }

    pub(super) fn last(&self) -> Option<u32> {
        self.0.last().map(|r| r.1)
    }

    /// The intervals that end at or after `value`.
    fn from(&self, value: u32) -> &[(u32, u32)] {
        self.0.get(self.0.partition_point(|r| r.1 < value)..).unwrap_or_default()
    }

    fn contains(&self, value: u32) -> bool {
        self.from(value).first().is_some_and(|r| r.0 <= value)
    }

    /// The smallest value above `value`.
    pub(super) fn after(&self, value: u32) -> Option<u32> {
        let next = value.checked_add(1)?;
        self.from(next).first().map(|r| r.0.max(next))
    }

    /// The largest value below `value`.
    fn before(&self, value: u32) -> Option<u32> {
        let previous = value.checked_sub(1)?;
        let end = self.0.partition_point(|r| r.0 <= previous);
        self.0.get(..end)?.last().map(|r| r.1.min(previous))
    }

    pub(super) fn meets(&self, other: &Intervals) -> bool {
        other.0.iter().any(|o| self.from(o.0).first().is_some_and(|r| r.0 <= o.1))
    }

    pub(super) fn covers(&self, other: &Intervals) -> bool {
        other.0.iter().all(|o| self.from(o.0).first().is_some_and(|r| r.0 <= o.0 && o.1 <= r.1))
    }

    /// Adds to `cuts` each of `values` that is inside while the one before it is outside, or the
    /// other way round. Values ruled out already are no cuts: a test there could go one way only.
    pub(super) fn cuts(&self, values: &Intervals, cuts: &mut Vec<u32>) {
        let (Some(first), Some(last)) = (values.first(), values.last()) else { return };
        for r in self.from(first).iter().take_while(|r| r.0 <= last) {
            if let Some(before) = values.before(r.0)
                && !self.contains(before)
                && let Some(start) = values.after(before)
                && start <= r.1
            {
                cuts.push(start);
            }
            if let Some(after) = values.after(r.1)
                && !self.contains(after)
                && values.before(after).is_some_and(|end| end >= r.0)
            {
                cuts.push(after);
            }
        }
    }

    /// The values for which the test holds, and the others.
    pub(super) fn split(&self, test: Test) -> (Intervals, Intervals) {
        let (low, high) = match test.op {
            Op::Equal => (test.value, test.value),
            Op::AtMost => (0, test.value),
        };
        let (mut yes, mut no) = (Vec::new(), Vec::new());
        for &(start, end) in &self.0 {
            if start < low {
                no.push((start, end.min(low - 1)));
            }
            if start <= high && end >= low {
                yes.push((start.max(low), end.min(high)));
            }
            if end > high {
                no.push((start.max(high + 1), end));
            }
        }
        (Intervals(yes), Intervals(no))
    }
}

/// Intervals for each field of a family: a rule's sets, or the packets that reach a node.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    pub(super) family: Family,
    /// By [`slot`].
    sets: Vec<Intervals>,
}

impl Fields {
    pub(super) fn everything(family: Family) -> Self {
        let address = || Intervals(vec![(0, u32::MAX)]);
        let port = || Intervals(vec![(0, u32::from(u16::MAX))]);
        let addresses = match family {
            Family::V4 => 2,
            Family::V6 => 2 * Word::ALL.len(),
        };
        let mut sets = vec![port(), port()];
        sets.resize_with(2 + addresses, address);
        Fields { family, sets }
    }

    pub(super) fn get(&self, field: Field) -> &Intervals {
        &self.sets[slot(field)]
    }

    pub(super) fn with(&self, field: Field, values: Intervals) -> Self {
        let mut fields = self.clone();
        fields.sets[slot(field)] = values;
        fields
    }
}

/// Where a field's intervals are among those of its family.
fn slot(field: Field) -> usize {
    match field {
        Field::Sport => 0,
        Field::Dport => 1,
        Field::Saddr => 2,
        Field::Daddr => 3,
        Field::Saddr6(word) => 2 + usize::from(word.index()),
        Field::Daddr6(word) => 6 + usize::from(word.index()),
    }
}
