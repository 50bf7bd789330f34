//! The maps of flows that go past the stack: made before the programs that share them, and theirs from then on.
//!
//! Input: how many flows, and which interfaces are pods'. Output: descriptors for programs, entries as they are. The layout is
//! that of [`flow`](crate::flow). A process has its own; those of one before it go with its programs, once these are
//! replaced: what they knew is learned anew.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::xdp::{DevMapHash, XdpMapError};
use aya::maps::{HashMap, Map, MapData, MapError, MapInfo};
use aya::programs::loaded_programs;

use super::{LoadError, counters};
use crate::flow::{MAPS, key, value};

/// Connections that are remembered, by default: 10 MB.
pub const USUAL: u32 = 65_536;
/// Interfaces of pods: more than kubelet starts on a node by far.
const PODS: u32 = 4096;

type Key = [u8; 12];
type Value = [u8; 104];
const _: () = assert!(size_of::<Key>() == key::LEN.unsigned_abs() as usize);
const _: () = assert!(size_of::<Value>() == value::LEN.unsigned_abs() as usize);

/// The three maps.
pub struct Flows {
    flows: HashMap<MapData, Key, Value>,
    pods: HashMap<MapData, u32, u32>,
    devices: DevMapHash<MapData>,
    descriptors: [i32; 3],
    /// The number of the last pod.
    last: u32,
}

impl fmt::Debug for Flows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flows").field("descriptors", &self.descriptors).finish_non_exhaustive()
    }
}

impl Flows {
    /// Without entries, for as many connections at a time. The one that was used longest ago makes room for another.
    pub fn create(connections: u32) -> Result<Self, LoadError> {
        const HASH: u32 = 1; // BPF_MAP_TYPE_HASH
        const LRU_HASH: u32 = 9;
        const DEVMAP_HASH: u32 = 25;
        const NUMBER: u32 = 4;
        const DEVICE: u32 = 8; // struct bpf_devmap_val
        super::raise_memlock();
        let [flows, pods, devices] = MAPS;
        let (key, value) = (u32::from(key::LEN.unsigned_abs()), u32::from(value::LEN.unsigned_abs()));
        let flows = create(LRU_HASH, flows, [key, value, connections])?;
        let pods = create(HASH, pods, [NUMBER, NUMBER, PODS])?;
        let devices = create(DEVMAP_HASH, devices, [NUMBER, DEVICE, PODS])?;
        let descriptors = [&flows, &pods, &devices].map(|map| map.fd().as_fd().as_raw_fd());
        Ok(Self {
            flows: HashMap::try_from(Map::LruHashMap(flows)).map_err(counters::refused)?,
            pods: HashMap::try_from(Map::HashMap(pods)).map_err(counters::refused)?,
            devices: DevMapHash::try_from(Map::DevMapHash(devices)).map_err(counters::refused)?,
            descriptors,
            last: 0,
        })
    }

    /// What goes in place of the program's own numbers of these maps, which come after those of its counters.
    pub fn descriptors(&self) -> [i32; 3] {
        self.descriptors
    }

    /// From here on the interface is that of a pod that nothing is known of, whoever had its number before. It has to be in the
    /// namespace of the calling thread.
    pub fn admit(&mut self, interface: u32) -> Result<(), LoadError> {
        self.last += 1;
        self.devices.insert(self.last, interface, None, 0).map_err(|error| match error {
            XdpMapError::MapError(error) => counters::refused(error),
            other => LoadError::Maps(io::Error::other(other.to_string())),
        })?;
        self.pods.insert(interface, self.last, 0).map_err(counters::refused)
    }

    /// The interface has gone. What its flows name has gone with it, by the kernel.
    pub fn forget(&mut self, interface: u32) -> Result<(), LoadError> {
        unless_missing(self.pods.remove(&interface))
    }

    /// What is known of a flow.
    pub fn get(&self, key: &Key) -> Result<Option<Value>, LoadError> {
        match self.flows.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(counters::refused(error)),
        }
    }

    /// Puts an entry in place of what is known.
    pub fn set(&mut self, key: Key, value: Value) -> Result<(), LoadError> {
        self.flows.insert(key, value, 0).map_err(counters::refused)
    }

    /// Forgets a flow, if it is known.
    pub fn remove(&mut self, key: &Key) -> Result<(), LoadError> {
        unless_missing(self.flows.remove(key))
    }
}

/// Of programs that are loaded, by number: the number of the map that it remembers flows in, if it has one. Those that go meanwhile are
/// left out, as are all that cannot be looked at.
pub fn of_programs(wanted: &[u32]) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    for program in loaded_programs().flatten().filter(|program| wanted.contains(&program.id())) {
        let maps = program.map_ids().ok().flatten().unwrap_or_default();
        let is_flows = |id: &u32| {
            MapInfo::from_id(*id).is_ok_and(|info| info.name_as_str().is_some_and(|name| MAPS[0] == name))
        };
        if let Some(map) = maps.into_iter().find(is_flows) {
            found.insert(program.id(), map);
        }
    }
    found
}

/// What is to be removed may not be there.
fn unless_missing(removed: Result<(), MapError>) -> Result<(), LoadError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(counters::refused(error)),
    }
}

fn create(kind: u32, name: &str, [key, value, entries]: [u32; 3]) -> Result<MapData, LoadError> {
    let definition = aya_obj::Map::new_from_params(kind, key, value, entries, 0);
    MapData::create(definition, name, None).map_err(counters::refused)
}
