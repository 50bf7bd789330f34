//! The maps of a program that counts: made before it is loaded, found again when whoever made them is gone.
//!
//! Two arrays for a program. One is the program's: packets and bytes by the number of a counter. The other is
//! for people, and no program can write to it: what the counters are of, and what they stood at in the
//! program that this one has replaced. It is JSON, in pieces.
//!
//! Made with `MapData::create`, their descriptors put into the program, rather than by way of a `maps` section:
//! each hook wants counters of its own for one and the same code, and an object would have to be written and
//! read again for each in any case. Needs CAP_BPF. Finding maps by their number needs CAP_SYS_ADMIN.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::loaded_programs;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{LoadError, permission, raise_memlock};
use crate::codegen::counters::{FIRST_RULE, MAPS, Reason, of_rule};
use crate::ir::Ruleset;

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// A rule that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// Its number in the ruleset.
    pub rule: usize,
    pub text: String,
    #[serde(flatten)]
    pub count: Count,
}

/// What was left alone, or lost, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonCount {
    pub reason: String,
    #[serde(flatten)]
    pub count: Count,
}

/// What counters stand at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub rules: Vec<RuleCount>,
    pub reasons: Vec<ReasonCount>,
}

/// The maps of one program.
pub struct Counters {
    counters: Array<MapData, [u64; 2]>,
    about: Array<MapData, Piece>,
    /// Theirs, open for as long as they are.
    descriptors: [i32; 2],
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").field("descriptors", &self.descriptors).finish_non_exhaustive()
    }
}

/// Why counters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("reading counters needs CAP_SYS_ADMIN")]
    Permission,
    #[error("the counters cannot be read: {0}")]
    Other(String),
}

const PIECE: usize = 1024;
type Piece = [u8; PIECE];
/// `BPF_F_RDONLY_PROG`: no program can write to the map.
const RDONLY_PROG: u32 = 1 << 7;

impl Counters {
    /// All at zero, for the rules of the set that count.
    pub fn create(ruleset: &Ruleset) -> Result<Self, LoadError> {
        raise_memlock();
        let fresh = Counts::of(ruleset);
        // Numbers get longer when they are carried over: as long as two 64-bit numbers for each entry.
        let room = fresh.text()?.len() + 40 * (fresh.rules.len() + fresh.reasons.len());
        let pieces = u32::try_from(room.div_ceil(PIECE)).unwrap_or(u32::MAX);
        let [counters, about] = MAPS;
        let counters = create(counters, 16, of_rule(ruleset.rules.len()), 0)?;
        let about = create(about, u32::try_from(PIECE).unwrap_or(0), pieces, RDONLY_PROG)?;
        let mut made = Self::from([counters, about]).map_err(refused)?;
        made.write(&fresh)?;
        Ok(made)
    }

    /// What goes in place of the program's own numbers of its maps.
    pub fn descriptors(&self) -> [i32; 2] {
        self.descriptors
    }

    fn from(maps: [MapData; 2]) -> Result<Self, MapError> {
        let descriptors = maps.each_ref().map(|map| map.fd().as_fd().as_raw_fd());
        let [counters, about] = maps.map(Map::Array);
        Ok(Self { counters: Array::try_from(counters)?, about: Array::try_from(about)?, descriptors })
    }

    /// From here on the counters start from what those of a program that has been replaced stood at: the
    /// reasons, and rules with the same text.
    pub fn carry_over(&mut self, before: &Counts) -> Result<(), LoadError> {
        let mut about = self.about().map_err(|error| LoadError::Maps(io::Error::other(error.to_string())))?;
        let mut left: Vec<&RuleCount> = before.rules.iter().collect();
        for rule in &mut about.rules {
            // Of rules with the same text only the first is ever reached, but each keeps its own.
            if let Some(at) = left.iter().position(|old| old.text == rule.text) {
                rule.count = left.remove(at).count;
            }
        }
        for reason in &mut about.reasons {
            if let Some(old) = before.reasons.iter().find(|old| old.reason == reason.reason) {
                reason.count = old.count;
            }
        }
        self.write(&about)
    }

