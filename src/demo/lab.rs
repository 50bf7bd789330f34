//! Two namespaces, a wire between them, sfunnel at both ends, and taps.
//!
//! Everything is attached through what `sfunnel attach` uses. The taps are filters of the demo's own, right
//! before funnel and right after unfunnel, that send a copy of each packet into a second veth pair,
//! where a packet socket sees it: a socket on the wire itself sees only what funnel has done already.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use asm::{Assembler, Helper, Insn, Program, Reg::*};

use super::capture::Capture;
use super::flow;
use super::namespace::Namespace;
use super::{DEADLINE, Error};
use crate::ir::{Ruleset, Side};
use crate::mirror::Role;
use crate::net::{self, Attachment, Hook, Interface, Link, Mark, Netlink, filter, links, veth};
use crate::{codegen, diagram, elf, kernel, policy};

pub const WIRE: &str = "eth0";
const TAP: &str = "tap0";
/// Of a veth pair that nobody has set one for.
const MTU: u32 = 1500;
/// Client and server. TEST-NET-1 (RFC 5737): nobody's addresses.
pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// One end of the wire.
#[derive(Debug)]
pub struct End {
    pub namespace: Namespace,
    pub address: Ipv4Addr,
    pub wire: Interface,
    pub tap: Interface,
    pub capture: Capture,
    netlink: Netlink,
}

#[derive(Debug)]
pub struct Lab {
    pub client: End,
    pub server: End,
}

/// A program on a hook.
#[derive(Debug)]
pub struct Installed {
    pub role: Role,
    pub rules: Vec<String>,
    /// Slots of eight bytes, as compiled, and after the verifier.
    pub slots: usize,
    pub translated: Option<usize>,
}

#[derive(Debug)]
pub struct Installation {
    pub programs: Vec<Installed>,
    pub compiling: Duration,
    pub loading: Duration,
    pub attaching: Duration,
}

impl Lab {
    pub fn new() -> Result<Self, Error> {
        let (client, server) = (Namespace::new("client")?, Namespace::new("server")?);
        let mut netlink = open(&client)?;
        for (name, numbers) in [(WIRE, [2, 12]), (TAP, [3, 13])] {
            veth::pair(&mut netlink, [name, name], numbers, server.as_fd())
                .map_err(|error| system("make a veth pair", error))?;
        }
        let [near, far] = ADDRESSES;
        let mut lab = Self { client: End::new(client, near)?, server: End::new(server, far)? };
        let deadline = Instant::now() + DEADLINE;
        for end in [&mut lab.client, &mut lab.server] {
            for interface in [&end.wire, &end.tap] {
                veth::wait_until_running(&mut end.netlink, interface, deadline)
                    .map_err(|error| system("wait for its veth pairs", error))?;
            }
        }
        Ok(lab)
    }

    /// Compiles, loads and attaches all rules, as `sfunnel attach` does.
    pub fn attach(&mut self) -> Result<Installation, Error> {
        let start = Instant::now();
        let compiled: Vec<(Role, Ruleset, Program)> = Role::ALL
            .into_iter()
            .map(|role| {
                let ruleset = flow::rules(role)?;
                let program = compile(&ruleset, role.side())?;
                Ok((role, ruleset, program))
            })
            .collect::<Result<_, Error>>()?;
        let named: Vec<(&str, &Program)> =
            compiled.iter().map(|(role, _, program)| (flow::program(*role), program)).collect();
        let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
        let object = wrap(&named)?;
        let compiling = start.elapsed();

        let start = Instant::now();
        let loaded = kernel::load(&object, &names)?;
        let loading = start.elapsed();

        let start = Instant::now();
        for ((role, ruleset, compiled), loaded) in compiled.iter().zip(&loaded) {
            let end = if role.is_client() { &mut self.client } else { &mut self.server };
            let name = Mark::new(&compiled.bytes(), ruleset.rules.len()).to_string();
            let attachment = Attachment::new(end.wire.clone(), role.side().into(), loaded, name);
            // From inside: what is on TCX is asked by a system call, and that looks at its caller's namespace.
            let End { namespace, netlink, .. } = end;
            namespace.within(|| net::plan(netlink, vec![attachment])?.apply(netlink).map(|_| ()))?;
        }
        let attaching = start.elapsed();

        type Compiled = (Role, Ruleset, Program);
        let installed = |((role, ruleset, compiled), loaded): (&Compiled, &kernel::Program)| Installed {
            role: *role,
            rules: ruleset.rules.iter().map(|rule| rule.text.clone()).collect(),
            slots: compiled.slots(),
            translated: loaded.translated.and_then(|bytes| usize::try_from(bytes / 8).ok()),
        };
        let programs = compiled.iter().zip(&loaded).map(installed).collect();
        Ok(Installation { programs, compiling, loading, attaching })
    }

