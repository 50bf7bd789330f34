//! The maps of a program that counts: made before it is loaded, found again when the process that made them is gone.
//!
//! Two arrays for a program. One has two entries for each rule that counts: the program's, and what that stood at
//! in the program that this one has replaced. The other is for people, and no program can write to it: which rules
//! these are. It is JSON, in pieces.
//!
//! Made with `MapData::create`, their descriptors put into the program, rather than by way of a `maps` section:
//! each hook wants counters of its own for one and the same code, and an object would have to be written and
//! read again for each in any case. Needs CAP_BPF. Finding maps by their number needs CAP_SYS_ADMIN.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, Map, MapData, MapError};
use nix::errno::Errno;
use rustix::thread::{MembarrierCommand, membarrier};
use serde::{Deserialize, Serialize, Serializer};

use super::{LoadError, cause, loaded, permission, raise_memlock, said};
use crate::codegen::counters::{MAPS, PLACES, Reason};
use crate::ir::Ruleset;
use crate::rule_text;

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// What a rule did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleCount {
    #[serde(flatten)]
    pub about: About,
    /// What its action was carried out on.
    #[serde(flatten)]
    pub count: Count,
    /// What it was not carried out on; without reasons that there were not.
    pub reasons: Vec<ReasonCount>,
}

/// A rule that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its number in the ruleset.
    pub rule: usize,
    /// Its normal form: how a rule is written may stay the same while its names come to mean something else.
    pub text: String,
}

/// What was left alone, answered or dropped, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    #[serde(serialize_with = "key")]
    pub reason: Reason,
    #[serde(flatten)]
    pub count: Count,
}

fn key<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.key())
}

/// What counters stand at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub rules: Vec<RuleCount>,
}

/// What a rule did with one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Its action was carried out.
    Done,
    Because(Reason),
}

/// The maps of one program.
pub struct Counters {
    counters: Array<MapData, Entry>,
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
    #[error("the program went while its counters were looked for")]
    Gone,
    #[error("the counters cannot be read: {0}")]
    Other(String),
}

const PIECE: usize = 1024;
type Piece = [u8; PIECE];
/// Packets and bytes, at each place.
type Entry = [u64; 2 * PLACES];
/// `BPF_F_RDONLY_PROG`: no program can write to the map.
const RDONLY_PROG: u32 = 1 << 7;

