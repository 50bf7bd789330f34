//! The pipeline from text to programs, with diagnostics said on the way.
//!
//! Input: a source. Output: checked rules, and one program for each kind of link that is asked for.

use asm::Program;

use super::args::{Deny, End, Strict};
use super::{Console, Failure};
use crate::check;
use crate::codegen::{self, Options};
use crate::diag::{self, Diagnostic, Label, Severity, Source};
use crate::diagram::{self, Diagram};
use crate::elf::{self, Line};
use crate::hops::Hops;
use crate::ir::{Action, Rule, Ruleset, Rulesets, Side};
use crate::kernel::LoadError;
use crate::mirror;
use crate::nodes::Nodes;

/// Rules that are right.
#[derive(Debug)]
pub struct Rules {
    pub source: Source,
    pub ruleset: Ruleset,
    pub diagram: Diagram,
}

/// The rules of a text: one list for all hooks, or one for each of some.
#[derive(Debug)]
pub struct Lists {
    lists: Vec<(Option<Side>, Rules)>,
    /// The only list is what a client sends.
    service: bool,
    /// All that is odd about them, whether it has been said or not.
    remarks: Vec<Diagnostic>,
}

impl Lists {
    /// Reads and checks; says errors and warnings.
    pub fn read(source: Source, strict: Strict, console: &mut Console<'_>) -> Result<Self, Failure> {
        Self::judged(source, strict, console, |lists| lists.warnings.clone())
    }

    /// The same, with advice.
    pub fn read_critically(
        source: Source,
        strict: Strict,
        console: &mut Console<'_>,
    ) -> Result<Self, Failure> {
        Self::judged(source, strict, console, check::Lists::remarks)
    }

    fn judged(
        source: Source,
        strict: Strict,
        console: &mut Console<'_>,
        remarks: fn(&check::Lists) -> Vec<Diagnostic>,
    ) -> Result<Self, Failure> {
        match check::read_lists(&source) {
            Ok(lists) => {
                let remarks = remarks(&lists);
                if !remarks.is_empty() {
                    let text = diag::render(&source, &remarks, console.color);
                    console.say(text);
                    if strict.deny == Some(Deny::Warnings) {
                        console.say("`--deny warnings` takes these for errors");
                        return Err(Failure::Rules);
                    }
                }
                let service = matches!(lists.rulesets, Rulesets::Service(_));
                let remarks = lists.remarks();
                let check::Lists { rulesets, diagrams, .. } = lists;
                let lists = match rulesets {
                    Rulesets::Anywhere(ruleset) | Rulesets::Service(ruleset) => vec![(None, ruleset)],
                    Rulesets::Chains(chains) => {
                        chains.into_iter().map(|(side, ruleset)| (Some(side), ruleset)).collect()
                    }
                };
                let mut diagrams = diagrams.into_iter();
                let list = |(side, ruleset)| {
                    let diagram = diagrams.next().flatten().unwrap_or_else(|| diagram::build(&ruleset));
                    (side, Rules { source: source.clone(), ruleset, diagram })
                };
                Ok(Self { lists: lists.into_iter().map(list).collect(), service, remarks })
            }
            Err(diagnostics) => {
                let text = diag::render(&source, &diagnostics, console.color);
                console.say(text);
                Err(Failure::Rules)
            }
        }
    }

    /// What a client sends, if that is all there is.
    pub fn service(&self) -> Option<&Rules> {
        self.lists.first().map(|(_, rules)| rules).filter(|_| self.service)
    }

    /// Of a service, the chains of one end; all others say themselves where they belong.
    pub fn at(self, end: Option<End>, console: &mut Console<'_>) -> Result<Self, Failure> {
        match (self.service(), end) {
            (None, None) => Ok(self),
            (Some(rules), Some(end)) => Self::of_end(rules, end, console),
            (Some(_), None) => Err(Failure::Usage(
                "the rules are a service: say whose end this is, with `--end client` or `--end pod`"
                    .to_owned(),
            )),
            (None, Some(_)) => Err(Failure::Usage(
                "these rules say themselves where they belong: `--end` (SFUNNEL_END) is for a `service`"
                    .to_owned(),
            )),
        }
    }

    /// The chains of one end of a service; says what cannot be told apart there.
    pub fn of_end(service: &Rules, end: End, console: &mut Console<'_>) -> Result<Self, Failure> {
        match mirror::end(&service.ruleset, end == End::Client) {
            Ok(chains) => {
                let list = |(side, ruleset)| (Some(side), Rules::new(service.source.clone(), ruleset));
                let lists = chains.into_iter().map(list).collect();
                Ok(Self { lists, service: false, remarks: Vec::new() })
            }
            Err(faults) => {
                let text = diag::render(&service.source, &faults, console.color);
                console.say(text);
                Err(Failure::Rules)
            }
        }
    }

    /// Warnings and advice.
    pub fn remarks(&self) -> &[Diagnostic] {
        &self.remarks
    }

    /// The hooks that there are chains for. `None`: the rules are for any.
    pub fn sides(&self) -> Option<Vec<Side>> {
        self.lists.iter().map(|(side, _)| *side).collect()
    }

    pub fn of(&self, side: Side) -> Option<&Rules> {
        self.lists.iter().find(|(of, _)| of.is_none_or(|of| of == side)).map(|(_, rules)| rules)
    }

    pub fn each(&self) -> impl Iterator<Item = (Option<Side>, &Rules)> {
        self.lists.iter().map(|(side, rules)| (*side, rules))
    }

