//! The tree as text, for `sfunnel compile --emit tree` and the goldens.
//!
//! One test a line, what follows when it holds indented below it, `else` for the other side.

use std::fmt;
use std::net::Ipv4Addr;

use super::{Field, Node, Op, Test, Tree};
use crate::ir::Proto;

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Proto::ALL.iter().try_for_each(|proto| show(f, 0, &proto.to_string(), self.root(*proto)))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Saddr => "saddr",
            Field::Daddr => "daddr",
            Field::Sport => "sport",
            Field::Dport => "dport",
        })
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
