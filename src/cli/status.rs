//! `status`: what the kernel says is attached.

use std::collections::{BTreeSet, HashMap, HashSet, hash_map};

use serde::Serialize;

use super::attach::{interfaces, open};
use super::counted::{self, Found};
use super::prometheus::{self, Sample};
use super::settings::{Direction, Target};
use super::{Console, Failure, args};
use crate::kernel::counters::{About, Count, Counts, ReasonCount, RuleCount};
use crate::kernel::written::{self, Unknown, Written};
use crate::net::health::{self, Broken};
use crate::net::links::{self, Device};
use crate::net::mark::GsoSetup;
use crate::net::pair::Pair;
use crate::net::{self, Filter, Hook, Mark, Point, gso, macvlan, pair, tcx};
use crate::page::attached::{self, Attached};
use crate::paint;

/// One filter of ours, as `--json` shows it; or a program on TCX, with what its note says.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    interface: &'a str,
    ifindex: i32,
    hook: Hook,
    point: Point,
    /// On TCX: which of how many programs it is, in the order in which they run.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<(usize, usize)>,
    name: &'a str,
    version: Option<String>,
    hash: Option<String>,
    rules: Option<usize>,
    program: Option<u32>,
    tag: Option<&'a str>,
    priority: u16,
    handle: u32,
    /// The ends of the segmentation pair that the program sends to, for egress and ingress; null if it is missing.
    pair: Option<[Option<&'a str>; 2]>,
    /// The macvlan that the program sends to instead, if it does.
    macvlan: Option<&'a str>,
    /// The ends of the merging pair that the program sends to, in the order in which packets pass them.
    merging_pair: Option<[Option<&'a str>; 2]>,
    /// Pairs that do not work, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    broken: Vec<String>,
    /// `gso_max_segs` of the interface as it will be again when the filter goes.
    gso_max_segs_was: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counters: Option<Counts>,
    /// Why they cannot be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    counters_error: Option<String>,
    /// The rules as they were written; null where they cannot be known.
    text: Option<&'a [String]>,
    #[serde(skip)]
    text_error: Option<Unknown>,
}

impl<'a> Entry<'a> {
    fn new(
        filter: &'a Filter,
        found: Found,
        written: Option<&'a Written>,
        devices: &'a [Device],
        broken: &[Broken],
    ) -> Self {
        let name = filter.name.as_deref().unwrap_or_default();
        let mark = Mark::read(name);
        let ends = |pair: Pair| {
            let used = gso::uses(std::slice::from_ref(filter), pair, &filter.interface);
            let ends = pair::of(devices, pair, filter.interface.number());
            used.then(|| ends.map(|end| end.map(|device| device.interface.name.as_str())))
        };
        let macvlan = macvlan::at(devices, filter.interface.number(), filter.hook)
            .filter(|_| mark.as_ref().is_some_and(|mark| mark.gso == GsoSetup::Macvlan));
        let gso_max_segs_was = match mark.as_ref().map(|mark| mark.gso) {
            Some(GsoSetup::Limited(before)) => Some(before),
            _ => None,
        };
        let (counters, counters_error) = match found {
            None => (None, None),
            Some(Ok(counts)) => (Some(counts), None),
            Some(Err(error)) => (None, Some(error.to_string())),
        };
        Self {
            interface: &filter.interface.name,
            ifindex: filter.interface.index,
            hook: filter.hook,
            point: filter.point(),
            place: Some(filter).filter(|filter| filter.point() == Point::Tcx).and_then(tcx::place),
            name,
            version: mark.as_ref().map(|mark| mark.version.clone()),
            hash: mark.as_ref().map(|mark| mark.hash.clone()),
            rules: mark.map(|mark| mark.rules),
            program: filter.program,
            tag: filter.tag.as_deref(),
            priority: filter.priority,
            handle: filter.handle,
            pair: ends(Pair::Segmentation),
            macvlan: macvlan.map(|device| device.interface.name.as_str()),
            merging_pair: ends(Pair::Merging),
            broken: broken
                .iter()
                .filter(|broken| broken.interface == filter.interface && ends(broken.pair).is_some())
                .map(|Broken { pair, why, .. }| format!("{pair}: {why}"))
                .collect(),
            gso_max_segs_was,
            counters,
            counters_error,
            text: written.and_then(|written| written.as_deref().ok()),
            text_error: written.and_then(|written| written.as_ref().err()).copied(),
        }
    }
}

impl Entry<'_> {
    fn where_it_is(&self) -> String {
        let Entry { point, place, priority, handle, .. } = self;
        match (point, place) {
            (Point::Clsact, _) => format!("priority {priority} handle {handle:#x}"),
            // Without a note there is no handle.
            (Point::Tcx, _) if *handle == 0 => "TCX, its note is lost: attach again".to_owned(),
            (Point::Tcx, Some((at, of))) => format!("TCX, {at} of {of}"),
            (Point::Tcx, None) => "TCX".to_owned(),
        }
    }

    fn sample(&self, broken: &[Broken]) -> Sample<'_> {
        let here = |broken: &&Broken| broken.interface.name == self.interface;
        let works = |pair: &Pair| !broken.iter().filter(here).any(|broken| broken.pair == *pair);
        let pairs = Pair::ALL.into_iter().filter(|pair| self.ends(*pair).is_some());
        Sample {
            interface: self.interface,
            hook: self.hook.to_string(),
            point: self.point.to_string().to_lowercase(),
            version: self.version.as_deref().unwrap_or_default(),
            hash: self.hash.as_deref().unwrap_or_default(),
            rules: self.rules,
            pairs: pairs.map(|pair| (pair, works(&pair))).collect(),
            counters: self.counters.as_ref(),
            unreadable: self.counters_error.is_some(),
        }
    }

    fn attached(&self) -> Attached<'_> {
        let program = self.program.map_or("?".to_owned(), |id| id.to_string());
        let mut facts = vec![
            ("program", format!("{program}, tag {}", self.tag.unwrap_or("?"))),
            ("place", self.where_it_is()),
            ("name", self.name.to_owned()),
        ];
        facts.extend(self.rules.map(|rules| ("rules", rules.to_string())));
        facts.extend(self.broken.iter().map(|broken| ("broken", broken.clone())));
        facts.extend(self.counters_error.iter().map(|error| ("counters", error.clone())));
        facts.extend(self.text_error.iter().map(|error| ("text", error.to_string())));
        Attached {
            name: format!("{} {}", self.interface, self.hook),
            facts,
            rules: self.rules,
            counts: self.counters.as_ref(),
            text: self.text,
        }
    }

    fn ends(&self, pair: Pair) -> Option<[Option<&str>; 2]> {
        match pair {
            Pair::Segmentation => self.pair,
            Pair::Merging => self.merging_pair,
        }
    }
}

