//! Nanoseconds per packet: of a program by itself, and of whatever stands on a device's way out.
//!
//! By itself: `BPF_PROG_TEST_RUN`, less what an empty program takes. On a device: a program that sends a copy of its
//! packet out of a device that throws everything away behind its hooks; less what that takes with nothing on the way.
//! The second is a way to run nftables on the very same packets.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use asm::{Assembler, Helper, Insn, Program, Reg::*};
use aya::programs::{TestRun, TestRunOptions};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use sfunnel::elf;
use tempfile::TempDir;

use super::packets::Packet;
use super::support::lab::{Ns, find_tool};
use super::support::testrun::{Loaded, Loader};

/// What one timing may take.
const NANOSECONDS: f64 = 1.5e6;
const MOST_REPEATS: u32 = 50_000;
/// nft is given so many seconds to load a ruleset.
const PATIENCE: &str = "120";

pub const DEVICE: &str = "d0";

// include/linux/netdevice.h
/// A hook has thrown the packet away.
const NET_XMIT_DROP: u32 = 1;
/// The queue has.
const NET_XMIT_CN: u32 = 2;

/// A program in the kernel, several times: where it is put makes a difference.
#[derive(Debug)]
pub struct Copies {
    loaded: Vec<Loaded>,
    /// Of the fastest.
    pub seconds: f64,
}

impl Copies {
    pub fn load(loader: &mut Loader, elf: &[u8], name: &str, count: usize) -> Result<Copies> {
        let (mut loaded, mut seconds) = (Vec::new(), f64::INFINITY);
        for _ in 0..count.max(1) {
            let mut clock = Clock::new(UsageWho::RUSAGE_SELF)?;
            loaded.push(loader.load(elf, name)?);
            seconds = seconds.min(clock.lap()?);
        }
        Ok(Copies { loaded, seconds })
    }

    pub fn of(loader: &mut Loader, program: &Program, count: usize) -> Result<Copies> {
        Self::load(loader, &elf::wrap(&[("scale", program)])?, "scale", count)
    }

    pub fn verified(&self) -> Result<usize> {
        self.loaded.first().context("no copy")?.verified()
    }

    /// What the program says of a packet.
    pub fn verdict(&self, packet: &Packet) -> Result<u32> {
        Ok(run(self.loaded.first().context("no copy")?, packet, 1)?.0)
    }

    /// The least that a packet takes, over all copies and rounds.
    pub fn nanoseconds(&self, packet: &Packet, rounds: usize) -> Result<f64> {
        let mut best = f64::INFINITY;
        for loaded in &self.loaded {
            let repeats = repeats(run(loaded, packet, 20)?.1);
            for _ in 0..rounds {
                best = best.min(run(loaded, packet, repeats)?.1);
            }
        }
        Ok(best)
    }
}

fn repeats(nanoseconds: f64) -> u32 {
    let wanted = NANOSECONDS / nanoseconds.max(1.0);
    (1..=MOST_REPEATS).rev().step_by(7).find(|count| f64::from(*count) <= wanted).unwrap_or(5)
}

/// The verdict and the mean of the nanoseconds.
fn run(loaded: &Loaded, packet: &Packet, repeat: u32) -> Result<(u32, f64)> {
    let options = TestRunOptions { data_in: Some(&packet.frame), repeat, ..TestRunOptions::default() };
    let result = loaded.program()?.test_run(options)?;
    let nanoseconds = u32::try_from(result.duration.as_nanos())?;
    Ok((result.return_value, f64::from(nanoseconds)))
}

/// A program that does nothing.
pub fn empty(loader: &mut Loader, copies: usize) -> Result<Copies> {
    let mut a = Assembler::new();
    a.push(Insn::mov32(R0, -1));
    a.push(Insn::exit());
    Copies::of(loader, &a.finish()?, copies)
}

/// A namespace with a device that throws away what it sends, and a program that sends there.
#[derive(Debug)]
pub struct Device {
    ns: Ns,
    sender: Copies,
    folder: TempDir,
}

impl Device {
    pub fn new(loader: &mut Loader) -> Result<Device> {
        let ns = Ns::new("scale");
        // The other end stays down: without a carrier, packets are thrown away right behind the hooks.
        ns.tool("ip", &format!("link add {DEVICE} type veth peer name d1"));
        ns.tool("ip", &format!("link set {DEVICE} up"));
        let listed = ns.tool("ip", &format!("-o link show {DEVICE}"));
        let number: u32 = listed.split(':').next().context("no number")?.trim().parse()?;
        let mut a = Assembler::new();
        a.push(Insn::mov32(R2, number));
        a.push(Insn::mov32(R3, 0));
        a.push(Insn::call(Helper::CloneRedirect));
        a.push(Insn::exit());
        let sender = Copies::of(loader, &a.finish()?, 1)?;
        Ok(Device { ns, sender, folder: tempfile::tempdir()? })
    }

