//! What the programs cost: ratios to an empty program, taken side by side in one run.
//!
//! `cargo xtask bench` runs it, as root. Nothing is asserted: a number is for a person to judge.
//! Times are what `BPF_PROG_TEST_RUN` says of many repeats over one packet; the kernel keeps that
//! packet from one repeat to the next, so a ruleset that funnels and unfunnels does both in turn.
//! Where the kernel puts a program makes a difference of several nanoseconds, so each is loaded several times.
#![allow(clippy::print_stdout, clippy::cast_precision_loss)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};
use asm::{Assembler, Insn, Program, Reg};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CloneFlags, unshare};
use sfunnel::codegen::{self, Link};
use sfunnel::diag::{self, Source};
use sfunnel::kernel::Counters;
use sfunnel::{diagram, elf};

const ROUNDS: usize = 5;
/// How often each program is loaded.
const COPIES: usize = 6;
const REPEAT: u32 = 1_000_000;

fn main() -> Result<()> {
    // `cargo test --benches` calls it without this word: building it is all that is asked then.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    ensure!(nix::unistd::geteuid().is_root(), "loading programs needs root");
    cost_per_packet()?;
    scale()?;
    start_up()
}

fn cost_per_packet() -> Result<()> {
    let mut nothing = Assembler::new();
    nothing.push(Insn::mov32(Reg::R0, -1));
    nothing.push(Insn::exit());
    let empty = copies(&nothing.finish()?)?;
    let rules = fs::read_to_string(testdata("golden/eight-rules.txt"))?;
    let rules = rules.split("-- rules --").nth(1).and_then(|r| r.split("-- diagram --").next());
    let eight_rules = rules.context("eight-rules.txt has no rules")?.to_owned();
    let program = compile(&eight_rules)?;
    println!(
        "eight rules, {} instructions; medians of {ROUNDS} rounds of {COPIES} copies, {REPEAT} times each",
        program.slots()
    );
    let program = copies(&program)?;

    println!("{:<44} {:>9} {:>9} {:>8}", "packet of 298 bytes", "ns", "empty ns", "ratio");
    for (name, protocol, dport) in [
        ("udp, no rule matches", 17, 9999),
        ("tcp, no rule matches", 6, 9999),
        ("udp in tcp: funnel and unfunnel in turn", 17, 4739),
        ("udp in udp: funnel and unfunnel in turn", 17, 4740),
        ("tcp in tcp: funnel and unfunnel in turn", 6, 8080),
        ("tcp in udp: funnel and unfunnel in turn", 6, 8081),
    ] {
        side_by_side(name, &empty, &program, &frame(protocol, dport))?;
    }
    println!();
    both_versions(&empty, &eight_rules)?;
    println!();
    counted(&empty, &eight_rules)?;
    println!();
    for (name, rules, list, packet) in [
        ("alias and unalias in turn", ALIAS, "{ 8080, 8443 }", (8080, 0)),
        ("the same, 64 ports on the list", ALIAS, "MANY", (8080, 0)),
        ("aliased already: left alone", ALIAS, "8443", (8080, 9)),
        ("not on the list: left alone", ALIAS, "{ 8080, 8443 }", (80, 9)),
        ("no rule matches, program with alias", ALIAS, "8080", (9999, 0)),
    ] {
        let many: Vec<String> = (0..64).map(|n| (8080 + 7 * n).to_string()).collect();
        let list = list.replace("MANY", &format!("{{ {} }}", many.join(", ")));
        let program = copies(&compile(&rules.replace("LIST", &list))?)?;
        let mut frame = frame(6, packet.0);
        frame[52..54].copy_from_slice(&u16::to_be_bytes(packet.1));
        side_by_side(name, &empty, &program, &frame)?;
    }
    Ok(())
}

/// The same eight rules without `ip`: what they cost over IPv6, and whether IPv4 pays for it.
fn both_versions(empty: &[Ebpf], rules: &str) -> Result<()> {
    let program = copies(&compile(&rules.replace("ip ", ""))?)?;
    for (name, frame) in [
        ("both versions: udp over ipv4, no match", frame(17, 9999)),
        ("both versions: udp over ipv6, no match", frame6(17, 9999)),
        ("ipv4, udp in tcp: funnel and unfunnel", frame(17, 4739)),
        ("ipv6, udp in tcp: funnel and unfunnel", frame6(17, 4739)),
        ("ipv6, udp in udp: funnel and unfunnel", frame6(17, 4740)),
        ("ipv6, tcp in tcp: funnel and unfunnel", frame6(6, 8080)),
        ("ipv6, tcp in udp: funnel and unfunnel", frame6(6, 8081)),
    ] {
        side_by_side(name, empty, &program, &frame)?;
    }
    Ok(())
}

/// The same eight rules, each of which counts.
fn counted(empty: &[Ebpf], rules: &str) -> Result<()> {
    let rules = rules.replace(" actions ", " actions counter ");
    let source = Source::new("rules", &rules);
    let checked = sfunnel::read(&source).map_err(|_| anyhow::anyhow!("no rules"))?;
    let counters = Counters::create(&checked.ruleset)?;
    let program = copies(&compile(&rules)?.with_maps(&counters.descriptors()))?;
    for (name, frame) in [
        ("counted: udp, no rule matches", frame(17, 9999)),
        ("counted, udp in tcp: funnel and unfunnel", frame(17, 4739)),
        ("counted, tcp in tcp: funnel and unfunnel", frame(6, 8080)),
    ] {
        side_by_side(name, empty, &program, &frame)?;
    }
    Ok(())
}

