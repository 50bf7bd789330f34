//! The annotated listing.
//!
//! In: a [`Program`]. Out: text in the dialect of `bpftool prog dump xlated` and `llvm-objdump`,
//! labels instead of distances, so that one more instruction is one more line in a diff. Offsets
//! and bytes appear in [`Program::hex`] only.
//!
//! Loads are printed with the 64-bit name of the register, as the kernel does: they clear what they
//! do not fill. Small immediates are decimal (ports, lengths), large ones hexadecimal (addresses), the
//! mask of `if r & m` always.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display, Write};

use crate::assembler::{Item, LabelDef, What};
use crate::insn::{Alu, Cmp, Cond, Insn, Op, Src};
use crate::operand::{Reg, Size, Src32, Src64};
use crate::program::{Placed, Program, Step};

/// The column in which notes begin.
const NOTE_COLUMN: usize = 42;
const INDENT: usize = 4;

impl Program {
    /// The program as text: labels, instructions, notes. `title_of_origin` gives the comment line to
    /// print where instructions of another origin begin.
    pub fn listing(&self, title_of_origin: &dyn Fn(u32) -> Option<String>) -> String {
        self.write(title_of_origin, |out, _, text| {
            let _ = writeln!(out, "{:INDENT$}{text}", "");
        })
    }

    /// The listing with the slot number and the bytes of each instruction in front.
    pub fn hex(&self, title_of_origin: &dyn Fn(u32) -> Option<String>) -> String {
        self.write(title_of_origin, |out, placed, text| {
            self.hex_line(out, placed.slot, text);
            if let Step::Op(insn) = placed.step {
                (1..insn.slots()).for_each(|second| self.hex_line(out, placed.slot + second, ""));
            }
        })
    }

    fn hex_line(&self, out: &mut String, slot: usize, text: &str) {
        let _ = write!(out, "{slot:>6} ");
        for byte in self.slot_bytes(slot) {
            let _ = write!(out, " {byte:02x}");
        }
        let _ = match text {
            "" => writeln!(out),
            text => writeln!(out, "  {text}"),
        };
    }

    /// Walks the program; `line` prints one instruction.
    fn write(
        &self,
        title_of_origin: &dyn Fn(u32) -> Option<String>,
        line: impl Fn(&mut String, &Placed, &str),
    ) -> String {
        let mut out = String::new();
        let (mut origin, mut noted) = (None, None);
        for (placed, before) in self.walk() {
            before.sections.iter().for_each(|(_, text)| comment(&mut out, text));
            if placed.origin != origin {
                origin = placed.origin;
                if let Some(title) = origin.and_then(title_of_origin) {
                    comment(&mut out, &title);
                }
            }
            for (_, label) in before.bound {
                let _ = writeln!(out, "{}:", self.label_names[*label]);
            }
            let mut text = step_text(&placed.step, &self.label_names);
            // A lengthened jump has its note on the first line only.
            if noted.replace(placed.item) != Some(placed.item) {
                self.add_note(&mut text, placed.item, NOTE_COLUMN - INDENT);
            }
            line(&mut out, placed, &text);
        }
        out
    }

    /// The listing, instruction by instruction.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut noted = None;
        self.walk().map(move |(placed, before)| Line {
            slot: placed.slot,
            origin: placed.origin,
            labels: before.bound.iter().map(|(_, label)| self.label_names[*label].as_str()).collect(),
            text: step_text(&placed.step, &self.label_names),
            note: (noted.replace(placed.item) != Some(placed.item))
                .then(|| self.note_of(placed.item))
                .flatten(),
        })
    }

    /// Each step, and what stands before it. What stands before an item left out moves on to the next that is not.
    fn walk(&self) -> impl Iterator<Item = (&Placed, Before<'_>)> {
        let (mut sections, mut bound) = (self.sections.as_slice(), self.bound.as_slice());
        self.steps.iter().map(move |placed| {
            let before = Before {
                sections: until(&mut sections, |(item, _)| *item <= placed.item),
                bound: until(&mut bound, |(item, _)| *item <= placed.item),
            };
            (placed, before)
        })
    }

    fn add_note(&self, text: &mut String, item: usize, column: usize) {
        if let Some(note) = self.note_of(item) {
            let _ = write!(text, "{:1$}; {note}", "", column.saturating_sub(text.len()).max(1));
        }
    }
}

