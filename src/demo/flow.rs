//! What the demo sends through what, and the rules that say so for each end.
//!
//! Data, and text in the rule language. Never touches a packet.

use crate::ir::Proto;

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

/// An end of the wire, and a hook there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    ClientEgress,
    ServerIngress,
    ServerEgress,
    ClientIngress,
}

impl Place {
    /// In the order in which a request and its response come by.
    pub const ALL: [Place; 4] =
        [Place::ClientEgress, Place::ServerIngress, Place::ServerEgress, Place::ClientIngress];

    pub fn title(self) -> &'static str {
        match self {
            Place::ClientEgress => "client egress",
            Place::ServerIngress => "server ingress",
            Place::ServerEgress => "server egress",
            Place::ClientIngress => "client ingress",
        }
    }

    /// The name of the program there.
    pub fn program(self) -> &'static str {
        match self {
            Place::ClientEgress => "client_egress",
            Place::ServerIngress => "server_ingress",
            Place::ServerEgress => "server_egress",
            Place::ClientIngress => "client_ingress",
        }
    }

    /// The rules, one per line. IPFIX is not answered, but there are rules for its replies.
    pub fn rules(self) -> Vec<String> {
        let rule = |flow: &Flow| {
            let Flow { inner, port, outer, service, .. } = flow;
            match self {
                Place::ClientEgress => {
                    format!("{inner} dport {port} actions funnel {outer} sport {SPORT} dport {service}")
                }
                Place::ServerIngress => {
                    format!("{outer} sport {SPORT} dport {service} actions unfunnel {inner}")
                }
                Place::ServerEgress => {
                    format!("{inner} sport {port} actions funnel {outer} sport {service} dport {SPORT}")
                }
                Place::ClientIngress => {
                    format!("{outer} sport {service} dport {SPORT} actions unfunnel {inner}")
                }
            }
        };
        FLOWS.iter().map(rule).collect()
    }
}
