//! Pages: which lists they show, and under which names.
//!
//! Takes rules as a command has read them, gives HTML. Never says what is on the page.

use asm::Program;

use super::args::{Compile, End};
use super::compile::program;
use super::rules::{Lists, Rules};
use super::{Console, Failure};
use crate::codegen::Options;
use crate::diag::Diagnostic;
use crate::explain::report::Explained;
use crate::explain::{self, Sample};
use crate::ir::Side;
use crate::page::{Life, List, Packet, Page, Way, Ways};

/// A list, what it is called, and whether it follows from what is written.
pub struct Shown {
    pub name: String,
    pub derived: bool,
    pub side: Option<Side>,
    pub rules: Rules,
}

/// `compile --emit html`: all lists, or those that the arguments name.
pub fn of_rules(args: &Compile, lists: Lists, console: &mut Console<'_>) -> Result<String, Failure> {
    let remarks = lists.remarks().to_vec();
    let shown = shown(lists, args.end, args.direction.map(Side::from), console)?;
    let programs = shown.iter().map(|shown| program(args, shown.side, &shown.rules));
    let programs: Vec<Program> = programs.collect::<Result<_, _>>()?;
    let Some(first) = shown.first() else { return Err(Failure::Internal("no list of rules".to_owned())) };
    let mut page = Page::new(&first.rules.source, &remarks);
    for (shown, program) in shown.iter().zip(&programs) {
        page.push(list(shown, Some(program)));
    }
    html(&page)
}

pub fn list<'a>(shown: &'a Shown, program: Option<&Program>) -> List<'a> {
    let Shown { name, derived, side: _, rules } = shown;
    List::new(name.clone(), *derived, (&rules.source, &rules.ruleset), &rules.diagram, program)
}

pub fn html(page: &Page<'_>) -> Result<String, Failure> {
    page.html().map_err(|error| Failure::Internal(format!("cannot write JSON: {error}")))
}

/// What happened to packets at one hook, as far as a page has room for it.
#[derive(Debug)]
pub struct Lives {
    ways: Ways,
    lives: Vec<Life>,
}

impl Lives {
    /// Packets of a page.
    const MOST: usize = 5_000;
    /// Rules that did not take a packet: of the first packets, and of the others.
    const MISSES: [usize; 2] = [200, 5];
    const FIRST: usize = 50;

    pub fn new(rules: &Rules, options: Options) -> Result<Self, Failure> {
        Ok(Self { ways: Ways::new(rules.compile(options)?), lives: Vec::new() })
    }

    pub fn push(&mut self, rules: &Rules, explained: &Explained<'_>) {
        if self.lives.len() == Self::MOST {
            return;
        }
        let key = explain::key(&explained.sample.frame, &explained.sample.metadata.settings);
        let way = key.map_or_else(|_| Way::default(), |key| self.ways.of(&rules.diagram, &key));
        let [first, other] = Self::MISSES;
        let misses = if self.lives.len() < Self::FIRST { first } else { other };
        self.lives.push(Life::new(explained, &rules.ruleset, way, misses));
    }
}

/// `explain --html`: the lists that packets went through, and what happened to them at each.
pub fn of_packets(
    lists: &[(Option<Side>, Rules)],
    remarks: &[Diagnostic],
    derived: bool,
    samples: &[Sample],
    lives: Vec<Lives>,
) -> Result<String, Failure> {
    let Some((_, first)) = lists.first() else {
        return Err(Failure::Internal("no list of rules".to_owned()));
    };
    let mut page = Page::new(&first.source, remarks);
    let mut packets: Vec<Packet> =
        samples.iter().take(Lives::MOST).map(|sample| Packet::new(&sample.frame)).collect();
    for ((side, rules), Lives { ways, lives }) in lists.iter().zip(lives) {
        let name = side.map(|side| side.to_string()).unwrap_or_default();
        let program = Some(ways.program());
        page.push(List::new(name, derived, (&rules.source, &rules.ruleset), &rules.diagram, program));
        packets.iter_mut().zip(lives).for_each(|(packet, life)| packet.push(life));
    }
    page.show(packets, samples.len());
    html(&page)
}

/// All lists that may be meant: of a service, those of both ends.
pub fn shown(
    lists: Lists,
    end: Option<End>,
    wanted: Option<Side>,
    console: &mut Console<'_>,
) -> Result<Vec<Shown>, Failure> {
    let mut all = Vec::new();
    let side_name = |side: Option<Side>| side.map(|side| side.to_string()).unwrap_or_default();
    if let Some(service) = lists.service() {
        for (of, name) in [(End::Client, "client"), (End::Pod, "pod")] {
            if end.is_none_or(|end| end == of) {
                let chains = Lists::of_end(service, of, console)?.all();
                all.extend(chains.into_iter().map(|(side, rules)| Shown {
                    name: format!("{name}, {}", side_name(side)),
                    derived: true,
                    side,
                    rules,
                }));
            }
        }
    } else {
        let chains = lists.at(end, console)?.all().into_iter();
        all.extend(chains.map(|(side, rules)| Shown { name: side_name(side), derived: false, side, rules }));
    }
    let there = all.iter().map(|shown| shown.name.clone()).collect::<Vec<_>>().join(" and ");
    all.retain(|shown| shown.side.is_none() || wanted.is_none() || shown.side == wanted);
    match (all.is_empty(), wanted) {
        (true, Some(wanted)) => {
            Err(Failure::Usage(format!("the rules have no `chain {wanted}`, only {there}")))
        }
        _ => Ok(all),
    }
}
