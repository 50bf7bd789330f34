//! `doctor`: findings, one a line; exit code 1 if something would not work.

use super::args::{Doctor, Input, Strict};
use super::attach::{interfaces, open};
use super::rules::Lists;
use super::settings::{Direction, Target, defined, input_source};
use super::{Console, Failure};
use crate::doctor::{self, Finding, Level, size};
use crate::net::{links, qdisc};
use crate::paint::Paint;

pub fn run(args: &Doctor, console: &mut Console<'_>) -> Result<(), Failure> {
    let lists = match (&args.ruleset, &args.file) {
        (None, None) => None,
        (ruleset, file) => {
            let input = Input { ruleset: ruleset.clone(), file: file.clone() };
            let source = defined(input_source(&input)?, &args.defines);
            Some(Lists::read(source, Strict::default(), console)?.at(args.end, console)?)
        }
    };
    let target = Target::read(&args.place, Direction::Both, console)?;
    let mut netlink = open(&target)?;
    let mut found = doctor::programs();
    // Where not even these can be loaded, the reason has been reported.
    if found.iter().all(|finding| finding.level != Level::Bad) {
        found.extend(lists.iter().flat_map(Lists::each).map(|(side, rules)| {
            let about = side.map_or("rules".to_owned(), |side| format!("rules {side}"));
            doctor::of_rules(&rules.ruleset, &rules.diagram, &about)
        }));
    }
    let wanted = interfaces(&target, &mut netlink)?;
    let devices = links::devices(&mut netlink)?;
    let qdiscs = qdisc::all(&mut netlink)?;
    for device in devices.iter().filter(|device| wanted.contains(&device.interface)) {
        let qdisc = qdiscs.get(&device.interface.index).copied().unwrap_or_default();
        found.extend(doctor::interface(&mut netlink, device, &devices, qdisc, target.direction.hooks())?);
        let Some(mtu) = device.mtu else { continue };
        for (side, rules) in lists.iter().flat_map(Lists::each) {
            let about = match side {
                Some(side) => format!("{} {side}", device.interface.name),
                None => device.interface.name.clone(),
            };
            found.extend(size::findings(&rules.ruleset, &about, mtu));
        }
    }
    found.extend(doctor::wholeness(&mut netlink, &wanted, &devices)?);
    found.extend(doctor::left_behind(&mut netlink, &devices)?);
    report(&found, console)
}

/// Findings, and an error if some are bad.
pub(super) fn report(found: &[Finding], console: &mut Console<'_>) -> Result<(), Failure> {
    let paint = Paint(console.out_is_terminal && console.variable("NO_COLOR").is_none());
    let width = found.iter().map(|finding| finding.about.len()).max().unwrap_or(0);
    for Finding { level, about, text } in found {
        let level_text = format!("{level:<4}");
        let level_text = match level {
            Level::Good => paint.pushed(&level_text),
            Level::Note => paint.changed(&level_text),
            Level::Bad => paint.popped(&level_text),
        };
        writeln!(console.out, "{level_text}  {about:<width$}  {text}")?;
    }
    let bad = found.iter().filter(|finding| finding.level == Level::Bad).count();
    match bad {
        0 => Ok(()),
        1 => Err(Failure::Unfit("one finding is bad".to_owned())),
        n => Err(Failure::Unfit(format!("{n} findings are bad"))),
    }
}