    /// As if each rule said `counter`.
    pub fn count_everything(&mut self) {
        let rules = self.lists.iter_mut().flat_map(|(_, rules)| &mut rules.ruleset.rules);
        rules.for_each(|rule| rule.counter = true);
    }

    /// Each list, and the hook it is for.
    pub fn all(self) -> Vec<(Option<Side>, Rules)> {
        self.lists
    }

    /// The only list, or the one of this side.
    pub fn one(mut self, wanted: Option<Side>) -> Result<(Option<Side>, Rules), Failure> {
        let there = self.lists.iter().filter_map(|(side, _)| Some(format!("`chain {}`", (*side)?)));
        let there = there.collect::<Vec<_>>().join(" and ");
        self.lists.retain(|(side, _)| side.is_none() || wanted.is_none() || *side == wanted);
        match (self.lists.pop(), wanted) {
            (Some(one), _) if self.lists.is_empty() => Ok(one),
            (None, Some(wanted)) => {
                Err(Failure::Usage(format!("the rules have no `chain {wanted}`, only {there}")))
            }
            _ => Err(Failure::Usage(format!("the rules have {there}: say which one, with `--direction`"))),
        }
    }
}

impl Rules {
    fn new(source: Source, ruleset: Ruleset) -> Self {
        let diagram = diagram::build(&ruleset);
        Self { source, ruleset, diagram }
    }

    /// The same, with `bypass` between these nodes only, and `bypass direct` towards these hops.
    pub fn between(&self, nodes: &Nodes, hops: &Hops) -> Self {
        let mut ruleset = self.ruleset.clone();
        for rule in &mut ruleset.rules {
            match &mut rule.action {
                Action::Bypass { nodes: all } => *all = nodes.clone(),
                Action::Direct { hops: all } => *all = hops.clone(),
                _ => {}
            }
        }
        Self { ruleset, source: self.source.clone(), diagram: self.diagram.clone() }
    }

    pub fn compile(&self, options: Options) -> Result<Program, Failure> {
        Ok(codegen::compile(&self.ruleset, &self.diagram, options)?)
    }

    /// The rule that a listing is at, as it was written.
    pub fn title(&self, rule: u32) -> Option<String> {
        let rule = usize::try_from(rule).ok()?;
        Some(format!("rule {rule}: {}", self.ruleset.rules.get(rule)?.text))
    }

    /// Programs made of these rules, as an object that has the rules beside the instructions.
    pub fn object(&self, programs: &[(&str, &Program)]) -> Result<Vec<u8>, Failure> {
        // Of many rules: `Source::line` counts from the beginning.
        let ends: Vec<usize> = self.source.text.match_indices('\n').map(|(at, _)| at).collect();
        let before = |at: usize| ends.partition_point(|end| *end < at);
        let pieces = self.source.pieces();
        let number = |rule: &Rule| {
            let at = rule.span.start;
            let piece = pieces.iter().rfind(|piece| piece.span.start <= at);
            1 + before(at) - piece.map_or(0, |piece| before(piece.span.start))
        };
        let lines = self.ruleset.rules.iter().map(|rule| Line { text: &rule.text, number: number(rule) });
        Ok(elf::wrap_with_rules(programs, &self.source.name, &lines.collect::<Vec<_>>())?)
    }

    /// What the kernel refused, in the user's terms: the rule that the instruction was made for.
    pub fn explain(&self, error: &LoadError, programs: &[(&str, &Program)], color: bool) -> Option<String> {
        let (name, slot) = error.at()?;
        let (_, program) = programs.iter().find(|(candidate, _)| *candidate == name)?;
        let rule = self.ruleset.rules.get(usize::try_from(program.origin_at(slot)?).ok()?)?;
        let instruction = program.text_at(slot).unwrap_or_default();
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            message: format!(
                "the kernel refused the code of a rule, at instruction {slot}: `{}`",
                instruction.trim()
            ),
            primary: Label { span: rule.span, text: "this rule".to_owned() },
            secondary: Vec::new(),
            help: Some(
                "this is not a mistake in the rule: please report it with the kernel's version".to_owned(),
            ),
        };
        Some(diag::render(&self.source, &[diagnostic], color))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::kernel::Refusal;

    #[test]
    fn a_refused_instruction_is_shown_at_its_rule() {
        let text = "tcp dport 80 actions drop\nudp dport 53 actions drop\n";
        let source = Source::new("rules.sf", text);
        let ruleset = check::read(&source).unwrap().ruleset;
        let rules = Rules::new(source, ruleset);
        let program = rules.compile(Options::pass_gso(codegen::Link::Ethernet)).unwrap();
        let slot = (0..program.slots()).find(|slot| program.origin_at(*slot) == Some(1)).unwrap();
        let log = format!("{slot}: (b4) w0 = 2\nmade up\nprocessed 1 insns\n");
        let refusal = Refusal::read(&io::Error::from_raw_os_error(13), &log).unwrap();
        let error = LoadError::Refused { program: "p".to_owned(), refusal: Box::new(refusal) };

        let said = rules.explain(&error, &[("p", &program)], false).unwrap();
        assert!(said.contains(&format!("at instruction {slot}: `goto drop_udp`")), "{said}");
        assert!(said.contains("rules.sf:2:1"), "{said}");
        assert_eq!(rules.explain(&error, &[("another", &program)], false), None);
    }
}
