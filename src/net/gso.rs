//! What becomes of packets of several segments on an interface: prepared before attaching, settled after it.
//!
//! Comes in: the user's choice, the interfaces, what stands on them. Goes out: pairs and interface
//! settings, and for each hook which of them it has. What it did is in the filters' names (`mark`), from where
//! it is taken back when the last filter that says so has gone. Never touches a filter on the interfaces themselves.

use std::collections::{HashMap, HashSet};

use super::card::Distrusted;
use super::companion::{self, CompanionProgram};
use super::ethtool::Ethtool;
use super::filter::{Filter, Hook};
use super::links::{self, Device, Interface};
use super::mark::{GsoSetup, Mark, Reach};
use super::netlink::Netlink;
use super::pair::{self, Pair};
use super::{Result, limit, macvlan, seen};
use crate::codegen::{Companion, Segmenter};
use crate::ir::Side;
pub use crate::policy::{Companions, Gso, Needs};

/// What a hook has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookSetup {
    pub gso: GsoSetup,
    pub merging: bool,
    /// All packets to funnel go through the segmentation pair.
    pub finishing: bool,
    /// Of a hook that sends past an overlay.
    pub reach: Option<Reach>,
}

impl HookSetup {
    /// The same, for whoever compiles the hook's program.
    pub fn companions(self) -> Companions {
        let cut = match self.gso {
            GsoSetup::Pass | GsoSetup::Limited(_) => None,
            GsoSetup::Pair => Some(Segmenter::Pair),
            GsoSetup::Macvlan => Some(Segmenter::Macvlan),
        };
        Companions { cut, merge: self.merging, finish: self.finishing }
    }
}

/// What was prepared, and not yet relied on: undone if attaching fails.
#[derive(Debug, Default)]
pub struct Prepared {
    hooks: HashMap<(i32, Hook), HookSetup>,
    made: Vec<(Pair, Interface)>,
    /// Macvlans, also on pairs that there were before.
    added: Vec<(Interface, Hook)>,
    /// Ends of pairs that need not finish checksums, whatever those of the rules before did.
    unfinished: Vec<Interface>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Prepared {
    /// What this hook's filter has to say of it.
    pub fn of(&self, interface: &Interface, hook: Hook) -> HookSetup {
        self.hooks.get(&(interface.index, hook)).copied().unwrap_or_default()
    }

    /// Whether the sockets of this interface are to send single segments.
    pub fn limits(&self, interface: &Interface) -> bool {
        matches!(self.of(interface, Hook::Egress).gso, GsoSetup::Limited(_))
    }

    fn at(&mut self, interface: &Interface, hook: Hook) -> &mut HookSetup {
        self.hooks.entry((interface.index, hook)).or_default()
    }

    /// The new programs are there. What only the programs before needed is given up; where it stays, it costs time.
    pub fn release_previous(self) {
        let Some(mut ethtool) = self.unfinished.first().and_then(|_| Ethtool::open().ok()) else { return };
        for end in &self.unfinished {
            let _ = pair::finish_checksums(&mut ethtool, end, false);
        }
    }

    /// Puts back what was before.
    pub fn undo(self, netlink: &mut Netlink) {
        let Ok(devices) = links::devices(netlink) else { return };
        for (interface, hook) in self.added {
            let _ = macvlan::remove(netlink, &devices, &interface, hook);
        }
        for (pair, interface) in self.made {
            let _ = pair::remove(netlink, &devices, pair, interface.number());
        }
    }
}

/// One interface: what its hooks need, and what is known of it.
struct Ask<'a> {
    interface: &'a Interface,
    device: Option<&'a Device>,
    needs: Vec<Needs>,
}

