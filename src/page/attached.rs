//! What is attached, as lists of rules with counters.
//!
//! Takes what the kernel says of programs: rules as they were written, or as their counters name them. Where these can be
//! read again, there is a diagram, too. Gives a page without listings. Guesses nothing.

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
    /// The rules as they were written.
    pub text: Option<&'a [String]>,
}

/// Rules of a program: no kernel takes one with more.
const MOST: usize = 1_000_000;

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
        let all_count = !counted.is_empty() && attached.rules == Some(counted.len()) && last == counted.len();
        let mut texts: Vec<Option<&str>> = match attached.text {
            // What counts has its meaning with it, whatever names stand for.
            Some(text) if !all_count => text.iter().map(|text| Some(text.as_str())).collect(),
            _ => vec![None; last.min(MOST)],
        };
        for rule in counted.iter().filter(|_| all_count || attached.text.is_none()) {
            if let Some(text) = texts.get_mut(rule.about.rule) {
                *text = Some(&rule.about.text);
            }
        }
        let (mut text, mut lines) = (String::new(), Vec::new());
        for (rule, known) in texts.iter().enumerate() {
            let start = text.len();
            match known {
                Some(known) => text += known,
                None => text += &format!("# rule {rule} does not count"),
            }
            lines.push(Span { start, end: text.len() });
            text.push('\n');
        }
        if texts.is_empty() {
            text += "# which rules these are is not known\n";
        }
        let is_whole = !texts.is_empty() && texts.iter().all(Option::is_some);
        let meaning = is_whole.then(|| check::read(&Source::new("", text.as_str())).ok()).flatten();
        let meaning = meaning.filter(|checked| checked.ruleset.rules.len() == texts.len()).map(|checked| {
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
