//! `explain`: packets through the rules and through the real program, one report a packet.

use std::fs;
use std::path::Path;

use super::args::{Explain, Strict};
use super::rules::{Lists, Rules};
use super::settings::{apart, defined, input_source};
use super::{Console, Failure};
use crate::dissect::{ETHERNET, Ip, Sum};
use crate::explain::capture::{self, Link};
use crate::explain::report::{Explained, Fate};
use crate::explain::{self, Sample, words};
use crate::ir::Side;
use crate::kernel::LoadError;
use crate::kernel::trial::Trial;
use crate::net;
use crate::paint::Paint;
use crate::{codegen, elf, kernel};

const PROGRAM: &str = "sfunnel_trial";

pub fn run(args: &Explain, console: &mut Console<'_>) -> Result<(), Failure> {
    for input in [&args.pcap, &args.input.file] {
        apart(input.as_deref(), args.write.as_deref())?;
    }
    let lists = Lists::read(defined(input_source(&args.input)?, &args.defines), Strict::default(), console)?;
    let (_, rules) = lists.at(args.end, console)?.one(args.direction.map(Side::from))?;
    let (mut samples, link) = match &args.pcap {
        Some(file) => read(file)?,
        None => {
            let samples: Result<Vec<Sample>, words::Error> =
                args.packet.iter().map(|words| words::packet(words)).collect();
            (samples.map_err(|error| Failure::Usage(error.to_string()))?, Link::Ethernet)
        }
    };
    // Captured on the machine that sends, where checksums are often left to the device.
    let finished = samples.iter_mut().map(finish).filter(|finished| *finished).count();
    if finished > 0 {
        console
            .say(format!("{finished} packets with a checksum that was left to the device: finished first"));
    }
    let trial = trial(&rules, args, console)?;
    let color = console.out_is_terminal && console.variable("NO_COLOR").is_none();
    let (mut frames, mut counts) = (Vec::new(), [0usize; 4]);
    for (index, sample) in samples.iter().enumerate() {
        let explained = explain(&rules, trial.as_ref(), sample, index + 1)?;
        counts[match explained.fate() {
            Fate::Changed => 0,
            Fate::Unchanged => 1,
            Fate::Dropped => 2,
            Fate::Unknown => 3,
        }] += 1;
        if args.brief {
            writeln!(console.out, "{}", explained.line(&rules.ruleset))?;
        } else {
            if index > 0 {
                writeln!(console.out)?;
            }
            explained.write(console.out, &rules.ruleset, Paint(color))?;
        }
        match (explained.fate(), explained.outcome) {
            (Fate::Changed | Fate::Unchanged, Some(Ok(outcome))) => frames.push((outcome.frame, sample.time)),
            (Fate::Unknown, Some(Err(why))) => console.say(format!("packet {}: not run: {why}", index + 1)),
            _ => {}
        }
    }
    // In this order on a terminal, too.
    console.out.flush()?;
    if args.pcap.is_some() {
        let [changed, unchanged, dropped, unknown] = counts;
        console.say(format!(
            "{} packets: {changed} changed, {unchanged} unchanged, {dropped} dropped, {unknown} not run",
            samples.len()
        ));
    }
    if let Some(file) = &args.write {
        let data = capture::write(frames.iter().map(|(frame, time)| (frame.as_slice(), *time)), link);
        fs::write(file, data)
            .map_err(|source| Failure::File { what: format!("cannot write {}", file.display()), source })?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<(Vec<Sample>, Link), Failure> {
    let bytes = fs::read(file)
        .map_err(|source| Failure::File { what: format!("cannot read {}", file.display()), source })?;
    capture::read(&bytes).map_err(|error| Failure::Capture { file: file.display().to_string(), error })
}

/// Finishes the checksum of a whole packet that has only the pseudo-header's sum in it.
fn finish(sample: &mut Sample) -> bool {
    let bytes = match Ip::in_frame(&sample.frame).map(|ip| (ip, ip.segment())) {
        Ok((ip, Ok(segment))) if segment.sum(ip.addresses()) == Sum::Unfinished => {
            let end = ETHERNET + ip.header.len() + ip.body.len();
            let padding = sample.frame.get(end..).unwrap_or_default();
            let start = sample.frame.get(..ETHERNET + ip.header.len()).unwrap_or_default();
            [start, &segment.finished(ip.addresses()), padding].concat()
        }
        _ => return false,
    };
    sample.frame = bytes;
    true
}

/// The program in the kernel; `None` without the privileges for it.
fn trial(rules: &Rules, args: &Explain, console: &mut Console<'_>) -> Result<Option<Trial>, Failure> {
    // Counters need maps, and what is attached nowhere has nothing to count.
    let mut uncounted = rules.ruleset.clone();
    uncounted.rules.iter_mut().for_each(|rule| rule.counter = false);
    let program = codegen::compile(&uncounted, &rules.tree, net::Link::Ethernet)?;
    match Trial::load(&elf::wrap(&[(PROGRAM, &program)])?, PROGRAM) {
        Ok(trial) => Ok(Some(trial)),
        Err(LoadError::Permission(why)) if args.write.is_none() => {
            console.say(format!("not run in the kernel, explained by the rules alone: not permitted: {why}"));
            Ok(None)
        }
        Err(error) => {
            if let Some(text) = rules.explain(&error, &[(PROGRAM, &program)], console.color) {
                console.say(text);
            }
            Err(kernel::LoadError::into(error))
        }
    }
}

fn explain<'a>(
    rules: &Rules,
    trial: Option<&Trial>,
    sample: &'a Sample,
    number: usize,
) -> Result<Explained<'a>, Failure> {
    let matching = explain::key(&sample.frame).map(|key| (explain::matching(&rules.ruleset, &key), key));
    if let Ok((matching, key)) = &matching
        && rules.tree.lookup(key) != matching.rule
    {
        return Err(Failure::Internal(format!("the tree does not decide like the rules for {key:?}")));
    }
    let outcome = trial.map(|trial| match sample.cut_from {
        Some(length) => Err(format!("captured only {} of its {length} bytes", sample.frame.len())),
        None => trial.run(&sample.frame, sample.gso_size).map_err(|error| error.to_string()),
    });
    let matching = matching.map(|(matching, _)| matching);
    Ok(Explained { number, sample, matching, outcome })
}
