//! The finished program: what the kernel takes, and how to find one's way in it.
//!
//! Made by `resolve` only; immutable. Its text is made in `listing`.

use crate::assembler::Texts;
use crate::encode;
use crate::insn::{Cond, Insn, Op};
use crate::listing;

/// One instruction of the kernel, jumps as distances from the slot after it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Op(Insn),
    /// `to` is none for the hops inside a lengthened jump.
    Jump {
        cond: Option<Cond>,
        off: i16,
        to: Option<usize>,
    },
    /// `gotol`, kernel 6.6 and later.
    Long {
        off: i32,
        to: usize,
    },
    /// Where jumps land that are further from their label than a short one goes.
    Island {
        off: i16,
        to: usize,
    },
}

/// A step, where it is and which item it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) slot: usize,
    pub(crate) item: usize,
    pub(crate) origin: Option<u32>,
    pub(crate) step: Step,
}

/// A finished program: the slots the kernel takes, and all the listing needs.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) slots: Vec<u64>,
    pub(crate) long_jumps: usize,
    pub(crate) islands: usize,
    /// In order of slots.
    pub(crate) steps: Vec<Placed>,
    /// By label; unique among those bound.
    pub(crate) label_names: Vec<String>,
    /// Item and label, in order of items.
    pub(crate) bound: Vec<(usize, usize)>,
    pub(crate) notes: Texts,
    pub(crate) sections: Texts,
    /// Items from which on another second tag holds, in order.
    pub(crate) places: Vec<(usize, Option<u32>)>,
}

impl Program {
    /// The program as the kernel of this host takes it, eight bytes a slot.
    pub fn bytes(&self) -> Vec<u8> {
        self.slots.iter().flat_map(|&slot| encode::bytes(slot)).collect()
    }

    /// The same program with descriptors in place of its own numbers of [maps](Insn::ld_map): `fds[0]` for
    /// map 0, and so on. Numbers beyond stay.
    #[must_use]
    pub fn with_maps(&self, fds: &[i32]) -> Program {
        let mut program = self.clone();
        for Placed { slot, step, .. } in &self.steps {
            if let Step::Op(Insn(Op::LdMap { map, .. })) = step
                && let Some(fd) = usize::try_from(*map).ok().and_then(|map| fds.get(map))
            {
                program.slots[*slot] = encode::with_immediate(program.slots[*slot], fd.cast_unsigned());
            }
        }
        program
    }

    /// The length in slots of eight bytes, what the kernel counts as instructions.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many jumps had to be lengthened to `gotol`. Kernels before 6.6 take only programs with none.
    pub fn long_jumps(&self) -> usize {
        self.long_jumps
    }

    /// How many `goto` stand on the way of jumps that would have been long.
    pub fn islands(&self) -> usize {
        self.islands
    }

    /// The tag the instruction at a slot was stamped with.
    pub fn origin_at(&self, slot: usize) -> Option<u32> {
        self.step_at(slot)?.origin
    }

    /// The second tag of the instruction at a slot.
    pub fn place_at(&self, slot: usize) -> Option<u32> {
        let item = self.step_at(slot)?.item;
        let behind = self.places.partition_point(|(at, _)| *at <= item);
        self.places[..behind].last()?.1
    }

    /// What stands beside the instruction at a slot.
    pub fn note_at(&self, slot: usize) -> Option<&str> {
        self.note_of(self.step_at(slot)?.item)
    }

    pub(crate) fn note_of(&self, item: usize) -> Option<&str> {
        let found = self.notes.binary_search_by_key(&item, |(at, _)| *at).ok()?;
        Some(&self.notes[found].1)
    }

    /// Whether the instruction at a slot stores to memory.
    pub fn stores_at(&self, slot: usize) -> bool {
        let stores = |insn| matches!(insn, Op::Store { .. } | Op::StoreImm { .. } | Op::AtomicAdd { .. });
        matches!(self.step_at(slot), Some(Placed { step: Step::Op(Insn(op)), .. }) if stores(*op))
    }

    /// Whether the instruction at a slot loads from memory.
    pub fn loads_at(&self, slot: usize) -> bool {
        let load = self.step_at(slot);
        matches!(load, Some(Placed { step: Step::Op(Insn(Op::Load { .. })), .. }))
    }

    /// The slot that control goes on to, if the register that a conditional jump looks at holds `value`: none after
    /// `exit`, and none of a jump that compares two registers.
    pub fn next(&self, slot: usize, value: u32) -> Option<usize> {
        let placed = self.step_at(slot)?;
        let behind = |insn: Insn| placed.slot + insn.slots();
        let (cond, off) = match placed.step {
            Step::Op(Insn(Op::Exit)) => return None,
            Step::Op(insn) => return Some(behind(insn)),
            Step::Jump { cond, off, .. } => (cond, i64::from(off)),
            Step::Island { off, .. } => (None, i64::from(off)),
            Step::Long { off, .. } => (None, i64::from(off)),
        };
        let taken = cond.map_or(Some(true), |cond| cond.holds(value))?;
        let next = placed.slot + 1;
        if taken { usize::try_from(i64::try_from(next).ok()? + off).ok() } else { Some(next) }
    }

    /// The listing's text of the instruction at a slot, with its note. Either slot of a two-slot
    /// instruction will do.
    pub fn text_at(&self, slot: usize) -> Option<String> {
        self.step_at(slot).map(|placed| listing::line(self, placed))
    }

    pub(crate) fn slot_bytes(&self, slot: usize) -> [u8; 8] {
        encode::bytes(self.slots[slot])
    }

    fn step_at(&self, slot: usize) -> Option<&Placed> {
        if slot >= self.slots.len() {
            return None;
        }
        let behind = self.steps.partition_point(|placed| placed.slot <= slot);
        self.steps[..behind].last()
    }
}
