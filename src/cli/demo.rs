//! `demo`: runs it, writes the report.

use super::{Console, Failure};
use crate::demo;

pub fn run(console: &mut Console<'_>) -> Result<(), Failure> {
    console.say("demo: in two network namespaces of its own, which vanish with it; touches nothing else");
    let report = demo::run()?;
    let color = console.out_is_terminal && console.variable("NO_COLOR").is_none();
    report.write(console.out, color)?;
    Ok(())
}
