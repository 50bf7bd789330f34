//! `explain`: packets through the rules and through the program that `attach` would load, one report per packet.

use std::fs;
use std::path::Path;

use super::args::{Explain, Strict};
use super::compile::chosen;
use super::files::apart;
use super::page::{self, Lives};
use super::rules::{Lists, Rules};
use super::settings::{defined, input_source};
use super::{Console, Failure};
use crate::codegen::{GsoPackets, Link as Header, Options};
use crate::dissect::{ChecksumState, ETHERNET, Ip};
use crate::explain::capture::{self, Link};
use crate::explain::ran::Ran;
use crate::explain::report::{Explained, Fate};
use crate::explain::{self, Sample, cut, words};
use crate::ir::Side;
use crate::kernel::LoadError;
use crate::kernel::counters::Counters;
use crate::kernel::trial::{Metadata, REDIRECT, Trial};
use crate::paint::Paint;
use crate::{elf, kernel, policy};

/// A frame and its time.
type Passed = (Vec<u8>, (u32, u32));

const PROGRAM: &str = "sfunnel_trial";

pub fn run(args: &Explain, console: &mut Console<'_>) -> Result<(), Failure> {
    for input in [&args.pcap, &args.input.file] {
        apart(input.as_deref(), args.write.as_deref())?;
    }
    let lists = Lists::read(defined(input_source(&args.input)?, &args.defines), Strict::default(), console)?
        .at(args.end, console)?;
    let wanted = args.direction.map(Side::from);
    // What is written is one hook's.
    let remarks = lists.remarks().to_vec();
    let lists = match (wanted, &args.write) {
        (None, None) => lists.all(),
        _ => vec![lists.one(wanted)?],
    };
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
    let paint = Paint(console.out_is_terminal && console.variable("NO_COLOR").is_none());
    let several = lists.len() > 1;
    let mut shown = Vec::new();
    for (index, (side, rules)) in lists.iter().enumerate() {
        if let (true, false, Some(side)) = (several, args.html, side) {
            let apart = if index > 0 { "\n" } else { "" };
            writeln!(console.out, "{apart}{}", paint.title(&format!("{side}:")))?;
        }
        let side = side.or(wanted).unwrap_or(policy::DEFAULT_SIDE);
        let (frames, lives) = hook(rules, side, &samples, args, paint, console)?;
        shown.extend(lives);
        if let Some(file) = &args.write {
            let data = capture::write(frames.iter().map(|(frame, time)| (frame.as_slice(), *time)), link);
            fs::write(file, data).map_err(|source| Failure::File {
                what: format!("cannot write {}", file.display()),
                source,
            })?;
        }
    }
    if args.html {
        let page = page::of_packets(&lists, &remarks, args.end.is_some(), &samples, shown)?;
        console.out.write_all(page.as_bytes())?;
    }
    Ok(())
}

/// Reports what the rules of one hook do to all packets. Gives what is passed on, and what a page shows.
fn hook(
    rules: &Rules,
    side: Side,
    samples: &[Sample],
    args: &Explain,
    paint: Paint,
    console: &mut Console<'_>,
) -> Result<(Vec<Passed>, Option<Lives>), Failure> {
    let target = policy::target(kernel::features(), side, &rules.ruleset, None);
    let options = policy::usual(Header::Ethernet, side, &rules.ruleset, chosen(args.chosen)?).on(target);
    let mut run = Run::load(rules, options, args, console)?;
    let mut lives = args.html.then(|| Lives::new(rules, options)).transpose()?;
    let (mut frames, mut counts) = (Vec::new(), [0usize; 5]);
    for (index, sample) in samples.iter().enumerate() {
        let explained = explain(rules, run.as_mut(), sample, index + 1)?;
        let fate = explained.fate();
        counts[match fate {
            Fate::Changed => 0,
            Fate::Unchanged => 1,
            Fate::Dropped => 2,
            Fate::Unknown => 3,
            Fate::Answered => 4,
        }] += 1;
        if let Some(lives) = &mut lives {
            lives.push(rules, &explained);
        } else if args.brief {
            writeln!(console.out, "{}", explained.line(&rules.ruleset))?;
        } else {
            if index > 0 {
                writeln!(console.out)?;
            }
            explained.write(console.out, &rules.ruleset, paint)?;
        }
        match explained.ran {
            Some(Ok(ran)) => {
                let passed = ran.frames(&sample.frame).into_iter();
                frames.extend(passed.map(|frame| (frame.to_vec(), sample.time)));
            }
            Some(Err(why)) => console.say(format!("packet {}: not run: {why}", index + 1)),
            None => {}
        }
    }
    // In this order on a terminal, too.
    console.out.flush()?;
    if args.pcap.is_some() {
        let [changed, unchanged, dropped, unknown, answered] = counts;
        let answered = if answered > 0 { format!(", {answered} answered") } else { String::new() };
        console.say(format!(
            "{} packets: {changed} changed, {unchanged} unchanged, {dropped} dropped, {unknown} not run{answered}",
            samples.len()
        ));
    }
    Ok((frames, lives))
}

