//! Where are the pods? Addresses to hosts and numbers, hosts and numbers to addresses, as compares and jumps.
//!
//! Takes nodes and an address in a register, emits what leads to the host or to the pod; a packet of which it is not known
//! goes to `pass`. Knows nothing of what is done with it.

use std::net::Ipv4Addr;

use asm::{Insn, Label, Reg};

use super::bypass::KEY;
use super::counters::Reason;
use super::emit::{Emit, Window};
use super::runs::low;
use super::search::{Run, Search, search};
use crate::nodes::{MOST, Nodes, Numbered};
use crate::packet::Field;

/// What an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    /// This is loaded.
    pub value: u32,
    /// And this is added to the key.
    plus: u32,
}

impl Leaf {
    pub(super) fn of(value: u32) -> Self {
        Self { value, plus: 0 }
    }

    pub(super) fn host(self) -> String {
        address(self.value)
    }
}

/// Where an address leads, or nowhere.
pub(super) type Place = Option<Leaf>;

/// From the addresses of pods to that of their host, and, unless they are alike, to their numbers.
pub(super) fn pods(nodes: &Nodes, alike: bool) -> Vec<Run<Place>> {
    let mut pods: Vec<(u32, u32, Leaf)> = Vec::new();
    for Numbered { node, number } in nodes.hosts().into_values().flatten() {
        let first = node.first.to_bits();
        let plus = if alike { 0 } else { number.wrapping_sub(first) };
        pods.push((first, node.last.to_bits(), Leaf { value: node.host.to_bits(), plus }));
    }
    pods.sort_by_key(|(first, ..)| *first);
    runs(pods.into_iter())
}

/// Ranges in ascending order, and the gaps between them. Neighbours that lead to one place are one run.
pub(super) fn runs<T: Copy + PartialEq>(ranges: impl Iterator<Item = (u32, u32, T)>) -> Vec<Run<Option<T>>> {
    let mut runs: Vec<Run<Option<T>>> = Vec::new();
    let mut next = Some(0);
    for (first, last, to) in ranges {
        if let Some(before) = first.checked_sub(1).filter(|_| next != Some(first)) {
            runs.push(Run { last: before, then: None });
        }
        match runs.last_mut().filter(|run| run.then == Some(to)) {
            Some(run) => run.last = last,
            None => runs.push(Run { last, then: Some(to) }),
        }
        next = last.checked_add(1);
    }
    if next.is_some() {
        runs.push(Run { last: u32::MAX, then: None });
    }
    runs
}

fn address(bits: u32) -> String {
    Ipv4Addr::from(bits).to_string()
}

/// `found =` what `KEY` leads to, or `pass`.
pub(super) fn find(e: &mut Emit, name: &str, found: Reg, runs: &[Run<Place>], show: fn(Leaf) -> String) {
    let unknown = e.exit_for(Reason::NoPeer);
    find_or(e, name, found, runs, show, unknown);
}

/// The same; what leads nowhere goes to `unknown`.
pub(super) fn find_or(
    e: &mut Emit,
    name: &str,
    found: Reg,
    runs: &[Run<Place>],
    show: fn(Leaf) -> String,
    unknown: Label,
) {
    let known = e.label(name);
    let mut load = |e: &mut Emit, leaf: Leaf| {
        e.op_note(Insn::mov32(found, leaf.value), &show(leaf));
        if leaf.plus != 0 {
            e.op(Insn::add32(KEY, leaf.plus));
        }
        e.goto(known);
    };
    search(&mut Find { e, name, key: BY_ADDRESS, unknown, known: &mut load }, KEY, 0, runs);
    e.bind(known);
}

/// What a word of an address decides: it all, or that the next word does, for these ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<T> {
    Known(T),
    Next(usize),
}

/// What the values of a word decide.
type Words<T> = Vec<Run<Option<Word<T>>>>;

/// Ranges of values, each with where it leads.
type Ranges<T> = Vec<(u128, u128, T)>;

/// `known` is emitted where an address in one of these ranges is found, which are not none; all others go to `pass`. The
/// address is in fields of 32 bits.
pub(super) fn find_long<T: Copy + PartialEq>(
    e: &mut Emit,
    name: &str,
    (ip, words): (&Window, &[Field]),
    ranges: &Ranges<T>,
    known: &mut dyn FnMut(&mut Emit, T),
) {
    let (found, unknown) = (e.label(name), e.exit_for(Reason::NoPeer));
    let mut emit = |e: &mut Emit, to: T| {
        known(e, to);
        e.goto(found);
    };
    by_word(e, name, (ip, words), ranges, unknown, &mut emit);
    e.bind(found);
}

fn by_word<T: Copy + PartialEq>(
    e: &mut Emit,
    name: &str,
    (ip, words): (&Window, &[Field]),
    ranges: &Ranges<T>,
    unknown: Label,
    known: &mut dyn FnMut(&mut Emit, T),
) {
    let [word, rest @ ..] = words else { return };
    let (runs, nexts) = cut(ranges, 32 * rest.len());
    let key = if word.name.starts_with("ip6") { BY_WORD } else { BY_ADDRESS };
    e.load(KEY, ip, *word);
    let mut of_word = |e: &mut Emit, found: Word<T>| match found {
        Word::Known(to) => known(e, to),
        Word::Next(at) => by_word(e, &format!("{name}_{at}"), (ip, rest), &nexts[at], unknown, known),
    };
    search(&mut Find { e, name, key, unknown, known: &mut of_word }, KEY, 0, &runs);
}

