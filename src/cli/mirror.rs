//! `mirror`: the rules of one place in, those of the others out, each a ruleset with comments.

use super::args::{Mirror, Strict};
use super::rules::Rules;
use super::settings::input_source;
use super::{Console, Failure};
use crate::diag::{self, Diagnostic};
use crate::mirror::{self, Mirrored, Role};

pub fn run(args: &Mirror, console: &mut Console<'_>) -> Result<(), Failure> {
    let rules = Rules::read(input_source(&args.input)?, Strict::default(), console)?;
    let from = match args.from {
        Some(from) => from.role(),
        None => mirror::infer(&rules.ruleset).map_err(|faults| refuse(&rules, &faults, console))?,
    };
    let mut text = String::new();
    // One mistake in the rules may be in the way of several places: say it once.
    let mut faults: Vec<Diagnostic> = Vec::new();
    for to in args.to.roles() {
        match mirror::mirror(&rules.ruleset, from, to, !args.no_nat) {
            Ok(mirrored) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                text += &section(&rules, from, to, &mirrored);
            }
            Err(more) => {
                for fault in more {
                    let known = |known: &Diagnostic| {
                        (&known.message, known.primary.span) == (&fault.message, fault.primary.span)
                    };
                    if !faults.iter().any(known) {
                        faults.push(fault);
                    }
                }
            }
        }
    }
    if !faults.is_empty() {
        return Err(refuse(&rules, &faults, console));
    }
    Ok(console.out.write_all(text.as_bytes())?)
}

fn refuse(rules: &Rules, faults: &[Diagnostic], console: &mut Console<'_>) -> Failure {
    let text = diag::render(&rules.source, faults, console.color);
    console.say(text);
    Failure::Rules
}

/// The rules of one place under a title.
fn section(rules: &Rules, from: Role, to: Role, mirrored: &Mirrored) -> String {
    let origin = if from == to { " (as given)" } else { "" };
    let mut text = format!("# {to}{origin}\n");
    for note in &mirrored.notes {
        match note.rule {
            None => text += &format!("# {}\n", note.text),
            Some(span) => {
                let line =
                    rules.source.text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
                let rule = rules.source.text.get(span.start..span.end).unwrap_or_default();
                let rule = rule.split_whitespace().collect::<Vec<_>>().join(" ");
                text += &format!("# without line {line}, `{rule}`: {}\n", note.text);
            }
        }
    }
    text + &mirrored.text()
}