    /// The counters of a program that somebody has loaded; none if it has none.
    pub fn of_program(id: u32) -> Result<Option<Self>, Unreadable> {
        let mut info = None;
        for program in loaded_programs() {
            let program = program.map_err(unreadable)?;
            if program.id() == id {
                info = Some(program);
            }
        }
        let Some(info) = info else { return Ok(None) };
        let mut found = [None, None];
        for map in info.map_ids().map_err(unreadable)?.unwrap_or_default() {
            let data = MapData::from_id(map).map_err(unreadable)?;
            let name = data.info().map_err(unreadable)?.name_as_str().unwrap_or_default().to_owned();
            if let Some(which) = MAPS.iter().position(|known| *known == name) {
                found[which] = Some(data);
            }
        }
        let [Some(counters), Some(about)] = found else { return Ok(None) };
        Self::from([counters, about]).map(Some).map_err(unreadable)
    }

    /// What they stand at, with what they stood at before.
    pub fn read(&self) -> Result<Counts, Unreadable> {
        let mut counts = self.about()?;
        for RuleCount { rule, count, .. } in &mut counts.rules {
            count.add(self.at(of_rule(*rule))?);
        }
        for ReasonCount { reason, count } in &mut counts.reasons {
            if let Some(known) = Reason::ALL.into_iter().find(|known| known.key() == reason) {
                count.add(self.at(known.counter())?);
            }
        }
        Ok(counts)
    }

    fn at(&self, number: u32) -> Result<Count, Unreadable> {
        let [packets, bytes] = self.counters.get(&number, 0).map_err(unreadable)?;
        Ok(Count { packets, bytes })
    }

    fn about(&self) -> Result<Counts, Unreadable> {
        let mut text = Vec::new();
        for piece in self.about.iter() {
            text.extend(piece.map_err(unreadable)?);
        }
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        serde_json::from_slice(&text[..end]).map_err(|error| Unreadable::Other(error.to_string()))
    }

    fn write(&mut self, counts: &Counts) -> Result<(), LoadError> {
        let text = counts.text()?;
        let mut pieces = text.chunks(PIECE);
        for number in 0..self.about.len() {
            let mut piece = [0; PIECE];
            let bytes = pieces.next().unwrap_or_default();
            piece[..bytes.len()].copy_from_slice(bytes);
            self.about.set(number, piece, 0).map_err(refused)?;
        }
        Ok(())
    }
}

impl Counts {
    fn of(ruleset: &Ruleset) -> Self {
        let counted = ruleset.rules.iter().enumerate().filter(|(_, rule)| rule.counter);
        let count = Count::default();
        let rules = counted.map(|(rule, ir)| RuleCount { rule, text: ir.text.clone(), count });
        let reasons = Reason::ALL.iter().map(|reason| ReasonCount { reason: reason.key().to_owned(), count });
        Self { rules: rules.collect(), reasons: reasons.collect() }
    }

    fn text(&self) -> Result<Vec<u8>, LoadError> {
        serde_json::to_vec(self).map_err(|error| LoadError::Maps(error.into()))
    }
}

impl Count {
    fn add(&mut self, more: Count) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

fn create(name: &str, value: u32, entries: u32, flags: u32) -> Result<MapData, LoadError> {
    const ARRAY: u32 = 2; // BPF_MAP_TYPE_ARRAY
    const KEY: u32 = 4;
    let definition = aya_obj::Map::new_from_params(ARRAY, KEY, value, entries, flags);
    MapData::create(definition, name, None).map_err(refused)
}

fn refused(error: MapError) -> LoadError {
    let source = match error {
        MapError::CreateError { io_error, .. } => io_error,
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other.to_string()),
    };
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => LoadError::Permission(permission()),
        _ => LoadError::Maps(source),
    }
}

/// aya wraps what the kernel says several times.
fn unreadable(error: impl std::error::Error) -> Unreadable {
    let mut source: Option<&(dyn std::error::Error + 'static)> = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.raw_os_error() == Some(Errno::EPERM as i32)
        {
            return Unreadable::Permission;
        }
        source = cause.source();
    }
    Unreadable::Other(error.to_string())
}

const _: () = assert!(Reason::ALL.len() < FIRST_RULE as usize, "rules' counters begin behind the reasons'");
