//! The assembler: takes instructions in order, with labels, notes and origins.
//!
//! In: one call an instruction. Out: the list that `resolve` turns into a [`Program`].
//! Nothing here knows a distance or a slot number, and nothing here fails, except that breaking the
//! rules of labels (binding twice, using another assembler's) panics: that is a bug of the caller.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::insn::{Cond, Insn, Op};
use crate::program::Program;
use crate::resolve::Error;

/// A place in the program that jumps can name before it exists. Belongs to the assembler that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    owner: u32,
    pub(crate) index: usize,
}

/// One instruction as pushed; a jump keeps its target symbolic until `resolve`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) what: What,
    pub(crate) origin: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Op(Insn),
    Jump { cond: Option<Cond>, to: Label },
}

impl Item {
    /// Whether control can go on to the next instruction.
    pub(crate) fn falls_through(&self) -> bool {
        !matches!(self.what, What::Op(Insn(Op::Exit)) | What::Jump { cond: None, .. })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct LabelDef {
    pub(crate) name: String,
    /// The index of the item after the label.
    pub(crate) at: Option<usize>,
}

/// Text for the listing, by the index of the item it belongs to; in order of that index.
pub(crate) type Texts = Vec<(usize, String)>;

/// Collects a program, instruction by instruction.
#[derive(Debug)]
pub struct Assembler {
    id: u32,
    pub(crate) items: Vec<Item>,
    pub(crate) labels: Vec<LabelDef>,
    pub(crate) notes: Texts,
    pub(crate) sections: Texts,
    pub(crate) places: Vec<(usize, Option<u32>)>,
    pub(crate) reach: i16,
    pub(crate) long_jumps: bool,
    origin: Option<u32>,
    reachable: bool,
}

impl Default for Assembler {
    fn default() -> Self {
        Self::new()
    }
}

impl Assembler {
    /// An empty program.
    pub fn new() -> Self {
        // Only to tell one assembler's labels from another's: never reaches a program.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Assembler {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            items: Vec::new(),
            labels: Vec::new(),
            notes: Vec::new(),
            sections: Vec::new(),
            places: Vec::new(),
            reach: i16::MAX,
            long_jumps: true,
            origin: None,
            reachable: true,
        }
    }

    /// How far a short jump may go, in slots, instead of as far as 16 bits can say.
    ///
    /// The kernel rewrites some instructions to several (accesses to the context, barriers), and
    /// refuses a program in which a short jump across them is then out of reach (`bpf_adj_branches`,
    /// kernel/bpf/core.c: "cannot be patched due to 16-bit range").
    pub fn reach(&mut self, slots: u16) {
        self.reach = i16::try_from(slots).unwrap_or(i16::MAX);
    }

    /// Whether the kernel has `gotol` (6.6 and later have). Without, jumps forward that are out of reach land on
    /// islands, which jump on, and a jump back that is out of reach is an error.
    pub fn long_jumps(&mut self, there_are: bool) {
        self.long_jumps = there_are;
    }

    /// A new label, bound nowhere yet. Names are for the listing and need not be unique.
    pub fn label(&mut self, name: impl Into<String>) -> Label {
        self.labels.push(LabelDef { name: name.into(), at: None });
        Label { owner: self.id, index: self.labels.len() - 1 }
    }

    /// Puts the label before the next instruction.
    ///
    /// # Panics
    ///
    /// If the label is bound already, or is another assembler's.
    pub fn bind(&mut self, label: Label) {
        self.check_owner(label);
        let def = &mut self.labels[label.index];
        assert!(def.at.is_none(), "label `{}` bound twice", def.name);
        def.at = Some(self.items.len());
        self.reachable = true;
    }

    /// How many instructions have been appended.
    pub fn position(&self) -> usize {
        self.items.len()
    }

    /// Appends an instruction.
    pub fn push(&mut self, insn: Insn) {
        self.append(What::Op(insn));
    }

    /// `goto pass`
    ///
    /// Left out when nothing but left-out jumps lies between it and its target.
    ///
    /// # Panics
    ///
    /// If the label is another assembler's.
    pub fn goto(&mut self, to: Label) {
        self.check_owner(to);
        self.append(What::Jump { cond: None, to });
    }

    /// `if w1 == 80 goto pass`
    ///
    /// Left out when nothing but left-out jumps lies between it and its target.
    ///
    /// # Panics
    ///
    /// If the label is another assembler's.
    pub fn jump_if(&mut self, cond: Cond, to: Label) {
        self.check_owner(to);
        self.append(What::Jump { cond: Some(cond), to });
    }

    /// A comment beside the next instruction; several are joined by commas.
    pub fn note(&mut self, text: impl Into<String>) {
        let next = self.items.len();
        match self.notes.last_mut() {
            Some((at, note)) if *at == next => {
                note.push_str(", ");
                note.push_str(&text.into());
            }
            _ => self.notes.push((next, text.into())),
        }
    }

    /// A comment on a line of its own before the next instruction.
    pub fn section(&mut self, text: impl Into<String>) {
        self.sections.push((self.items.len(), text.into()));
    }

    /// Stamps the instructions from here on with an opaque tag, or with none.
    pub fn origin(&mut self, origin: Option<u32>) {
        self.origin = origin;
    }

    /// Stamps the instructions from here on with a second tag, or with none: which question they belong to.
    pub fn place(&mut self, place: Option<u32>) {
        let (next, last) = (self.items.len(), self.places.last().and_then(|(_, last)| *last));
        match self.places.last_mut() {
            _ if last == place => {}
            Some((at, last)) if *at == next => *last = place,
            _ => self.places.push((next, place)),
        }
    }

    /// Whether the next instruction can be reached: false directly after a `goto` or an `exit`,
    /// until a label is bound. The kernel refuses unreachable instructions.
    pub fn reachable(&self) -> bool {
        self.reachable
    }

    /// Turns labels into distances and encodes the program.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] if there are more instructions than the kernel takes. All others say that
    /// the caller emitted something that is no program.
    pub fn finish(self) -> Result<Program, Error> {
        crate::resolve::resolve(self)
    }

    fn append(&mut self, what: What) {
        let item = Item { what, origin: self.origin };
        self.reachable = item.falls_through();
        self.items.push(item);
    }

    fn check_owner(&self, label: Label) {
        assert!(label.owner == self.id, "a label of another assembler");
    }
}
