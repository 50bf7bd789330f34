//! sfunnel: a small ruleset in, eBPF instructions out, loaded and attached to tc.
//!
//! Data flows one way, and every arrow is one public function:
//!
//! ```text
//! text --parse--> AST --check--> IR --build--> diagram --compile--> program --wrap--> ELF --load--> kernel --attach--> hook
//! ```
//!
//! A stage imports only what is to its left. Everything up to `load` is pure.

#[cfg(target_endian = "big")]
compile_error!(
    "sfunnel is for little-endian processors: constants of packets are compiled in as these store them, and nobody has tried the programs on others"
);

pub mod action;
pub mod check;
pub mod cli;
pub mod codegen;
pub mod demo;
pub mod diag;
pub mod diagram;
pub mod diff;
pub mod dissect;
pub mod doctor;
pub mod drawing;
pub mod elf;
pub mod explain;
pub mod field;
pub mod flow;
pub mod hops;
pub mod ir;
pub mod json;
pub mod kernel;
pub mod matches;
pub mod mirror;
pub mod net;
pub mod nodes;
pub mod packet;
pub mod page;
pub mod paint;
pub mod policy;
pub mod protocol;
pub mod router_rules;
pub mod rule_text;
pub mod settings;
pub mod stored;
pub mod syntax;
pub mod system;
pub mod value_text;

pub use check::{Checked, Lists, read, read_lists};
