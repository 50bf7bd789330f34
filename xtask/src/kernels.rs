//! Boots other kernels and loads and runs the programs there: `cargo xtask kernels`.
//!
//! Kernels are Debian's, unmodified, fetched with apt into `target/kernels/`; each boots under QEMU with
//! an initramfs that holds the demo, the vectors, the three-engine tests and those of what cuts packets, and a loader
//! with nothing but `CAP_BPF` and `CAP_NET_ADMIN`. No image, no network; software emulation, so it works anywhere.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, exec};

/// Debian's suites; each has the newest cloud kernel of its series.
const SUITES: [(&str, &str); 2] = [("bookworm", "6.1"), ("trixie", "6.12")];

const TOOLS: [(&str, &str); 9] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("setpriv", "util-linux"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("dpkg", "dpkg"),
];

/// What the guest runs. Its last line says how it went; without that line it did not get so far.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in veth macvlan sch_ingress cls_bpf; do [ -e /lib/$module.ko ] && /bin/busybox insmod /lib/$module.ko; done
/bin/busybox ip link set lo up
export PATH=/bin SFUNNEL_REQUIRE_KERNEL=1 SFUNNEL_CASES=200
failed=
step() { echo "-- $*"; "$@" || failed="$failed $2"; }
two="/bin/setpriv --bounding-set -all,+bpf,+net_admin"
step $two /bin/sfunnel attach -i lo -d both --rules /rules
step $two /bin/sfunnel attach -i lo -d both --counters --rules /rules
step $two /bin/vectors
step /bin/sfunnel demo
step /bin/vectors
step /bin/gso --test-threads 1 cut_without_crossing where_no_macvlan gro_has_forgotten_are_made
step /bin/kernel --test-threads 1 every what_is_counted model_diagram addresses without cases alias_and unalias
[ -z "$failed" ] && echo "GUEST: ok" || echo "GUEST: failed:$failed"
/bin/busybox poweroff -f
"#;

/// Where cargo puts the program.
const SFUNNEL: &str = "target/x86_64-unknown-linux-gnu/debug/sfunnel";

/// What the golden of all funnels lacks.
const ALIAS: &str = "tcp dport 7001 actions alias dport 7000
tcp sport 7001 actions alias sport 7000
tcp dport 7000 actions unalias { 7001, 7003, 7005, 7007, 7009, 7011 }
tcp sport 7000 actions unalias 7001
";

pub fn run(wanted: &[&str]) -> Result<()> {
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| which(tool).is_none()).map(|t| t.1).collect();
    ensure!(missing.is_empty(), "needs Debian packages: apt-get install {}", missing.join(" "));
    let binaries = build()?;
    let mut failed = Vec::new();
    for (suite, series) in SUITES.iter().filter(|(suite, _)| wanted.is_empty() || wanted.contains(suite)) {
        let folder = env::current_dir()?.join("target/kernels").join(suite);
        let kernel = fetch(suite, &folder)?;
        let initramfs = initramfs(&folder, &kernel, &binaries)?;
        let said = boot(&folder, &initramfs)?;
        let ok = said.contains("GUEST: ok");
        println!("{suite} ({series}): {}", if ok { "ok" } else { "FAILED" });
        if !ok {
            println!("{said}");
            failed.push(*suite);
        }
    }
    ensure!(failed.is_empty(), "failed on: {}", failed.join(", "));
    Ok(())
}

/// The program and three test binaries, all static. Names in the guest, and files here.
fn build() -> Result<Vec<(&'static str, PathBuf)>> {
    exec(cargo().args(["build", "--locked"]))?;
    let output = cargo()
        .args(["test", "--locked", "--no-run", "--test", "kernel", "--test", "vectors", "--test", "gso"])
        .stderr(Stdio::piped())
        .output()?;
    let said = text(&output)?;
    let mut binaries = vec![("sfunnel", PathBuf::from(SFUNNEL))];
    let tests =
        [("kernel", "tests/kernel.rs"), ("vectors", "tests/vectors.rs"), ("gso", "tests/gso/main.rs")];
    for (name, source) in tests {
        let line = said.lines().find(|line| line.contains(source)).context("cargo names no test binary")?;
        let path = line.split(['(', ')']).nth(1).context("cargo names no test binary")?;
        binaries.push((name, path.into()));
    }
    Ok(binaries)
}

