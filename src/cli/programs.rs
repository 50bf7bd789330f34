//! The programs that one attachment needs, compiled and loaded.
//!
//! Input: rules, and for each hook what its program is for. Output: descriptors, each program once, whatever
//! the number of interfaces. Never attaches.

use std::os::fd::AsFd;

use asm::Program;

use super::rules::Rules;
use super::{Console, Failure};
use crate::codegen::{Companion, Options};
use crate::net::companion::CompanionProgram;
use crate::net::gso::HookSetup;
use crate::net::{Hook, Mark};
use crate::{elf, kernel, policy};

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
        flows: [i32; 3],
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
        let own = policy::names(&all);
        let mapped: Vec<Program> = compiled.iter().map(|program| with_maps(program, [0; 2], flows)).collect();
        let named: Vec<(&str, &Program)> = own.iter().map(String::as_str).zip(&mapped).collect();
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let with = rules.object(&named)?;
        let loaded = kernel::load_with_rules(&with, &elf::wrap(&named)?, &names).inspect_err(|error| {
            if let Some(text) = rules.explain(error, &named, console.color) {
                console.say(text);
            }
        })?;
        let each = all.into_iter().zip(compiled).zip(loaded).map(|((o, c), l)| (o, c, l)).collect();
        Ok(Self { each, rules: rules.ruleset.rules.len() })
    }

    /// The program for this, and what its filter's name says.
    pub fn of(&self, options: Options, setup: HookSetup) -> Option<(&kernel::Program, String)> {
        let (_, compiled, loaded) = self.each.iter().find(|(of, ..)| *of == options)?;
        let HookSetup { gso, merging, finishing, reach } = setup;
        let fast = options.fast;
        let mark = Mark { gso, merging, finishing, reach, fast, ..Mark::new(&compiled.bytes(), self.rules) };
        Some((loaded, mark.to_string()))
    }

    pub fn debug(&self, console: &mut Console<'_>) {
        for (_, compiled, program) in &self.each {
            describe(program, compiled, console);
        }
    }
}

/// With descriptors in place of the program's own numbers: those of its counters, then those of flows.
pub(super) fn with_maps(program: &Program, counters: [i32; 2], flows: [i32; 3]) -> Program {
    let descriptors: Vec<i32> = counters.into_iter().chain(flows).collect();
    program.with_maps(&descriptors)
}

/// What `--debug` says of a program.
pub fn describe(program: &kernel::Program, compiled: &Program, console: &mut Console<'_>) {
    let translated = program.translated.map_or("unknown".to_owned(), |bytes| (bytes / 8).to_string());
    console.say(format!(
        "debug: program {} `{}`: {} instructions, {} long jumps, {} islands, {translated} after the verifier",
        program.id,
        program.name,
        compiled.slots(),
        compiled.long_jumps(),
        compiled.islands(),
    ));
}

/// The programs for the devices beside interfaces.
#[derive(Debug)]
pub struct CompanionPrograms(Vec<(Companion, Hook, Program, kernel::Program)>);

impl CompanionPrograms {
    pub fn load() -> Result<Self, Failure> {
        let compiled = policy::companions()?;
        let named = compiled.each_ref().map(|(name, _, _, program)| (*name, program));
        let loaded = kernel::load(&elf::wrap(&named)?, &named.map(|(name, _)| name))?;
        if loaded.len() != compiled.len() {
            return Err(Failure::Internal("a program is missing".to_owned()));
        }
        let each = compiled.into_iter().zip(loaded);
        Ok(Self(each.map(|((_, at, side, program), loaded)| (at, side.into(), program, loaded)).collect()))
    }

    pub fn back(&self) -> Vec<CompanionProgram<'_>> {
        self.0
            .iter()
            .map(|(at, hook, compiled, loaded)| CompanionProgram {
                at: *at,
                hook: *hook,
                program: loaded.as_fd(),
                name: Mark::new(&compiled.bytes(), 0).end(),
            })
            .collect()
    }
}
