//! What the rules did to a packet, for a terminal: the rules with why they do not match, the verdict, and the
//! headers before and after, side by side.
//!
//! Input: what was found. Output: text on any writer. Never runs anything.

use std::io::{self, Write};

use super::ran::Ran;
use super::{Matching, Sample, key};
use crate::dissect::fields::{self, Fields, UNFINISHED, upper};
use crate::dissect::{Ip, Segment, Unmatchable};
use crate::ir::{Action, Family, Proto, Ruleset};
use crate::paint::Paint;
use crate::settings::Settings;

/// Rules that do not match are shown up to this many: the last ones.
const MOST_SHOWN: usize = 20;

/// One packet and all that is known about it.
#[derive(Debug)]
pub struct Explained<'a> {
    pub number: usize,
    pub sample: &'a Sample,
    pub matching: Result<Matching, Unmatchable>,
    /// What the kernel made of it, if it was asked, or why it could not be.
    pub ran: Option<Result<Ran, String>>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Changed,
    Unchanged,
    Dropped,
    /// It became the answer to its sender.
    Answered,
    Unknown,
}

impl Explained<'_> {
    pub fn fate(&self) -> Fate {
        match &self.ran {
            Some(Ok(ran)) => ran.fate(&self.sample.frame),
            Some(Err(_)) | None => Fate::Unknown,
        }
    }

    fn rule(&self) -> Option<usize> {
        self.matching.as_ref().ok()?.rule
    }

    /// One line: packet, rule, what became of it.
    pub fn line(&self, ruleset: &Ruleset) -> String {
        let rule = match &self.matching {
            Err(not) => format!("no rule can match: {not}"),
            Ok(Matching { rule: None, .. }) => "no rule matches".to_owned(),
            Ok(Matching { rule: Some(rule), .. }) => format!("rule {rule}"),
        };
        format!("{:>4}  {:<60}  {rule}; {}", self.number, title(&self.sample.frame), self.verdict(ruleset))
    }

    /// What became of it, and why not what the rule says.
    pub fn verdict(&self, ruleset: &Ruleset) -> String {
        let rule = self.rule().and_then(|rule| ruleset.rules.get(rule));
        match (&self.ran, rule) {
            (Some(Ok(ran)), _) => ran.verdict(&self.sample.frame, rule.map(|rule| &rule.action)),
            (Some(Err(why)), _) => format!("not run: {why}"),
            (None, None) => "would pass unchanged".to_owned(),
            (None, Some(rule)) => format!("would {}", crate::rule_text::actions(rule)),
        }
    }

    /// All of it.
    pub fn write(&self, out: &mut dyn Write, ruleset: &Ruleset, paint: Paint) -> io::Result<()> {
        let text = format!("packet {}: {}", self.number, title(&self.sample.frame));
        writeln!(out, "{}", paint.title(&text))?;
        match &self.matching {
            Err(not) => writeln!(out, "  no rule can match: {not}")?,
            Ok(matching) => rules(out, ruleset, matching, paint)?,
        }
        writeln!(out, "  {}", paint.title(&self.verdict(ruleset)))?;
        headers(out, &self.change(ruleset), paint)
    }

    /// Of a packet that was cut, the first segment.
    pub fn change(&self, ruleset: &Ruleset) -> Change<'_> {
        let action = self.rule().and_then(|rule| Some(&ruleset.rules.get(rule)?.action));
        let (before, ran) = match &self.ran {
            Some(Ok(ran)) => match ran.pieces.first() {
                Some((frame, piece)) => (frame, Some(piece)),
                None => (&self.sample.frame, Some(ran)),
            },
            _ => (&self.sample.frame, None),
        };
        let changed = ran.filter(|ran| ran.fate(before) == Fate::Changed);
        let after = changed.map(|ran| ran.outcome.frame.as_slice());
        let inside = match (action, after) {
            (Some(Action::Unfunnel { inner, .. }), Some(_)) => [Some(*inner), None],
            (Some(Action::Funnel(_)), Some(_)) => {
                [None, Ip::in_frame(before).ok().and_then(|ip| Some(ip.segment().ok()?.proto))]
            }
            _ => [None, None],
        };
        Change { before, after, inside }
    }
}

/// A frame before, and after if it was changed.
#[derive(Debug)]
pub struct Change<'a> {
    pub before: &'a [u8],
    pub after: Option<&'a [u8]>,
    /// What the first L4 header of each carries, if it is a funnel's.
    pub inside: [Option<Proto>; 2],
}

/// `udp 10.0.0.1:5000 > 10.0.0.2:4739, 100 bytes of data`
pub fn title(frame: &[u8]) -> String {
    let (Ok(key), Ok(ip)) = (key(frame, &Settings::default()), Ip::in_frame(frame)) else {
        return format!("{} bytes", frame.len());
    };
    let Ok(segment) = ip.segment() else { return format!("{} bytes", frame.len()) };
    let find = |fields: &Fields, name| {
        fields.iter().find(|(n, _)| *n == name).map_or(String::new(), |f| f.1.clone())
    };
    let header = fields::ip(&ip);
    let host = |name, port| match ip.family {
        Family::V4 => format!("{}:{port}", find(&header, name)),
        Family::V6 => format!("[{}]:{port}", find(&header, name)),
    };
    let flags = match segment.proto {
        Proto::Tcp => format!(" {}", fields::flags(segment.header())),
        Proto::Udp => String::new(),
    };
    let (source, destination) = (host("source", segment.sport()), host("destination", segment.dport()));
    let data = segment.payload().len();
    format!("{} {source} > {destination}{flags}, {data} bytes of data", key.proto)
}

