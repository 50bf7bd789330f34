//! The rule language: text in, [`Ast`] out, or everything that is wrong with the text.
//!
//! One function per production of docs/rules.md, over nom. Knows what can be read, not what makes
//! sense: `tcp udp` passes here and is refused by [`check`](crate::check).

mod action;
mod alias;
pub mod ast;
mod bypass;
mod define;
mod flags;
mod help;
mod list_errors;
mod nat;
mod parser;
mod ruleset;
mod set;
mod value;
mod word;

use self::ast::Ast;
pub(crate) use self::help::LONGEST_QUOTED;
pub(crate) use self::parser::repeated;
use crate::diag::{Diagnostic, Source};

/// The rules, or all syntax errors of all of them.
pub fn parse(source: &Source) -> Result<Ast, Vec<Diagnostic>> {
    let (ast, faults) = recover(source);
    if faults.is_empty() { Ok(ast) } else { Err(faults) }
}

/// Whatever could be read, with rules marked [damaged](ast::Rule::damaged) where some words could
/// not, and what is wrong with those: what is left can still be checked.
pub fn recover(source: &Source) -> (Ast, Vec<Diagnostic>) {
    ruleset::ruleset(source)
}
