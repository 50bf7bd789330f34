//! tc filters: put ours, list everyone's, remove one.
//!
//! Ours is known by a fixed priority and handle, and a name that starts with `sfunnel`. Input: an
//! interface, a hook, a loaded program. Never removes what it was not handed as a [`Filter`].
//!
//! What is attached to TCX has no name. So `tcx` puts a *note* of each such program here: a filter with the program
//! and the name, in a chain that no packet comes to. It is read as any filter is, and costs packets nothing: without
//! filters in chain 0 the kernel passes clsact by (`tcf_chain0_head_change`, net/sched/cls_api.c).

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use serde::Serialize;

use super::links::Interface;
use super::netlink::{self, Netlink, Request};
use super::qdisc::{Blocks, Qdisc};
use super::{Error, Result, TC_HEADER};
use crate::ir::Side;

/// The priority of our filter: before everything that tc numbers by itself (from 49152 down).
pub const PRIORITY: u16 = 0x5f;
/// Its number at that priority. Fixed, so that attaching again names the same filter and replaces it.
pub const HANDLE: u32 = 0x5f;
/// What our filters' names start with.
pub const NAME_PREFIX: &str = "sfunnel";
/// The name the original program's filters have: object file and section, as tc writes them.
const ORIGINAL_NAME: &str = "tc_sfunnel.o:[funnel]";
const ETH_P_ALL: u16 = 0x0003;
/// The chain of the notes. Filters elsewhere than in chain 0 run only if one of chain 0 jumps to them.
const NOTES: u32 = 0x5f;

/// The two places on a hook where programs run: those on TCX come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Point {
    Clsact,
    Tcx,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Point::Clsact => "clsact",
            Point::Tcx => "TCX",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    Ingress,
    Egress,
}

impl Hook {
    pub const ALL: [Hook; 2] = [Hook::Ingress, Hook::Egress];

    fn parent(self) -> TcHandle {
        let minor = match self {
            Hook::Ingress => TcHandle::MIN_INGRESS,
            Hook::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: 0xffff, minor }
    }
}

impl From<Hook> for Side {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Ingress => Side::Ingress,
            Hook::Egress => Side::Egress,
        }
    }
}

impl From<Side> for Hook {
    fn from(side: Side) -> Self {
        match side {
            Side::Ingress => Hook::Ingress,
            Side::Egress => Hook::Egress,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        })
    }
}

/// A filter on a hook, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub interface: Interface,
    pub hook: Hook,
    pub priority: u16,
    pub handle: u32,
    /// `bpf`, `flower`, ...
    pub kind: String,
    /// What follows is known for bpf filters only.
    pub name: Option<String>,
    pub program: Option<u32>,
    pub tag: Option<String>,
    chain: Option<u32>,
    /// Priority and protocol as the kernel packs them.
    info: u32,
    parent: u32,
}

impl Filter {
    pub fn is_ours(&self) -> bool {
        self.has_our_name() && self.handle == HANDLE && self.chain.unwrap_or(0) == 0
    }

    /// Whether it says that there is, or was, a program of ours on TCX.
    pub fn is_note(&self) -> bool {
        self.has_our_name() && self.chain == Some(NOTES) && self.program == Some(self.handle)
    }

    fn has_our_name(&self) -> bool {
        self.kind == "bpf"
            && self.priority == PRIORITY
            && self.name.as_deref().is_some_and(|name| name.starts_with(NAME_PREFIX))
    }

    /// Where the program runs that this speaks of.
    pub fn point(&self) -> Point {
        if self.chain == Some(NOTES) { Point::Tcx } else { Point::Clsact }
    }

    /// A program on TCX whose note is missing: somebody has removed clsact.
    pub(super) fn without_note(interface: &Interface, hook: Hook, program: u32, name: String) -> Self {
        Filter {
            interface: interface.clone(),
            hook,
            priority: 0,
            handle: 0,
            kind: "bpf".to_owned(),
            name: Some(name),
            program: Some(program),
            tag: None,
            chain: Some(NOTES),
            info: 0,
            parent: 0,
        }
    }

    /// Whether packets come to it.
    pub fn is_reached(&self) -> bool {
        self.chain.unwrap_or(0) == 0
    }

    pub fn is_the_originals(&self) -> bool {
        self.kind == "bpf" && self.name.as_deref() == Some(ORIGINAL_NAME)
    }
}

/// Puts our filter on a hook, or replaces it: one message, so that there is never none and never two.
pub fn put(
    netlink: &mut Netlink,
    interface: &Interface,
    hook: Hook,
    program: BorrowedFd<'_>,
    name: &str,
) -> Result<()> {
    put_at(netlink, interface, hook, program, name, PRIORITY)
}

/// The same at any priority: lower ones run first. Filters elsewhere than at [`PRIORITY`] are never taken for ours.
pub fn put_at(
    netlink: &mut Netlink,
    interface: &Interface,
    hook: Hook,
    program: BorrowedFd<'_>,
    name: &str,
    priority: u16,
) -> Result<()> {
    let key = Key { priority, handle: HANDLE, chain: None };
    send(netlink, write(interface, hook, program, name, key), interface, hook)
}

/// What [`put`] sends.
pub(super) fn request(interface: &Interface, hook: Hook, program: BorrowedFd<'_>, name: &str) -> Request {
    write(interface, hook, program, name, Key { priority: PRIORITY, handle: HANDLE, chain: None })
}