fn read(file: &Path) -> Result<(Vec<Sample>, Link), Failure> {
    let bytes = fs::read(file)
        .map_err(|source| Failure::File { what: format!("cannot read {}", file.display()), source })?;
    capture::read(&bytes).map_err(|error| Failure::Capture { file: file.display().to_string(), error })
}

/// Finishes the checksum of a whole packet that has only the pseudo-header's sum in it.
fn finish(sample: &mut Sample) -> bool {
    let bytes = match Ip::in_frame(&sample.frame).map(|ip| (ip, ip.segment())) {
        Ok((ip, Ok(segment))) if segment.sum(ip.addresses()) == ChecksumState::Unfinished => {
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

/// The hook's program in the kernel, with a counter for each rule: it knows why it leaves a packet as it is.
struct Run {
    first: Trial,
    /// For what comes back from the segmentation pair with a finished checksum, if everything goes there first.
    back: Option<Trial>,
    gso: GsoPackets,
    counters: Option<Counters>,
}

impl Run {
    /// `None` without the privileges for it.
    fn load(
        rules: &Rules,
        options: Options,
        args: &Explain,
        console: &mut Console<'_>,
    ) -> Result<Option<Self>, Failure> {
        match Self::try_load(rules, options, console) {
            Ok(run) => Ok(Some(run)),
            Err(Failure::Load(LoadError::Permission(why))) if args.write.is_none() => {
                console.say(format!(
                    "not run in the kernel, explained by the rules alone: not permitted: {why}"
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn try_load(rules: &Rules, options: Options, console: &mut Console<'_>) -> Result<Self, Failure> {
        let mut ruleset = rules.ruleset.clone();
        ruleset.rules.iter_mut().for_each(|rule| rule.counter = true);
        let counters = ruleset.counts().then(|| Counters::create(&ruleset)).transpose()?;
        let mut load = |options| {
            let program = crate::codegen::compile(&ruleset, &rules.diagram, options)?;
            let mapped = match &counters {
                Some(counters) => program.with_maps(&counters.descriptors()),
                None => program.clone(),
            };
            Trial::load(&elf::wrap(&[(PROGRAM, &mapped)])?, PROGRAM).map_err(|error| {
                if let Some(text) = rules.explain(&error, &[(PROGRAM, &program)], console.color) {
                    console.say(text);
                }
                Failure::from(error)
            })
        };
        let first = load(options)?;
        let back = options.finish.then(|| load(Options { finish: false, ..options })).transpose()?;
        Ok(Self { first, back, gso: options.gso, counters })
    }

    /// Runs a frame, and what becomes of it after a device that cuts.
    fn packet(&mut self, frame: &[u8], metadata: Metadata, rule: Option<usize>) -> Result<Ran, String> {
        let ran = self.once(false, frame, metadata, rule)?;
        let GsoPackets::Segment(_, segmenter) = self.gso else { return Ok(ran) };
        if ran.outcome.verdict != REDIRECT || ran.counted.is_some() {
            return Ok(ran);
        }
        let pieces = match metadata.gso_size {
            0 => Some(vec![frame.to_vec()]),
            size => cut::segments(frame, size),
        };
        let run = |frame: Vec<u8>| {
            let piece = self.once(true, &frame, Metadata { gso_size: 0, ..metadata }, rule)?;
            Ok((frame, piece))
        };
        let pieces = pieces.unwrap_or_default().into_iter().map(run).collect::<Result<_, String>>()?;
        Ok(Ran { segmenter: Some(segmenter), pieces, ..ran })
    }

    fn once(
        &mut self,
        back: bool,
        frame: &[u8],
        metadata: Metadata,
        rule: Option<usize>,
    ) -> Result<Ran, String> {
        let trial = self.back.as_ref().filter(|_| back).unwrap_or(&self.first);
        let outcome = trial.run(frame, metadata).map_err(|error| error.to_string())?;
        let counted = match (&mut self.counters, rule.map(u32::try_from)) {
            (Some(counters), Some(Ok(rule))) => counters.take(rule).map_err(|error| error.to_string())?,
            _ => None,
        };
        Ok(Ran { outcome, counted, segmenter: None, pieces: Vec::new() })
    }
}

fn explain<'a>(
    rules: &Rules,
    run: Option<&mut Run>,
    sample: &'a Sample,
    number: usize,
) -> Result<Explained<'a>, Failure> {
    let matching = explain::key(&sample.frame, &sample.metadata.settings)
        .map(|key| (explain::matching(&rules.ruleset, &key), key));
    if let Ok((matching, key)) = &matching
        && rules.diagram.lookup(key) != matching.rule
    {
        return Err(Failure::Internal(format!("the diagram does not decide like the rules for {key:?}")));
    }
    let matching = matching.map(|(matching, _)| matching);
    let rule = matching.as_ref().ok().and_then(|matching| matching.rule);
    let ran = run.map(|run| match sample.cut_from {
        Some(length) => Err(format!("captured only {} of its {length} bytes", sample.frame.len())),
        None => run.packet(&sample.frame, sample.metadata, rule),
    });
    Ok(Explained { number, sample, matching, ran })
}
