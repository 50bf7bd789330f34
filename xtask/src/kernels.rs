//! Boots other kernels and runs the programs there: `cargo xtask kernels [SUITE...]`.
//!
//! Kernels are Debian's, unmodified, fetched with apt into `target/kernels/`; each boots under QEMU with an initramfs of the
//! program and test binaries ([`guest`]). No image, no network; software emulation, so it works anywhere. A run of all
//! suites writes `docs/kernels.md` ([`report`]). A suite that the archive does not serve is reported as not run; a kernel
//! that fails, fails.

mod guest;
mod report;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};

use self::guest::{Payload, TOOLS};
use self::report::{Outcome, Said};
use crate::apt::Apt;
use crate::arch::{self, Arch};
use crate::{cargo, cross, exec, find, text, which};

/// What is expected of the newest cloud kernel of a suite.
#[derive(Debug)]
pub struct Suite {
    pub name: &'static str,
    /// What is enough to attach.
    pub capabilities: &'static str,
    /// Tests that need what it came too early for.
    pub without: &'static [&'static str],
}

/// TCX came with Linux 6.6.
const TCX: &str = "tcx::";
/// Without `bpf_check_mtu` (5.12), ingress tells nobody that its packets have become too long to be forwarded.
const TOO_LONG_TO_FORWARD: &str = "what_a_router_funnels_on_ingress";
/// Forwarding what GRO has merged of UDP (`rx-udp-gro-forwarding`) came with Linux 5.12.
const UDP_GRO_FORWARDING: &str = "gro_has_forgotten_are_made";

const SUITES: [Suite; 5] = [
    Suite {
        name: "bullseye",
        capabilities: "+bpf,+net_admin,+perfmon,+sys_resource",
        without: &[TCX, TOO_LONG_TO_FORWARD, UDP_GRO_FORWARDING],
    },
    Suite { name: "bookworm", capabilities: "+bpf,+net_admin", without: &[TCX] },
    Suite { name: "trixie", capabilities: "+bpf,+net_admin", without: &[] },
    Suite { name: "trixie-backports", capabilities: "+bpf,+net_admin", without: &[] },
    Suite { name: "sid", capabilities: "+bpf,+net_admin", without: &[] },
];