impl<'a> Ask<'a> {
    /// And a note, if some of what its hooks need cannot be had.
    fn new(
        interface: &'a Interface,
        devices: &'a [Device],
        needs: &[Needs],
        distrusted: &[Distrusted],
    ) -> (Self, Option<String>) {
        let device = devices.iter().find(|device| device.interface == *interface);
        let distrusted = distrusted.iter().any(|card| card.interface == *interface);
        // A packet that was decrypted would lose the proof of it on the way, and be dropped by policy.
        let bare = device.is_some_and(Device::may_rebuild_header);
        let (possible, not): (Vec<&Needs>, Vec<&Needs>) =
            needs.iter().partition(|needs| !bare || needs.side == Side::Egress);
        let note = not.iter().any(|needs| needs.cut).then(|| {
            format!(
                "{}: on ingress, packets of several segments pass as they are: in a pair they would lose what proves that they were decrypted",
                interface.name
            )
        });
        let needs = possible.into_iter().map(|needs| needs.on(distrusted)).collect();
        (Self { interface, device, needs }, note)
    }

    fn cut(&self) -> impl Iterator<Item = &Needs> {
        self.needs.iter().filter(|needs| needs.cut)
    }

    fn merge(&self) -> impl Iterator<Item = &Needs> {
        self.needs.iter().filter(|needs| needs.merge)
    }

    /// What such a tunnel is told with each packet would be lost in a pair.
    fn may_have_pairs(&self) -> bool {
        !self.device.is_some_and(|device| device.per_packet)
    }

    fn pairs(&self) -> impl Iterator<Item = (Pair, &'a Interface)> {
        let merge = self.merge().next().map(|_| (Pair::Merging, self.interface));
        let cut = self.cut().next().map(|_| (Pair::Segmentation, self.interface));
        merge.into_iter().chain(cut).filter(|_| self.may_have_pairs())
    }

    /// The kernel drops what devices send too deep inside each other, at eight (`XMIT_RECURSION_LIMIT`), or four or
    /// five in tunnels (`IP_TUNNEL_RECURSION_LIMIT`). The way by a macvlan takes three.
    fn segmenter(&self, needs: &Needs) -> Segmenter {
        needs.segmenter(!self.device.is_some_and(|device| device.stacked))
    }
}

