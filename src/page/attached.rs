//! What is attached, as lists of rules with counters.
//!
//! Takes what the kernel says of programs. Rules are known where all of them count, since counters say what they are of;
//! then there is a diagram, too. Gives a page without listings. Guesses nothing.

use super::{List, Page};
use crate::check;
use crate::diag::{PieceKind, Source, Span};
use crate::diagram::{self, Diagram};
use crate::ir::Ruleset;
use crate::kernel::counters::Counts;

/// A program at a hook.
#[derive(Debug)]
pub struct Attached<'a> {
    /// `eth0 egress`
    pub name: String,
    /// What there is to say of it, name by name.
    pub facts: Vec<(&'static str, String)>,
    /// How many rules it was made of, if that is known.
    pub rules: Option<usize>,
    pub counts: Option<&'a Counts>,
}

/// Its rules as text, a line each, and what is known of them.
struct Known {
    text: String,
    meaning: Option<(Ruleset, Diagram)>,
    /// The lines of rules, in order.
    lines: Vec<Span>,
}

/// `notes`: what is to be said besides.
pub fn html(attached: &[Attached<'_>], notes: Vec<String>) -> serde_json::Result<String> {
    let mut known: Vec<Known> = attached.iter().map(Known::new).collect();
    let pieces = attached.iter().zip(&known);
    let pieces =
        pieces.map(|(attached, known)| (attached.name.clone(), PieceKind::Rules, known.text.clone()));
    let mut source = Source::of(pieces.collect());
    for (known, piece) in known.iter_mut().zip(source.pieces()) {
        known.moved(piece.span.start);
    }
    source.name = "status".to_owned();
    let mut page = Page::new(&source, &[]);
    for (attached, known) in attached.iter().zip(&known) {
        let list = match &known.meaning {
            Some((ruleset, diagram)) => {
                List::new(attached.name.clone(), false, (&source, ruleset), diagram, None)
            }
            None => List::of_lines(attached.name.clone(), &source, &known.lines),
        };
        let list = list.with(attached.facts.clone());
        page.push(match attached.counts {
            Some(counts) => list.counted(counts),
            None => list,
        });
    }
    page.note(notes);
    page.html()
}

impl Known {
    fn new(attached: &Attached<'_>) -> Self {
        let counted = attached.counts.map(|counts| counts.rules.as_slice()).unwrap_or_default();
        let last = counted.iter().map(|rule| rule.about.rule + 1).max().unwrap_or(0);
        // A name may say any number; what counts is known to be there.
        let all =
            if counted.is_empty() { 0 } else { attached.rules.unwrap_or(last).min(last.max(counted.len())) };
        let (mut text, mut lines) = (String::new(), Vec::new());
        let mut next = counted.iter().peekable();
        for rule in 0..all {
            let start = text.len();
            match next.next_if(|counted| counted.about.rule == rule) {
                Some(counted) => text += &counted.about.text,
                None => text += &format!("# rule {rule} does not count"),
            }
            lines.push(Span { start, end: text.len() });
            text.push('\n');
        }
        if counted.is_empty() {
            text += "# which rules these are is known where they count: attach with --counters\n";
        }
        let is_whole = attached.rules == Some(counted.len()) && !counted.is_empty();
        let meaning = is_whole.then(|| check::read(&Source::new("", text.as_str())).ok()).flatten();
        let meaning = meaning.filter(|checked| checked.ruleset.rules.len() == counted.len()).map(|checked| {
            let diagram = diagram::build(&checked.ruleset);
            (checked.ruleset, diagram)
        });
        Known { text, meaning, lines }
    }

    /// Where it stands behind others.
    fn moved(&mut self, by: usize) {
        let rules =
            self.meaning.iter_mut().flat_map(|(ruleset, _)| &mut ruleset.rules).map(|rule| &mut rule.span);
        for span in rules.chain(&mut self.lines) {
            *span = Span { start: span.start + by, end: span.end + by };
        }
    }
}
