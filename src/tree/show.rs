//! The tree as text, for `sfunnel compile --emit tree` and the goldens.
//!
//! One test a line, what follows when it holds indented below it, `else` for the other side.

use std::fmt;
use std::net::Ipv4Addr;

use super::{Field, Node, Op, Test, Tree, Word};
use crate::ir::{Family, Proto};

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dual = Proto::ALL.iter().any(|proto| *self.root(Family::V6, *proto) != Node::Miss);
        for family in Family::ALL.iter().take(if dual { 2 } else { 1 }) {
            for proto in Proto::ALL {
                let name = if dual { format!("{family} {proto}") } else { proto.to_string() };
                show(f, 0, &name, self.root(*family, proto))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Saddr => f.write_str("saddr"),
            Field::Daddr => f.write_str("daddr"),
            Field::Saddr6(word) => write!(f, "saddr{word}"),
            Field::Daddr6(word) => write!(f, "daddr{word}"),
            Field::Sport => f.write_str("sport"),
            Field::Dport => f.write_str("dport"),
        }
    }
}

/// Which bits of the address.
impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = u32::from(self.index()) * 32;
        write!(f, "[{first}..{}]", first + 31)
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = match self.op {
            Op::Equal => "==",
            Op::AtMost => "<=",
        };
        write!(f, "{} {op} {}", self.field, self.field.show(self.value))
    }
}

impl Field {
    /// The value as one writes it in a rule.
    pub fn show(self, value: u32) -> String {
        match self {
            Field::Saddr | Field::Daddr => Ipv4Addr::from(value).to_string(),
            Field::Saddr6(_) | Field::Daddr6(_) => format!("{:x}:{:x}", value >> 16, value & 0xffff),
            Field::Sport | Field::Dport => value.to_string(),
        }
    }
}

fn show(f: &mut fmt::Formatter<'_>, depth: usize, head: &str, node: &Node) -> fmt::Result {
    write!(f, "{:indent$}{head}", "", indent = depth * 2)?;
    match node {
        Node::Miss => writeln!(f, " -> miss"),
        Node::Rule(rule) => writeln!(f, " -> rule {rule}"),
        Node::Test { test, yes, no } => {
            writeln!(f)?;
            show(f, depth + 1, &test.to_string(), yes)?;
            show(f, depth + 1, "else", no)
        }
        Node::Chain { first, then } => {
            writeln!(f)?;
            show(f, depth + 1, "first", first)?;
            show(f, depth + 1, "then", then)
        }
    }
}