/// An instruction as the listing shows it.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Where it is; one of two slots takes the next one, too.
    pub slot: usize,
    /// The tag that it was stamped with.
    pub origin: Option<u32>,
    /// The labels before it.
    pub labels: Vec<&'a str>,
    /// The instruction, labels in place of distances.
    pub text: String,
    /// What stands beside it.
    pub note: Option<&'a str>,
}

/// What stands before a step.
struct Before<'a> {
    sections: &'a [(usize, String)],
    bound: &'a [(usize, usize)],
}

/// Takes what comes first in the slice, as far as `is_before` holds.
fn until<'a, T>(rest: &mut &'a [T], is_before: impl Fn(&T) -> bool) -> &'a [T] {
    let count = rest.iter().take_while(|item| is_before(item)).count();
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

/// One instruction with its note, for use outside the listing.
pub(crate) fn line(program: &Program, placed: &Placed) -> String {
    let mut text = step_text(&placed.step, &program.label_names);
    program.add_note(&mut text, placed.item, 0);
    text
}

/// An item as it was pushed, for errors.
pub(crate) fn item_text(item: &Item, labels: &[LabelDef]) -> String {
    match item.what {
        What::Op(insn) => insn.to_string(),
        What::Jump { cond, to } => jump_text(cond, &labels[to.index].name),
    }
}

/// The labels' names; those bound are told apart by `.2`, `.3`, ... in the order they are bound.
pub(crate) fn unique_names(labels: Vec<LabelDef>, bound: &[(usize, usize)]) -> Vec<String> {
    let mut names: Vec<String> = labels.into_iter().map(|def| def.name).collect();
    // Given names first: a `miss.2` of the caller's keeps its name.
    let mut taken = HashSet::with_capacity(bound.len());
    let mut again = Vec::new();
    for &(_, label) in bound {
        if !taken.insert(names[label].clone()) {
            again.push(label);
        }
    }
    let mut counts: HashMap<String, u32> = HashMap::new();
    for label in again {
        let name = std::mem::take(&mut names[label]);
        let count = counts.entry(name.clone()).or_insert(1);
        names[label] = loop {
            *count += 1;
            let numbered = format!("{name}.{count}");
            if taken.insert(numbered.clone()) {
                break numbered;
            }
        };
    }
    names
}

fn comment(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "; {line}");
    }
}

fn step_text(step: &Step, names: &[String]) -> String {
    match step {
        Step::Op(insn) => insn.to_string(),
        Step::Jump { cond, to: Some(label), .. } => jump_text(*cond, &names[*label]),
        Step::Jump { cond, off, to: None } => jump_text(*cond, &format!("{off:+}")),
        Step::Island { to, .. } => {
            let jump = jump_text(None, &names[*to]);
            format!("{jump:width$}; island", width = NOTE_COLUMN - INDENT)
        }
        Step::Long { to, .. } => format!("gotol {}", names[*to]),
    }
}

fn jump_text(cond: Option<Cond>, to: &str) -> String {
    match cond {
        Some(cond) => format!("if {cond} goto {to}"),
        None => format!("goto {to}"),
    }
}

impl Display for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Op::Alu { op, dst, src } => write!(f, "{} {} {src}", Named(src, dst), alu(op)),
            Op::ToBe { dst, size } => {
                let (name, bits) = (sized(size, dst), u32::from(size.bytes()) * 8);
                write!(f, "{name} = be{bits} {name}")
            }
            Op::LdImm64 { dst, imm } => write!(f, "{dst} = {imm:#x} ll"),
            Op::LdMap { dst, map } => write!(f, "{dst} = map[{map}]"),
            Op::LdMapValue { dst, map_fd, off } => write!(f, "{dst} = map[fd:{map_fd}][0]+{off}"),
            Op::Load { size, dst, base, off } => write!(f, "{dst} = {}", Place(size, base, off)),
            Op::Store { size, base, off, src } => {
                write!(f, "{} = {}", Place(size, base, off), sized(size, src))
            }
            Op::StoreImm { size, base, off, imm } => {
                write!(f, "{} = {}", Place(size, base, off), Signed(imm))
            }
            Op::AtomicAdd { size, base, off, src } => {
                write!(f, "lock {} += {}", Place(size, base, off), sized(size, src))
            }
            Op::Call(helper) => write!(f, "call {}#{}", helper.name(), helper.id()),
            Op::Exit => f.write_str("exit"),
        }
    }
}