/// Makes what these hooks need. All or nothing.
pub fn prepare(
    netlink: &mut Netlink,
    wanted: Gso,
    interfaces: &[Interface],
    needs: &[Needs],
    standing: &[Filter],
    back: &[CompanionProgram<'_>],
    distrusted: &[Distrusted],
) -> Result<Prepared> {
    let devices = links::devices(netlink)?;
    let mut prepared = Prepared::default();
    if wanted == Gso::Off {
        return Ok(prepared);
    }
    let mut asks = Vec::new();
    for interface in interfaces {
        if !interface.is_loopback() {
            let (ask, note) = Ask::new(interface, &devices, needs, distrusted);
            asks.push(ask);
            prepared.notes.extend(note);
        } else if needs.iter().any(|needs| needs.cut) {
            prepared.notes.push(format!(
                "{}: packets of several segments pass as they are: what comes back to a loopback device from a pair would be taken for forged",
                interface.name
            ));
        }
    }
    let refused = match wanted {
        Gso::Segment => prepared.make(netlink, &asks, &devices, back),
        Gso::Limit | Gso::Off => Ok(HashMap::new()),
    };
    match refused {
        Ok(refused) => {
            for ask in &asks {
                let why = refused.get(&ask.interface.index);
                if wanted == Gso::Limit || why.is_some() {
                    prepared.limit(ask, why, standing);
                }
            }
            Ok(prepared)
        }
        Err(error) => {
            prepared.undo(netlink);
            Err(error)
        }
    }
}

impl Prepared {
    /// Makes pairs and macvlans. Returns, by interface, why there can be no segmentation pair.
    fn make(
        &mut self,
        netlink: &mut Netlink,
        asks: &[Ask<'_>],
        devices: &[Device],
        back: &[CompanionProgram<'_>],
    ) -> Result<HashMap<i32, String>> {
        let told = "what this tunnel is told with each packet would be lost in a pair";
        let tunnels = asks.iter().filter(|ask| !ask.may_have_pairs() && ask.cut().next().is_some());
        let mut refused: HashMap<i32, String> =
            tunnels.map(|ask| (ask.interface.index, told.to_owned())).collect();

        let pairs: Vec<(Pair, &Interface)> = asks.iter().flat_map(Ask::pairs).collect();
        let results = pair::ensure(netlink, devices, &pairs, back)?;
        let made = pairs.iter().zip(&results).filter(|(_, result)| matches!(result, Ok(true)));
        self.made.extend(made.map(|((pair, interface), _)| (*pair, (*interface).clone())));
        let mut merging = HashSet::new();
        for ((pair, interface), result) in pairs.iter().zip(results) {
            match (pair, result) {
                (_, Err(error)) if error.is_final() => return Err(error),
                (Pair::Merging, Ok(_)) => drop(merging.insert(interface.index)),
                // Nothing is lost but speed.
                (Pair::Merging, Err(error)) => self.notes.push(format!(
                    "{}: {error}; what is unfunneled is not merged, which is slower",
                    interface.name
                )),
                (Pair::Segmentation, Ok(_)) => {}
                (Pair::Segmentation, Err(error)) => drop(refused.insert(interface.index, error.to_string())),
            }
        }
        for ask in asks.iter().filter(|ask| merging.contains(&ask.interface.index)) {
            ask.merge().for_each(|needs| self.at(ask.interface, needs.side.into()).merging = true);
        }

        let cut: Vec<&Ask<'_>> =
            asks.iter().filter(|ask| !refused.contains_key(&ask.interface.index)).collect();
        self.shorten(netlink, &cut, back)?;
        Ok(refused)
    }

    /// How what is to be cut comes to the segmentation pair, which is there.
    fn shorten(
        &mut self,
        netlink: &mut Netlink,
        asks: &[&Ask<'_>],
        back: &[CompanionProgram<'_>],
    ) -> Result<()> {
        let hooks = asks.iter().flat_map(|ask| ask.cut().map(move |needs| (*ask, needs)));
        let hooks: Vec<(&Ask<'_>, &Needs)> = hooks.collect();
        if hooks.is_empty() {
            return Ok(());
        }
        let devices = links::devices(netlink)?;
        let direct = hooks.iter().filter(|(ask, needs)| ask.segmenter(needs) == Segmenter::Macvlan);
        let direct: Vec<(&Interface, Hook)> =
            direct.map(|(ask, needs)| (ask.interface, Hook::from(needs.side))).collect();
        let results = macvlan::ensure(netlink, &devices, &direct, back)?;
        let made = direct.iter().zip(&results).filter(|(_, result)| matches!(result, Ok(true)));
        self.added.extend(made.map(|((interface, hook), _)| ((*interface).clone(), *hook)));
        for (ask, needs) in &hooks {
            let setup = self.at(ask.interface, needs.side.into());
            setup.gso = GsoSetup::Pair;
            setup.finishing = needs.finish_all;
        }
        for ((interface, hook), result) in direct.into_iter().zip(results) {
            match result {
                Ok(_) => self.at(interface, hook).gso = GsoSetup::Macvlan,
                Err(error) if error.is_final() => return Err(error),
                // Nothing is lost but speed.
                Err(error) => self.notes.push(format!(
                    "{}: {error}; segments cross the segmentation pair, which is slower",
                    interface.name
                )),
            }
        }
        let mut ethtool = None;
        for (ask, needs) in hooks {
            let end = companion::find(&devices, Companion::end(needs.side), ask.interface.number());
            let Some(end) = end.map(|device| &device.interface) else { continue };
            if needs.finish {
                let ethtool = match &mut ethtool {
                    Some(open) => open,
                    none => none.insert(Ethtool::open()?),
                };
                pair::finish_checksums(ethtool, end, true)?;
            } else {
                self.unfinished.push(end.clone());
            }
        }
        Ok(())
    }

    /// Where there is no pair, or is to be none. `why` there can be none, if one was wanted.
    fn limit(&mut self, ask: &Ask<'_>, why: Option<&String>, standing: &[Filter]) {
        let interface = ask.interface;
        if let Some(why) = why {
            let unfinished =
                if ask.cut().any(|needs| needs.finish_all) { ", checksums stay unfinished" } else { "" };
            self.notes.push(format!(
                "{}: {why}; falling back to `--gso limit`: new TCP connections send single segments, \
                 other packets of several segments pass as they are{unfinished}",
                interface.name
            ));
        }
        if ask.cut().any(|needs| Hook::from(needs.side) == Hook::Egress) {
            let now = ask.device.and_then(|device| device.gso_max_segs).unwrap_or(u32::from(u16::MAX));
            let before = limit::before(standing, interface).unwrap_or(now);
            self.at(interface, Hook::Egress).gso = GsoSetup::Limited(before);
        }
    }
}

/// After a change, by whoever has the turn: removes what no filter of these interfaces asks for, and what is left of
/// interfaces that are gone. Returns the names of the pairs that were removed.
pub fn remove_unused(netlink: &mut Netlink, interfaces: &[Interface]) -> Result<Vec<String>> {
    let devices = links::devices(netlink)?;
    let now = seen::status(netlink, interfaces, &Hook::ALL)?;
    let unused = |interface: &Interface| {
        let number = interface.number();
        Pair::ALL
            .into_iter()
            .filter(|pair| !uses(&now, *pair, interface))
            .map(move |pair| (pair, number))
            .collect()
    };
    let mut pairs: Vec<(Pair, u32)> =
        interfaces.iter().flat_map(|i| -> Vec<(Pair, u32)> { unused(i) }).collect();
    pairs
        .extend(companion::orphans(&devices).into_iter().flat_map(|gone| Pair::ALL.map(|pair| (pair, gone))));
    let removed = pairs.iter().filter_map(|(pair, of)| pair::names(&devices, *pair, *of)).collect();
    let hooks = interfaces.iter().flat_map(|interface| Hook::ALL.map(|hook| (interface, hook)));
    let hooks = hooks.filter(|(interface, hook)| !shortens(&now, interface, *hook));
    let macvlans = hooks.filter_map(|(interface, hook)| macvlan::at(&devices, interface.number(), hook));
    // One end takes the other along, and the macvlans on both.
    let ends =
        pairs.iter().filter_map(|(pair, of)| pair::of(&devices, *pair, *of).into_iter().flatten().next());
    let doomed: Vec<&Interface> = macvlans.chain(ends).map(|device| &device.interface).collect();
    companion::delete_all(netlink, &devices, &doomed)?;
    Ok(removed)
}

/// Whether a filter sends to the interface's pair.
pub fn uses(filters: &[Filter], pair: Pair, interface: &Interface) -> bool {
    marks_of(filters, interface).any(|mark| match pair {
        Pair::Segmentation => matches!(mark.gso, GsoSetup::Pair | GsoSetup::Macvlan),
        Pair::Merging => mark.merging,
    })
}

/// Whether this hook's filter sends to a macvlan.
pub fn shortens(filters: &[Filter], interface: &Interface, hook: Hook) -> bool {
    let mut here = filters.iter().filter(|f| f.interface.index == interface.index && f.hook == hook);
    here.any(|filter| filter.name.as_deref().and_then(Mark::read).is_some_and(|m| m.gso == GsoSetup::Macvlan))
}

fn marks_of<'a>(filters: &'a [Filter], interface: &'a Interface) -> impl Iterator<Item = Mark> + 'a {
    let here = filters.iter().filter(|filter| filter.interface.index == interface.index);
    here.filter_map(|filter| Mark::read(filter.name.as_deref()?))
}
