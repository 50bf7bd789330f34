//! From an action to its routine: what a leaf leaves behind for it, what it is called, and what emits it.
//!
//! A leaf of the diagram goes in with its rule; a jump to a routine that all rules with the same action, protocols and
//! settings share comes out, and at the end the routines in use. What a routine does is in a file of its own.

use std::collections::HashMap;
use std::fmt;

use asm::{Insn, Label};
use range_set_blaze::RangeSetBlaze;

use super::emit::{Emit, PORTS, UNSPEC};
use super::target::Mtu;
use super::{alias, bypass, counters, direct, funnel, mss, mtu, nat, unfunnel, validate};
use crate::hops::Hops;
use crate::ir::{Action, End, Family, Funnel, Nat, Proto, Rule};
use crate::nodes::Nodes;
use crate::settings::Settings;

/// What all rules share that have the same action and protocols, and ask for the same besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Routine {
    family: Family,
    verb: Verb,
    inner: Proto,
    outer: Proto,
    variant: Variant,
}

/// What rules ask for besides the action: each combination in use has routines of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub(super) settings: Settings,
    /// Of the pushed TCP header.
    pub(super) flags: u8,
    /// Lists of the inner source and destination ports that may be restored, by number.
    pub(super) guard: [Option<usize>; 2],
    pub(super) counted: bool,
    pub(super) nat: Nat,
}

impl Default for Variant {
    fn default() -> Self {
        Variant {
            settings: Settings::default(),
            flags: Funnel::SYN,
            guard: [None; 2],
            counted: false,
            nat: Nat::default(),
        }
    }
}

impl fmt::Display for Variant {
    /// What a label needs to be told from those of other variants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Variant { settings, flags, guard: [sport, dport], counted, nat } = self;
        if *flags != Funnel::SYN {
            write!(f, "_flags_{flags:02x}")?;
        }
        for (name, list) in [("sport", sport), ("dport", dport)] {
            if let Some(list) = list {
                write!(f, "_{name}_{list}")?;
            }
        }
        for (field, value) in settings.iter() {
            write!(f, "_{field}_{value:x}")?;
        }
        if !nat.is_none() {
            write!(f, "_{}", nat.to_string().replace([' ', ':'], "_"))?;
        }
        f.write_str(if *counted { "_counted" } else { "" })
    }
}

/// An action as its routine sees it: without what the leaf has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Verb {
    /// Only where something else is to be done: without, a leaf is an exit.
    Accept,
    /// Nothing but new addresses and ports.
    Nat,
    Drop,
    Funnel,
    Unfunnel,
    Alias(End),
    /// With the list of this number.
    Unalias(End, usize),
    /// Between the nodes of the table of this number.
    Bypass(usize),
    /// Answering probes at this port.
    Unbypass(usize, Option<u16>),
    /// Towards the next hops of the table of this number.
    Direct(usize),
    /// Answering probes at this port.
    Undirect(Option<u16>),
}

/// The routines in use, in the order of their first use.
#[derive(Debug, Default)]
pub(super) struct Routines {
    known: Vec<(Routine, Label)>,
    by_routine: HashMap<Routine, Label>,
    /// What `unalias` and `unfunnel` may restore, each list once.
    lists: Vec<RangeSetBlaze<u16>>,
    by_list: HashMap<RangeSetBlaze<u16>, usize>,
    /// What `bypass` and `unbypass` are between: one table, as rulesets are written.
    nodes: Vec<Nodes>,
    /// The same for `bypass direct`.
    hops: Vec<Hops>,
    /// The entries of rules that count.
    counters: Vec<Option<u32>>,
}

/// Whether the rule lets packets pass, and that is all.
pub(super) fn does_nothing(rule: &Rule) -> bool {
    let Rule { action, nat, settings, counter, .. } = rule;
    *action == Action::Accept && nat.is_none() && *settings == Settings::default() && !counter
}

