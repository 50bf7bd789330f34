//! Jumps for kernels that have no `gotol`: what is out of reach is reached by way of islands.
//!
//! In: the assembler's list. Out: a [`Layout`]: where every item is, where every jump lands, and the islands between
//! items. An island is a `goto` that jumps on, further forward; a pool of them stands where control does not come by,
//! or is jumped over. Jumps back are never far, and fail if they are: islands only lead forward.
//!
//! One pass. Each label that is waited for has a deadline, the last slot that the first jump to it reaches. A pool
//! takes all whose deadline is near, in the order of their deadlines, so each island is within reach if the first is.
//! Linear but for the sorted set of deadlines.

use std::collections::{BTreeMap, BTreeSet};

use crate::assembler::What;
use crate::resolve::{Error, Form, List, width};

/// How near a deadline is when a place where control does not come by is made use of, in parts of the reach.
const NEAR: usize = 16;
/// How near it is when a pool has to be jumped over. An item takes two slots, and may be one more to wait for.
const VERY_NEAR: usize = 8;

/// Slots of everything.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// Of each item, and of the end.
    pub(crate) places: Vec<usize>,
    /// Where each jump lands, by item.
    pub(crate) lands: Vec<usize>,
    /// In order.
    pub(crate) pools: Vec<Pool>,
}

/// Islands, one after the other.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The item that they stand before.
    pub(crate) before: usize,
    pub(crate) slot: usize,
    /// Whether a jump over all of them is in front.
    pub(crate) skip: bool,
    pub(crate) islands: Vec<Island>,
}

#[derive(Debug)]
pub(crate) struct Island {
    /// The label that the jump is for.
    pub(crate) label: usize,
    pub(crate) lands: usize,
}

/// A jump that has not landed.
#[derive(Clone, Copy, Debug)]
enum Jump {
    Item(usize),
    /// Pool, and number in it.
    Island(usize, usize),
}

/// The labels that are waited for.
#[derive(Debug, Default)]
struct Waiting {
    jumps: BTreeMap<usize, (usize, Vec<Jump>)>,
    deadlines: BTreeSet<(usize, usize)>,
}

impl Waiting {
    fn add(&mut self, label: usize, deadline: usize, jump: Jump) {
        // Later jumps have later deadlines.
        let (_, jumps) = self.jumps.entry(label).or_insert_with(|| {
            self.deadlines.insert((deadline, label));
            (deadline, Vec::new())
        });
        jumps.push(jump);
    }

    fn remove(&mut self, label: usize) -> Option<(usize, Vec<Jump>)> {
        let (deadline, jumps) = self.jumps.remove(&label)?;
        self.deadlines.remove(&(deadline, label));
        Some((deadline, jumps))
    }

    /// Whether the first deadline is `ahead` of this slot or less, when all that is waited for gets an island.
    fn is_near(&self, slot: usize, ahead: usize) -> bool {
        self.deadlines.first().is_some_and(|(first, _)| *first <= slot + self.jumps.len() + ahead)
    }

    fn near(&self, slot: usize, ahead: usize) -> Vec<usize> {
        let last = slot + self.jumps.len() + ahead;
        self.deadlines.range(..=(last, usize::MAX)).map(|(_, label)| *label).collect()
    }
}

impl List<'_> {
    /// Places of all that is kept, and of the islands between.
    pub(crate) fn with_islands(&self, kept: &[bool]) -> Result<Layout, Error> {
        let reach = self.forwards();
        let mut bound: Vec<(usize, usize)> =
            self.labels.iter().enumerate().filter_map(|(label, def)| Some((def.at?, label))).collect();
        bound.sort_unstable();
        let mut bound = bound.into_iter().peekable();
        let mut layout = Layout { lands: vec![0; self.items.len()], ..Layout::default() };
        let mut waiting = Waiting::default();
        let mut slot = 0;
        for (at, item) in self.items.iter().enumerate() {
            // Not between items that are left out and what they lead to.
            if let Some(before) = at.checked_sub(1).filter(|before| kept[*before]) {
                let falls_through = self.items[before].falls_through();
                if waiting.is_near(slot, if falls_through { VERY_NEAR } else { self.near() }) {
                    slot = self.pool(&mut layout, &mut waiting, (at, slot), falls_through)?;
                }
            }
            layout.places.push(slot);
            while let Some((_, label)) = bound.next_if(|(item, _)| *item == at) {
                if let Some((deadline, jumps)) = waiting.remove(label) {
                    self.land(&mut layout, jumps, (label, slot), deadline)?;
                }
            }
            if !kept[at] {
                continue;
            }
            slot += width(item, Form::Short);
            let What::Jump { to, .. } = item.what else { continue };
            if self.target(to) > at {
                waiting.add(to.index, slot + reach, Jump::Item(at));
            } else {
                layout.lands[at] = layout.places[self.target(to)];
                if slot - layout.lands[at] > reach + 1 {
                    return Err(self.too_far(to.index));
                }
            }
        }
        layout.places.push(slot);
        Ok(layout)
    }

    /// A pool before an item. Returns the slot after it.
    fn pool(
        &self,
        layout: &mut Layout,
        waiting: &mut Waiting,
        (before, slot): (usize, usize),
        skip: bool,
    ) -> Result<usize, Error> {
        let reach = self.forwards();
        let number = layout.pools.len();
        let mut next = slot + usize::from(skip);
        layout.pools.push(Pool { before, slot, skip, islands: Vec::new() });
        let mut again = Vec::new();
        for label in waiting.near(slot, self.near()) {
            if let Some((deadline, jumps)) = waiting.remove(label) {
                self.land(layout, jumps, (label, next), deadline)?;
                let islands = &mut layout.pools[number].islands;
                islands.push(Island { label, lands: 0 });
                next += 1;
                again.push((label, next + reach, Jump::Island(number, islands.len() - 1)));
            }
        }
        for (label, deadline, jump) in again {
            waiting.add(label, deadline, jump);
        }
        Ok(next)
    }

    fn land(
        &self,
        layout: &mut Layout,
        jumps: Vec<Jump>,
        (label, slot): (usize, usize),
        deadline: usize,
    ) -> Result<(), Error> {
        if slot > deadline {
            return Err(self.too_far(label));
        }
        for jump in jumps {
            match jump {
                Jump::Item(at) => layout.lands[at] = slot,
                Jump::Island(pool, number) => layout.pools[pool].islands[number].lands = slot,
            }
        }
        Ok(())
    }

    fn forwards(&self) -> usize {
        usize::from(self.reach.unsigned_abs())
    }

    fn near(&self) -> usize {
        (self.forwards() / NEAR).max(VERY_NEAR)
    }

    fn too_far(&self, label: usize) -> Error {
        Error::TooFar { label: self.labels[label].name.clone() }
    }
}
