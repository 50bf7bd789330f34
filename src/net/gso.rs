//! What becomes of packets of several segments on an interface: prepared before attaching, settled after it.
//!
//! Comes in: the user's choice, the interfaces, what stands on them. Goes out: pairs and interface
//! settings, and for each hook which of them it has. What it did is in the filters' names (`mark`), from where
//! it is taken back when the last filter that says so has gone. Never touches a filter on the interfaces themselves.

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;

use super::card::Distrusted;
use super::companion::{self, CompanionProgram};
use super::filter::{Filter, Hook};
use super::links::{self, Device, Interface};
use super::mark::{Large, Mark, Reach};
use super::netlink::Netlink;
use super::pair::{self, Pair};
use super::{Error, Result, detach, macvlan};
use crate::codegen::Via;
use crate::ir::Side;
pub use crate::policy::{Companions, Gso, Needs};

/// What a hook has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aside {
    pub large: Large,
    pub merging: bool,
    /// All packets to funnel go through the segmentation pair.
    pub finishing: bool,
    /// Of a hook that sends past an overlay.
    pub reach: Option<Reach>,
}

impl Aside {
    /// The same, for whoever compiles the hook's program.
    pub fn companions(self) -> Companions {
        let cut = match self.large {
            Large::Pass | Large::Limited(_) => None,
            Large::Pair => Some(Via::Pair),
            Large::Macvlan => Some(Via::Macvlan),
        };
        Companions { cut, merge: self.merging, finish: self.finishing }
    }
}

