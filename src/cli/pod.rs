//! What the runtimes' ways in have in common: a pod's wishes, read from its annotations, and its network namespace.
//!
//! Input: annotations, a namespace. Output: what `attach` takes, or why not. Nothing is read from the variables
//! that `attach` knows: a runtime has an environment of its own, which means other things.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use clap::ValueEnum;

use super::args::{self, End, GsoArg, LogFormat};
use super::attach::attach_to;
use super::how::How;
use super::settings::{self, Direction, Target};
use super::{Console, Failure, Level};
use crate::diag::Source;
use crate::policy;

/// What the names of our annotations start with.
pub(super) const PREFIX: &str = "sfunnel/";

/// What one pod is to have.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// `None`: no rules, nothing to do.
    pub(super) source: Option<Source>,
    pub(super) attach: args::Attach,
    /// `None`: where the caller finds it right.
    pub(super) interfaces: Option<Vec<String>>,
}

impl Wishes {
    /// What the pod says goes before what is there already. An annotation of ours that is not known is an error: the
    /// pod would run without what somebody wrote there.
    pub(super) fn hear(&mut self, annotations: &BTreeMap<String, String>) -> Result<(), Failure> {
        for (name, value) in annotations {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            self.annotation(name, key, value)?;
        }
        Ok(())
    }

    fn annotation(&mut self, name: &str, key: &str, value: &str) -> Result<(), Failure> {
        let wrong = |must: &str| Failure::Usage(format!("annotation {name} is `{value}`; it must be {must}"));
        match key {
            "ruleset" => self.source = Some(Source::new(format!("annotation {name}"), value)),
            "interface" => {
                let names =
                    value.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
                let names: Vec<String> = names.map(str::to_owned).collect();
                if names.is_empty() {
                    return Err(wrong("one interface or several"));
                }
                self.interfaces = Some(names);
            }
            "direction" => {
                let direction = Direction::from_str(value, true);
                self.attach.place.direction = Some(direction.map_err(|_| wrong("ingress, egress or both"))?);
            }
            "end" => {
                self.attach.treatment.end =
                    Some(End::from_str(value, true).map_err(|_| wrong("client or pod"))?);
            }
            "gso" => {
                let gso = GsoArg::from_str(value, true);
                self.attach.treatment.gso = Some(gso.map_err(|_| wrong("segment, limit or off"))?);
            }
            "finish-checksums" => self.attach.treatment.finish_checksums = truth(name, value)?,
            "no-merge" => self.attach.treatment.no_merge = truth(name, value)?,
            "counters" => self.attach.treatment.counters = truth(name, value)?,
            _ => {
                return Err(Failure::Usage(format!(
                    "annotation {name} is unknown; there are: {}",
                    KNOWN.map(|key| format!("{PREFIX}{key}")).join(", ")
                )));
            }
        }
        Ok(())
    }

    /// How, and where in the namespace that `netns` leads to.
    pub(super) fn resolve(
        &self,
        interfaces: Vec<String>,
        netns: &str,
        console: &Console<'_>,
    ) -> Result<(Target, How), Failure> {
        // The interfaces of a pod are there before anybody is called for it.
        let mut attach = args::Attach { attempts: Some("1".to_owned()), ..args::Attach::default() };
        attach.treatment.end = self.attach.treatment.end;
        attach.treatment.gso = self.attach.treatment.gso;
        attach.treatment.finish_checksums = self.attach.treatment.finish_checksums;
        attach.treatment.no_merge = self.attach.treatment.no_merge;
        attach.treatment.counters = self.attach.treatment.counters;
        let target = Target {
            interfaces: Some(interfaces),
            direction: self.attach.place.direction.unwrap_or(policy::DEFAULT_SIDE.into()),
            said: self.attach.place.direction.map(|_| "its direction"),
            netns: Some(netns.to_owned()),
        };
        Ok((target, How::read(&attach, console)?))
    }

    /// Attaches, if there are rules. The calling thread stays in the namespace.
    pub(super) fn attach(
        self,
        interfaces: Vec<String>,
        netns: &str,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let (target, how) = self.resolve(interfaces, netns, console)?;
        match self.source {
            Some(source) => attach_to(&target, how, settings::defined(source, &self.attach.defines), console),
            None => Ok(()),
        }
    }
}

const KNOWN: [&str; 8] =
    ["ruleset", "interface", "direction", "end", "gso", "finish-checksums", "no-merge", "counters"];

fn truth(name: &str, value: &str) -> Result<bool, Failure> {
    settings::truth_of(&format!("annotation {name}"), value)
}

/// Refuses the namespace that we are in ourselves: a container without one of its own shares the host's, whose
/// interfaces are not a pod's to change.
pub(super) fn is_apart(netns: &str) -> Result<(), Failure> {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let own = identity(Path::new("/proc/thread-self/ns/net"));
    match (own, identity(Path::new(netns))) {
        (Ok(own), Ok(theirs)) if own == theirs => Err(Failure::Container(format!(
            "{netns} is the network namespace of this process, not a container's: what has the host's network is \
             not attached to; use `sfunnel attach` on the host"
        ))),
        // What cannot be looked at cannot be entered either, and then there is a better message.
        _ => Ok(()),
    }
}

/// A console that hears no variables, and writes to `talk`.
pub(super) fn deaf<T>(
    color: bool,
    talk: &mut dyn std::io::Write,
    work: impl FnOnce(&mut Console<'_>) -> T,
) -> T {
    let mut out = std::io::sink();
    work(&mut Console {
        out: &mut out,
        talk,
        env: &|_| None,
        color,
        out_is_terminal: false,
        log: LogFormat::Text,
        least: Level::default(),
    })
}
