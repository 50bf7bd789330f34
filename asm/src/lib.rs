//! An eBPF assembler: instructions and labels in, the slots the kernel takes and a listing out.
//!
//! ```text
//! Assembler --push, bind, jump_if--> items --resolve--> steps --encode--> Program (slots, listing)
//! ```
//!
//! It knows no packets, no rules and no kernel beyond the instruction set. Emission never fails;
//! whatever is wrong with the program as a whole is an [`Error`] of [`Assembler::finish`].
//!
//! Jumps name labels, never distances. Each starts in its short form (16 bits of reach) and is
//! lengthened to `gotol` only where the distance asks for it, or led over islands on kernels without it.
//!
//! ```
//! use asm::{Assembler, Cond, Insn, Reg, Size};
//!
//! let mut asm = Assembler::new();
//! let pass = asm.label("pass");
//! asm.push(Insn::mov32(Reg::R0, -1));
//! asm.note("protocol");
//! asm.push(Insn::load(Size::W, Reg::R2, Reg::R1, 16));
//! asm.jump_if(Cond::ne32(Reg::R2, 8u8), pass);
//! asm.push(Insn::mov32(Reg::R0, 2));
//! asm.bind(pass);
//! asm.push(Insn::exit());
//! let program = asm.finish().unwrap();
//! assert_eq!(program.slots(), 5);
//! assert_eq!(
//!     program.listing(&|_| None),
//!     "    w0 = -1
//!     r2 = *(u32 *)(r1 + 16)                ; protocol
//!     if w2 != 8 goto pass
//!     w0 = 2
//! pass:
//!     exit
//! "
//! );
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod assembler;
mod encode;
mod insn;
mod islands;
mod listing;
mod operand;
mod program;
mod resolve;

pub use assembler::{Assembler, Label};
pub use insn::{Cond, Helper, Insn};
pub use listing::Line;
pub use operand::{Reg, Size, Src32, Src64};
pub use program::Program;
pub use resolve::Error;
