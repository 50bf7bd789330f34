//! The nodes of a ruleset, and what `bypass` and `unbypass` ask of a rule.
//!
//! Nodes as written go in, a table of them or what is wrong comes out; a rule's parts go in, its action or what is wrong
//! with it comes out.

use std::net::IpAddr;

use super::Matches;
use super::alias::{MOST_TOLD, not_tcp, span};
use crate::diag::Diagnostic;
use crate::hops::{Clash, Hop, Hops};
use crate::ir::Action;
use crate::nodes::{self, Fault, Nodes};
use crate::syntax::ast::{ActionKind, Ast, MatchKind, Node, Protocol, Rule};

const KEEPS: &str = "keeps the pods' addresses in a field of the TCP header";

/// What rules are between; empty if something is wrong with it.
#[derive(Default)]
pub(super) struct Table {
    /// For `bypass` and `unbypass`: those with IPv4 addresses.
    nodes: Nodes,
    /// For `bypass direct`.
    hops: Hops,
}

pub(super) fn table(ast: &Ast, faults: &mut Vec<Diagnostic>) -> Table {
    let actions = || ast.rules.iter().flat_map(|rule| &rule.actions).filter(|action| action.kind.is_bypass());
    let direct = actions().any(|action| is_direct(&action.kind));
    let rewrites = actions().any(|action| !is_direct(&action.kind));
    let unread = ast.unread || ast.rules.iter().any(|rule| rule.damaged);
    let mut entries = Vec::new();
    for node in &ast.nodes {
        match hop(node) {
            Ok(hop) if hop.host.is_ipv6() && !direct && !unread => faults.push(only_direct(node)),
            Ok(hop) => entries.push((node, hop)),
            Err(wrong) => faults.push(wrong),
        }
    }
    let (written, list): (Vec<&Node>, Vec<Hop>) = entries.into_iter().unzip();
    // Of the others, there may be any number.
    let (of_v4, v4): (Vec<&Node>, Vec<nodes::Node>) =
        written.iter().zip(&list).filter_map(|(written, hop)| Some((*written, v4(hop)?))).unzip();
    let hops = Hops::new(&list).map_err(|clashes| {
        clashes.into_iter().map(|clash| (clash.entry(), clashing(clash, &written))).collect::<Vec<_>>()
    });
    let nodes = match Nodes::new(&v4) {
        Ok(nodes) => Ok(nodes),
        Err(_) if direct && !rewrites => Ok(Nodes::default()),
        Err(found) => Err(found.into_iter().filter_map(|fault| crowded(fault, &of_v4))),
    };
    let whole = list.len() == ast.nodes.len();
    match (hops, nodes) {
        (Ok(hops), Ok(nodes)) => {
            if let (Some(first), None, false) = (written.first(), actions().next(), unread) {
                let unused = Diagnostic::warning("no rule is about the nodes", first.span, "first of them");
                faults.push(unused.help("remove them, or write a rule with `bypass`"));
            }
            if whole { Table { nodes, hops } } else { Table::default() }
        }
        (hops, nodes) => {
            let clashes = hops.err().unwrap_or_default().into_iter().map(|(_, clash)| clash);
            let mut all: Vec<Diagnostic> = clashes.collect();
            all.extend(nodes.err().into_iter().flatten());
            all.sort_by_key(|fault| fault.primary.span.start);
            faults.extend(all.into_iter().take(MOST_TOLD));
            Table::default()
        }
    }
}

pub(super) fn is_direct(kind: &ActionKind) -> bool {
    matches!(kind, ActionKind::Bypass { direct: true } | ActionKind::Unbypass { direct: true, .. })
}

fn hop(node: &Node) -> Result<Hop, Diagnostic> {
    let Node { host, pods, .. } = node;
    if host.first.is_ipv4() == pods.first.is_ipv4() {
        return Ok(Hop { host: host.first, first: pods.first, last: pods.last });
    }
    let error =
        Diagnostic::error("a host and its pods are of one version of IP", pods.span, "of another version");
    Err(error
        .with(host.span, "the host")
        .help("write the address of this version that other nodes know the host by"))
}

