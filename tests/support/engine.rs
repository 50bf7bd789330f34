//! Three engines, one answer: the model, the diagram, and the program in the kernel.
//!
//! In: a [`Case`]. Out: nothing when all agree; else which of them says what about which packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sfunnel::codegen::{self, Link, Mtu, Options, Target};
use sfunnel::diag::Source;
use sfunnel::diagram::{self, Diagram};
use sfunnel::field::Field;
use sfunnel::ir::{Family, Proto, Ruleset, Side};
use sfunnel::kernel::{self, Counters};
use sfunnel::{matches, policy};

use super::case::{Case, Sample};
use super::counts::{self, Counted};
use super::fields::FIELDS;
use super::model;
use super::packet::hex;
use super::rules::{self, Key, Rule};
use super::testrun::{Loaded, Loader, SkBuff};

pub const PROGRAM: &str = "sfunnel_test";

/// A ruleset, all the way from its text to an object.
#[derive(Debug)]
pub struct Compiled {
    pub ruleset: Ruleset,
    pub diagram: Diagram,
    /// Eight-byte instruction slots that go to the kernel.
    pub slots: usize,
    pub islands: usize,
    pub elf: Vec<u8>,
}

/// What the oldest kernels make do with, on an interface whose MTU no packet of a test run exceeds.
pub const OLDEST: Target = Target { long_jumps: false, nested_tags: false, mtu: Mtu::Is(9000) };

/// Text to object, as `sfunnel attach` does it in this kernel.
pub fn compile(text: &str, link: Link) -> Result<Compiled> {
    compile_for(None, text, link)
}

/// For a kernel other than this one, if it is said.
fn compile_for(target: Option<Target>, text: &str, link: Link) -> Result<Compiled> {
    let source = Source::new("test", text);
    let checked = sfunnel::read(&source).map_err(|diagnostics| {
        let all: Vec<String> = diagnostics.iter().map(|d| d.message.clone()).collect();
        anyhow!("refused: {}", all.join("; "))
    })?;
    let ruleset = checked.ruleset;
    let diagram = diagram::build(&ruleset);
    let program = codegen::compile(&ruleset, &diagram, options(target, &ruleset, link))?;
    let slots = program.slots();
    let elf = sfunnel::elf::wrap(&[(PROGRAM, &program)])?;
    Ok(Compiled { ruleset, diagram, slots, islands: program.islands(), elf })
}

fn options(target: Option<Target>, ruleset: &Ruleset, link: Link) -> Options {
    let here = || policy::target(kernel::features(), Side::Ingress, ruleset, None);
    Options::pass_gso(link).on(target.unwrap_or_else(here))
}

/// Compiled, loaded, and seen to hold nothing that the verifier had to remove.
pub fn load(loader: &mut Loader, rules: &[Rule], link: Link) -> Result<(Compiled, Loaded)> {
    load_for(None, loader, rules, link)
}

pub fn load_for(
    target: Option<Target>,
    loader: &mut Loader,
    rules: &[Rule],
    link: Link,
) -> Result<(Compiled, Loaded)> {
    let compiled = compile_for(target, &rules::text(rules), link)?;
    let loaded = loader.load(&compiled.elf, PROGRAM)?;
    let left = loaded.slots()?;
    ensure!(
        left >= compiled.slots,
        "dead code: {} slots went in, {left} are left after verification",
        compiled.slots
    );
    Ok((compiled, loaded))
}

/// Runs the case with some of its rules counting: the program must do the same to each packet, and the
/// counters must stand at what [`counts`] makes of them.
pub fn agree_on_counts(
    loader: &mut Loader,
    case: &Case,
    counting: impl Fn(usize) -> bool,
) -> Result<BTreeSet<Counted>> {
    // The word may stand in front of the action and behind it.
    let rule = |(index, rule): (usize, &Rule)| match (counting(index), index % 2) {
        (false, _) => format!("{rule}\n"),
        (true, 0) => format!("{rule}\n").replace(" actions ", " actions counter "),
        (true, _) => format!("{rule} counter\n"),
    };
    let text: String = case.rules.iter().enumerate().map(rule).collect();
    let text = rules::head(&case.rules) + &text;
    let (compiled, loaded, counters) = load_counting(loader, &text, Link::Ethernet)?;
    let mut expected: BTreeMap<Counted, (u64, u64)> = BTreeMap::new();
    for (number, packet) in case.packets.iter().enumerate() {
        agree_on(&case.rules, &compiled.diagram, &loaded, packet)
            .with_context(|| format!("packet {number}: {}", packet.words))?;
        let Sample { frame, gso, skb, .. } = packet;
        let model = model::run_known(&case.rules, frame, *gso, skb, model::Link::Ethernet);
        let tagged = model::without_tags(&case.rules, frame);
        let plain = tagged.as_ref().map_or(frame, |tagged| &tagged.plain);
        let outcome = match &tagged {
            Some(tagged) if tagged.taken_out => {
                model::Outcome { frame: tagged.without_inner(&model.frame), ..model }
            }
            _ => model,
        };
        let what = counts::What { frame: plain, tagged: tagged.is_some(), gso: *gso, skb };
        if let Some(counted) = counts::of(&case.rules, &counting, &what, &outcome) {
            let (packets, bytes) = expected.entry(counted).or_default();
            *packets += 1;
            *bytes += plain.len() as u64;
        }
    }
    let counts = counters.read()?;
    let mut found = BTreeMap::new();
    for rule in &counts.rules {
        let number = rule.about.rule;
        let reasons = rule.reasons.iter();
        let reasons = reasons.map(|r| (Counted::Reason(number, r.reason.key()), r.count));
        for (counted, count) in reasons.chain([(Counted::Rule(number), rule.count)]) {
            if count.packets > 0 {
                found.insert(counted, (count.packets, count.bytes));
            }
        }
    }
    ensure!(found == expected, "kernel counted {found:?}\nmodel  counted {expected:?}");
    Ok(expected.into_keys().collect())
}

