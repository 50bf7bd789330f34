//! Builds for another processor: `cargo xtask dist --target aarch64`.
//!
//! rustup's compiler refuses Debian's standard library and the other way round (E0514), and brings none for other
//! processors by itself. So the whole toolchain is Debian's, unpacked into `target/cross/`: nothing is installed. It runs in
//! a mount namespace of its own, with that folder as its root. Needs root, and no emulator.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::apt::Apt;
use crate::arch::{self, Arch};
use crate::{cargo, exec, which};

/// Suites whose compiler is new enough. The standard library of the other processor has to be of the same version, which
/// it is not while a new one arrives.
const SUITES: [&str; 2] = ["forky", "sid"];

/// What a build sees of this machine, besides the repository and cargo's downloads.
const SHARED: [&str; 3] = ["/proc", "/dev", "/tmp"];

/// Enters the toolchain's folder: `$1` is that, `$2` to `$6` are shared; the rest is the command.
const ENTER: &str = "\
set -e
mount --make-rprivate /
root=$1; shift
for folder in \"$1\" \"$2\" \"$3\" \"$4\" \"$5\"; do
    mkdir -p \"$root$folder\"
    mount --rbind \"$folder\" \"$root$folder\"
done
shift 5
exec chroot \"$root\" \"$@\"
";

/// Runs cargo for another processor. Its output is in the folder that this returns.
pub fn build(arch: &Arch, args: &[&str]) -> Result<PathBuf> {
    let here = env::current_dir()?;
    let folder = here.join("target/cross");
    let mut command = enter(arch, &folder)?;
    // What is downloaded is downloaded here: there are no certificates in there.
    exec(cargo().args(["fetch", "--locked", "--target", arch.target]))?;
    let config = folder.join("config.toml");
    let host = arch::here()?.target;
    let lines = [
        format!("[build]\ntarget = \"{}\"\n", arch.target),
        // The repository's own configuration is not read from there.
        format!(
            "[target.{}]\nlinker = \"{}-linux-gnu-gcc\"\nrustflags = [\"-C\", \"target-feature=+crt-static\"]\n",
            arch.target, arch.name
        ),
        // There is no `cc` in there: that is made when a package is installed.
        format!("[target.{host}]\nlinker = \"gcc\"\n"),
    ];
    fs::write(&config, lines.concat())?;
    let target = folder.join("target");
    command.arg("cargo").arg("--config").arg(config).args(args);
    // The root's, in there, is where it begins.
    command.arg("--manifest-path").arg(here.join("Cargo.toml"));
    exec(command.args(["--offline", "--locked", "--target-dir"]).arg(&target))?;
    Ok(target)
}

/// Without what only debuggers read.
pub fn strip(arch: &Arch, from: &Path, to: &Path) -> Result<()> {
    let mut command = enter(arch, &env::current_dir()?.join("target/cross"))?;
    exec(command.arg(format!("{}-linux-gnu-strip", arch.name)).arg("-o").arg(to).arg(from))
}

/// What runs a command of the toolchain.
fn enter(arch: &Arch, folder: &Path) -> Result<Command> {
    let missing =
        ["unshare", "chroot", "mount", "apt-get", "dpkg"].into_iter().find(|tool| which(tool).is_none());
    ensure!(missing.is_none(), "building for {} needs {}", arch.name, missing.unwrap_or_default());
    let root = toolchain(arch, folder)?;
    let home = cargo_home()?;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", ENTER, "enter"])
        .arg(&root)
        .args(SHARED)
        .arg(env::current_dir()?)
        .arg(&home);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/tmp")
        .env("CARGO_HOME", home);
    Ok(command)
}

fn cargo_home() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("no CARGO_HOME and no HOME")
}

/// The folder with Debian's compiler, linker and standard libraries.
fn toolchain(arch: &Arch, folder: &Path) -> Result<PathBuf> {
    let root = folder.join(format!("root-{}", arch.debian));
    let ready = root.join("ready");
    if ready.exists() {
        return Ok(root);
    }
    let here = arch::here()?;
    let library = format!("libstd-rust-dev:{}", arch.debian);
    for suite in SUITES {
        let apt = Apt::new(&folder.join(format!("apt-{suite}")), &[suite], here)?;
        let (compiler, there) = (apt.version("rustc")?, apt.version(&library)?);
        if compiler != there {
            eprintln!("{suite}: rustc is {compiler}, {library} is {there}: not this one");
            continue;
        }
        let gcc = format!("gcc-{}-linux-gnu", arch.name.replace('_', "-"));
        let libc = format!("libc6-dev-{}-cross", arch.debian);
        apt.download_all(&["rustc", "cargo", "gcc", "libc6-dev", &gcc, &libc])?;
        apt.download(&[library])?;
        apt.unpack(&root)?;
        for name in ["bin", "sbin", "lib", "lib64"] {
            if !root.join(name).exists() {
                symlink(format!("usr/{name}"), root.join(name))?;
            }
        }
        fs::write(ready, format!("{suite} {compiler}\n"))?;
        return Ok(root);
    }
    bail!("no suite has a compiler and a standard library for {} of the same version", arch.name)
}