/// What it takes here, besides the emulator and what the guest gets.
const NEEDS: [(&str, &str); 8] = [
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("readelf", "binutils"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
    ("dpkg", "dpkg"),
    ("apt-get", "apt"),
];

const TESTS: [(&str, &str); 6] = [
    ("affinity", "tests/affinity.rs"),
    ("kernel", "tests/kernel.rs"),
    ("vectors", "tests/vectors.rs"),
    ("attach", "tests/attach.rs"),
    ("e2e", "tests/e2e.rs"),
    ("gso", "tests/gso/main.rs"),
];

const DOCUMENT: &str = "docs/kernels.md";

/// What the golden of all funnels lacks.
const ALIAS: &str = "tcp dport 7001 actions alias dport 7000
tcp sport 7001 actions alias sport 7000
tcp dport 7000 actions unalias { 7001, 7003, 7005, 7007, 7009, 7011 }
tcp sport 7000 actions unalias 7001
";

pub fn run(target: Option<&str>, wanted: &[&str]) -> Result<()> {
    let arch = target.map_or_else(arch::here, arch::named)?;
    let missing: Vec<&str> = NEEDS
        .iter()
        .chain(&TOOLS)
        .chain([&arch.qemu])
        .filter(|(tool, _)| which(tool).is_none())
        .map(|(_, package)| *package)
        .collect();
    ensure!(missing.is_empty(), "needs Debian packages: apt-get install {}", missing.join(" "));
    let known = |name: &&str| SUITES.iter().any(|suite| suite.name == *name);
    let unknown: Vec<&str> = wanted.iter().copied().filter(|name| !known(name)).collect();
    ensure!(
        unknown.is_empty(),
        "no suite {}: there are {}",
        unknown.join(", "),
        SUITES.map(|s| s.name).join(", ")
    );
    let folder = PathBuf::from("target/kernels").join(arch.debian);
    let suites: Vec<&Suite> =
        SUITES.iter().filter(|suite| wanted.is_empty() || wanted.contains(&suite.name)).collect();
    // One after the other: the archive is asked once for each.
    let fetched =
        suites.into_iter().map(|suite| (suite, fetch(suite, &folder.join(suite.name), arch))).collect();
    let tests = arch.name == arch::here()?.name;
    let binaries = build(arch, &folder, tests)?;
    let tools = if tests { PathBuf::from("/") } else { foreign_tools(arch, &folder)? };
    let (rules, goldens) = (rules()?, goldens()?);
    let payload =
        Payload { arch, binaries: &binaries, tools: &tools, rules: &rules, goldens: &goldens, tests };
    let outcomes = boot_all(fetched, &payload)?;
    if wanted.is_empty() && target.is_none() {
        fs::write(DOCUMENT, report::document(&outcomes)).context(DOCUMENT)?;
        println!("{DOCUMENT} is written: look at what changed");
    }
    let failed = |outcome: &&Outcome| outcome.result.as_ref().is_ok_and(|said| !said.is_right());
    let failed: Vec<&str> = outcomes.iter().filter(failed).map(|outcome| outcome.place.0.as_str()).collect();
    ensure!(failed.is_empty(), "failed on: {}", failed.join(", "));
    ensure!(outcomes.iter().any(|outcome| outcome.result.is_ok()), "nothing was run");
    Ok(())
}

/// Two at a time: an emulated processor takes one of ours.
fn boot_all(fetched: Vec<(&Suite, Result<PathBuf>)>, payload: &Payload<'_>) -> Result<Vec<Outcome>> {
    let bytes = bytes(payload.goldens)?;
    let next = Mutex::new(fetched.into_iter().enumerate().rev().collect::<Vec<_>>());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let Some((number, (suite, fetched))) = next.lock().ok().and_then(|mut next| next.pop())
                else {
                    return Ok(());
                };
                let result = match fetched {
                    Ok(folder) => {
                        let mut said = Said::read(&guest::run(suite, &folder, payload)?, suite.capabilities);
                        said.compare_bytes(&bytes);
                        Ok(said)
                    }
                    Err(error) => Err(format!("{error:#}")),
                };
                tell(suite, &result);
                let place = (suite.name.to_owned(), payload.arch.debian.to_owned());
                if let Ok(mut outcomes) = outcomes.lock() {
                    outcomes.push((number, Outcome { place, result }));
                }
            }
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn tell(suite: &Suite, result: &Result<Said, String>) {
    match result {
        Err(why) => println!("{}: not run: {why}", suite.name),
        Ok(said) => {
            let steps =
                said.steps.iter().map(|(name, ok)| format!("{name} {}", if *ok { "ok" } else { "FAILED" }));
            let steps = steps.collect::<Vec<_>>().join(", ");
            let end = if said.done { "" } else { "; it did not get to its end" };
            println!("{} ({}): {steps}{end}", suite.name, said.release);
            if !said.is_right() {
                println!("    see target/kernels/*/{}/console.txt", suite.name);
            }
        }
    }
}

/// The program and, for this machine's processor, the test binaries: all static and without what only debuggers read. Names
/// in the guest, and files here.
fn build(arch: &Arch, folder: &Path, tests: bool) -> Result<Vec<(String, PathBuf)>> {
    let to = env::current_dir()?.join(folder).join("binaries");
    fs::create_dir_all(&to)?;
    // Also for its own bytes.
    exec(cargo().args(["build", "--locked"]))?;
    if !tests {
        let target = cross::build(arch, &["build"])?;
        let stripped = to.join("sfunnel");
        cross::strip(arch, &target.join(arch.target).join("debug/sfunnel"), &stripped)?;
        return Ok(vec![("sfunnel".to_owned(), stripped)]);
    }
    let mut command = cargo();
    command.args(["test", "--locked", "--no-run"]);
    TESTS.iter().for_each(|(name, _)| {
        command.args(["--test", name]);
    });
    let said = text(&command.stderr(Stdio::piped()).output()?)?;
    let mut built = vec![("sfunnel", PathBuf::from(format!("target/{}/debug/sfunnel", arch.target)))];
    for (name, source) in TESTS {
        let line = said.lines().find(|line| line.contains(source)).context("cargo names no test binary")?;
        let path = line.split(['(', ')']).nth(1).context("cargo names no test binary")?;
        built.push((name, path.into()));
    }
    let strip = |(name, path): (&str, PathBuf)| {
        let stripped = to.join(name);
        exec(Command::new("strip").arg("-o").arg(&stripped).arg(&path))?;
        Ok((name.to_owned(), stripped))
    };
    built.into_iter().map(strip).collect()
}

/// What the guest calls, for another processor: Debian's packages, unpacked.
fn foreign_tools(arch: &Arch, folder: &Path) -> Result<PathBuf> {
    let tools = env::current_dir()?.join(folder).join("tools");
    if !tools.exists() {
        let apt = Apt::new(&folder.join("apt-tools"), &["trixie"], arch)?;
        let packages: Vec<&str> =
            TOOLS.iter().map(|(_, package)| *package).chain(["busybox-static"]).collect();
        apt.download_all(&packages)?;
        apt.unpack(&tools)?;
    }
    Ok(tools)
}

/// The rules of all goldens, by name.
fn goldens() -> Result<Vec<(String, String)>> {
    let mut goldens = Vec::new();
    for file in find(Path::new("testdata/golden"), &|path| path.extension().is_some_and(|e| e == "txt"))? {
        let text = fs::read_to_string(&file)?;
        let name = file.file_stem().context("no name")?.to_string_lossy().into_owned();
        if let Some((_, rest)) = text.split_once("-- rules") {
            let (_, rest) = rest.split_once('\n').context("no rules")?;
            goldens.push((name, format!("{}\n", rest.split("\n-- ").next().unwrap_or(rest).trim_end())));
        }
    }
    goldens.sort();
    Ok(goldens)
}

/// Sums of what the program of this machine makes of them.
fn bytes(goldens: &[(String, String)]) -> Result<BTreeMap<(String, String), String>> {
    let program = format!("target/{}/debug/sfunnel", arch::here()?.target);
    let mut sums = BTreeMap::new();
    for (name, rules) in goldens {
        for form in ["hex", "elf"] {
            let script = format!("{program} compile - --emit {form} 2>/dev/null | sha256sum");
            let mut child = Command::new("sh")
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("sh")?;
            child.stdin.take().context("no input")?.write_all(rules.as_bytes())?;
            let said = text(&child.wait_with_output()?)?;
            let sum = said.split_whitespace().next().unwrap_or_default();
            sums.insert((name.clone(), form.to_owned()), sum.to_owned());
        }
    }
    Ok(sums)
}

/// Rules that have the routines of both versions of IP: without `ip` in front.
fn rules() -> Result<String> {
    let golden = fs::read_to_string("testdata/golden/eight-rules.txt")?;
    let rules = golden.split("-- rules --").nth(1).and_then(|rest| rest.split("-- diagram --").next());
    let rules = rules.context("eight-rules.txt has no rules")?;
    Ok(format!("{}{ALIAS}", rules.replace("ip ", "")))
}

/// Downloads and unpacks the suite's kernel.
fn fetch(suite: &Suite, folder: &Path, arch: &'static Arch) -> Result<PathBuf> {
    let folder = env::current_dir()?.join(folder);
    let unpacked = folder.join("unpacked");
    if unpacked.exists() && !find(&unpacked, &|path| path.ends_with("modules.order"))?.is_empty() {
        return Ok(folder);
    }
    let apt = Apt::new(&folder.join("apt"), &[suite.name], arch)?;
    // Exact versions vanish: the packages are those that the metapackage depends on. Newer suites have an image without
    // its modules.
    let meta = format!("linux-image-cloud-{}", arch.debian);
    let packages = apt.depends(&meta, &["linux-image-", "linux-binary-", "linux-modules-"])?;
    ensure!(!packages.is_empty(), "no kernel package");
    apt.download(&packages)?;
    apt.unpack(&unpacked)?;
    Ok(folder)
}
