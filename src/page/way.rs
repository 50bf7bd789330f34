//! A packet's way through the diagram, and through the instructions that ask its questions.
//!
//! Takes a program, its diagram and a packet's key; gives nodes and slots, and the jump that decides. It follows the
//! compares as the kernel does: of what they compare it knows what rules know. Never runs anything.

use std::collections::HashMap;

use asm::Program;

use crate::diagram::{Diagram, Node, NodeId};
use crate::matches::Key;

#[derive(Debug, Default)]
pub struct Way {
    pub nodes: Vec<usize>,
    pub slots: Vec<usize>,
    /// The last compare before the leaf.
    pub decides: Option<usize>,
    /// Whether what its note says is so: then it falls through.
    pub holds: bool,
}

/// Finds ways through one program.
#[derive(Debug)]
pub struct Ways {
    program: Program,
    /// Where the code of each node begins.
    first: HashMap<usize, usize>,
}

impl Ways {
    pub fn new(program: Program) -> Self {
        let mut first = HashMap::new();
        for line in program.lines() {
            if let Some(node) = place(&program, line.slot) {
                first.entry(node).or_insert(line.slot);
            }
        }
        Ways { program, first }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// `diagram`: the one that the program was made of.
    pub fn of(&self, diagram: &Diagram, key: &Key) -> Way {
        let nodes = diagram.way(key);
        let mut way = Way { nodes: nodes.iter().map(|id| id.index()).collect(), ..Way::default() };
        let mut slot = nodes.first().and_then(|root| self.first.get(&root.index())).copied();
        for id in nodes {
            slot = self.node((id, diagram.node(id)), key, slot, &mut way);
        }
        way
    }

    /// Follows the code of a test from its first slot, and gives the slot that it leads to.
    fn node(
        &self,
        (id, node): (NodeId, &Node),
        key: &Key,
        slot: Option<usize>,
        way: &mut Way,
    ) -> Option<usize> {
        let Node::Test { field, .. } = node else { return None };
        let place = field.row().place[key.family.index()]?;
        let word = |at: usize| {
            let shift = 32 * (place.words.len() - 1).saturating_sub(at);
            u32::try_from(key.get(*field) >> shift & u128::from(u32::MAX)).unwrap_or(u32::MAX)
        };
        let mut value = word(if place.words.len() > 1 { 0 } else { place.words.len() });
        let mut slot = slot?;
        // Only forwards, so this ends.
        while self::place(&self.program, slot) == Some(id.index()) {
            way.slots.push(slot);
            let note = self.program.note_at(slot).unwrap_or_default();
            let text = self.program.text_at(slot).unwrap_or_default();
            if self.program.loads_at(slot)
                && let Some(at) = place.words.iter().position(|word| word.name == note)
            {
                value = word(at);
            }
            let jumps = text.starts_with("if ");
            let next = if note.starts_with(field.keyword()) {
                let next = self.program.next(slot, value)?;
                if jumps {
                    (way.decides, way.holds) = (Some(slot), next == slot + 1);
                }
                next
            } else if jumps {
                // What stands around the load: what is usual falls through.
                slot + 1
            } else {
                self.program.next(slot, 0)?
            };
            if next <= slot {
                return None;
            }
            slot = next;
        }
        Some(slot)
    }
}

fn place(program: &Program, slot: usize) -> Option<usize> {
    usize::try_from(program.place_at(slot)?).ok()
}