    /// Whether the packet comes through.
    pub fn passes(&self, packet: &Packet) -> Result<bool> {
        self.ns.run(|| match self.sender.verdict(packet)? {
            NET_XMIT_DROP => Ok(false),
            NET_XMIT_CN => Ok(true),
            other => bail!("sending says {other}"),
        })
    }

    pub fn nanoseconds(&self, packet: &Packet, rounds: usize) -> Result<f64> {
        self.ns.run(|| self.sender.nanoseconds(packet, rounds))
    }

    /// Loads rules with nft; the seconds that it took. They go with the table.
    pub fn nft(&self, script: &str) -> Result<f64> {
        let file = self.folder.path().join("rules.nft");
        fs::write(&file, script)?;
        let nft = find_tool("nft").context("no `nft` (Debian package nftables)")?;
        let mut command = Command::new("timeout");
        command.args([PATIENCE.as_ref(), nft.as_os_str(), "-f".as_ref(), file.as_os_str()]);
        self.timed(command)
    }

    pub fn no_nft(&self) {
        self.ns.tool("nft", "delete table netdev scale");
    }

    /// Attaches rules with the product, from exec to exit.
    pub fn attach(&self, rules: &str) -> Result<f64> {
        let file = self.folder.path().join("rules.sf");
        fs::write(&file, rules)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(["attach", "-i", DEVICE, "-d", "egress", "--gso", "off", "--rules"]).arg(&file);
        command.arg("--netns").arg(self.ns.path());
        self.timed(command)
    }

    pub fn detach(&self) -> Result<()> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(["detach", "-i", DEVICE, "--netns"]).arg(self.ns.path());
        self.timed(command).map(drop)
    }

    fn timed(&self, mut command: Command) -> Result<f64> {
        let mut clock = Clock::new(UsageWho::RUSAGE_CHILDREN)?;
        let output = self.ns.run(|| command.stdin(Stdio::null()).output())?;
        let seconds = clock.lap()?;
        if !output.status.success() {
            if output.status.code() == Some(124) {
                bail!("more than {PATIENCE} s");
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let told = said.lines().find(|line| line.contains("rror")).unwrap_or("no word of why");
            let why = told.split_once("rror: ").map_or(told, |(_, why)| why);
            bail!("{}: {}", output.status, why.chars().take(120).collect::<String>());
        }
        Ok(seconds)
    }
}

/// What compiling takes, in a process of its own: seconds of each stage, and the most memory that it had.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Compiled {
    pub read: f64,
    pub build: f64,
    pub emit: f64,
    pub megabytes: f64,
}

impl Compiled {
    pub fn total(&self) -> f64 {
        self.read + self.build + self.emit
    }

    /// The fastest of several.
    pub fn measure(rules: &str, times: usize) -> Result<Compiled> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), rules)?;
        let mut best: Option<Compiled> = None;
        for _ in 0..times.max(1) {
            let output = Command::new(std::env::current_exe()?).arg("--compile").arg(file.path()).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let compiled: Compiled = serde_json::from_slice(&output.stdout)?;
            if best.as_ref().is_none_or(|best| compiled.total() < best.total()) {
                best = Some(compiled);
            }
        }
        best.context("nothing was measured")
    }

    /// What the process of its own does.
    pub fn here(file: &Path) -> Result<Compiled> {
        use sfunnel::codegen::{self, Link, Options};
        use sfunnel::diag::Source;
        let text = fs::read_to_string(file)?;
        let mut clock = Clock::new(UsageWho::RUSAGE_SELF)?;
        let checked = sfunnel::read(&Source::new("scale", text.as_str()));
        let ruleset = checked.map_err(|all| anyhow::anyhow!("{}", all[0].message))?.ruleset;
        let read = clock.lap()?;
        let diagram = sfunnel::diagram::build(&ruleset);
        let build = clock.lap()?;
        let program = codegen::compile(&ruleset, &diagram, Options::pass_gso(Link::Ethernet))?;
        let elf = elf::wrap(&[("scale", &program)])?;
        let emit = clock.lap()?;
        ensure!(!elf.is_empty(), "no program");
        let status = fs::read_to_string("/proc/self/status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kilobytes: f64 = peak.trim().trim_end_matches(" kB").parse()?;
        Ok(Compiled { read, build, emit, megabytes: kilobytes / 1024.0 })
    }
}

/// Processor time, which does not depend on what else the machine does. None of what is timed waits for anything.
struct Clock {
    whose: UsageWho,
    started: f64,
}

impl Clock {
    fn new(whose: UsageWho) -> Result<Clock> {
        Ok(Clock { whose, started: Self::now(whose)? })
    }

    fn now(whose: UsageWho) -> Result<f64> {
        let usage = getrusage(whose)?;
        let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Ok(Duration::from_micros(microseconds.unsigned_abs()).as_secs_f64())
    }

    /// Seconds since it was made, or since this was asked last.
    fn lap(&mut self) -> Result<f64> {
        let now = Self::now(self.whose)?;
        Ok(now - std::mem::replace(&mut self.started, now))
    }
}
