//! The release binary, for this processor or another: `dist/amd64/sfunnel`, `dist/arm64/sfunnel`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::arch::{self, Arch};
use crate::{cargo, cross, exec, package};

pub fn run(target: Option<&str>) -> Result<()> {
    let here = arch::here()?;
    let arch = target.map_or(Ok(here), arch::named)?;
    let target = if arch.name == here.name {
        exec(cargo().args(["build", "--locked", "--release"]))?;
        PathBuf::from("target")
    } else {
        cross::build(arch, &["build", "--release"])?
    };
    let binary = put(arch, &target.join(arch.target).join("release/sfunnel"))?;
    let size = fs::metadata(&binary).with_context(|| binary.display().to_string())?.len();
    println!("{}: {size} bytes ({:.1} MiB)", binary.display(), size as f64 / f64::from(1 << 20));
    // They are written by the binary itself, so not by one of another processor. The words are the same.
    if arch.name == here.name { package::pages(&binary, Path::new("target/package")) } else { Ok(()) }
}

/// Where images take it from, by the names that they have for processors.
fn put(arch: &Arch, built: &Path) -> Result<PathBuf> {
    let folder = Path::new("dist").join(arch.debian);
    fs::create_dir_all(&folder)?;
    let binary = folder.join("sfunnel");
    fs::copy(built, &binary).with_context(|| built.display().to_string())?;
    Ok(binary)
}
