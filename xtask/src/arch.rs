//! The processors that there are binaries for, by everybody's names.

use anyhow::{Context, Result};

#[derive(Debug)]
pub struct Arch {
    /// Rust's, and the kernel's.
    pub name: &'static str,
    /// Debian's, and that of images.
    pub debian: &'static str,
    pub target: &'static str,
    /// The emulator and the Debian package it comes in.
    pub qemu: (&'static str, &'static str),
    /// QEMU 7.2 gets the flags of cmpxchg16b wrong once in a while, and the guest's allocator panics: hence `cx16=off`.
    pub machine: &'static [&'static str],
    pub console: &'static str,
}

pub const ALL: [Arch; 2] = [
    Arch {
        name: "x86_64",
        debian: "amd64",
        target: "x86_64-unknown-linux-gnu",
        qemu: ("qemu-system-x86_64", "qemu-system-x86"),
        machine: &["-machine", "q35,accel=tcg", "-cpu", "max,cx16=off"],
        console: "ttyS0",
    },
    Arch {
        name: "aarch64",
        debian: "arm64",
        target: "aarch64-unknown-linux-gnu",
        qemu: ("qemu-system-aarch64", "qemu-system-arm"),
        machine: &["-machine", "virt,accel=tcg", "-cpu", "cortex-a57"],
        console: "ttyAMA0",
    },
];

/// By any of its names.
pub fn named(name: &str) -> Result<&'static Arch> {
    static KNOWN: [Arch; 2] = ALL;
    let known = || KNOWN.iter().map(|arch| arch.name).collect::<Vec<_>>().join(", ");
    let found = KNOWN.iter().find(|arch| [arch.name, arch.debian, arch.target].contains(&name));
    found.with_context(|| format!("no processor `{name}`: there are {}", known()))
}

/// Of this machine.
pub fn here() -> Result<&'static Arch> {
    named(std::env::consts::ARCH)
}