/// By the word that is above `shift` other bits: where its values lead, and what is left to the other bits.
fn cut<T: Copy + PartialEq>(ranges: &Ranges<T>, shift: usize) -> (Words<T>, Vec<Ranges<T>>) {
    let most = (1_u128 << shift) - 1;
    let mut found: Vec<(u32, u32, Word<T>)> = Vec::new();
    let mut nexts: Vec<Ranges<T>> = Vec::new();
    let mut next = |found: &mut Vec<(u32, u32, Word<T>)>, word: u128, range: (u128, u128, T)| match (
        found.last(),
        nexts.last_mut(),
    ) {
        (Some((known, _, Word::Next(_))), Some(ranges)) if *known == low(word) => ranges.push(range),
        _ => {
            found.push((low(word), low(word), Word::Next(nexts.len())));
            nexts.push(vec![range]);
        }
    };
    for (first, last, to) in ranges.iter().copied() {
        let ((upper, from), (end, until)) = ((first >> shift, first & most), (last >> shift, last & most));
        if upper == end && (from, until) != (0, most) {
            next(&mut found, upper, (from, until, to));
            continue;
        }
        if from != 0 {
            next(&mut found, upper, (from, most, to));
        }
        let inside = upper + u128::from(from != 0)..end + u128::from(until == most);
        if !inside.is_empty() {
            found.push((low(inside.start), low(inside.end - 1), Word::Known(to)));
        }
        if until != most {
            next(&mut found, end, (0, until, to));
        }
    }
    (runs(found.into_iter()), nexts)
}

/// `found +` a pod's number `=` its address, for the host whose address is in `KEY`; or `pass`.
pub(super) fn find_pods(
    e: &mut Emit,
    name: &str,
    found: Reg,
    nodes: &Nodes,
    (tcp, number): (&Window, Field),
) {
    let hosts = nodes.hosts();
    let tables: Vec<Table> = hosts.values().map(|pods| Table::of(pods)).collect();
    let each = hosts.keys().zip(&tables).map(|(host, table)| (host.to_bits(), host.to_bits(), table));
    let runs = runs(each);
    let (known, unknown) = (e.label(name), e.exit_for(Reason::NoPeer));
    let mut load = |e: &mut Emit, base: u32| {
        e.op_note(Insn::mov32(found, base), &address(base));
        e.goto(known);
    };
    let mut of_host = |e: &mut Emit, table: &Table| match table {
        Table::One(base) => load(e, *base),
        Table::Several(runs) => {
            e.load(KEY, tcp, number);
            // Of this host alone: no other has these bases.
            let host = runs.iter().find_map(|run| run.then).unwrap_or_default();
            let name = &format!("{name}_{}", address(host));
            search(&mut Find { e, name, key: BY_NUMBER, unknown, known: &mut load }, KEY, 0, runs);
        }
    };
    search(&mut Find { e, name, key: BY_ADDRESS, unknown, known: &mut of_host }, KEY, 0, &runs);
    e.bind(known);
}

/// From the number of a pod to what its address is more than that.
#[derive(Debug, PartialEq)]
enum Table {
    /// The same for all, those that nobody has among them.
    One(u32),
    Several(Vec<Run<Option<u32>>>),
}

impl Table {
    fn of(pods: &[Numbered]) -> Self {
        let base = |pods: &Numbered| pods.node.first.to_bits().wrapping_sub(pods.number);
        let bases: Vec<u32> = pods.iter().map(base).collect();
        match bases.first() {
            Some(one) if bases.iter().all(|base| base == one) && one & 0xff == 0 => Table::One(*one),
            _ => {
                let last =
                    |pods: &Numbered| pods.number + (pods.node.last.to_bits() - pods.node.first.to_bits());
                let mut runs =
                    runs(pods.iter().zip(bases).map(|(pods, base)| (pods.number, last(pods), base)));
                // A number is a byte, as the verifier knows.
                if let Some(run) = runs.last_mut() {
                    run.last = run.last.min(MOST - 1);
                }
                if runs.len() > 1 && runs[runs.len() - 2].last == MOST - 1 {
                    runs.pop();
                }
                Table::Several(runs)
            }
        }
    }
}

/// What `KEY` holds, and one as the listing says it.
type Key = (&'static str, fn(u32) -> String);
const BY_ADDRESS: Key = ("", address);
/// 32 bits of an address of IPv6.
const BY_WORD: Key = ("", |word| format!("{word:#010x}"));
/// Of one host's pods.
const BY_NUMBER: Key = ("number ", |number| number.to_string());

struct Find<'a, T> {
    e: &'a mut Emit,
    name: &'a str,
    key: Key,
    unknown: Label,
    /// Emits what follows where the key is known, and ends the path.
    known: &'a mut dyn FnMut(&mut Emit, T),
}

impl<T: Copy + PartialEq> Search for Find<'_, T> {
    type Place = Option<T>;

    fn emit(&mut self) -> &mut Emit {
        self.e
    }

    fn go(&mut self, place: Self::Place) {
        match place {
            Some(found) => (self.known)(self.e, found),
            None => self.e.goto(self.unknown),
        }
    }

    fn label(&mut self, place: Self::Place) -> Option<Label> {
        place.is_none().then_some(self.unknown)
    }

    fn note(&self, op: &str, value: u32) -> String {
        let (what, show) = self.key;
        format!("{what}{op} {}", show(value))
    }

    fn other(&mut self, word: &str, value: u32) -> Label {
        let (_, show) = self.key;
        self.e.label(format!("{}_{word}_{}", self.name, show(value)))
    }
}
