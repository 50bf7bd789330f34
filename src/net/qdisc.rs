//! The qdisc that tc filters hang on: clsact, on the handle it shares with the legacy `ingress`.
//!
//! Input: an interface. Output: what stands there. Adds and removes clsact; never touches `ingress`
//! or any queueing discipline.

use std::collections::HashMap;

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

use super::filter::Hook;
use super::links::Interface;
use super::netlink::{self, Netlink, Request};
use super::{Error, Result, TC_HEADER};

/// What an interface has where clsact goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Qdisc {
    #[default]
    Absent,
    Clsact(Blocks),
    /// The older `ingress`: it has no egress hook, and a filter put there lands on ingress instead.
    Legacy,
}

/// The numbers of the shared blocks that clsact's filters are in, if somebody set it up so: the kernel then
/// takes filters for the block only, and so for all devices that use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blocks {
    ingress: Option<u32>,
    egress: Option<u32>,
}

impl Blocks {
    pub fn of(self, hook: Hook) -> Option<u32> {
        match hook {
            Hook::Ingress => self.ingress,
            Hook::Egress => self.egress,
        }
    }
}

const HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// What every interface has; interfaces not in the map have nothing.
pub fn all(netlink: &mut Netlink) -> Result<HashMap<i32, Qdisc>> {
    const TCA_KIND: u16 = 1;
    const TCA_INGRESS_BLOCK: u16 = 13;
    const TCA_EGRESS_BLOCK: u16 = 14;
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers = netlink.dump(&request).map_err(|source| Error::netlink("list the qdiscs", source))?;
    let mut found = HashMap::new();
    for answer in &answers {
        let Some([_, _, _, _, i0, i1, i2, i3]) = answer.header() else { continue };
        let mut kind = String::new();
        let mut blocks = Blocks::default();
        for (attribute, value) in answer.attributes(TC_HEADER) {
            match attribute {
                TCA_KIND => kind = netlink::text(&value),
                TCA_INGRESS_BLOCK => blocks.ingress = netlink::word(&value),
                TCA_EGRESS_BLOCK => blocks.egress = netlink::word(&value),
                _ => {}
            }
        }
        let qdisc = match kind.as_str() {
            "clsact" => Qdisc::Clsact(blocks),
            "ingress" => Qdisc::Legacy,
            _ => continue,
        };
        found.insert(i32::from_ne_bytes([i0, i1, i2, i3]), qdisc);
    }
    Ok(found)
}

/// Adds clsact. `false`: somebody else did in the meantime.
pub fn add(netlink: &mut Netlink, interface: &Interface) -> Result<bool> {
    let (message, flags) = addition(interface);
    added(interface, netlink.request(message, flags).err())
}

/// What [`add`] sends.
pub(super) fn addition(interface: &Interface) -> Request {
    (RouteNetlinkMessage::NewQueueDiscipline(message(interface)), NLM_F_CREATE | NLM_F_EXCL)
}

/// What the kernel's answer to that means.
pub(super) fn added(interface: &Interface, refusal: Option<netlink::Error>) -> Result<bool> {
    match refusal {
        None => Ok(true),
        Some(error) if error.errno() == Some(Errno::EEXIST) => Ok(false),
        Some(source) => Err(Error::netlink(format!("add the clsact qdisc to {}", interface.name), source)),
    }
}

/// Removes clsact with whatever hangs on it: the caller has looked.
pub fn remove(netlink: &mut Netlink, interface: &Interface) -> Result<()> {
    let request = RouteNetlinkMessage::DelQueueDiscipline(message(interface));
    netlink
        .request(request, 0)
        .map_err(|source| Error::netlink(format!("remove the clsact qdisc from {}", interface.name), source))
}

fn message(interface: &Interface) -> TcMessage {
    let header =
        TcHeader { index: interface.index, handle: HANDLE, parent: TcHandle::CLSACT, ..TcHeader::default() };
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".to_owned())])
}
