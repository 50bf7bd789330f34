//! Labels to distances.
//!
//! In: the assembler's list. Out: a [`Program`], or an [`Error`]; never a truncated distance.
//!
//! Four passes, each linear in the number of instructions:
//!
//! 1. `live`: leave out jumps to the next instruction, then walk the control flow graph. Anything not
//!    reached, or running off the end, is an error: the verifier refuses both.
//! 2. `relax`: all jumps start short (16 bits). Those out of reach become long, which pushes others
//!    out of reach, and so on. Where there are to be no long ones, [`islands`](crate::islands) instead.
//! 3. `emit`: items to steps, one for each instruction of the kernel.
//! 4. encode.
//!
//! Why relaxation ends, and is right: a jump only ever grows, so distances only ever grow, so there
//! are at most as many rounds as jumps. Real programs take three. A cascade in which each round
//! lengthens a single jump would be quadratic, so after [`ROUNDS`] rounds one pass decides the rest
//! as if every jump still short had grown. The final distances can only be smaller than those.

use crate::Label;
use crate::assembler::{Assembler, Item, LabelDef, What};
use crate::encode;
use crate::insn::Cond;
use crate::islands::{Layout, Pool};
use crate::listing;
use crate::program::{Placed, Program, Step};

/// `BPF_COMPLEXITY_LIMIT_INSNS`: the kernel takes no longer program, whatever the capabilities.
const MAX_SLOTS: usize = 1_000_000;

/// How often the jumps are looked at one by one before the pessimistic pass.
const ROUNDS: usize = 16;

/// Why a list of instructions is not a program. All but [`Error::TooLarge`] are bugs of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A jump's target was never bound.
    #[error("label `{label}` is jumped to, but bound nowhere")]
    Unbound {
        /// The label's name.
        label: String,
    },
    /// No path leads to an instruction, which the verifier refuses.
    #[error("instruction {index} can never be reached: {text}")]
    Unreachable {
        /// How many instructions were pushed before it.
        index: usize,
        /// The instruction.
        text: String,
    },
    /// A path leads past the last instruction.
    #[error("control runs off the end of the program after: {text}")]
    RunsOff {
        /// The last instruction on that path; empty if there is none at all.
        text: String,
    },
    /// More slots than the kernel takes.
    #[error("the program takes {slots} instructions, the kernel takes at most {limit}")]
    TooLarge {
        /// How long the program would be.
        slots: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Without long jumps, no island can be put between a jump and its label.
    #[error("label `{label}` is further away than a short jump goes")]
    TooFar {
        /// The label's name.
        label: String,
    },
    /// The encoder gave back something else than it was given.
    #[error("cannot encode: {text}")]
    Encoding {
        /// The instruction.
        text: String,
    },
}

pub(crate) fn resolve(asm: Assembler) -> Result<Program, Error> {
    let list = List { items: &asm.items, labels: &asm.labels, reach: asm.reach };
    list.check_bound()?;
    let kept = list.live()?;
    let (forms, layout) =
        if asm.long_jumps { list.relax(&kept) } else { (forms(&kept), list.with_islands(&kept)?) };
    let slots = layout.places.last().copied().unwrap_or(0);
    if slots > MAX_SLOTS {
        return Err(Error::TooLarge { slots, limit: MAX_SLOTS });
    }
    let steps = list.emit(&forms, &layout)?;
    let mut encoded = Vec::with_capacity(slots);
    for placed in &steps {
        if !encode::encode(&placed.step, &mut encoded) {
            return Err(Error::Encoding { text: list.text(placed.item) });
        }
    }
    let mut bound: Vec<_> = asm.labels.iter().enumerate().filter_map(|(n, def)| Some((def.at?, n))).collect();
    bound.sort_unstable();
    Ok(Program {
        slots: encoded,
        islands: layout.pools.iter().map(|pool| pool.islands.len()).sum(),
        long_jumps: forms.iter().filter(|&&form| form == Form::Long).count(),
        steps,
        label_names: listing::unique_names(asm.labels, &bound),
        bound,
        notes: asm.notes,
        sections: asm.sections,
        places: asm.places,
    })
}

