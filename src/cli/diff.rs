//! `diff`: two rulesets in, the packets that they treat differently out.

use super::args::{Diff, End, Strict};
use super::rules::{Lists, Rules};
use super::settings::{defined, input_source};
use super::{Console, Failure};
use crate::diff::{self, Difference};
use crate::ir::{Family, Rule, Ruleset, Side};
use crate::rule_text;

/// What is printed of one list; how many more there are is said.
const MOST_SHOWN: usize = 1000;

pub fn run(args: &Diff, console: &mut Console<'_>) -> Result<(), Failure> {
    let [old, new] = [&args.old, &args.new].map(|file| {
        let input = super::args::Input { file: Some(file.clone()), ruleset: None };
        let source = defined(input_source(&input)?, &args.defines);
        Lists::read(source, Strict::default(), console)
    });
    let (old, new) = (old?, new?);
    let mut text = String::new();
    if old.service().is_some() || new.service().is_some() {
        for end in [End::Client, End::Pod] {
            let whose = if end == End::Client { "client" } else { "pod" };
            let mut at = |lists: &Lists| match lists.service() {
                Some(service) => Lists::of_end(service, end, console),
                None => Err(Failure::Usage("one ruleset is a service and the other is not".to_owned())),
            };
            text += &of_lists(&at(&old)?, &at(&new)?, whose)?;
        }
    } else {
        text = of_lists(&old, &new, "")?;
    }
    if text.is_empty() {
        return Ok(());
    }
    console.out.write_all(text.as_bytes())?;
    Err(Failure::Different)
}

/// What differs, hook by hook.
fn of_lists(old: &Lists, new: &Lists, whose: &str) -> Result<String, Failure> {
    if let (None, None) = (old.sides(), new.sides()) {
        return of_rules(old.of(Side::Ingress), new.of(Side::Ingress), whose);
    }
    let mut text = String::new();
    for side in [Side::Ingress, Side::Egress] {
        let title = format!("{whose} {side}");
        text += &of_rules(old.of(side), new.of(side), title.trim_start())?;
    }
    Ok(text)
}

/// A line for each difference; nothing if there is none. A list that is not there has no rules.
fn of_rules(old: Option<&Rules>, new: Option<&Rules>, title: &str) -> Result<String, Failure> {
    let none = Ruleset::default();
    let (old, new) = (old.map_or(&none, |rules| &rules.ruleset), new.map_or(&none, |rules| &rules.ruleset));
    let found = diff::diff(old, new).map_err(|error| Failure::Usage(error.to_string()))?;
    let title = if title.is_empty() { String::new() } else { format!("{title}: ") };
    let line = |difference: &Difference| {
        let (was, now) = (decided(old, difference.old), decided(new, difference.new));
        format!("{title}{}: was {was}, now {now}\n", packets(difference))
    };
    let mut text: String = found.iter().take(MOST_SHOWN).map(line).collect();
    if let Some(more) = found.len().checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
        text += &format!("{title}and {more} more\n");
    }
    Ok(text)
}

fn decided(ruleset: &Ruleset, rule: Option<usize>) -> String {
    match rule.and_then(|index| Some((index, ruleset.rules.get(index)?))) {
        Some((index, rule)) => format!("rule {index} ({})", rule_text::actions(rule)),
        None => "no rule (passed)".to_owned(),
    }
}

/// The packets as the matches of a rule.
fn packets(difference: &Difference) -> String {
    let rule = Rule {
        text: String::new(),
        span: crate::diag::Span::default(),
        proto: difference.proto,
        matches: difference.packets.clone(),
        action: crate::ir::Action::Accept,
        nat: crate::ir::Nat::default(),
        settings: crate::settings::Settings::default(),
        counter: false,
    };
    debug_assert!(Family::ALL.into_iter().any(|family| rule.is_about(family)));
    rule_text::matches(&rule)
}
