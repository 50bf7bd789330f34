//! The rules as they were written, every node with its place in the source.
//!
//! Comes from [`parse`](super::parse), goes to [`check`](crate::check). Values are in range
//! (no port 0, no `/33`), but rules may still be nonsense: `tcp udp` is representable here and
//! only here.

use std::net::Ipv4Addr;

use crate::diag::Span;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ast {
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// From the first word to the last, without the comment.
    pub span: Span,
    /// The rule as it was written, blanks collapsed.
    pub text: String,
    pub matches: Vec<Match>,
    /// The word `actions`, which may be left out.
    pub actions_word: Option<Span>,
    pub actions: Vec<Action>,
    /// Some words could not be read: what seems to be missing may be among them.
    pub damaged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub span: Span,
    pub kind: MatchKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchKind {
    Ip,
    Protocol(Protocol),
    Addr { side: Side, negated: bool, prefix: Prefix },
    Port { side: Side, negated: bool, port: u16 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// An address and how many of its leading bits count; the others may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    pub addr: Ipv4Addr,
    pub len: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub span: Span,
    pub kind: ActionKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionKind {
    Accept,
    Drop,
    Funnel {
        outer: Protocol,
        sport: u16,
        dport: u16,
    },
    Unfunnel {
        inner: Protocol,
    },
    Alias {
        side: Side,
        port: u16,
    },
    /// Each once, in ascending order.
    Unalias {
        ports: Vec<u16>,
    },
}

impl MatchKind {
    /// The word that starts the match.
    pub fn keyword(self) -> &'static str {
        match self {
            MatchKind::Ip => "ip",
            MatchKind::Protocol(protocol) => protocol.keyword(),
            MatchKind::Addr { side: Side::Source, .. } => "saddr",
            MatchKind::Addr { side: Side::Destination, .. } => "daddr",
            MatchKind::Port { side: Side::Source, .. } => "sport",
            MatchKind::Port { side: Side::Destination, .. } => "dport",
        }
    }
}

impl ActionKind {
    /// The word that starts the action.
    pub fn keyword(&self) -> &'static str {
        match self {
            ActionKind::Accept => "accept",
            ActionKind::Drop => "drop",
            ActionKind::Funnel { .. } => "funnel",
            ActionKind::Unfunnel { .. } => "unfunnel",
            ActionKind::Alias { .. } => "alias",
            ActionKind::Unalias { .. } => "unalias",
        }
    }
}

impl Side {
    /// The word for the port on this side.
    pub fn port_keyword(self) -> &'static str {
        match self {
            Side::Source => "sport",
            Side::Destination => "dport",
        }
    }
}

impl Protocol {
    pub fn keyword(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}
