//! The nodes of a ruleset, and what `bypass` and `unbypass` ask of a rule.
//!
//! Nodes as written go in, a table of them or what is wrong comes out; a rule's parts go in, its action or what is wrong
//! with it comes out.

use std::net::{IpAddr, Ipv4Addr};

use super::Matches;
use super::alias::{MOST_TOLD, not_tcp, span};
use crate::diag::Diagnostic;
use crate::ir::Action;
use crate::nodes::{self, Fault, Nodes};
use crate::syntax::ast::{ActionKind, Ast, Item, Node, Rule};

const KEEPS: &str = "keeps the pods' addresses in a field of the TCP header";

/// The table, which is empty if something is wrong with it.
pub(super) fn table(ast: &Ast, faults: &mut Vec<Diagnostic>) -> Nodes {
    let mut entries = Vec::new();
    for node in &ast.nodes {
        match [node.host, node.pods].map(v4) {
            [Ok((host, _)), Ok((first, last))] => entries.push((node, nodes::Node { host, first, last })),
            wrong => faults.extend(wrong.into_iter().filter_map(Result::err)),
        }
    }
    let (written, list): (Vec<&Node>, Vec<nodes::Node>) = entries.into_iter().unzip();
    match Nodes::new(&list) {
        Ok(_) if list.len() < ast.nodes.len() => Nodes::default(),
        Ok(nodes) => {
            let bypasses =
                |rule: &&Rule| rule.damaged || rule.actions.iter().any(|action| action.kind.is_bypass());
            if let (Some(first), None, false) = (written.first(), ast.rules.iter().find(bypasses), ast.unread)
            {
                let unused = Diagnostic::warning("no rule is about the nodes", first.span, "first of them");
                faults.push(unused.help("remove them, or write a rule with `bypass`"));
            }
            nodes
        }
        Err(found) => {
            faults.extend(found.into_iter().take(MOST_TOLD).map(|fault| told(fault, &written)));
            Nodes::default()
        }
    }
}

fn v4(item: Item<IpAddr>) -> Result<(Ipv4Addr, Ipv4Addr), Diagnostic> {
    match (item.first, item.last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ok((first, last)),
        _ => {
            Err(Diagnostic::error("nodes have IPv4 addresses in this version", item.span, "an IPv6 address")
                .help("leave it out: what is not written here stays on the overlay"))
        }
    }
}

fn told(fault: Fault, written: &[&Node]) -> Diagnostic {
    let node = written[fault.entry()];
    match fault {
        Fault::Crowded(_) => Diagnostic::error("too many pods for one node", node.pods.span, "more than 256 addresses with these")
            .help("at most 256 addresses of a node can be bypassed, in any prefixes: a packet has 16 bits for the numbers of both pods. \
                   Leave the others out: they stay on the overlay"),
        Fault::Overlap(first, _) => {
            Diagnostic::error("two nodes with the same pods", node.pods.span, "second one")
                .with(written[first].pods.span, "first one")
                .help("write each pod's address once, or the prefix that it is in")
        }
        Fault::Pod(_, pods) => Diagnostic::error("the host is among the pods", node.host.span, "its own packets would look like a pod's")
            .with(written[pods].pods.span, "the pods")
            .help("write the address that other nodes know the host by"),
    }
}

/// `bypass` or `unbypass`, if the rule is about TCP and there are nodes.
pub(super) fn action(
    rule: &Rule,
    matches: &Matches,
    ast: &Ast,
    nodes: &Nodes,
    faults: &mut Vec<Diagnostic>,
) -> Option<Action> {
    let action = rule.actions.iter().find(|action| action.kind.is_bypass())?;
    let keyword = action.kind.keyword();
    if let Some(wrong) = not_tcp(rule, matches, KEEPS) {
        faults.push(wrong.help(format!("match `tcp`: what `{keyword}` leaves alone stays on the overlay")));
        return None;
    }
    if ast.nodes.is_empty() && !ast.unread {
        let error = Diagnostic::error(
            format!("`{keyword}` between which nodes?"),
            span(rule),
            "no `node` is written",
        );
        faults.push(error.help("write one line a node, such as `node 192.0.2.1 10.244.1.0/24`: a host, and the prefix of its pods"));
    }
    let nodes = nodes.clone();
    Some(match action.kind {
        ActionKind::Unbypass { probe } => Action::Unbypass { nodes, probe },
        _ => Action::Bypass { nodes },
    })
}