/// The number of a table.
fn number_in<T: Clone + PartialEq>(tables: &mut Vec<T>, table: &T) -> usize {
    tables.iter().position(|known| known == table).unwrap_or_else(|| {
        tables.push(table.clone());
        tables.len() - 1
    })
}

impl Routines {
    pub(super) fn new(rules: &[Rule]) -> Self {
        Routines { counters: counters::numbers(rules), ..Routines::default() }
    }

    /// Packets of this kind that the rule is for: its counter is chosen, what the routine needs is in [`PORTS`], and
    /// there it goes.
    pub(super) fn leaf(
        &mut self,
        e: &mut Emit,
        (family, proto): (Family, Proto),
        number: usize,
        rule: &Rule,
    ) {
        // Named one by one, so that none is forgotten.
        let Rule { action, nat, settings, counter, text: _, span: _, proto: _, matches: _ } = rule;
        let mut variant = Variant { settings: *settings, counted: *counter, nat: *nat, ..Variant::default() };
        if let Some(counter) = self.counters.get(number).copied().flatten() {
            e.choose_counter(counter);
        }
        let (mut inner, mut outer) = (proto, proto);
        let verb = match action {
            Action::Accept if does_nothing(rule) => return e.exit(UNSPEC),
            Action::Accept if !nat.is_none() => Verb::Nat,
            Action::Accept => Verb::Accept,
            Action::Drop => Verb::Drop,
            Action::Funnel(Funnel { outer: pushed, sport, dport, flags }) => {
                let ports = (u32::from(*sport) << 16) | u32::from(*dport);
                e.op_note(Insn::mov32(PORTS, ports), &format!("sport {sport}, dport {dport}"));
                outer = *pushed;
                variant.flags = *flags;
                Verb::Funnel
            }
            Action::Unfunnel { inner: popped, guard } => {
                inner = *popped;
                variant.guard = [&guard.sport, &guard.dport]
                    .map(|ports| (!ports.is_universal()).then(|| self.list(ports)));
                Verb::Unfunnel
            }
            Action::Alias { end, port } => {
                e.op_note(Insn::mov32(PORTS, *port), &format!("{end} {port}"));
                Verb::Alias(*end)
            }
            Action::Unalias { end, ports } => Verb::Unalias(*end, self.list(ports)),
            Action::Bypass { nodes } => Verb::Bypass(number_in(&mut self.nodes, nodes)),
            Action::Unbypass { nodes, probe } => Verb::Unbypass(number_in(&mut self.nodes, nodes), *probe),
            Action::Direct { hops } => Verb::Direct(number_in(&mut self.hops, hops)),
            Action::Undirect { probe } => Verb::Undirect(*probe),
        };
        let label = self.label(e, Routine { family, verb, inner, outer, variant });
        e.goto(label);
    }

    /// The number of a list.
    fn list(&mut self, ports: &RangeSetBlaze<u16>) -> usize {
        if let Some(number) = self.by_list.get(ports) {
            return *number;
        }
        let number = self.lists.len();
        self.lists.push(ports.clone());
        self.by_list.insert(ports.clone(), number);
        number
    }

    fn label(&mut self, e: &mut Emit, routine: Routine) -> Label {
        if let Some(label) = self.by_routine.get(&routine) {
            return *label;
        }
        let Routine { family, verb, inner, outer, variant } = routine;
        let name = match verb {
            Verb::Accept => format!("accept_{outer}"),
            Verb::Nat => format!("nat_{outer}"),
            Verb::Drop => format!("drop_{outer}"),
            Verb::Funnel => format!("funnel_{inner}_in_{outer}"),
            Verb::Unfunnel => format!("unfunnel_{inner}_from_{outer}"),
            Verb::Alias(end) => format!("alias_{end}"),
            Verb::Unalias(end, list) => format!("unalias_{end}_{list}"),
            Verb::Bypass(table) => format!("bypass_{table}"),
            Verb::Unbypass(table, None) => format!("unbypass_{table}"),
            Verb::Unbypass(table, Some(port)) => format!("unbypass_{table}_probe_{port}"),
            Verb::Direct(table) => format!("bypass_direct_{table}_{outer}"),
            Verb::Undirect(None) => format!("unbypass_direct_{outer}"),
            Verb::Undirect(Some(port)) => format!("unbypass_direct_{outer}_probe_{port}"),
        };
        let label = e.label(format!("{}{name}{variant}", family.prefix()));
        self.known.push((routine, label));
        self.by_routine.insert(routine, label);
        label
    }

