//! What a package has besides the binary, made by the binary itself: manual pages and completions.
//!
//! In: the binary. Out: files in `target/package/`, where `[package.metadata.deb]` in Cargo.toml expects them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A shell, and where its completions are below the folder.
const COMPLETIONS: [(&str, &str); 3] =
    [("bash", "sfunnel.bash"), ("zsh", "_sfunnel"), ("fish", "sfunnel.fish")];

pub fn pages(binary: &Path, into: &Path) -> Result<()> {
    let folder = into.join("man");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let write = |name: &Path, text: &str| fs::write(name, text).with_context(|| name.display().to_string());
    let whole = output(binary, &["man"])?;
    write(&folder.join("sfunnel.8"), &whole)?;
    let plain = whole.replace('\\', "");
    let mut commands: Vec<&str> =
        plain.split("sfunnel-").skip(1).filter_map(|rest| Some(rest.split_once("(8)")?.0)).collect();
    commands.retain(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
    commands.sort_unstable();
    commands.dedup();
    if commands.is_empty() {
        bail!("the manual page of {} names no command", binary.display());
    }
    for command in commands {
        write(&folder.join(format!("sfunnel-{command}.8")), &output(binary, &["man", command])?)?;
    }
    for (shell, name) in COMPLETIONS {
        write(&into.join(name), &output(binary, &["completions", shell])?)?;
    }
    Ok(())
}

fn output(binary: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(binary).args(args).output().with_context(|| binary.display().to_string())?;
    if !output.status.success() {
        bail!("{} {args:?}: {}", binary.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}
