//! Debian's packages, unpacked into a folder: nothing is installed, and the system's own lists stay as they are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::arch::{ALL, Arch};
use crate::{exec, find, text};

/// An apt that knows these suites only, and thinks that nothing is installed.
pub struct Apt {
    folder: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// Reads the lists of packages. An error may mean that a suite is gone, or that the network is.
    pub fn new(folder: &Path, suites: &[&str], arch: &Arch) -> Result<Apt> {
        let folder = env::current_dir()?.join(folder);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let sources = folder.join("sources.list");
        let mirror = mirror()?;
        let line = |suite: &&str| format!("deb [signed-by={keyring}] {mirror} {suite} main\n");
        fs::write(&sources, suites.iter().map(line).collect::<String>())?;
        let status = folder.join("status");
        fs::write(&status, "")?;
        let set = |key: &str, path: &Path| format!("{key}={}", path.display());
        let mut options = vec![
            set("Dir::Etc::sourcelist", &sources),
            "Dir::Etc::sourceparts=-".to_owned(),
            set("Dir::State", &folder),
            set("Dir::State::status", &status),
            set("Dir::Cache", &folder.join("cache")),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            format!("APT::Architecture={}", arch.debian),
        ];
        options.extend(ALL.iter().map(|arch| format!("APT::Architectures::={}", arch.debian)));
        let apt = Apt { folder, options };
        let said = text(&apt.command("apt-get").args(["-qq", "update"]).output()?)?;
        ensure!(!said.contains("E: "), "{said}");
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).env("LC_ALL", "C");
        self.options.iter().for_each(|option| {
            command.args(["-o", option]);
        });
        command
    }

    /// What a package depends on, and so on, by the beginnings of names.
    pub fn depends(&self, package: &str, starts: &[&str]) -> Result<Vec<String>> {
        let said = self.command("apt-cache").args(["depends", "--recurse", "-i", package]).output()?;
        let said = text(&said)?;
        let mut found: Vec<String> = said
            .split_whitespace()
            .filter(|word| starts.iter().any(|start| word.starts_with(start)))
            .filter(|word| {
                word.split('-').nth(2).is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()))
            })
            .map(str::to_owned)
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// The version that would be installed.
    pub fn version(&self, package: &str) -> Result<String> {
        let said = text(&self.command("apt-cache").args(["policy", package]).output()?)?;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(line.with_context(|| format!("no package {package}"))?.to_owned())
    }

    /// These packages without what they depend on.
    pub fn download(&self, packages: &[String]) -> Result<()> {
        let archives = self.folder.join("cache/archives");
        exec(self.command("apt-get").current_dir(archives).args(["-qq", "download"]).args(packages))
    }

    /// These packages with what they depend on.
    pub fn download_all(&self, packages: &[&str]) -> Result<()> {
        exec(self.command("apt-get").args(["-qq", "--download-only", "-y", "install"]).args(packages))
    }

    /// All that has been downloaded.
    pub fn unpack(&self, to: &Path) -> Result<()> {
        let debs = find(&self.folder.join("cache"), &|path| path.extension() == Some(OsStr::new("deb")))?;
        ensure!(!debs.is_empty(), "apt-get downloaded nothing");
        fs::create_dir_all(to)?;
        debs.iter().try_for_each(|deb| exec(Command::new("dpkg").arg("-x").arg(deb).arg(to)))
    }
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
