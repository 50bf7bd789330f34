//! `alias` on one hook without what undoes it on the other: the replies would come from a port to which nothing
//! was sent. Only where both chains are there, since one hook's rules may stand in another ruleset.
//!
//! Legal rules go in, warnings come out. Never about packets through a funnel, which may go one way only.

use std::collections::BTreeMap;

use range_set_blaze::RangeSetBlaze;

use super::Pair;
use super::alias::{MOST_TOLD, only, show, span};
use crate::diag::Diagnostic;
use crate::ir::{Action, End};
use crate::syntax::ast::{Ast, Chain, Head};

/// What the rules of a chain do to a port of this end: which ports they hide behind it, and which they restore.
#[derive(Default)]
struct Port {
    hidden: RangeSetBlaze<u16>,
    restored: RangeSetBlaze<u16>,
    /// The first rule that restores.
    list: Option<usize>,
}

type Ports = BTreeMap<(End, u16), Port>;

pub(super) fn missing(ast: &Ast, rules: &[Pair<'_>]) -> Vec<Diagnostic> {
    let head = |chain| ast.chains.iter().find(|head| head.chain == chain).copied();
    let (Some(ingress), Some(egress)) = (head(Chain::Ingress), head(Chain::Egress)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (here, there) in [(egress, ingress), (ingress, egress)] {
        let back = ports(rules, there.chain);
        for (written, rule) in rules.iter().filter(|(written, _)| written.chain == Some(here.chain)) {
            if found.len() == MOST_TOLD {
                return found;
            }
            let missing = match &rule.action {
                Action::Alias { end, port } => {
                    not_restored(rules, &rule.ports(*end), (*end, *port), &back, there)
                }
                Action::Unalias { end, ports } => {
                    let port = rule.ports(*end).first().unwrap_or_default();
                    not_hidden(ports, (*end, port), &back, there)
                }
                _ => None,
            };
            found.extend(missing.map(|Missing { message, label, place, place_label, help }| {
                Diagnostic::warning(message, span(written), label).with(place, place_label).help(help)
            }));
        }
    }
    found
}

struct Missing {
    message: String,
    label: String,
    place: crate::diag::Span,
    place_label: String,
    help: String,
}

fn not_restored(
    rules: &[Pair<'_>],
    from: &RangeSetBlaze<u16>,
    (end, port): (End, u16),
    back: &Ports,
    there: Head,
) -> Option<Missing> {
    let end = end.other();
    let from = only(from);
    let known = back.get(&(end, port)).filter(|port| port.list.is_some());
    if known.is_some_and(|known| from.is_none_or(|from| known.restored.contains(from))) {
        return None;
    }
    let list = known.map(|known| known.restored.clone()).unwrap_or_default();
    let all = &list | &RangeSetBlaze::from_iter(from);
    let ports = if all.is_empty() { "{ the ports that are aliased }".to_owned() } else { show(&all) };
    let place = known.and_then(|known| rules.get(known.list?));
    let chain = there.chain.keywords();
    Some(Missing {
        message: "alias without the way back".to_owned(),
        label: match from {
            Some(from) => format!("answers will come with {end} {port}, for {from}"),
            None => format!("answers will come with {end} {port}"),
        },
        place: place.map_or(there.span, |(written, _)| span(written)),
        place_label: match place {
            Some(_) => "does not list it".to_owned(),
            None => "restores nothing of it".to_owned(),
        },
        help: format!("write in `{chain}`: `tcp {end} {port} actions unalias {ports}`"),
    })
}

fn not_hidden(
    ports: &RangeSetBlaze<u16>,
    (end, port): (End, u16),
    back: &Ports,
    there: Head,
) -> Option<Missing> {
    let end = end.other();
    let hidden = back.get(&(end, port)).map(|port| port.hidden.clone()).unwrap_or_default();
    let open = &(ports - &hidden) - &RangeSetBlaze::from_iter([port]);
    let first = open.first()?;
    let chain = there.chain.keywords();
    Some(Missing {
        message: "unalias without the way back".to_owned(),
        label: format!("answers will leave with {end} {first}"),
        place: there.span,
        place_label: format!("does not hide {}", show(&open)),
        help: format!("write in `{chain}`: `tcp {end} {first} actions alias {end} {port}`"),
    })
}

fn ports(rules: &[Pair<'_>], chain: Chain) -> Ports {
    let mut ports = Ports::new();
    for (index, (written, rule)) in rules.iter().enumerate() {
        if written.chain != Some(chain) {
            continue;
        }
        match &rule.action {
            Action::Alias { end, port } => {
                ports.entry((*end, *port)).or_default().hidden |= &rule.ports(*end)
            }
            Action::Unalias { end, ports: list } => {
                let Some(port) = rule.ports(*end).first() else { continue };
                let entry = ports.entry((*end, port)).or_default();
                entry.restored |= list;
                entry.list = entry.list.or(Some(index));
            }
            _ => {}
        }
    }
    ports
}