/// What was prepared, and not yet relied on: undone if attaching fails.
#[derive(Debug, Default)]
pub struct Prepared {
    hooks: Vec<(Interface, Hook, Aside)>,
    made: Vec<(Pair, Interface)>,
    /// Macvlans, also on pairs that there were before.
    added: Vec<(Interface, Hook)>,
    /// Hooks whose segments need no finished checksums, whatever those of the rules before did.
    unfinished: Vec<(Interface, Hook)>,
    /// To be limited once the filters stand: before, nobody would know what to put back.
    limited: Vec<Interface>,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Prepared {
    /// What this hook's filter has to say of it.
    pub fn of(&self, interface: &Interface, hook: Hook) -> Aside {
        let found = self.hooks.iter().find(|(i, h, _)| i == interface && *h == hook);
        found.map(|(_, _, aside)| *aside).unwrap_or_default()
    }

    fn at(&mut self, interface: &Interface, hook: Hook) -> &mut Aside {
        let at = self.hooks.iter().position(|(i, h, _)| i == interface && *h == hook);
        let at = at.unwrap_or_else(|| {
            self.hooks.push((interface.clone(), hook, Aside::default()));
            self.hooks.len() - 1
        });
        &mut self.hooks[at].2
    }

    /// The new programs are there, and their names tell how it was before: now interfaces are limited. And what
    /// only the programs before needed is given up; where it stays, it costs time.
    pub fn rely(self, netlink: &mut Netlink) -> Result<()> {
        for (interface, hook) in self.unfinished {
            let _ = pair::finish_checksums(netlink, &interface, hook, false);
        }
        self.limited.iter().try_for_each(|interface| limit(netlink, interface, 1))
    }

    /// Puts back what was before.
    pub fn undo(self, netlink: &mut Netlink) {
        for (interface, hook) in self.added {
            let _ = macvlan::remove(netlink, &interface, hook);
        }
        for (pair, interface) in self.made {
            let _ = pair::remove(netlink, pair, interface.number());
        }
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
    for interface in interfaces {
        let device = devices.iter().find(|device| device.interface == *interface);
        let distrusted = distrusted.iter().any(|card| card.interface == *interface);
        // A packet that was decrypted would lose the proof of it on the way, and be dropped by policy.
        let bare = device.is_some_and(Device::may_rebuild_header);
        let (possible, not): (Vec<&Needs>, Vec<&Needs>) =
            needs.iter().partition(|needs| !bare || needs.side == Side::Egress);
        if wanted != Gso::Off && not.iter().any(|needs| needs.cut) {
            prepared.notes.push(format!(
                "{}: on ingress, packets of several segments pass as they are: in a pair they would lose what proves that they were decrypted",
                interface.name
            ));
        }
        let needs: Vec<Needs> = possible.into_iter().map(|needs| needs.on(distrusted)).collect();
        match prepared.add(netlink, wanted, interface, device, &needs, standing, back) {
            Ok(()) => {}
            Err(error) => {
                prepared.undo(netlink);
                return Err(error);
            }
        }
    }
    Ok(prepared)
}

impl Prepared {
    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        netlink: &mut Netlink,
        wanted: Gso,
        interface: &Interface,
        device: Option<&Device>,
        needs: &[Needs],
        standing: &[Filter],
        back: &[CompanionProgram<'_>],
    ) -> Result<()> {
        let cut = || needs.iter().filter(|needs| needs.cut);
        if wanted == Gso::Off || interface.is_loopback() {
            if wanted != Gso::Off && cut().next().is_some() {
                self.notes.push(format!(
                    "{}: packets of several segments pass as they are: what comes back to a loopback device from a pair would be taken for forged",
                    interface.name
                ));
            }
            return Ok(());
        }
        if wanted == Gso::Segment {
            // What such a tunnel is told with each packet would be lost in a pair.
            let possible = !device.is_some_and(|device| device.per_packet);
            if possible {
                self.merge(netlink, interface, needs, back)?;
            }
            if cut().next().is_none() {
                return Ok(());
            }
            let refusal = if possible {
                let stacked = device.is_some_and(|device| device.stacked);
                self.segment(netlink, interface, stacked, needs, back)?
            } else {
                Some("what this tunnel is told with each packet would be lost in a pair".to_owned())
            };
            let Some(why) = refusal else { return Ok(()) };
            let unfinished =
                if cut().any(|needs| needs.finish_all) { ", checksums stay unfinished" } else { "" };
            self.notes.push(format!(
                "{}: {why}; falling back to `--gso limit`: new TCP connections send single segments, \
                 other packets of several segments pass as they are{unfinished}",
                interface.name
            ));
        }
        if !cut().any(|needs| Hook::from(needs.side) == Hook::Egress) {
            return Ok(());
        }
        let now = device.and_then(|device| device.gso_max_segs).unwrap_or(u32::from(u16::MAX));
        let before = limited_before(standing, interface).unwrap_or(now);
        if now != 1 {
            self.limited.push(interface.clone());
        }
        self.at(interface, Hook::Egress).large = Large::Limited(before);
        Ok(())
    }

    /// `Some`: why there can be no segmentation pair.
    fn segment(
        &mut self,
        netlink: &mut Netlink,
        interface: &Interface,
        stacked: bool,
        needs: &[Needs],
        back: &[CompanionProgram<'_>],
    ) -> Result<Option<String>> {
        if let Err(error) = self.ensure(netlink, Pair::Segmentation, interface, back)? {
            return Ok(Some(error.to_string()));
        }
        for needs in needs.iter().filter(|needs| needs.cut) {
            let hook = Hook::from(needs.side);
            if needs.finish {
                pair::finish_checksums(netlink, interface, hook, true)?;
            } else {
                self.unfinished.push((interface.clone(), hook));
            }
            // The kernel drops what devices send too deep inside each other, at eight (`XMIT_RECURSION_LIMIT`), or four or
            // five in tunnels (`IP_TUNNEL_RECURSION_LIMIT`). The way by a macvlan takes three.
            let large = match needs.via(!stacked) {
                Via::Pair => Large::Pair,
                Via::Macvlan => self.shortcut(netlink, interface, hook, back)?,
            };
            let aside = self.at(interface, hook);
            aside.large = large;
            aside.finishing = needs.finish_all;
        }
        Ok(None)
    }

    /// Where there can be no macvlan, nothing is lost but speed.
    fn shortcut(
        &mut self,
        netlink: &mut Netlink,
        interface: &Interface,
        hook: Hook,
        back: &[CompanionProgram<'_>],
    ) -> Result<Large> {
        match macvlan::ensure(netlink, interface, hook, back) {
            Ok(made) => {
                if made {
                    self.added.push((interface.clone(), hook));
                }
                Ok(Large::Macvlan)
            }
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                self.notes.push(format!(
                    "{}: {error}; segments cross the segmentation pair, which is slower",
                    interface.name
                ));
                Ok(Large::Pair)
            }
        }
    }

    /// Where there can be no merging pair, nothing is lost but speed.
    fn merge(
        &mut self,
        netlink: &mut Netlink,
        interface: &Interface,
        needs: &[Needs],
        back: &[CompanionProgram<'_>],
    ) -> Result<()> {
        for needs in needs.iter().filter(|needs| needs.merge) {
            match self.ensure(netlink, Pair::Merging, interface, back)? {
                Ok(()) => self.at(interface, needs.side.into()).merging = true,
                Err(error) => self.notes.push(format!(
                    "{}: {error}; what is unfunneled is not merged, which is slower",
                    interface.name
                )),
            }
        }
        Ok(())
    }

    /// The inner error: there can be no such pair.
    fn ensure(
        &mut self,
        netlink: &mut Netlink,
        pair: Pair,
        interface: &Interface,
        back: &[CompanionProgram<'_>],
    ) -> Result<std::result::Result<(), Error>> {
        match pair::ensure(netlink, pair, interface, back) {
            Ok(made) => {
                if made {
                    self.made.push((pair, interface.clone()));
                }
                Ok(Ok(()))
            }
            Err(error) if error.is_final() => Err(error),
            Err(error) => Ok(Err(error)),
        }
    }
}

/// After a change: puts back what filters that are gone had asked for. `before` is what stood on these
/// interfaces; `removing`, that nobody is about to use a pair which no filter speaks of. Returns the names
/// of the pairs that were removed.
pub fn settle(
    netlink: &mut Netlink,
    interfaces: &[Interface],
    before: &[Filter],
    removing: bool,
) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let devices = links::devices(netlink)?;
    let now = detach::status(netlink, interfaces, &Hook::ALL)?;
    for interface in interfaces {
        let Some(device) = devices.iter().find(|device| device.interface.index == interface.index) else {
            continue;
        };
        if let (Some(old), None) = (limited_before(before, interface), limited_before(&now, interface))
            && device.gso_max_segs == Some(1)
        {
            limit(netlink, interface, old)?;
        }
        for pair in Pair::ALL {
            if !uses(&now, pair, interface) && (removing || uses(before, pair, interface)) {
                removed.extend(pair::remove(netlink, pair, interface.number())?);
            }
        }
        for hook in Hook::ALL {
            if !shortens(&now, interface, hook) && (removing || shortens(before, interface, hook)) {
                macvlan::remove(netlink, interface, hook)?;
            }
        }
    }
    for gone in companion::orphans(&devices) {
        for pair in Pair::ALL {
            removed.extend(pair::remove(netlink, pair, gone)?);
        }
    }
    Ok(removed)
}

/// Whether a filter sends to the interface's pair.
pub fn uses(filters: &[Filter], pair: Pair, interface: &Interface) -> bool {
    marks_of(filters, interface).any(|mark| match pair {
        Pair::Segmentation => matches!(mark.large, Large::Pair | Large::Macvlan),
        Pair::Merging => mark.merging,
    })
}

/// Whether this hook's filter sends to a macvlan.
pub fn shortens(filters: &[Filter], interface: &Interface, hook: Hook) -> bool {
    let mut here = filters.iter().filter(|f| f.interface.index == interface.index && f.hook == hook);
    here.any(|filter| filter.name.as_deref().and_then(Mark::read).is_some_and(|m| m.large == Large::Macvlan))
}

fn marks_of<'a>(filters: &'a [Filter], interface: &'a Interface) -> impl Iterator<Item = Mark> + 'a {
    let here = filters.iter().filter(|filter| filter.interface.index == interface.index);
    here.filter_map(|filter| Mark::read(filter.name.as_deref()?))
}

/// `gso_max_segs` as it was before a filter of ours changed it.
fn limited_before(filters: &[Filter], interface: &Interface) -> Option<u32> {
    marks_of(filters, interface).find_map(|mark| match mark.large {
        Large::Limited(before) => Some(before),
        Large::Pass | Large::Pair | Large::Macvlan => None,
    })
}

fn limit(netlink: &mut Netlink, interface: &Interface, segments: u32) -> Result<()> {
    let message = LinkUnspec::new_with_index(interface.number())
        .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments))
        .build();
    netlink
        .request(RouteNetlinkMessage::SetLink(message), 0)
        .map_err(|source| Error::netlink(format!("set gso_max_segs of {}", interface.name), source))
}
