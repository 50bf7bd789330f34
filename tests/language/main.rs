//! The rule language from outside: what is accepted and what it means, what is refused and how.
//!
//! Diagnostics are goldens, `testdata/errors/*.txt`; `BLESS=1 cargo test --test language` rewrites them.

mod errors;
mod fuzz;
mod valid;

use sfunnel::Checked;
use sfunnel::diag::{Diagnostic, Source, render};

fn read(rules: &str) -> Result<Checked, Vec<Diagnostic>> {
    sfunnel::read(&Source::new("rules", rules))
}

/// What the user would see, if anything.
fn talk(name: &str, rules: &str) -> String {
    let source = Source::new(name, rules);
    match sfunnel::read(&source) {
        Ok(checked) => render(&source, &checked.warnings, false),
        Err(faults) => render(&source, &faults, false),
    }
}
