//! The instructions, column by column: a program may have a million of them.
//!
//! Takes a program, gives text and tags for each slot.

use asm::Program;
use serde::Serialize;

use super::touch::{Touch, Toucher};

#[derive(Debug, Serialize)]
pub(super) struct Listing {
    /// A line for each slot; empty for the second half of a wide instruction.
    text: String,
    /// The same of what stands beside it.
    notes: String,
    /// The labels before a slot.
    labels: Runs<String>,
    /// Which rule holds from a slot on; none: what rules share.
    rules: Runs<Option<i64>>,
    /// The same of nodes of the diagram.
    nodes: Runs<Option<i64>>,
    /// What is read, written or compared of a packet.
    touches: Vec<Touch>,
    /// For each slot, which of these; −1: nothing.
    touch: Vec<i32>,
}

/// Values, each with the slot at which it begins: as distances from the one before, which are short when compressed.
#[derive(Debug, Serialize)]
struct Runs<T> {
    slots: Vec<usize>,
    values: Vec<T>,
    #[serde(skip)]
    last: usize,
    /// The last value that was one.
    #[serde(skip)]
    known: i64,
    #[serde(skip)]
    current: Option<u32>,
}

impl<T> Runs<T> {
    fn new() -> Self {
        Runs { slots: Vec::new(), values: Vec::new(), last: 0, known: 0, current: None }
    }

    fn push(&mut self, slot: usize, value: T) {
        self.slots.push(slot - self.last);
        self.values.push(value);
        self.last = slot;
    }
}

impl Runs<Option<i64>> {
    /// From here on it is this value.
    fn change(&mut self, slot: usize, value: Option<u32>) {
        if self.values.is_empty() || self.current != value {
            let distance = value.map(|value| i64::from(value) - self.known);
            self.push(slot, distance);
            self.known = value.map_or(self.known, i64::from);
            self.current = value;
        }
    }
}

impl Listing {
    pub(super) fn new(program: &Program) -> Self {
        let mut made = Listing {
            text: String::new(),
            notes: String::new(),
            labels: Runs::new(),
            rules: Runs::new(),
            nodes: Runs::new(),
            touches: Vec::new(),
            touch: Vec::new(),
        };
        let mut toucher = Toucher::default();
        let mut next = 0;
        for line in program.lines() {
            // The second half of a wide instruction.
            while next < line.slot {
                made.add("", "", -1);
                next += 1;
            }
            if !line.labels.is_empty() {
                made.labels.push(line.slot, line.labels.join(" "));
            }
            made.rules.change(line.slot, line.origin);
            made.nodes.change(line.slot, program.place_at(line.slot));
            let note = line.note.unwrap_or_default();
            let touch = toucher.of(note, program.stores_at(line.slot), program.loads_at(line.slot));
            made.add(&line.text, note, touch);
            next = line.slot + 1;
        }
        while next < program.slots() {
            made.add("", "", -1);
            next += 1;
        }
        made.touches = toucher.all();
        made
    }

    fn add(&mut self, text: &str, note: &str, touch: i32) {
        if !self.touch.is_empty() {
            self.text.push('\n');
            self.notes.push('\n');
        }
        self.text += text;
        self.notes += note;
        self.touch.push(touch);
    }
}
