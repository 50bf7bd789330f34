//! How to attach: flags and variables, read once.
//!
//! Input: arguments and the environment. Output: choices that are checked. Never touches the system.

use super::args::{Attach, End, Strict, Treatment};
use super::point::WhereTo;
use super::rules::Lists;
use super::settings::{self, Patience};
use super::{Console, Failure};
use crate::policy::Choices;

/// How to attach, whatever the rules and the place.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) patience: Patience,
    pub(super) strict: Strict,
    pub(super) end: Option<End>,
    pub(super) choices: Choices,
    pub(super) counters: bool,
    pub(super) debug: bool,
    pub(super) where_to: WhereTo,
    /// Descriptors of the maps that programs share which learn what goes past the stack; zeros for all others.
    pub(super) flows: [i32; 3],
}

impl How {
    pub(super) fn read(args: &Attach, console: &Console<'_>) -> Result<Self, Failure> {
        Self::of(&args.treatment, args.strict, Patience::read(args, console)?, console)
    }

    pub(super) fn of(
        args: &Treatment,
        strict: Strict,
        patience: Patience,
        console: &Console<'_>,
    ) -> Result<Self, Failure> {
        let gso = settings::gso(args.gso, console)?;
        let finish = args.finish_checksums || settings::truth("SFUNNEL_FINISH_CHECKSUMS", console)?;
        let merge = !(args.no_merge || settings::truth("SFUNNEL_NO_MERGE", console)?);
        Ok(Self {
            patience,
            strict,
            end: settings::end(args.end, console)?,
            choices: Choices::new(gso, finish, merge).map_err(Failure::Usage)?,
            counters: args.counters || settings::truth("SFUNNEL_COUNTERS", console)?,
            debug: args.debug || settings::truth("DEBUG", console)?,
            where_to: WhereTo::read(args, console)?,
            flows: [0; 3],
        })
    }

    /// Makes rules count that do not say so, if the user wants it.
    pub(super) fn count(self, lists: &mut Lists) {
        if self.counters {
            lists.count_everything();
        }
    }
}