fn rules(out: &mut dyn Write, ruleset: &Ruleset, matching: &Matching, paint: Paint) -> io::Result<()> {
    let skipped = matching.misses.len().saturating_sub(MOST_SHOWN);
    if skipped > 0 {
        writeln!(out, "  rules 0 to {} do not match", skipped - 1)?;
    }
    let shown = matching.misses.get(skipped..).unwrap_or_default();
    let text = |rule: usize| ruleset.rules.get(rule).map_or("", |rule| rule.text.as_str());
    let width = shown.iter().map(|miss| miss.why.len()).max().unwrap_or(0).max("matches".len());
    for miss in shown {
        let line = format!("  rule {}: {:<width$}   {}", miss.rule, miss.why, text(miss.rule));
        writeln!(out, "{}", paint.faint(&line))?;
    }
    match matching.rule {
        Some(rule) => {
            let line = format!("  rule {rule}: {:<width$}   {}", "matches", text(rule));
            writeln!(out, "{}", paint.pushed(&line))
        }
        None => writeln!(out, "  no rule matches"),
    }
}

/// A header, on either side or on both.
struct Block {
    title: String,
    before: Option<Fields>,
    after: Option<Fields>,
}

fn headers(out: &mut dyn Write, change: &Change<'_>, paint: Paint) -> io::Result<()> {
    let Change { before, after, inside: [inside_before, inside_after] } = *change;
    let Some(left) = layers(before, inside_before) else { return Ok(()) };
    let right = after.map(|frame| layers(frame, inside_after).unwrap_or_default());
    let blocks = pair(left, right.unwrap_or_default());
    let values =
        |fields: &Option<Fields>| fields.iter().flatten().map(|(_, value)| value.len()).max().unwrap_or(0);
    let width = blocks.iter().map(|block| values(&block.before)).max().unwrap_or(0).max(12) + 2;
    writeln!(out)?;
    if after.is_some() {
        writeln!(out, "{}", paint.title(&format!("  {:<20}  {:<width$}  after", "", "before")))?;
    }
    let mut unfinished = false;
    for Block { title, before, after: there } in &blocks {
        let note = match (before, there) {
            _ if after.is_none() => "",
            (None, _) => "   pushed",
            (_, None) => "   popped",
            _ => "",
        };
        writeln!(out, "  {title}{note}")?;
        let names = before.as_ref().or(there.as_ref()).into_iter().flatten();
        for (at, (name, _)) in names.enumerate() {
            let value = |side: &Option<Fields>| {
                side.as_ref()
                    .and_then(|fields| fields.get(at))
                    .map_or(String::new(), |(_, value)| value.clone())
            };
            let (left, right) = (value(before), value(there));
            unfinished |= left.ends_with(UNFINISHED) || right.ends_with(UNFINISHED);
            let line = match (before, there) {
                _ if after.is_none() => format!("    {name:<18}  {left}"),
                (None, _) => paint.pushed(&format!("    {name:<18}  {left:<width$}+ {right}")),
                (_, None) => paint.popped(&format!("    {name:<18}- {left}")),
                _ if left != right => paint.changed(&format!("    {name:<18}  {left:<width$}* {right}")),
                _ => format!("    {name:<18}  {left:<width$}  {right}"),
            };
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    if unfinished {
        writeln!(out, "  {UNFINISHED} a checksum that was left to the device to finish")?;
    }
    Ok(())
}

/// The headers of a frame, the L4 one at the end being the packet's own: title and fields.
type Layers = Vec<(String, Fields)>;

/// `inside`: what the first L4 header carries, if it is a funnel's.
fn layers(frame: &[u8], inside: Option<Proto>) -> Option<Layers> {
    let ip = Ip::in_frame(frame).ok()?;
    let segment = ip.segment().ok()?;
    let mut layers = vec![(format!("{}, {} bytes", ip.family.name(), ip.header.len()), fields::ip(&ip))];
    let l4 = |segment: &Segment<'_>, addresses: &[u8]| {
        let title = format!("{}, {} bytes", upper(segment.proto), segment.header().len());
        (title, fields::l4(segment, segment.sum(addresses)))
    };
    let mut last = segment;
    match inside.and_then(|inside| Segment::read(inside, segment.payload())) {
        Some(inner) => {
            layers.push(l4(&segment, ip.addresses()));
            layers.push(l4(&inner, &[]));
            last = inner;
        }
        None => layers.push(l4(&segment, ip.addresses())),
    }
    let data = last.payload();
    if !data.is_empty() {
        layers.push((format!("data, {} bytes", data.len()), fields::data(data)));
    }
    Some(layers)
}

/// Side by side. The longer list has one header more, after IP.
fn pair(left: Layers, right: Layers) -> Vec<Block> {
    let (more_left, more_right) = (left.len() > right.len() && !right.is_empty(), right.len() > left.len());
    let (mut left, mut right) = (left.into_iter(), right.into_iter());
    let mut blocks = Vec::new();
    let block = |left: Option<(String, Fields)>, right: Option<(String, Fields)>| {
        let title = left.as_ref().or(right.as_ref()).map_or(String::new(), |(title, _)| title.clone());
        Block { title, before: left.map(|(_, fields)| fields), after: right.map(|(_, fields)| fields) }
    };
    blocks.push(block(left.next(), right.next()));
    if more_left {
        blocks.push(block(left.next(), None));
    } else if more_right {
        blocks.push(block(None, right.next()));
    }
    loop {
        match (left.next(), right.next()) {
            (None, None) => return blocks,
            (left, right) => blocks.push(block(left, right)),
        }
    }
}