/// Notes that a program is on TCX, or is about to be. One note for each program, whose number, `id`, is its handle.
pub(super) fn note(
    netlink: &mut Netlink,
    interface: &Interface,
    hook: Hook,
    program: (BorrowedFd<'_>, u32),
    name: &str,
) -> Result<()> {
    send(netlink, note_request(interface, hook, program, name), interface, hook)
}

/// What [`note`] sends.
pub(super) fn note_request(
    interface: &Interface,
    hook: Hook,
    (program, id): (BorrowedFd<'_>, u32),
    name: &str,
) -> Request {
    write(interface, hook, program, name, Key { priority: PRIORITY, handle: id, chain: Some(NOTES) })
}

fn send(netlink: &mut Netlink, (message, flags): Request, interface: &Interface, hook: Hook) -> Result<()> {
    netlink.request(message, flags).map_err(|source| refused(interface, hook, source))
}

/// What it means when a filter is refused.
pub(super) fn refused(interface: &Interface, hook: Hook, source: netlink::Error) -> Error {
    Error::netlink(format!("attach to {} {hook}", interface.name), source)
}

/// What makes a filter the same as the one that it replaces.
struct Key {
    priority: u16,
    handle: u32,
    chain: Option<u32>,
}

fn write(
    interface: &Interface,
    hook: Hook,
    program: BorrowedFd<'_>,
    name: &str,
    Key { priority, handle, chain }: Key,
) -> Request {
    let options = [
        // A descriptor is never negative.
        TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
        TcFilterBpfOption::ProgName(name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let header = TcHeader {
        index: interface.index,
        handle: handle.into(),
        parent: hook.parent(),
        info: u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be()),
        ..TcHeader::default()
    };
    let mut attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()),
    ];
    attributes.extend(chain.map(TcAttribute::Chain));
    let message = RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(header, attributes));
    (message, NLM_F_CREATE)
}

/// Every filter on a hook. The egress of a legacy `ingress` qdisc does not exist: the kernel would show ingress.
pub fn list(netlink: &mut Netlink, interface: &Interface, hook: Hook, qdisc: Qdisc) -> Result<Vec<Filter>> {
    match (qdisc, hook) {
        (Qdisc::Absent, _) | (Qdisc::Legacy, Hook::Egress) => return Ok(Vec::new()),
        (Qdisc::Clsact(_), _) | (Qdisc::Legacy, Hook::Ingress) => {}
    }
    let header = TcHeader { index: interface.index, parent: hook.parent(), ..TcHeader::default() };
    let request = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, Vec::new()));
    let answers = netlink
        .dump(&request)
        .map_err(|source| Error::netlink(format!("list the filters of {} {hook}", interface.name), source))?;
    // The first entry of each priority stands for the priority itself and has handle 0.
    Ok(answers
        .iter()
        .filter_map(|answer| read(answer, interface, hook))
        .filter(|filter| filter.handle != 0)
        .collect())
}

/// The same where there is clsact, or nothing.
pub fn on_clsact(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Result<Vec<Filter>> {
    list(netlink, interface, hook, Qdisc::Clsact(Blocks::default()))
}

/// Removes exactly this filter.
pub fn remove(netlink: &mut Netlink, filter: &Filter) -> Result<()> {
    let (message, flags) = removal(filter);
    netlink.request(message, flags).map_err(|source| stays(filter, source))
}

/// What [`remove`] sends.
pub(super) fn removal(filter: &Filter) -> Request {
    let header = TcHeader {
        index: filter.interface.index,
        handle: filter.handle.into(),
        parent: filter.parent.into(),
        info: filter.info,
        ..TcHeader::default()
    };
    let mut attributes = vec![TcAttribute::Kind(filter.kind.clone())];
    attributes.extend(filter.chain.map(TcAttribute::Chain));
    (RouteNetlinkMessage::DelTrafficFilter(TcMessage::from_parts(header, attributes)), 0)
}

/// What it means when that is refused.
pub(super) fn stays(filter: &Filter, source: netlink::Error) -> Error {
    Error::netlink(format!("remove the filter from {} {}", filter.interface.name, filter.hook), source)
}

fn read(answer: &netlink::Answer, interface: &Interface, hook: Hook) -> Option<Filter> {
    const TCA_KIND: u16 = 1;
    const TCA_OPTIONS: u16 = 2;
    const TCA_CHAIN: u16 = 11;
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_TAG: u16 = 10;
    const TCA_BPF_ID: u16 = 11;
    let header: [u8; TC_HEADER] = answer.header()?;
    let field = |at: usize| header.get(at..).and_then(netlink::word);
    let (handle, parent, info) = (field(8)?, field(12)?, field(16)?);
    let mut filter = Filter {
        interface: interface.clone(),
        hook,
        priority: u16::try_from(info >> 16).ok()?,
        handle,
        kind: String::new(),
        name: None,
        program: None,
        tag: None,
        chain: None,
        info,
        parent,
    };
    let mut options = Vec::new();
    for (attribute, value) in answer.attributes(TC_HEADER) {
        match attribute {
            TCA_KIND => filter.kind = netlink::text(&value),
            TCA_OPTIONS => options = value,
            TCA_CHAIN => filter.chain = netlink::word(&value),
            _ => {}
        }
    }
    if filter.kind == "bpf" {
        for (attribute, value) in netlink::attributes(&options) {
            match attribute {
                TCA_BPF_NAME => filter.name = Some(netlink::text(&value)),
                TCA_BPF_ID => filter.program = netlink::word(&value),
                TCA_BPF_TAG => filter.tag = Some(value.iter().map(|byte| format!("{byte:02x}")).collect()),
                _ => {}
            }
        }
    }
    Some(filter)
}