const ALIAS: &str = "ip daddr 10.0.0.2 tcp dport 8080 actions alias dport 80
                     ip daddr 10.0.0.2 tcp dport 80 actions unalias LIST";

/// A line of the table: medians of rounds that take turns.
fn side_by_side(name: &str, empty: &[Ebpf], program: &[Ebpf], frame: &[u8]) -> Result<()> {
    let (mut ours, mut base, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (empty, program) in empty.iter().zip(program) {
            let (b, o) = (time(empty, frame)?, time(program, frame)?);
            base.push(b);
            ours.push(o);
            ratios.push(o / b);
        }
    }
    let (ours, base, ratio) = (median(ours), median(base), median(ratios));
    println!("{name:<44} {ours:>9.1} {base:>9.1} {ratio:>8.2}");
    Ok(())
}

fn scale() -> Result<()> {
    println!("\n{:<12} {:>10} {:>12} {:>12} {:>12}", "rules", "slots", "long jumps", "compile ms", "load ms");
    for count in [1_u32, 100, 1_000, 10_000, 65_536] {
        let rules: String = (0..count)
            .map(|i| {
                let (a, b) = (i / 256 % 256, i % 256);
                let port = 1_000 + i % 64_000;
                format!(
                    "udp daddr 10.{}.{a}.{b} dport {port} actions funnel udp dport 179 sport 540\n",
                    i / 65_536
                )
            })
            .collect();
        let start = Instant::now();
        let program = compile(&rules)?;
        let compiled = start.elapsed();
        let start = Instant::now();
        drop(load(&program)?);
        let (slots, long) = (program.slots(), program.long_jumps());
        println!("{count:<12} {slots:>10} {long:>12} {:>12.1} {:>12.1}", ms(compiled), ms(start.elapsed()));
    }
    Ok(())
}

/// From exec to exit of `sfunnel attach`, with 100 rules, in a network namespace of its own.
fn start_up() -> Result<()> {
    let binary = env!("CARGO_BIN_EXE_sfunnel");
    let rules: String = (0..100)
        .map(|i| format!("udp dport {} actions funnel tcp dport 179 sport {}\n", 4000 + i, 5000 + i))
        .collect();
    let time = thread::spawn(move || -> Result<f64> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let status = Command::new(binary)
                .args(["attach", "-i", "lo", "-d", "egress", "--ruleset", &rules])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()?;
            ensure!(status.success(), "sfunnel attach: {status}");
            times.push(ms(start.elapsed()));
        }
        Ok(median(times))
    });
    let time = time.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
    println!("\nfrom exec to attached, 100 rules: {time:.1} ms");
    Ok(())
}

fn compile(rules: &str) -> Result<Program> {
    let source = Source::new("rules", rules);
    let checked = sfunnel::read(&source)
        .map_err(|diagnostics| anyhow::anyhow!(diag::render(&source, &diagnostics, false)))?;
    Ok(codegen::compile(
        &checked.ruleset,
        &diagram::build(&checked.ruleset),
        codegen::Options::pass_gso(Link::Ethernet),
    )?)
}

fn copies(program: &Program) -> Result<Vec<Ebpf>> {
    (0..COPIES).map(|_| load(program)).collect()
}

fn load(program: &Program) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().btf(None).load(&elf::wrap(&[("sfunnel", program)])?)?;
    classifier(&mut ebpf)?.load()?;
    Ok(ebpf)
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut("sfunnel").context("no program")?.try_into()?)
}

/// Nanoseconds a packet.
fn time(ebpf: &Ebpf, frame: &[u8]) -> Result<f64> {
    let program: &SchedClassifier = ebpf.program("sfunnel").context("no program")?.try_into()?;
    let options = TestRunOptions { data_in: Some(frame), repeat: REPEAT, ..TestRunOptions::default() };
    Ok(program.test_run(options)?.duration.as_nanos() as f64)
}

/// An Ethernet frame of 298 bytes (310 for TCP). No checksum is right, and no program looks.
fn frame(protocol: u8, dport: u16) -> Vec<u8> {
    let l4: u16 = if protocol == 17 { 264 } else { 276 };
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((20 + l4).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x27, 0x10]);
    frame.extend(dport.to_be_bytes());
    match protocol {
        17 => frame.extend([l4.to_be_bytes(), [0x12, 0x34]].concat()),
        _ => frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0x12, 0x34, 0, 0]),
    }
    frame.extend([7; 256]);
    frame
}

/// The same over IPv6.
fn frame6(protocol: u8, dport: u16) -> Vec<u8> {
    let four = frame(protocol, dport);
    let (link, l4) = (&four[..12], &four[34..]);
    let mut frame = link.to_vec();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0x01, if protocol == 17 { 8 } else { 20 }, protocol, 64]);
    for host in [1, 2] {
        frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    frame.extend(l4);
    frame
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}
