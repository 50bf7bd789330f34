//! What a kernel is booted with: an initramfs of test binaries, a few tools, modules, and a list of steps.
//!
//! In: an unpacked kernel, static binaries. Out: what the guest printed. Knows nothing of what it means.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use super::Suite;
use crate::arch::Arch;
use crate::{exec, find, text};

/// What tests call, besides busybox.
pub const TOOLS: [(&str, &str); 7] = [
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("tcpdump", "tcpdump"),
    ("ipvsadm", "ipvsadm"),
];

/// Where they exist. What they need comes along.
const MODULES: [&str; 21] = [
    "veth",
    "macvlan",
    "sch_ingress",
    "cls_bpf",
    "sch_netem",
    "tun",
    "dummy",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_nat",
    "nft_ct",
    "nft_counter",
    "ip_vs",
    "ip_vs_rr",
    "8021q",
    "ipvlan",
    "bonding",
    "br_netfilter",
    "vrf",
];

/// What the guest runs first.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/tmp RUST_BACKTRACE=0 SFUNNEL_REQUIRE_KERNEL=1 SFUNNEL_CASES=50 SFUNNEL_CLIENTS=100
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs tmp /tmp
while read module; do busybox insmod /lib/$module; done < /lib/order
busybox ip link set lo up
# The emulator's firmware has begun this line.
echo
echo "KERNEL $(busybox uname -r)"
step() {
    name=$1; shift
    echo "== $name: $*"
    start=$(busybox date +%s)
    if "$@"; then result=ok; else result=FAILED; fi
    echo "STEP $name $result $(($(busybox date +%s) - start))"
}
"#;

