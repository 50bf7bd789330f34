//! The intermediate representation: rules as sets of packets and what to do with them.
//!
//! Comes from [`check`](crate::check), which lets only legal rulesets through; goes to
//! [`tree`](crate::tree) and [`codegen`](crate::codegen). All numbers are in host byte order.
//! Never holds anything a later stage would have to refuse.

use std::fmt;

use range_set_blaze::RangeSetBlaze;

use crate::diag::Span;

/// Rules in the order they were written: the first match wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    pub rules: Vec<Rule>,
}

/// One rule. A packet matches when every set contains the packet's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The rule as it was written, on one line, without comments.
    pub text: String,
    /// Where it stands in the source.
    pub span: Span,
    pub proto: Proto,
    pub saddr: RangeSetBlaze<u32>,
    pub daddr: RangeSetBlaze<u32>,
    pub sport: RangeSetBlaze<u16>,
    pub dport: RangeSetBlaze<u16>,
    pub action: Action,
}

/// What happens to a packet that matches. Processing ends with the first match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Accept,
    Drop,
    /// Push a header between IP and the L4 header that is there.
    Funnel(Funnel),
    /// Pop the funneling header, if there is one; `inner` is what is below it.
    Unfunnel {
        inner: Proto,
    },
}

/// The header that `funnel` pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Funnel {
    pub outer: Proto,
    pub sport: u16,
    pub dport: u16,
}

/// The L4 protocols that can be matched, pushed and popped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    Tcp,
    Udp,
}

impl Proto {
    pub const ALL: [Proto; 2] = [Proto::Tcp, Proto::Udp];

    /// The IP protocol number (RFC 790).
    pub const fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
        }
    }

    /// Bytes of the fixed header: also what `funnel` pushes.
    pub const fn header_len(self) -> u8 {
        match self {
            Proto::Tcp => 20,
            Proto::Udp => 8,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}