    /// The routines that leaves jump to, and those that these share.
    pub(super) fn emit(self, e: &mut Emit) {
        if !self.known.is_empty() {
            e.keep_tag_in_frame();
        }
        let funnels_tcp = |r: &Routine| r.verb == Verb::Funnel && r.inner == Proto::Tcp;
        let lower_mss = self.known.iter().any(|(r, _)| funnels_tcp(r)).then(|| e.label("lower_mss"));
        let mut funneled = Vec::new();
        for of in Family::ALL.into_iter().flat_map(|family| [false, true].map(|counted| (family, counted))) {
            let funnels = |r: &Routine| r.verb == Verb::Funnel && (r.family, r.variant.counted) == of;
            if self.known.iter().any(|(r, _)| funnels(r)) {
                let (family, counted) = of;
                let variant = Variant { counted, ..Variant::default() };
                let too_long = e.label(format!("{}too_long{variant}", family.prefix()));
                funneled.push((of, funnel::Shared { lower_mss, too_long }));
            }
        }
        for (Routine { family, verb, inner, outer, variant }, label) in self.known {
            e.variant = variant;
            e.bind(label);
            e.save_tag();
            match verb {
                Verb::Nat => nat::emit(e, family, outer),
                Verb::Accept => validate::emit_accept(e, family, outer),
                Verb::Drop => validate::emit_drop(e, family, outer),
                Verb::Funnel => {
                    let shared = funneled.iter().find(|(of, _)| *of == (family, variant.counted));
                    if let Some((_, shared)) = shared {
                        funnel::emit(e, family, inner, outer, *shared);
                    }
                }
                Verb::Unfunnel => unfunnel::emit(e, family, inner, outer, &self.lists),
                Verb::Alias(end) => alias::emit(e, family, end),
                Verb::Unalias(end, list) => {
                    if let Some(ports) = self.lists.get(list) {
                        alias::emit_unalias(e, family, end, list, ports);
                    }
                }
                Verb::Bypass(table) => {
                    if let Some(nodes) = self.nodes.get(table) {
                        bypass::emit(e, &format!("bypass_{table}"), nodes);
                    }
                }
                Verb::Direct(table) => {
                    if let Some(hops) = self.hops.get(table) {
                        let name = format!("{}direct_{outer}_{table}", family.prefix());
                        direct::emit(e, (family, outer), &name, hops);
                    }
                }
                Verb::Undirect(probe) => {
                    let name = format!("{}undirect_{outer}", family.prefix());
                    direct::emit_undirect(e, (family, outer), &name, probe);
                }
                Verb::Unbypass(table, probe) => {
                    if let Some(nodes) = self.nodes.get(table) {
                        bypass::emit_unbypass(e, &format!("unbypass_{table}"), nodes, probe);
                    }
                }
            }
        }
        // What comes here has been counted.
        e.variant = Variant::default();
        if let Some(label) = lower_mss {
            e.bind(label);
            mss::emit(e);
        }
        // Where nobody asks what fits, nothing is told.
        let told = |_: &_| e.target.mtu != Mtu::Unknown;
        for ((family, counted), shared) in funneled.into_iter().filter(told).collect::<Vec<_>>() {
            e.variant.counted = counted;
            e.bind(shared.too_long);
            mtu::emit(e, family);
        }
        e.variant = Variant::default();
    }
}