/// The bytes of all goldens' programs, as sums.
const BYTES: &str = r#"
for file in /goldens/*; do
    for form in hex elf; do
        sum=$(sfunnel compile - --emit $form < "$file" 2>/dev/null | busybox sha256sum)
        echo "BYTES $(busybox basename "$file") $form ${sum%% *}"
    done
done
"#;

/// Name and command. Steps with the same name are one in the report.
fn steps(suite: &Suite) -> Vec<(&'static str, String)> {
    let caps = format!("/bin/setpriv --bounding-set -all,{}", suite.capabilities);
    let skip: String = suite.without.iter().map(|test| format!(" --skip {test}")).collect();
    let one = "--test-threads 1";
    vec![
        ("capabilities", format!("{caps} sfunnel attach -i lo -d both --rules /rules")),
        ("capabilities", format!("{caps} sfunnel attach -i lo -d both --counters --rules /rules")),
        ("capabilities", format!("{caps} vectors")),
        ("doctor", "sfunnel doctor -i lo /rules".to_owned()),
        ("demo", "sfunnel demo".to_owned()),
        ("vectors", "vectors".to_owned()),
        ("goldens", format!("kernel {one} --nocapture every_golden")),
        (
            "packets",
            format!(
                "kernel {one} every_combination every_ what_is_counted model_diagram addresses without cases alias_and \
                 unalias what_old tags_are --skip every_golden"
            ),
        ),
        (
            "attach",
            format!(
                "attach {one} library:: binary::the_filter binary::kill_9 binary::ethernet_and_l3 binary::detach_and_clean \
                 binary::a_legacy chains::one_run counters::status drift::the_same tcx::a_program_on tcx::nor_does{skip}"
            ),
        ),
        (
            "sockets",
            format!(
                "e2e {one} mtu::a_local mtu::a_sender mtu::a_tcp mtu::upstream upstream_trap_checksum alias::tcp_talks \
                 alias::packets_of nat::tcp_talks nat::udp udp_arrives tags::tags_stay \
                 tags::answers"
            ),
        ),
        (
            "segments",
            format!(
                "gso {one} cut_without_crossing where_no_macvlan gro_has_forgotten_are_made segments_of_a_burst{skip}"
            ),
        ),
        ("devices", format!("gso {one} --ignored kinds::")),
        ("ipvs", format!("affinity {one} --ignored ipvs")),
    ]
}

/// What is common to all guests of a processor.
pub struct Payload<'a> {
    pub arch: &'static Arch,
    /// Names in the guest, and files here.
    pub binaries: &'a [(String, PathBuf)],
    /// Where the tools and their libraries are: `/`, or a folder with packages of that processor.
    pub tools: &'a Path,
    /// All funnels, and aliases.
    pub rules: &'a str,
    /// Of each golden.
    pub goldens: &'a [(String, String)],
    /// Whether the tests are among the binaries.
    pub tests: bool,
}

/// What the guest printed on its console.
pub fn run(suite: &Suite, folder: &Path, payload: &Payload<'_>) -> Result<String> {
    let unpacked = folder.join("unpacked");
    let initramfs = initramfs(suite, folder, &unpacked, payload)?;
    let kernel = find(&unpacked, &|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })?;
    let arch = payload.arch;
    // An emulated timer may be late where much else runs, and 5.10 then takes it for broken: hence `no_timer_check`.
    let mut command = Command::new("timeout");
    command.args(["1800", arch.qemu.0]).args(arch.machine);
    command.args(["-m", "1536", "-nographic", "-no-reboot", "-append"]);
    command.arg(format!("console={} quiet panic=-1 mitigations=off no_timer_check", arch.console));
    command.arg("-kernel").arg(kernel.first().context("no vmlinuz")?).arg("-initrd").arg(initramfs);
    // As it comes, so that one can watch it.
    let console = folder.join("console.txt");
    let file = fs::File::create(&console)?;
    command.stdin(Stdio::null()).stdout(file).status().context(arch.qemu.0)?;
    Ok(String::from_utf8_lossy(&fs::read(console)?).replace('\r', ""))
}

fn initramfs(suite: &Suite, folder: &Path, kernel: &Path, payload: &Payload<'_>) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for part in ["bin", "lib", "proc", "sys", "dev", "tmp", "run", "var", "etc"] {
        fs::create_dir_all(root.join(part))?;
    }
    // The test binaries look for testdata, and for the program, where they were built.
    let here = root.join(env::current_dir()?.strip_prefix("/")?);
    fs::create_dir_all(&here)?;
    exec(Command::new("cp").arg("-r").arg("testdata").arg(here.join("testdata")))?;
    for profile in ["target", "target/cross/target"] {
        let built = here.join(format!("{profile}/{}/debug/sfunnel", payload.arch.target));
        fs::create_dir_all(built.parent().context("no parent")?)?;
        symlink("/bin/sfunnel", built)?;
    }
    fs::write(root.join("rules"), payload.rules)?;
    // Debian's tcpdump becomes that user before it listens.
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\ntcpdump:x:0:0::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\ntcpdump:x:0:\n")?;
    fs::create_dir_all(root.join("goldens"))?;
    for (name, rules) in payload.goldens {
        fs::write(root.join("goldens").join(name), rules)?;
    }
    let steps = steps(suite).into_iter().filter(|(_, command)| payload.tests || command.contains("sfunnel "));
    let steps = steps.map(|(name, command)| format!("step {name} {command}\n"));
    let init = format!("{INIT}{}{BYTES}echo GUEST: done\nbusybox poweroff -f\n", steps.collect::<String>());
    fs::write(root.join("init"), init)?;
    exec(Command::new("chmod").arg("+x").arg(root.join("init")))?;
    for (name, path) in payload.binaries {
        fs::copy(path, root.join("bin").join(name)).with_context(|| path.display().to_string())?;
    }
    copy_tools(payload.tools, &root)?;
    copy_modules(kernel, &root)?;
    let archive = folder.join("initramfs.gz");
    let pack = format!("find . | cpio -o -H newc --quiet | gzip -1 > {}", archive.display());
    exec(Command::new("sh").arg("-c").arg(pack).current_dir(&root))?;
    Ok(archive)
}

/// Tools with all libraries that they ask for, found by what their headers say: `ldd` reads no other processor's.
fn copy_tools(from: &Path, root: &Path) -> Result<()> {
    let folders = ["bin", "sbin", "usr/bin", "usr/sbin"];
    let mut waiting = Vec::new();
    for name in TOOLS.iter().map(|(name, _)| *name).chain(["busybox"]) {
        let found = folders.iter().map(|folder| from.join(folder).join(name)).find(|path| path.exists());
        waiting.push((
            found.with_context(|| format!("no {name} in {}", from.display()))?,
            root.join("bin").join(name),
        ));
    }
    let mut known = BTreeSet::new();
    while let Some((file, to)) = waiting.pop() {
        if !known.insert(to.clone()) {
            continue;
        }
        fs::create_dir_all(to.parent().context("no parent")?)?;
        fs::copy(&file, &to).with_context(|| file.display().to_string())?;
        let said = text(&Command::new("readelf").args(["-d", "-l"]).arg(&file).output()?)?;
        for line in said.lines() {
            let inside = |open: &str, close: char| {
                let (_, rest) = line.split_once(open)?;
                Some(rest.split(close).next().unwrap_or(rest).trim().to_owned())
            };
            if let Some(interpreter) = inside("program interpreter: ", ']') {
                let name = Path::new(&interpreter).file_name().context("no name")?.to_owned();
                waiting.push((library(from, &name)?, root.join(interpreter.trim_start_matches('/'))));
            } else if line.contains("(NEEDED)")
                && let Some(name) = inside("[", ']')
            {
                waiting.push((library(from, OsStr::new(&name))?, root.join("lib").join(name)));
            }
        }
    }
    Ok(())
}

fn library(from: &Path, name: &OsStr) -> Result<PathBuf> {
    let arches = crate::arch::ALL.map(|arch| format!("{}-linux-gnu", arch.name));
    let folders = ["lib", "usr/lib"].into_iter().flat_map(|folder| {
        arches
            .iter()
            .map(move |arch| format!("{folder}/{arch}"))
            .chain([folder.to_owned(), format!("{folder}64")])
    });
    let found = folders.map(|folder| from.join(folder).join(name)).find(|path| path.exists());
    found.with_context(|| format!("no library {} in {}", name.display(), from.display()))
}

/// Modules and what they need, in the order in which they go in.
fn copy_modules(kernel: &Path, root: &Path) -> Result<()> {
    let trees = ["lib/modules", "usr/lib/modules"].map(|tree| kernel.join(tree));
    let tree = trees.iter().find(|tree| tree.exists()).context("a kernel without modules")?;
    let release = fs::read_dir(tree)?.next().context("a kernel without modules")??.file_name();
    let base = tree.parent().and_then(Path::parent).context("no parent")?;
    exec(Command::new("depmod").arg("-b").arg(base).arg(&release))?;
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let mut command = Command::new("modprobe");
        let output =
            command.arg("-S").arg(&release).arg("-d").arg(base).args(["--show-depends", module]).output()?;
        // One that there is not, or that is a part of the kernel.
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            // Behind the path there may be options.
            let path = line.strip_prefix("insmod ").and_then(|rest| rest.split_whitespace().next());
            let Some(path) = path.map(Path::new) else { continue };
            let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
            let plain = name.trim_end_matches(".xz").to_owned();
            if order.contains(&plain) {
                continue;
            }
            fs::copy(path, root.join("lib").join(&name)).with_context(|| path.display().to_string())?;
            if name != plain {
                exec(Command::new("xz").arg("-d").arg(root.join("lib").join(&name)))?;
            }
            order.push(plain);
        }
    }
    ensure!(order.iter().any(|name| name == "veth.ko"), "a kernel without veth");
    fs::write(root.join("lib/order"), order.iter().map(|name| format!("{name}\n")).collect::<String>())?;
    Ok(())
}