fn v4(hop: &Hop) -> Option<nodes::Node> {
    match (hop.host, hop.first, hop.last) {
        (IpAddr::V4(host), IpAddr::V4(first), IpAddr::V4(last)) => Some(nodes::Node { host, first, last }),
        _ => None,
    }
}

fn only_direct(node: &Node) -> Diagnostic {
    Diagnostic::error("nodes of IPv6 are for `bypass direct` only", node.host.span, "an IPv6 address")
        .help("leave it out, and IPv6 stays on the overlay; or write `bypass direct`, if the network between the nodes takes pods' addresses")
}

fn clashing(clash: Clash, written: &[&Node]) -> Diagnostic {
    let node = written[clash.entry()];
    match clash {
        Clash::Overlap(first, _) => {
            Diagnostic::error("two nodes with the same pods", node.pods.span, "second one")
                .with(written[first].pods.span, "first one")
                .help("write each pod's address once, or the prefix that it is in")
        }
        Clash::Pod(_, pods) => Diagnostic::error(
            "the host is among the pods",
            node.host.span,
            "its own packets would look like a pod's",
        )
        .with(written[pods].pods.span, "the pods")
        .help("write the address that other nodes know the host by"),
    }
}

fn crowded(fault: Fault, written: &[&Node]) -> Option<Diagnostic> {
    match fault {
        Fault::Clash(_) => None,
        Fault::Crowded(at) => Some(
            Diagnostic::error("too many pods for one node", written[at].pods.span, "more than 256 addresses with these")
                .help("at most 256 addresses of a node can be bypassed, in any prefixes: a packet has 16 bits for the numbers of both pods. \
                       Leave the others out: they stay on the overlay"),
        ),
    }
}

/// `bypass` or `unbypass`, if the rule is about TCP, unless they are `direct`, and there are nodes.
pub(super) fn action(
    rule: &Rule,
    matches: &Matches,
    ast: &Ast,
    table: &Table,
    faults: &mut Vec<Diagnostic>,
) -> Option<Action> {
    let action = rule.actions.iter().find(|action| action.kind.is_bypass())?;
    let keyword = action.kind.keyword();
    if is_direct(&action.kind) {
        let udp = rule.matches.iter().find(|m| m.kind == MatchKind::Protocol(Protocol::Udp));
        if let (ActionKind::Unbypass { probe: Some(_), .. }, Some(udp)) = (&action.kind, udp) {
            let error =
                Diagnostic::error("`probe` in a rule about UDP", span(rule), "probes are segments of TCP");
            faults.push(
                error
                    .with(udp.span, "this protocol")
                    .help("leave it out here, and write it in a rule about `tcp`"),
            );
            return None;
        }
    } else if let Some(wrong) = not_tcp(rule, matches, KEEPS) {
        faults.push(wrong.help(format!("match `tcp`: what `{keyword}` leaves alone stays on the overlay")));
        return None;
    }
    // What arrives direct says itself whose it is.
    let between = !matches!(action.kind, ActionKind::Unbypass { direct: true, .. });
    if between && ast.nodes.is_empty() && !ast.unread {
        let error = Diagnostic::error(
            format!("`{keyword}` between which nodes?"),
            span(rule),
            "no `node` is written",
        );
        faults.push(error.help("write one line a node, such as `node 192.0.2.1 10.244.1.0/24`: a host, and the prefix of its pods"));
    }
    Some(match action.kind {
        ActionKind::Unbypass { direct: true, probe } => Action::Undirect { probe },
        ActionKind::Bypass { direct: true } => Action::Direct { hops: table.hops.clone() },
        ActionKind::Unbypass { probe, .. } => Action::Unbypass { nodes: table.nodes.clone(), probe },
        _ => Action::Bypass { nodes: table.nodes.clone() },
    })
}
