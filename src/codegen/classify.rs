//! The tree as compares and jumps, each rule's leaf right behind the compare that leads to it.
//!
//! Comes from [`tree`](crate::tree); knows fields and rules, no header but what the registers hold.

use asm::{Cond, Insn, Label, Reg, Reg::*};

use super::emit::{Emit, PORTS, UNSPEC, Window};
use super::{Routine, Routines, Variant, Verb};
use crate::ir::{Action, Family, Funnel, Proto, Rule};
use crate::packet::{ipv4, ipv6};
use crate::tree::{Field, Node, Op};

/// The field that the tree is looking at, in host byte order.
const KEY: Reg = R2;

pub(super) fn emit(
    e: &mut Emit,
    node: &Node,
    (family, proto): (Family, Proto),
    rules: &[Rule],
    routines: &mut Routines,
) {
    let mut walk = Walk { e, family, proto, rules, routines };
    walk.node(node, None, None);
}

struct Walk<'a> {
    e: &'a mut Emit,
    family: Family,
    proto: Proto,
    rules: &'a [Rule],
    routines: &'a mut Routines,
}

impl Walk<'_> {
    /// `held` is the field that `KEY` holds already: branches only fork, so what held above holds
    /// below. `miss` is where a miss goes on; without it, processing ends there.
    fn node(&mut self, node: &Node, held: Option<Field>, miss: Option<Label>) {
        match node {
            Node::Miss => {
                self.e.origin(None);
                match miss {
                    Some(next) => self.e.goto(next),
                    None => self.e.exit(UNSPEC),
                }
            }
            Node::Rule(rule) => self.leaf(*rule),
            Node::Test { test, yes, no } => {
                self.e.origin(None);
                if held != Some(test.field) {
                    self.load(test.field);
                }
                let (side, negated) = match test.op {
                    Op::Equal => ("not", Cond::ne32(KEY, test.value)),
                    Op::AtMost => ("above", Cond::gt32(KEY, test.value)),
                };
                let other = self.e.label(format!("{}_{side}_{}", test.field, test.field.show(test.value)));
                self.e.jump_if_note(negated, other, &test.to_string());
                self.node(yes, Some(test.field), miss);
                self.e.bind(other);
                self.node(no, Some(test.field), miss);
            }
            Node::Chain { first, then } => {
                let next = self.e.label("next_rules");
                self.node(first, held, Some(next));
                self.e.bind(next);
                self.node(then, None, miss);
            }
        }
    }

    fn load(&mut self, field: Field) {
        match field {
            Field::Saddr => self.e.load(KEY, &Window::of_ip_header(ipv4::LEN), ipv4::SADDR),
            Field::Daddr => self.e.load(KEY, &Window::of_ip_header(ipv4::LEN), ipv4::DADDR),
            Field::Saddr6(word) => {
                self.e.load(KEY, &Window::of_ip_header(ipv6::LEN), ipv6::SADDR[usize::from(word.index())]);
            }
            Field::Daddr6(word) => {
                self.e.load(KEY, &Window::of_ip_header(ipv6::LEN), ipv6::DADDR[usize::from(word.index())]);
            }
            Field::Sport => {
                self.e.op(Insn::mov32(KEY, PORTS));
                self.e.op_note(Insn::rsh32(KEY, 16_u32), "sport");
            }
            Field::Dport => {
                self.e.op(Insn::mov32(KEY, PORTS));
                self.e.op_note(Insn::and32(KEY, 0xffff_u32), "dport");
            }
        }
    }

    fn leaf(&mut self, number: usize) {
        self.e.origin(Some(number));
        // Without one, this is a tree of another ruleset: no rule, no action.
        let Some(rule) = self.rules.get(number) else { return self.e.exit(UNSPEC) };
        let variant = Variant { mark: rule.mark, counted: rule.counter, nat: rule.nat, ..Variant::default() };
        if let Some(counter) = self.routines.counters.get(number).copied().flatten() {
            self.e.choose_counter(counter);
        }
        match &rule.action {
            Action::Accept if variant == Variant::default() => self.e.exit(UNSPEC),
            Action::Accept if !variant.nat.is_none() => {
                self.routine(Verb::Nat, self.proto, self.proto, variant);
            }
            Action::Accept => self.routine(Verb::Accept, self.proto, self.proto, variant),
            Action::Drop => self.routine(Verb::Drop, self.proto, self.proto, variant),
            Action::Funnel(Funnel { outer, sport, dport, flags }) => {
                let ports = (u32::from(*sport) << 16) | u32::from(*dport);
                let note = format!("sport {sport}, dport {dport}");
                self.e.op_note(Insn::mov32(PORTS, ports), &note);
                self.routine(Verb::Funnel, self.proto, *outer, Variant { flags: *flags, ..variant });
            }
            Action::Unfunnel { inner, guard } => {
                let guard = [&guard.sport, &guard.dport]
                    .map(|ports| (!ports.is_universal()).then(|| self.routines.list(ports)));
                self.routine(Verb::Unfunnel, *inner, self.proto, Variant { guard, ..variant });
            }
            Action::Alias { end, port } => {
                self.e.op_note(Insn::mov32(PORTS, *port), &format!("{end} {port}"));
                self.routine(Verb::Alias(*end), self.proto, self.proto, variant);
            }
            Action::Unalias { end, ports } => {
                let list = self.routines.list(ports);
                self.routine(Verb::Unalias(*end, list), self.proto, self.proto, variant);
            }
        }
    }

    fn routine(&mut self, verb: Verb, inner: Proto, outer: Proto, variant: Variant) {
        let routine = Routine { family: self.family, verb, inner, outer, variant };
        let label = self.routines.label(self.e, routine);
        self.e.goto(label);
    }
}