pub fn run(args: &args::Status, console: &mut Console<'_>) -> Result<(), Failure> {
    let target = Target::read(&args.place, Direction::Both, console)?;
    let mut netlink = open(&target)?;
    let interfaces = interfaces(&target, &mut netlink)?;
    let mut half = Vec::new();
    let found = counted::look(|| {
        let seen = net::look(&mut netlink, &interfaces, target.direction.hooks())?;
        half = seen.unfinished();
        Ok(seen.ours)
    })?;
    let (filters, counters): (Vec<Filter>, Vec<Found>) = found.into_iter().unzip();
    let devices = links::devices(&mut netlink)?;
    let half = health::half(&half)?;
    let left = health::left_behind(&mut netlink, &devices)?;
    let broken = health::broken(&mut netlink, &filters, &devices, &interfaces)?;
    let rules = |filter: &Filter| Some((filter.program?, Mark::read(filter.name.as_deref()?)?.rules));
    let written = written::of_programs(&filters.iter().filter_map(rules).collect());
    let entries = filters.iter().zip(counters);
    let entries = entries.map(|(filter, found)| {
        let written = filter.program.and_then(|program| written.get(&program));
        Entry::new(filter, found, written, &devices, &broken)
    });
    let entries: Vec<Entry<'_>> = entries.collect();
    if args.json {
        serde_json::to_writer_pretty(&mut *console.out, &entries)
            .map_err(|error| Failure::Output(error.into()))?;
        writeln!(console.out)?;
        // The document is a list of filters.
        half.iter().chain(&left).for_each(|line| console.say(line));
        return Ok(());
    }
    if args.html {
        let shown: Vec<Attached<'_>> = entries.iter().map(Entry::attached).collect();
        let notes = half.iter().chain(&left).cloned().collect();
        let page = attached::html(&shown, notes)
            .map_err(|error| Failure::Internal(format!("cannot write JSON: {error}")))?;
        return Ok(console.out.write_all(page.as_bytes())?);
    }
    if args.prometheus {
        let samples: Vec<Sample<'_>> = entries.iter().map(|entry| entry.sample(&broken)).collect();
        prometheus::write(&samples, left.len(), console.out)?;
        let errors =
            entries.iter().filter_map(|entry| entry.counters_error.as_deref()).collect::<BTreeSet<_>>();
        errors
            .into_iter()
            .chain(half.iter().chain(&left).map(String::as_str))
            .for_each(|line| console.say(line));
        return Ok(());
    }
    let mut texts = HashMap::new();
    for (at, shown) in entries.iter().enumerate() {
        let Entry { interface, hook, name, program, tag, .. } = shown;
        let program = program.map_or("?".to_owned(), |id| id.to_string());
        let tag = tag.unwrap_or("?");
        let place = shown.where_it_is();
        let title = paint::printable(interface);
        writeln!(console.out, "{title} {hook}: {name}, program {program} tag {tag}, {place}")?;
        match &shown.counters {
            Some(counts) => show_counts(counts, shown.text, console)?,
            None => show_rules(shown, &mut texts, console)?,
        }
        for pair in Pair::ALL {
            // Once for an interface, behind its last filter that uses it.
            let later = entries.iter().skip(at + 1).filter(|entry| entry.interface == *interface);
            match shown.ends(pair) {
                None => {}
                Some(_) if later.clone().any(|entry| entry.ends(pair).is_some()) => {}
                Some(_) => {
                    let here = |broken: &&Broken| broken.interface.name == *interface && broken.pair == pair;
                    let fault = broken.iter().find(here);
                    let state = match fault {
                        None => pair::each(&devices, pair, shown.ifindex.unsigned_abs()).join(", "),
                        Some(Broken { why, .. }) => format!("BROKEN, {why}; {}; attach again", pair.lost()),
                    };
                    writeln!(console.out, "{title} {pair}: {}", paint::printable(&state))?;
                }
            }
        }
    }
    for line in half.iter().chain(&left) {
        writeln!(console.out, "{}", paint::printable(line))?;
    }
    if entries.is_empty() && half.is_empty() && left.is_empty() {
        console.say("nothing of sfunnel's is attached there");
    }
    Ok(())
}

