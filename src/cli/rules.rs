//! The pipeline from text to programs, with diagnostics said on the way.
//!
//! Comes in: a source. Goes out: checked rules, and one program for each kind of link that is asked for.

use asm::Program;

use super::args::{Deny, Strict};
use super::{Console, Failure};
use crate::check::Checked;
use crate::codegen::Options;
use crate::diag::{self, Diagnostic, Label, Severity, Source};
use crate::ir::Ruleset;
use crate::kernel::LoadError;
use crate::tree::{self, Tree};
use crate::{check, codegen};

/// Rules that are right.
#[derive(Debug)]
pub struct Rules {
    pub source: Source,
    pub ruleset: Ruleset,
    pub tree: Tree,
}

impl Rules {
    /// Reads and checks; says every diagnostic.
    pub fn read(source: Source, strict: Strict, console: &mut Console<'_>) -> Result<Self, Failure> {
        match check::read(&source) {
            Ok(Checked { ruleset, warnings }) => {
                if !warnings.is_empty() {
                    let text = diag::render(&source, &warnings, console.color);
                    console.say(text);
                    if strict.deny == Some(Deny::Warnings) {
                        console.say("`--deny warnings` takes these for errors");
                        return Err(Failure::Rules);
                    }
                }
                let tree = tree::build(&ruleset);
                Ok(Self { source, ruleset, tree })
            }
            Err(diagnostics) => {
                let text = diag::render(&source, &diagnostics, console.color);
                console.say(text);
                Err(Failure::Rules)
            }
        }
    }

    pub fn compile(&self, options: Options) -> Result<Program, Failure> {
        Ok(codegen::compile(&self.ruleset, &self.tree, options)?)
    }

    /// The rule that a listing is at, as it was written.
    pub fn title(&self, rule: u32) -> Option<String> {
        let rule = usize::try_from(rule).ok()?;
        Some(format!("rule {rule}: {}", self.ruleset.rules.get(rule)?.text))
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
        let source = Source { name: "rules.sf".to_owned(), text: text.to_owned() };
        let Ok(Checked { ruleset, .. }) = check::read(&source) else { panic!("the rules are right") };
        let tree = tree::build(&ruleset);
        let rules = Rules { source, ruleset, tree };
        let program = rules.compile(codegen::Link::Ethernet.into()).unwrap();
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
