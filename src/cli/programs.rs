//! The programs that one attachment needs, compiled and loaded.
//!
//! Comes in: rules, and for each hook what its program is for. Goes out: descriptors, each program once, whatever
//! the number of interfaces. Never attaches.

use std::os::fd::{AsFd, BorrowedFd};

use asm::Program;

use super::rules::Rules;
use super::{Console, Failure};
use crate::codegen::{self, Beside, Large, Options, Via};
use crate::ir::Side;
use crate::net::beside::Back;
use crate::net::gso::Aside;
use crate::net::{Hook, Link, Mark, mark};
use crate::{elf, kernel};

/// What the rules became.
#[derive(Debug)]
pub struct Programs {
    each: Vec<(Options, Program, kernel::Program)>,
    rules: usize,
}

impl Programs {
    /// Compiles for each of `wanted`, and loads all of them or none. A refusal is explained.
    pub fn load(
        rules: &Rules,
        wanted: impl Iterator<Item = Options>,
        console: &mut Console<'_>,
    ) -> Result<Self, Failure> {
        let mut all: Vec<Options> = Vec::new();
        for options in wanted {
            if !all.contains(&options) {
                all.push(options);
            }
        }
        let compiled =
            all.iter().map(|options| rules.compile(*options)).collect::<Result<Vec<Program>, Failure>>()?;
        let own: Vec<String> = all.iter().map(|options| name(*options)).collect();
        let named: Vec<(&str, &Program)> = own.iter().map(String::as_str).zip(&compiled).collect();
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let loaded = kernel::load(&elf::wrap(&named)?, &names).inspect_err(|error| {
            if let Some(text) = rules.explain(error, &named, console.color) {
                console.say(text);
            }
        })?;
        let each = all.into_iter().zip(compiled).zip(loaded).map(|((o, c), l)| (o, c, l)).collect();
        Ok(Self { each, rules: rules.ruleset.rules.len() })
    }

    /// The program for this, and what its filter's name says.
    pub fn of(&self, options: Options, aside: Aside) -> Option<(BorrowedFd<'_>, String)> {
        let (_, compiled, loaded) = self.each.iter().find(|(of, ..)| *of == options)?;
        let Aside { large, merging, finishing } = aside;
        let mark = Mark { large, merging, finishing, ..Mark::new(&compiled.bytes(), self.rules) };
        Some((loaded.as_fd(), mark.to_string()))
    }

    pub fn debug(&self, console: &mut Console<'_>) {
        for (_, compiled, program) in &self.each {
            describe(program, compiled, console);
        }
    }
}

/// What `--debug` says of a program.
pub fn describe(program: &kernel::Program, compiled: &Program, console: &mut Console<'_>) {
    let translated = program.translated.map_or("unknown".to_owned(), |bytes| (bytes / 8).to_string());
    console.say(format!(
        "debug: program {} `{}`: {} instructions, {} long jumps, {translated} after the verifier",
        program.id,
        program.name,
        compiled.slots(),
        compiled.long_jumps(),
    ));
}

/// What a hook's program is for.
pub fn options(link: Link, hook: Hook, aside: Aside) -> Options {
    let large = match aside.large {
        mark::Large::Pass | mark::Large::Limited(_) => Large::Pass,
        mark::Large::Pair => Large::Segment(hook.into(), Via::Pair),
        mark::Large::Macvlan => Large::Segment(hook.into(), Via::Macvlan),
    };
    Options { link, large, merge: aside.merging, finish: aside.finishing }
}

/// Names of programs are no longer than 15: `sfunnel_l3_inmd`. The last letter: finished, or cut directly.
pub fn name(Options { link, large, merge, finish }: Options) -> String {
    let link = match link {
        Link::Ethernet => "",
        Link::None => "_l3",
    };
    let (large, how) = match large {
        Large::Pass => (if merge { "_" } else { "" }, ""),
        Large::Segment(side, via) => {
            let how = match via {
                Via::Macvlan => "d",
                Via::Pair if finish => "f",
                Via::Pair => "",
            };
            (if side == Side::Egress { "_out" } else { "_in" }, how)
        }
    };
    let merge = if merge { "m" } else { "" };
    format!("sfunnel{link}{large}{merge}{how}")
}

/// The programs for the devices beside interfaces.
#[derive(Debug)]
pub struct Ends(Vec<(Beside, Hook, Program, kernel::Program)>);

impl Ends {
    pub fn load() -> Result<Self, Failure> {
        let (out, back) = (Side::Egress, Side::Ingress);
        let compiled = [
            ("sfunnel_cross_o", Beside::Ingress, Hook::Ingress, codegen::compile_crossed(out)?),
            ("sfunnel_cross_i", Beside::Egress, Hook::Ingress, codegen::compile_crossed(back)?),
            ("sfunnel_cut_out", Beside::Egress, Hook::Egress, codegen::compile_cut(out)?),
            ("sfunnel_cut_in", Beside::Ingress, Hook::Egress, codegen::compile_cut(back)?),
            ("sfunnel_merged", Beside::Merged, Hook::Ingress, codegen::compile_merged()?),
        ];
        let named = compiled.each_ref().map(|(name, _, _, program)| (*name, program));
        let loaded = kernel::load(&elf::wrap(&named)?, &named.map(|(name, _)| name))?;
        if loaded.len() != compiled.len() {
            return Err(Failure::Internal("a program is missing".to_owned()));
        }
        let each = compiled.into_iter().zip(loaded);
        Ok(Self(each.map(|((_, at, hook, program), loaded)| (at, hook, program, loaded)).collect()))
    }

    pub fn back(&self) -> Vec<Back<'_>> {
        self.0
            .iter()
            .map(|(at, hook, compiled, loaded)| Back {
                at: *at,
                hook: *hook,
                program: loaded.as_fd(),
                name: Mark::new(&compiled.bytes(), 0).end(),
            })
            .collect()
    }
}