/// A line for each rule, and below each that counts one for each reason that there was.
fn show_counts(
    Counts { rules }: &Counts,
    text: Option<&[String]>,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let counting: HashSet<usize> = rules.iter().map(|count| count.about.rule).collect();
    let all = text.into_iter().flatten().enumerate();
    let mut silent = all.filter(|(rule, _)| !counting.contains(rule)).peekable();
    for RuleCount { about: About { rule, text }, count, reasons } in rules {
        while let Some((rule, text)) = silent.next_if(|(earlier, _)| earlier < rule) {
            writeln!(console.out, "  rule {rule}: {}", paint::printable(text))?;
        }
        writeln!(console.out, "  rule {rule}: {}: {text}", said(*count))?;
        for ReasonCount { reason, count } in reasons {
            writeln!(console.out, "    {}: {}", reason.text(), said(*count))?;
        }
    }
    for (rule, text) in silent {
        writeln!(console.out, "  rule {rule}: {}", paint::printable(text))?;
    }
    Ok(())
}

/// A line for each rule, or where they are shown already: one text may be on hundreds of interfaces.
fn show_rules<'a>(
    entry: &'a Entry<'_>,
    shown: &mut HashMap<&'a [String], String>,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let Entry { interface, hook, text, text_error, counters_error, .. } = entry;
    let error = counters_error.clone().or(text_error.map(|error| error.to_string()));
    if let Some(error) = error {
        writeln!(console.out, "  {error}")?;
    }
    let Some(text) = text else { return Ok(()) };
    match shown.entry(text) {
        hash_map::Entry::Occupied(where_) => writeln!(console.out, "  the rules of {}", where_.get())?,
        hash_map::Entry::Vacant(new) => {
            for (rule, text) in text.iter().enumerate() {
                writeln!(console.out, "  rule {rule}: {}", paint::printable(text))?;
            }
            new.insert(format!("{} {hook}", paint::printable(interface)));
        }
    }
    Ok(())
}

fn said(Count { packets, bytes }: Count) -> String {
    let noun = if packets == 1 { "packet" } else { "packets" };
    format!("{packets} {noun}, {bytes} bytes")
}
