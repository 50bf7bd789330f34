//! Programs that count: one for each hook, with maps of its own, and what becomes of those it replaces.
//!
//! Input: rules some of which count, and where they go. Output: loaded programs, and numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use asm::Program;

use super::rules::Rules;
use super::{Console, Failure, programs};
use crate::codegen::Options;
use crate::kernel::counters::{Counters, Counts, Unreadable, wait_for_grace_period};
use crate::net::gso::HookSetup;
use crate::net::{Attached, Attachment, Filter, Hook, Interface, Mark};
use crate::{elf, kernel, policy};

/// What goes on one hook.
pub(super) type Wanted<'a> = (&'a Interface, Hook, Options, HookSetup);

/// The programs of one attachment whose rules count.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    compiled: HashMap<Options, Program>,
    rules: usize,
    each: Vec<Counted<'a>>,
}

#[derive(Debug)]
struct Counted<'a> {
    wanted: Wanted<'a>,
    program: kernel::Program,
    counters: Counters,
    /// Those of the program that it will replace.
    before: Option<Result<Counters, Unreadable>>,
}

impl<'a> Counting<'a> {
    /// Compiles once for each kind, loads once for each hook. `standing` is what is on the hooks now.
    pub(super) fn load(
        rules: &Rules,
        wanted: Vec<Wanted<'a>>,
        standing: &[Filter],
        flows: [i32; 3],
        console: &mut Console<'_>,
    ) -> Result<Self, Failure> {
        let mut counting =
            Self { compiled: HashMap::new(), rules: rules.ruleset.rules.len(), each: Vec::new() };
        for wanted in wanted {
            let (interface, hook, options, _) = wanted;
            let compiled = match counting.compiled.entry(options) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(rules.compile(options)?),
            };
            let counters = Counters::create(&rules.ruleset)?;
            let name = policy::name(options);
            let name = name.as_str();
            let mapped = programs::with_maps(compiled, counters.descriptors(), flows);
            let mapped = [(name, &mapped)];
            let program = kernel::load_with_rules(&rules.object(&mapped)?, &elf::wrap(&mapped)?, &[name])
                .inspect_err(|error| {
                    if let Some(text) = rules.explain(error, &[(name, compiled)], console.color) {
                        console.say(text);
                    }
                })?
                .pop()
                .ok_or_else(|| Failure::Internal("a program was loaded, but is not there".to_owned()))?;
            let before = standing
                .iter()
                .find(|filter| filter.interface == *interface && filter.hook == hook && counts(filter))
                .and_then(|filter| Counters::of_program(filter.program?).transpose());
            counting.each.push(Counted { wanted, program, counters, before });
        }
        Ok(counting)
    }

    pub(super) fn attachments(&self) -> Vec<Attachment<'_>> {
        let attachment = |counted: &'_ Counted<'a>| {
            let (interface, hook, options, HookSetup { gso, merging, finishing, reach }) = counted.wanted;
            let compiled = self.compiled.get(&options)?;
            let mark = Mark {
                gso,
                merging,
                finishing,
                reach,
                fast: options.fast,
                counted: true,
                ..Mark::new(&compiled.bytes(), self.rules)
            };
            Some((interface.clone(), hook, mark.to_string()))
        };
        self.each
            .iter()
            .filter_map(|counted| {
                let (interface, hook, name) = attachment(counted)?;
                Some(Attachment::new(interface, hook, &counted.program, name))
            })
            .collect()
    }

    /// Once these programs are `attached`: what those before have counted is not lost. Twice: at once, since
    /// till then whoever reads finds them at zero, and when packets that were in the middle of a program have left it.
    pub(super) fn take_over(&mut self, attached: &[Attached], console: &mut Console<'_>) {
        for Counted { wanted: (interface, hook, ..), before, .. } in &mut self.each {
            let here = |attached: &&Attached| attached.interface == interface.name && attached.hook == *hook;
            if attached.iter().find(here).and_then(|attached| attached.replaced).is_none() {
                *before = None;
            }
        }
        self.carry_over(console);
        if self.each.iter().any(|counted| counted.before.is_some()) {
            wait_for_grace_period();
            self.carry_over(console);
        }
    }

    fn carry_over(&mut self, console: &mut Console<'_>) {
        for Counted { wanted: (interface, hook, ..), counters, before, .. } in &mut self.each {
            let taken = match &*before {
                None => continue,
                Some(Err(error)) => Err(error.to_string()),
                Some(Ok(before)) => settled(before)
                    .map_err(|error| error.to_string())
                    .and_then(|counts| counters.carry_over(&counts).map_err(|error| error.to_string())),
            };
            if let Err(error) = taken {
                console.say(format!("counters of {} {hook} start from zero: {error}", interface.name));
                *before = None;
            }
        }
    }

    pub(super) fn debug(&self, console: &mut Console<'_>) {
        for Counted { wanted: (_, _, options, _), program, .. } in &self.each {
            if let Some(compiled) = self.compiled.get(options) {
                programs::describe(program, compiled, console);
            }
        }
    }
}

/// Reads until nothing changes: where the kernel does not wait for packets (see [`wait_for_grace_period`]), one that
/// was half-way through the program when it was replaced is mostly done in the time it takes to read twice.
fn settled(counters: &Counters) -> Result<Counts, Unreadable> {
    const TRIES: usize = 10;
    let mut last = counters.read()?;
    for _ in 0..TRIES {
        let now = counters.read()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

/// Whether a filter's program says that it counts.
pub(super) fn counts(filter: &Filter) -> bool {
    filter.name.as_deref().and_then(Mark::read).is_some_and(|mark| mark.counted)
}

/// What the counters of a filter stand at; nothing if it has none.
pub(super) type Found = Option<Result<Counts, Unreadable>>;

/// Filters with their counters. A program that is replaced between `list` and the look at its maps took them along:
/// what stands there now has maps again, so all is looked at once more.
pub(super) fn look(
    mut list: impl FnMut() -> Result<Vec<Filter>, Failure>,
) -> Result<Vec<(Filter, Found)>, Failure> {
    const TRIES: usize = 10;
    let mut tries = 0;
    loop {
        let with_counters = |filter| {
            let found = of(&filter);
            (filter, found)
        };
        let all: Vec<(Filter, Found)> = list()?.into_iter().map(with_counters).collect();
        tries += 1;
        if tries == TRIES || !all.iter().any(|(_, found)| matches!(found, Some(Err(Unreadable::Gone)))) {
            return Ok(all);
        }
    }
}

fn of(filter: &Filter) -> Found {
    let id = filter.program.filter(|_| counts(filter))?;
    let found =
        Counters::of_program(id).and_then(|counters| counters.map(|counters| counters.read()).transpose());
    found.transpose()
}