/// Downloads and unpacks the suite's kernel, with an apt configuration that knows only that suite.
fn fetch(suite: &str, folder: &Path) -> Result<PathBuf> {
    let unpacked = folder.join("unpacked");
    if unpacked.join("boot").exists() {
        return Ok(unpacked);
    }
    for part in ["apt/lists/partial", "apt/cache/archives/partial", "unpacked"] {
        fs::create_dir_all(folder.join(part))?;
    }
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let sources = folder.join("apt/sources.list");
    fs::write(&sources, format!("deb [signed-by={keyring}] {} {suite} main\n", mirror()?))?;
    let set = |key: &str, path: &Path| format!("{key}={}", path.display());
    let options = [
        set("Dir::Etc::sourcelist", &sources),
        "Dir::Etc::sourceparts=-".to_owned(),
        set("Dir::State", &folder.join("apt")),
        set("Dir::Cache", &folder.join("apt/cache")),
        "APT::Sandbox::User=root".to_owned(),
    ];
    let apt = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder);
        options.iter().for_each(|option| {
            command.args(["-o", option]);
        });
        command
    };
    exec(apt("apt-get").args(["-qq", "update"]))?;
    // The package to ask for is the one that the metapackage depends on: exact versions vanish.
    let depends = text(&apt("apt-cache").args(["depends", "linux-image-cloud-amd64"]).output()?)?;
    let package = depends
        .split_whitespace()
        .find(|word| word.starts_with("linux-image-") && *word != "linux-image-cloud-amd64")
        .context("no kernel package")?;
    exec(apt("apt-get").args(["-qq", "download", package]))?;
    let archive = find(folder, &|path| path.extension() == Some(OsStr::new("deb")))?;
    let archive = archive.first().context("apt-get downloaded nothing")?;
    exec(Command::new("dpkg").arg("-x").arg(archive).arg(&unpacked))?;
    Ok(unpacked)
}

/// The Debian mirror that this machine uses.
fn mirror() -> Result<String> {
    let mut files = find(Path::new("/etc/apt"), &|path| {
        path.extension().is_some_and(|extension| extension == "sources" || extension == "list")
    })?;
    files.sort();
    let texts: Vec<String> = files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let word = |word: &&str| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian");
    let found = texts.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#'));
    let found = found.flat_map(str::split_whitespace).find(word).map(str::to_owned);
    found.context("no Debian mirror in /etc/apt")
}

fn initramfs(folder: &Path, kernel: &Path, binaries: &[(&str, PathBuf)]) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let here = env::current_dir()?;
    // The test binaries look for testdata where they were built.
    let testdata = root.join(here.strip_prefix("/")?).join("testdata");
    for part in ["bin", "lib", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(part))?;
    }
    fs::create_dir_all(testdata.parent().context("no parent")?)?;
    exec(Command::new("cp").arg("-r").arg(here.join("testdata")).arg(&testdata))?;
    let golden = fs::read_to_string("testdata/golden/eight-rules.txt")?;
    let rules = golden.split("-- rules --").nth(1).and_then(|rest| rest.split("-- diagram --").next());
    let rules = rules.context("eight-rules.txt has no rules")?;
    // Without `ip`, so that the program has the routines of both versions.
    fs::write(root.join("rules"), format!("{}{ALIAS}", rules.replace("ip ", "")))?;
    fs::write(root.join("init"), INIT)?;
    exec(Command::new("chmod").arg("+x").arg(root.join("init")))?;

    for (name, path) in binaries {
        fs::copy(path, root.join("bin").join(name)).with_context(|| path.display().to_string())?;
    }
    // The tests run the program where it was built.
    let built = root.join(here.strip_prefix("/")?).join(SFUNNEL);
    fs::create_dir_all(built.parent().context("no parent")?)?;
    symlink("/bin/sfunnel", built)?;
    for tool in ["busybox", "setpriv", "ip", "tc", "ethtool", "nft"] {
        let path = which(tool).with_context(|| format!("no {tool}"))?;
        fs::copy(&path, root.join("bin").join(tool))?;
        let libraries = Command::new("ldd").arg(&path).output()?;
        for word in String::from_utf8_lossy(&libraries.stdout).split_whitespace() {
            if word.starts_with('/') {
                let to = root.join(word.trim_start_matches('/'));
                fs::create_dir_all(to.parent().context("no parent")?)?;
                fs::copy(word, to)?;
            }
        }
    }
    for module in ["veth", "macvlan", "sch_ingress", "cls_bpf"] {
        let is_it = |path: &Path| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{module}.ko")))
        };
        if let Some(path) = find(kernel, &is_it)?.first() {
            fs::copy(path, root.join("lib").join(path.file_name().context("no name")?))?;
            if path.extension() == Some(OsStr::new("xz")) {
                exec(Command::new("xz").arg("-d").arg(root.join("lib").join(format!("{module}.ko.xz"))))?;
            }
        }
    }
    let archive = folder.join("initramfs.gz");
    let pack = format!("find . | cpio -o -H newc 2>/dev/null | gzip -1 > {}", archive.display());
    exec(Command::new("sh").arg("-c").arg(pack).current_dir(&root))?;
    Ok(archive)
}

/// What the guest printed on its console.
fn boot(folder: &Path, initramfs: &Path) -> Result<String> {
    let kernel = find(&folder.join("unpacked/boot"), &|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })?;
    let mut command = Command::new("timeout");
    // QEMU 7.2 gets the flags of cmpxchg16b wrong once in a while, and the guest's allocator panics.
    command.args(["600", "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max,cx16=off"]);
    command.args(["-m", "1024", "-nographic", "-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
    command.arg("-kernel").arg(kernel.first().context("no vmlinuz")?).arg("-initrd").arg(initramfs);
    let output = command.stdin(Stdio::null()).output().context("qemu-system-x86_64")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn text(output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok([&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned()).concat())
}

fn which(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(tool))
        .find(|path| path.exists())
}

fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(find(&entry.path(), wanted)?);
        } else if wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}