/// How an item is going to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Dropped,
    /// An instruction, or a jump within 16 bits.
    Short,
    /// A jump that needs `gotol`.
    Long,
}

pub(crate) struct List<'a> {
    pub(crate) items: &'a [Item],
    pub(crate) labels: &'a [LabelDef],
    /// How far a short jump may go forwards, and one slot more backwards.
    pub(crate) reach: i16,
}

impl List<'_> {
    fn check_bound(&self) -> Result<(), Error> {
        for item in self.items {
            if let What::Jump { to, .. } = item.what {
                let def = &self.labels[to.index];
                if def.at.is_none() {
                    return Err(Error::Unbound { label: def.name.clone() });
                }
            }
        }
        Ok(())
    }

    /// The item after a label that `check_bound` has seen.
    pub(crate) fn target(&self, label: Label) -> usize {
        self.labels[label.index].at.unwrap_or(self.items.len())
    }

    fn text(&self, item: usize) -> String {
        listing::item_text(&self.items[item], self.labels)
    }

    /// Which items stay, or the first that cannot be reached.
    fn live(&self) -> Result<Vec<bool>, Error> {
        let end = self.items.len();
        // Backwards, so that what follows an item is settled when its turn comes: one pass drops
        // chains of jumps to the next instruction whole. A dropped jump went where control goes
        // without it, so reachability is the same before and after.
        let mut kept = vec![true; end];
        let mut next_kept = vec![end; end + 1];
        for (at, item) in self.items.iter().enumerate().rev() {
            next_kept[at] = at;
            if let What::Jump { to, .. } = item.what {
                let target = self.target(to);
                if target > at && next_kept[target] == next_kept[at + 1] {
                    kept[at] = false;
                    next_kept[at] = next_kept[at + 1];
                }
            }
        }

        let mut reached = vec![false; end];
        let mut waiting = Vec::new();
        let mut from = None;
        let mut at = next_kept[0];
        loop {
            // Follow one path until it ends or meets another.
            while at < end && !reached[at] {
                reached[at] = true;
                from = Some(at);
                let item = &self.items[at];
                if let What::Jump { to, .. } = item.what {
                    waiting.push((at, next_kept[self.target(to)]));
                }
                if !item.falls_through() {
                    break;
                }
                at = next_kept[at + 1];
            }
            if at >= end {
                return Err(Error::RunsOff { text: from.map(|item| self.text(item)).unwrap_or_default() });
            }
            match waiting.pop() {
                Some((jump, target)) => (from, at) = (Some(jump), target),
                None => break,
            }
        }
        match (0..end).find(|&at| kept[at] && !reached[at]) {
            Some(index) => Err(Error::Unreachable { index, text: self.text(index) }),
            None => Ok(kept),
        }
    }

    /// The form of each item, and where it goes.
    fn relax(&self, kept: &[bool]) -> (Vec<Form>, Layout) {
        let mut forms = forms(kept);
        for round in 0..=ROUNDS {
            let assumed = if round < ROUNDS { Form::Short } else { Form::Long };
            let places = self.places(&forms, assumed);
            let mut grown = false;
            for (at, item) in self.items.iter().enumerate() {
                if let What::Jump { to, .. } = item.what
                    && forms[at] == Form::Short
                    && !self.in_reach(distance(places[at + 1], places[self.target(to)]))
                {
                    forms[at] = Form::Long;
                    grown = true;
                }
            }
            if !grown {
                break;
            }
        }
        let places = self.places(&forms, Form::Short);
        let lands = self.items.iter().map(|item| match item.what {
            What::Jump { to, .. } => places[self.target(to)],
            What::Op(_) => 0,
        });
        let lands = lands.collect();
        (forms, Layout { places, lands, pools: Vec::new() })
    }

    fn in_reach(&self, distance: isize) -> bool {
        let reach = isize::from(self.reach);
        (-reach - 1..=reach).contains(&distance)
    }

    /// The slot of each item, and of the end, if the jumps still short took the form `assumed`.
    fn places(&self, forms: &[Form], assumed: Form) -> Vec<usize> {
        let mut slot = 0;
        let mut places = Vec::with_capacity(forms.len() + 1);
        for (item, &form) in self.items.iter().zip(forms) {
            places.push(slot);
            slot += width(item, if form == Form::Short { assumed } else { form });
        }
        places.push(slot);
        places
    }

    fn emit(&self, forms: &[Form], layout: &Layout) -> Result<Vec<Placed>, Error> {
        let mut steps = Vec::with_capacity(self.items.len());
        let mut pools = layout.pools.iter().peekable();
        for (at, item) in self.items.iter().enumerate() {
            if let Some(pool) = pools.next_if(|pool| pool.before == at) {
                self.emit_pool(pool, &mut steps)?;
            }
            let mut slot = layout.places[at];
            let mut place = |step| {
                steps.push(Placed { slot, item: at, origin: item.origin, step });
                slot += 1;
            };
            let (cond, to) = match item.what {
                What::Op(insn) => {
                    place(Step::Op(insn));
                    continue;
                }
                What::Jump { cond, to } => (cond, to),
            };
            // Each form ends with the instruction that goes to the label.
            let away = distance(layout.places[at] + width(item, forms[at]), layout.lands[at]);
            let too_far = |_| Error::Encoding { text: self.text(at) };
            let to = to.index;
            match forms[at] {
                Form::Dropped => {}
                Form::Short => {
                    let off = i16::try_from(away).map_err(too_far)?;
                    place(Step::Jump { cond, off, to: Some(to) });
                }
                Form::Long => {
                    let hop = |cond| Step::Jump { cond, off: 1, to: None };
                    match cond.map(|cond| cond.inverse().ok_or(cond)) {
                        None => {}
                        Some(Ok(inverse)) => place(hop(Some(inverse))),
                        // No inverse: hop over the hop that leaves out the long jump.
                        Some(Err(cond)) => {
                            place(hop(Some(cond)));
                            place(hop(None));
                        }
                    }
                    let off = i32::try_from(away).map_err(too_far)?;
                    place(Step::Long { off, to });
                }
            }
        }
        Ok(steps)
    }

    /// As a part of the item that they are after: labels are bound after them.
    fn emit_pool(&self, pool: &Pool, steps: &mut Vec<Placed>) -> Result<(), Error> {
        let item = pool.before.saturating_sub(1);
        let too_far = |_| Error::Encoding { text: self.text(item) };
        let mut place = |slot, step| steps.push(Placed { slot, item, origin: None, step });
        if pool.skip {
            let off = i16::try_from(pool.islands.len()).map_err(too_far)?;
            place(pool.slot, Step::Jump { cond: None, off, to: None });
        }
        for (slot, island) in (pool.slot + usize::from(pool.skip)..).zip(&pool.islands) {
            let off = i16::try_from(distance(slot + 1, island.lands)).map_err(too_far)?;
            place(slot, Step::Island { off, to: island.label });
        }
        Ok(())
    }
}

/// All short, but for what is left out.
fn forms(kept: &[bool]) -> Vec<Form> {
    kept.iter().map(|&k| if k { Form::Short } else { Form::Dropped }).collect()
}

/// The slots an item takes in a form.
pub(crate) fn width(item: &Item, form: Form) -> usize {
    match (item.what, form) {
        (_, Form::Dropped) => 0,
        (What::Op(insn), _) => insn.slots(),
        (What::Jump { .. }, Form::Short) => 1,
        (What::Jump { cond, .. }, Form::Long) => match cond.map(Cond::inverse) {
            None => 1,
            Some(Some(_)) => 2,
            Some(None) => 3,
        },
    }
}

/// How far a jump has to go that ends before the slot `behind`.
fn distance(behind: usize, target: usize) -> isize {
    // Exact: a program has far fewer slots than an isize can count.
    target.cast_signed() - behind.cast_signed()
}
