//! The rule language from outside: what is accepted and what it means, what is refused and how.
//!
//! Diagnostics are goldens, `testdata/errors/*.txt`; `BLESS=1 cargo test --test language` rewrites them.

mod errors;
mod fuzz;
mod pieces;
mod valid;

use sfunnel::diag::{Diagnostic, Source, render};
use sfunnel::ir::{Rule, Rulesets};

/// The rules of a text, chain by chain, and the warnings.
fn read(rules: &str) -> Result<(Vec<Rule>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let sfunnel::Lists { rulesets, warnings, .. } = sfunnel::read_lists(&Source::new("rules", rules))?;
    let rules = match rulesets {
        Rulesets::Anywhere(ruleset) | Rulesets::Service(ruleset) => ruleset.rules,
        Rulesets::Chains(chains) => chains.into_iter().flat_map(|(_, ruleset)| ruleset.rules).collect(),
    };
    Ok((rules, warnings))
}

/// What `sfunnel check` would say, if anything.
fn talk(name: &str, rules: &str) -> String {
    let source = Source::new(name, rules);
    match sfunnel::read_lists(&source) {
        Ok(checked) => render(&source, &checked.remarks(), false),
        Err(faults) => render(&source, &faults, false),
    }
}