impl Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cmp = match self.cmp {
            Cmp::Eq => "==",
            Cmp::Ne => "!=",
            Cmp::Gt => ">",
            Cmp::Ge => ">=",
            Cmp::Lt => "<",
            Cmp::Le => "<=",
            Cmp::Set => "&",
        };
        write!(f, "{} {cmp} ", Named(self.with, self.reg))?;
        match (self.cmp, self.with) {
            (Cmp::Set, Src::Narrow(Src32::Imm(mask))) => write!(f, "{mask:#x}"),
            (Cmp::Set, Src::Wide(Src64::Imm(mask))) if mask >= 0 => write!(f, "{mask:#x}"),
            // Comparisons are unsigned: 255.255.255.255 is not -1.
            (_, Src::Narrow(Src32::Imm(bits))) => unsigned(f, bits),
            (_, with) => write!(f, "{with}"),
        }
    }
}

impl Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(sized(Size::D, *self))
    }
}

impl Display for Src {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Src::Narrow(Src32::Reg(reg)) => f.write_str(sized(Size::W, reg)),
            Src::Wide(Src64::Reg(reg)) => f.write_str(sized(Size::D, reg)),
            Src::Narrow(Src32::Imm(bits)) if bits.cast_signed() < SMALLEST => unsigned(f, bits),
            Src::Narrow(Src32::Imm(bits)) => Signed(bits.cast_signed()).fmt(f),
            Src::Wide(Src64::Imm(value)) => Signed(value).fmt(f),
        }
    }
}

/// The lowest number printed as decimal: what lies below reads better as a mask.
const SMALLEST: i32 = -4096;
/// The highest: any port or length.
const LARGEST: u32 = 65_535;

/// An immediate the kernel sign-extends.
struct Signed(i32);

impl Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value @ SMALLEST..0 => write!(f, "{value}"),
            value @ ..SMALLEST => write!(f, "-{:#x}", value.unsigned_abs()),
            value => unsigned(f, value.cast_unsigned()),
        }
    }
}

fn unsigned(f: &mut fmt::Formatter<'_>, bits: u32) -> fmt::Result {
    if bits <= LARGEST { write!(f, "{bits}") } else { write!(f, "{bits:#x}") }
}

/// A register by the width of the operation.
struct Named(Src, Reg);

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Src::Narrow(_) => sized(Size::W, self.1),
            Src::Wide(_) => sized(Size::D, self.1),
        })
    }
}

/// A place in memory.
struct Place(Size, Reg, i16);

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place(size, base, off) = *self;
        let sign = if off < 0 { '-' } else { '+' };
        write!(f, "*(u{} *)({base} {sign} {})", u32::from(size.bytes()) * 8, off.unsigned_abs())
    }
}

fn alu(op: Alu) -> &'static str {
    match op {
        Alu::Mov => "=",
        Alu::Add => "+=",
        Alu::Sub => "-=",
        Alu::And => "&=",
        Alu::Mul => "*=",
        Alu::Or => "|=",
        Alu::Xor => "^=",
        Alu::Lsh => "<<=",
        Alu::Rsh => ">>=",
    }
}

/// `w` names the lower half: what operations of four bytes and fewer use.
fn sized(size: Size, reg: Reg) -> &'static str {
    let (whole, half) = match reg {
        Reg::R0 => ("r0", "w0"),
        Reg::R1 => ("r1", "w1"),
        Reg::R2 => ("r2", "w2"),
        Reg::R3 => ("r3", "w3"),
        Reg::R4 => ("r4", "w4"),
        Reg::R5 => ("r5", "w5"),
        Reg::R6 => ("r6", "w6"),
        Reg::R7 => ("r7", "w7"),
        Reg::R8 => ("r8", "w8"),
        Reg::R9 => ("r9", "w9"),
        Reg::R10 => ("r10", "w10"),
    };
    if size == Size::D { whole } else { half }
}
