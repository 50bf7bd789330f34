//! What the demo sends through what, and the rules that say so for each end.
//!
//! Data, and rules. Never touches a packet.

use super::Error;
use crate::check;
use crate::diag::{self, Diagnostic, Source};
use crate::ir::{Proto, Ruleset};
use crate::mirror::{self, Role};

/// The source port of all funnels.
pub const SPORT: u16 = 540;

/// Packets of one service, carried through the port of another.
#[derive(Debug)]
pub struct Flow {
    pub title: &'static str,
    pub inner: Proto,
    pub port: u16,
    pub outer: Proto,
    pub service: u16,
}

pub const FLOWS: [Flow; 3] = [
    Flow { title: "IPFIX records", inner: Proto::Udp, port: 4739, outer: Proto::Tcp, service: 179 },
    Flow { title: "requests, responses", inner: Proto::Tcp, port: 8080, outer: Proto::Tcp, service: 80 },
    Flow { title: "requests, responses", inner: Proto::Tcp, port: 8443, outer: Proto::Udp, service: 443 },
];

impl Flow {
    /// `udp 4739 in tcp 179`
    pub fn name(&self) -> String {
        let Flow { inner, port, outer, service, .. } = self;
        format!("{inner} {port} in {outer} {service}")
    }

    /// A packet of the service itself, either way.
    pub fn is_plain(&self, proto: Proto, sport: u16, dport: u16) -> bool {
        proto == self.inner && (sport == self.port || dport == self.port)
    }

    /// A packet in its funnel, either way.
    pub fn is_funneled(&self, proto: Proto, sport: u16, dport: u16) -> bool {
        let ports = (sport, dport);
        proto == self.outer && (ports == (SPORT, self.service) || ports == (self.service, SPORT))
    }
}

/// How the report calls a place.
pub fn title(role: Role) -> &'static str {
    match role {
        Role::ClientEgress => "client egress",
        Role::PodIngress => "server ingress",
        Role::PodEgress => "server egress",
        Role::ClientIngress => "client ingress",
    }
}

/// The name of the program there.
pub fn program(role: Role) -> &'static str {
    match role {
        Role::ClientEgress => "client_egress",
        Role::PodIngress => "server_ingress",
        Role::PodEgress => "server_egress",
        Role::ClientIngress => "client_ingress",
    }
}

/// The rules for a place: all follow from what the client sends. IPFIX is not answered, but there are rules for its
/// replies.
pub fn rules(role: Role) -> Result<Ruleset, Error> {
    let funnel = |flow: &Flow| {
        let Flow { inner, port, outer, service, .. } = flow;
        format!("{inner} dport {port} actions funnel {outer} sport {SPORT} dport {service}\n")
    };
    let source = Source::new(title(Role::ClientEgress), FLOWS.iter().map(funnel).collect::<String>());
    let bug = |faults: Vec<Diagnostic>| Error::Internal(diag::render(&source, &faults, false));
    let sent = check::read(&source).map_err(bug)?.ruleset;
    let mirrored = mirror::mirror(&sent, Role::ClientEgress, role, true).map_err(bug)?;
    Ok(Ruleset { rules: mirrored.rules })
}
