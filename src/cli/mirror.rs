//! `mirror`: the rules of one place in, those of the others out, each a ruleset with comments.

use super::args::{Mirror, Strict};
use super::rules::{Lists, Rules};
use super::settings::{defined, input_source};
use super::{Console, Failure};
use crate::diag::{self, Diagnostic};
use crate::ir::Side;
use crate::mirror::{self, Mirrored, Role};

pub fn run(args: &Mirror, console: &mut Console<'_>) -> Result<(), Failure> {
    let lists = Lists::read(defined(input_source(&args.input)?, &args.defines), Strict::default(), console)?;
    let of_service = lists.service().is_some().then_some(Role::ClientEgress);
    let rules = mirrored_from(args, lists)?;
    let from = match args.from.map(|from| from.role()).or(of_service) {
        Some(from) => from,
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
                let section = section(&rules, from, to, &mirrored);
                text += &if args.to.is_place() {
                    in_chain(&section, to, mirrored.rules.is_empty())
                } else {
                    section
                };
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

/// Of chains, the one that `--from` is about; else that of egress, which says more: the other follows from it.
fn mirrored_from(args: &Mirror, lists: Lists) -> Result<Rules, Failure> {
    let side = match (args.from, lists.sides().as_deref()) {
        (Some(from), Some(_)) => Some(from.role().side()),
        (None, Some([_, _])) => Some(Side::Egress),
        _ => None,
    };
    Ok(lists.one(side)?.1)
}

/// The rules of one hook, to stand beside those of the other.
fn in_chain(section: &str, role: Role, empty: bool) -> String {
    if empty {
        return section.to_owned();
    }
    let lines: String = section.lines().map(|line| format!("    {line}\n")).collect();
    format!("chain {} {{\n{lines}}}\n", role.side())
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
                let (_, line) = rules.source.line(span.start);
                let rule = rules.source.text.get(span.start..span.end).unwrap_or_default();
                let rule = rule.split_whitespace().collect::<Vec<_>>().join(" ");
                text += &format!("# without line {line}, `{rule}`: {}\n", note.text);
            }
        }
    }
    text + &mirrored.text()
}