/// Compiled with counters, loaded, and the counters.
pub fn load_counting(loader: &mut Loader, text: &str, link: Link) -> Result<(Compiled, Loaded, Counters)> {
    let compiled = compile(text, link)?;
    let counters = Counters::create(&compiled.ruleset)?;
    let options = options(None, &compiled.ruleset, link);
    let program = codegen::compile(&compiled.ruleset, &compiled.diagram, options)?;
    let elf = sfunnel::elf::wrap(&[(PROGRAM, &program.with_maps(&counters.descriptors()))])?;
    let loaded = loader.load(&elf, PROGRAM)?;
    let left = loaded.slots()?;
    ensure!(left >= compiled.slots, "dead code: {} slots went in, {left} are left", compiled.slots);
    Ok((compiled, loaded, counters))
}

/// What the diagram says about a packet's key.
pub fn lookup(diagram: &Diagram, key: &Key) -> Result<Option<usize>> {
    let proto = Proto::ALL.into_iter().find(|p| p.number() == key.proto);
    let proto = proto.ok_or_else(|| anyhow!("not a protocol that rules match"))?;
    let (family, saddr, daddr) = match (key.saddr, key.daddr) {
        (IpAddr::V4(saddr), IpAddr::V4(daddr)) => {
            (Family::V4, u128::from(saddr.to_bits()), u128::from(daddr.to_bits()))
        }
        (IpAddr::V6(saddr), IpAddr::V6(daddr)) => (Family::V6, saddr.to_bits(), daddr.to_bits()),
        _ => return Err(anyhow!("addresses of two versions")),
    };
    let found = matches::Key::new(family, proto)
        .with(Field::SADDR, saddr)
        .with(Field::DADDR, daddr)
        .with_ports(key.sport, key.dport);
    let others = FIELDS.iter().zip(key.others);
    let key = others.fold(found, |found, (row, value)| match Field::named(row.word) {
        Some(field) => found.with(field, value),
        None => panic!("the crate has no field `{}`", row.word),
    });
    Ok(diagram.lookup(&key))
}

/// Runs the case through all three, and says where they part.
pub fn agree(loader: &mut Loader, case: &Case) -> Result<()> {
    agree_for(None, loader, case)
}

pub fn agree_for(target: Option<Target>, loader: &mut Loader, case: &Case) -> Result<()> {
    let (compiled, loaded) = load_for(target, loader, &case.rules, Link::Ethernet)?;
    for (number, packet) in case.packets.iter().enumerate() {
        agree_on(&case.rules, &compiled.diagram, &loaded, packet)
            .with_context(|| format!("packet {number}: {}", packet.words))?;
    }
    Ok(())
}

/// Runs one packet through all three.
pub fn agree_on(rules: &[Rule], diagram: &Diagram, loaded: &Loaded, packet: &Sample) -> Result<()> {
    let Sample { frame, gso, skb, .. } = packet;
    let model = model::run_known(rules, frame, *gso, skb, model::Link::Ethernet);
    if let Some(expected) = packet.expected {
        ensure!(model.rule == expected, "the model says {:?}, the case {expected:?}", model.rule);
    }
    if let Some(key) = &model.key {
        let found = lookup(diagram, key)?;
        ensure!(found == model.rule, "diagram: rule {found:?}; model: rule {:?}", model.rule);
    }
    let context = SkBuff { gso_size: packet.gso, skb: packet.skb, ..SkBuff::default() };
    let (verdict, frame, skb) = loaded.run_known(&packet.frame, context)?;
    if verdict != model.verdict.code() {
        bail!("kernel: verdict {verdict}; model: {:?} by rule {:?}", model.verdict, model.rule);
    }
    if model.verdict != model::Verdict::Drop {
        ensure!(skb == model.skb, "kernel: {skb:?}; model: {:?} by rule {:?}", model.skb, model.rule);
    }
    let same = model.verdict == model::Verdict::Drop || frame == model.frame;
    ensure!(
        same,
        "bytes differ after rule {:?}\n  before {}\n  kernel {}\n  model  {}",
        model.rule,
        hex(&packet.frame),
        hex(&frame),
        hex(&model.frame)
    );
    Ok(())
}
