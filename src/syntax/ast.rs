//! The rules as they were written, every node with its place in the source.
//!
//! Comes from [`parse`](super::parse), goes to [`check`](crate::check). Values are in range
//! (no port 0, no `/33`), but rules may still be nonsense: `tcp udp` is representable here and
//! only here.

use std::net::IpAddr;

use crate::diag::Span;
use crate::field::Field;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ast {
    /// Some of the text could not be read: what is missing may have been there.
    pub unread: bool,
    pub defines: Vec<Define>,
    pub nodes: Vec<Node>,
    pub chains: Vec<Head>,
    pub rules: Vec<Rule>,
}

/// A name for values. Where it is used, they stand instead of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Define {
    pub name: String,
    /// Of the name.
    pub span: Span,
    pub values: Values,
    pub used: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// All of one kind.
    Known(Set),
    /// They could not be read.
    Unknown,
}

/// Whose pods have which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub span: Span,
    /// A single one.
    pub host: Item<IpAddr>,
    pub pods: Item<IpAddr>,
}

/// Where a chain begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub span: Span,
    pub chain: Chain,
}

/// What rules are for: a hook, or both hooks of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    Ingress,
    Egress,
    /// What a client sends; all else follows from it.
    Service,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The chain that it stands in.
    pub chain: Option<Chain>,
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
    /// A value is on the line after its match; this was already reported.
    pub over_lines: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub span: Span,
    pub kind: MatchKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatchKind {
    Ip(Version),
    Protocol(Protocol),
    Field { field: Field, negated: bool, set: Set },
}

/// What is written where values are expected: one of them, or `{ several }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub span: Span,
    /// At least one.
    pub items: Vec<Item>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Number(u32),
    Address(IpAddr),
}

/// One element of a set: from `first` to `last`, which are of one kind and in order. Values that come from a name
/// carry the name's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<T = Value> {
    pub span: Span,
    pub first: T,
    pub last: T,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
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
        flags: Option<Flags>,
    },
    Unfunnel {
        inner: Protocol,
        /// What the inner ports must be, each side at most once.
        guards: Vec<Guard>,
    },
    Alias {
        side: Side,
        port: u16,
    },
    Unalias {
        ports: Set,
    },
    Bypass {
        /// As it is, pods' addresses and all.
        direct: bool,
    },
    Unbypass {
        direct: bool,
        /// Where probes are answered.
        probe: Option<u16>,
    },
    /// The new address of one side, alone or besides one of the others.
    Nat {
        side: Side,
        /// A single one.
        address: Item<IpAddr>,
        port: Option<u16>,
    },
    /// Besides one of the others, as is `counter`.
    Set {
        field: Field,
        value: u32,
    },
    Counter,
}

/// TCP flags as bits of the header's flags byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags {
    pub span: Span,
    pub bits: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub span: Span,
    pub side: Side,
    pub negated: bool,
    pub set: Set,
}

impl Rule {
    /// Where a field is matched.
    pub fn matched(&self, field: Field) -> Option<&Match> {
        self.matches
            .iter()
            .find(|m| matches!(m.kind, MatchKind::Field { field: other, .. } if other == field))
    }
}

impl MatchKind {
    /// The word that starts the match.
    pub fn keyword(&self) -> &'static str {
        match self {
            MatchKind::Ip(version) => version.keyword(),
            MatchKind::Protocol(protocol) => protocol.keyword(),
            MatchKind::Field { field, .. } => field.keyword(),
        }
    }
}

impl ActionKind {
    /// The words that start an action that says where the packet goes.
    const WAYS: [&str; 8] =
        ["accept", "drop", "funnel", "unfunnel", "alias", "unalias", "bypass", "unbypass"];
    /// Those that start one that stands beside it, besides fields that are set.
    const BESIDE: [&str; 3] = ["counter", "dnat", "snat"];

    /// The words that start an action.
    pub fn keywords() -> impl Iterator<Item = &'static str> {
        let settings = Field::settable().map(Field::keyword);
        ActionKind::WAYS.into_iter().chain(settings).chain(ActionKind::BESIDE)
    }

    pub fn starts_with(word: &str) -> bool {
        ActionKind::keywords().any(|keyword| keyword == word)
    }

    /// `bypass` or `unbypass`, `direct` or not.
    pub fn is_bypass(&self) -> bool {
        matches!(self, ActionKind::Bypass { .. } | ActionKind::Unbypass { .. })
    }

    /// Says nothing about where the packet goes: may stand beside what does.
    pub fn stands_beside(&self) -> bool {
        matches!(self, ActionKind::Set { .. } | ActionKind::Counter | ActionKind::Nat { .. })
    }

    /// The word that starts the action.
    pub fn keyword(&self) -> &'static str {
        match self {
            ActionKind::Accept => "accept",
            ActionKind::Drop => "drop",
            ActionKind::Funnel { .. } => "funnel",
            ActionKind::Unfunnel { .. } => "unfunnel",
            ActionKind::Alias { .. } => "alias",
            ActionKind::Unalias { .. } => "unalias",
            ActionKind::Bypass { .. } => "bypass",
            ActionKind::Unbypass { .. } => "unbypass",
            ActionKind::Nat { side, .. } => side.of("snat", "dnat"),
            ActionKind::Set { field, .. } => field.keyword(),
            ActionKind::Counter => "counter",
        }
    }
}

impl Chain {
    pub fn keywords(self) -> &'static str {
        match self {
            Chain::Ingress => "chain ingress",
            Chain::Egress => "chain egress",
            Chain::Service => "service",
        }
    }
}

impl Side {
    /// What belongs to this side.
    pub fn of<T>(self, source: T, destination: T) -> T {
        match self {
            Side::Source => source,
            Side::Destination => destination,
        }
    }

    /// The word for the port on this side.
    pub fn port_keyword(self) -> &'static str {
        match self {
            Side::Source => "sport",
            Side::Destination => "dport",
        }
    }
}

impl Version {
    pub const ALL: [Version; 2] = [Version::V4, Version::V6];

    pub fn keyword(self) -> &'static str {
        match self {
            Version::V4 => "ip",
            Version::V6 => "ip6",
        }
    }

    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Version::V4,
            IpAddr::V6(_) => Version::V6,
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