    /// Taps the client before funnel, the server after unfunnel.
    pub fn tap(&mut self) -> Result<(), Error> {
        let (plain, delivered) = (copy_to(&self.client.tap)?, copy_to(&self.server.tap)?);
        let object = wrap(&[("tap_plain", &plain), ("tap_delivered", &delivered)])?;
        let loaded = kernel::load(&object, &["tap_plain", "tap_delivered"])?;
        let places = [
            (&mut self.client, Hook::Egress, filter::PRIORITY - 1),
            (&mut self.server, Hook::Ingress, filter::PRIORITY + 1),
        ];
        for (program, (end, hook, priority)) in loaded.iter().zip(places) {
            let name = "demo tap";
            filter::put_at(&mut end.netlink, &end.wire, hook, program.as_fd(), name, priority)?;
        }
        Ok(())
    }

    /// Takes in what the packet sockets have seen. The client first: what it has sent has then arrived,
    /// if the server's application has it.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.client.capture.drain()?;
        self.server.capture.drain()
    }
}

impl End {
    fn new(namespace: Namespace, address: Ipv4Addr) -> Result<Self, Error> {
        const PREFIX: u8 = 30;
        let mut netlink = open(&namespace)?;
        let [wire, tap] = [WIRE, TAP].map(|name| links::find(&mut netlink, &[name.to_owned()]));
        let (Some(wire), Some(tap)) = (wire?.pop(), tap?.pop()) else {
            return Err(Error::Internal("an interface that was just made is not there".to_owned()));
        };
        veth::address(&mut netlink, &wire, address, PREFIX)
            .map_err(|error| system("give its veth pair an address", error))?;
        for interface in [&wire, &tap] {
            veth::up(&mut netlink, interface).map_err(|error| system("bring up its veth pair", error))?;
        }
        let capture = Capture::open(&namespace)?;
        Ok(Self { namespace, address, wire, tap, capture, netlink })
    }
}

fn compile(ruleset: &Ruleset, side: Side) -> Result<Program, Error> {
    let target = policy::target(kernel::features(), side, ruleset, Some(MTU));
    let options = codegen::Options::pass_gso(Link::Ethernet).on(target);
    codegen::compile(ruleset, &diagram::build(ruleset), options)
        .map_err(|error| Error::Internal(error.to_string()))
}

/// `bpf_clone_redirect(skb, interface, 0); return TC_ACT_UNSPEC`
fn copy_to(interface: &Interface) -> Result<Program, Error> {
    let mut asm = Assembler::new();
    asm.push(Insn::mov32(R2, interface.index));
    asm.push(Insn::mov32(R3, 0));
    asm.push(Insn::call(Helper::CloneRedirect));
    asm.push(Insn::mov32(R0, -1));
    asm.push(Insn::exit());
    asm.finish().map_err(|error| Error::Internal(error.to_string()))
}

fn open(namespace: &Namespace) -> Result<Netlink, Error> {
    namespace.within(|| Netlink::open().map_err(|error| system("open a netlink socket", error)))
}

fn system(step: &str, error: net::netlink::Error) -> Error {
    match error.errno() {
        Some(errno) => Error::system(step, errno),
        None => Error::Internal(format!("{step}: {error}")),
    }
}

fn wrap(programs: &[(&str, &Program)]) -> Result<Vec<u8>, Error> {
    elf::wrap(programs).map_err(|error| Error::Internal(error.to_string()))
}