impl Counters {
    /// All at zero, for the rules of the set that count.
    pub fn create(ruleset: &Ruleset) -> Result<Self, LoadError> {
        raise_memlock();
        let rules = ruleset.rules.iter().enumerate().filter(|(_, rule)| rule.counter);
        let rules: Vec<About> = rules.map(|(rule, ir)| About { rule, text: rule_text::rule(ir) }).collect();
        let text = serde_json::to_vec(&rules).map_err(|error| LoadError::Maps(error.into()))?;
        let [counters, about] = MAPS;
        let counters = create(counters, size_of::<Entry>(), 2 * rules.len(), 0)?;
        let about = create(about, PIECE, text.len().div_ceil(PIECE), RDONLY_PROG)?;
        let mut made = Self::from([counters, about]).map_err(refused)?;
        for (number, bytes) in (0..).zip(text.chunks(PIECE)) {
            let mut piece = [0; PIECE];
            piece[..bytes.len()].copy_from_slice(bytes);
            made.about.set(number, piece, 0).map_err(refused)?;
        }
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

    /// From here on the counters start from what those of a program that has been replaced stood at, where the
    /// meaning of a rule is the same.
    pub fn carry_over(&mut self, before: &Counts) -> Result<(), LoadError> {
        let about = self.about().map_err(|error| LoadError::Maps(io::Error::other(error.to_string())))?;
        // Of rules with the same meaning only the first is ever reached, but each keeps its own.
        let mut old: HashMap<&str, VecDeque<&RuleCount>> = HashMap::new();
        for rule in &before.rules {
            old.entry(&rule.about.text).or_default().push_back(rule);
        }
        for (number, rule) in (self.counters.len() / 2..).zip(&about) {
            if let Some(old) = old.get_mut(rule.text.as_str()).and_then(VecDeque::pop_front) {
                self.counters.set(number, old.entry(), 0).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// The counters of a program that somebody has loaded; none if it has none. It need not be there any more.
    pub fn of_program(id: u32) -> Result<Option<Self>, Unreadable> {
        let info = loaded::find([id]).map_err(unreadable)?.remove(&id).ok_or(Unreadable::Gone)?;
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

    /// What the entry of this number has counted since the last call: one packet at most, or it is an error of the
    /// caller. `None`: nothing.
    pub fn take(&mut self, number: u32) -> Result<Option<Counted>, Unreadable> {
        let now = self.counters.get(&number, 0).map_err(unreadable)?;
        self.counters.set(number, [0; 2 * PLACES], 0).map_err(unreadable)?;
        let counted = |place: u8| now[2 * usize::from(place)] > 0;
        let reason = Reason::ALL.into_iter().find(|reason| counted(reason.place()));
        Ok(reason.map(Counted::Because).or_else(|| counted(0).then_some(Counted::Done)))
    }

    /// What they stand at, with what they stood at before.
    pub fn read(&self) -> Result<Counts, Unreadable> {
        let rules = (0..).zip(self.about()?).map(|(number, about)| {
            let now = self.counters.get(&number, 0).map_err(unreadable)?;
            let before = self.counters.get(&(self.counters.len() / 2 + number), 0).map_err(unreadable)?;
            let at = |place: u8| {
                let number = |at: usize| now[at].saturating_add(before[at]);
                let at = 2 * usize::from(place);
                Count { packets: number(at), bytes: number(at + 1) }
            };
            let reasons = Reason::ALL.map(|reason| ReasonCount { reason, count: at(reason.place()) });
            let reasons = reasons.into_iter().filter(|reason| reason.count != Count::default()).collect();
            Ok(RuleCount { about, count: at(0), reasons })
        });
        Ok(Counts { rules: rules.collect::<Result<_, _>>()? })
    }

    fn about(&self) -> Result<Vec<About>, Unreadable> {
        let mut text = Vec::new();
        for piece in self.about.iter() {
            text.extend(piece.map_err(unreadable)?);
        }
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        serde_json::from_slice(&text[..end]).map_err(|error| Unreadable::Other(error.to_string()))
    }
}

impl RuleCount {
    fn entry(&self) -> Entry {
        let mut entry = [0; 2 * PLACES];
        let reasons = self.reasons.iter().map(|reason| (reason.reason.place(), reason.count));
        for (place, Count { packets, bytes }) in reasons.chain([(0, self.count)]) {
            let at = 2 * usize::from(place);
            entry[at] = packets;
            entry[at + 1] = bytes;
        }
        entry
    }
}

/// Returns when every packet that is in a program now has left it: tc runs programs within RCU's read side, and this
/// command is `synchronize_rcu`, some 10 ms. At once where the kernel refuses it (nohz_full).
pub fn wait_for_grace_period() {
    let _ = membarrier(MembarrierCommand::Global);
}

fn create(name: &str, value: usize, entries: usize, flags: u32) -> Result<MapData, LoadError> {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (value, entries) = (number(value), number(entries));
    const ARRAY: u32 = 2; // BPF_MAP_TYPE_ARRAY
    const KEY: u32 = 4;
    let definition = aya_obj::Map::new_from_params(ARRAY, KEY, value, entries, flags);
    MapData::create(definition, name, None).map_err(refused)
}

pub(super) fn refused(error: MapError) -> LoadError {
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

fn unreadable(error: impl std::error::Error + 'static) -> Unreadable {
    let Some(source) = cause(&error) else { return Unreadable::Other(error.to_string()) };
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM) => Unreadable::Permission,
        Some(Errno::ENOENT) => Unreadable::Gone,
        _ => Unreadable::Other(said(&source)),
    }
}
