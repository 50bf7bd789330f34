//! The configuration of a network, as a runtime hands it to its plugins.
//!
//! Input: JSON. Output: what is ours in it, checked. A key that nobody knows is an error: it may be a misspelt one
//! of ours, and pods would run without what it says.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::Value;

use super::super::args::{End, GsoArg, OnError};
use super::super::files;
use super::super::pod::Wishes;
use super::super::settings::Direction;
use super::error::{Code, Error};
use crate::diag::Source;

/// Keys that the specification and the runtimes' libraries have for any plugin.
const COMMON: [&str; 11] = [
    "type",
    "args",
    "ipMasq",
    "ipam",
    "dns",
    "capabilities",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
    "runtimeConfig",
];

#[derive(Debug, Deserialize)]
pub(super) struct Network {
    #[serde(rename = "cniVersion", default)]
    pub(super) version: String,
    #[serde(default)]
    name: String,
    #[serde(rename = "prevResult")]
    previous: Option<Value>,
    #[serde(rename = "runtimeConfig")]
    runtime: Option<Runtime>,
    ruleset: Option<Text>,
    #[serde(rename = "rulesFile")]
    file: Option<PathBuf>,
    direction: Option<String>,
    end: Option<String>,
    gso: Option<String>,
    #[serde(rename = "finishChecksums", default)]
    finish_checksums: bool,
    #[serde(rename = "noMerge", default)]
    no_merge: bool,
    #[serde(default)]
    counters: bool,
    #[serde(rename = "onError", default, deserialize_with = "on_error")]
    pub(super) on_error: OnError,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Several lines, which JSON has no good way to write, may be a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    One(String),
    Lines(Vec<String>),
}

/// What a runtime adds, where `capabilities` asks for it.
#[derive(Debug, Deserialize)]
struct Runtime {
    #[serde(rename = "io.kubernetes.cri.pod-annotations")]
    annotations: Option<BTreeMap<String, String>>,
}

fn on_error<'de, D: serde::Deserializer<'de>>(from: D) -> Result<OnError, D::Error> {
    let text = String::deserialize(from)?;
    OnError::from_str(&text, false)
        .map_err(|_| serde::de::Error::custom(format!("onError is `{text}`; it must be refuse or proceed")))
}

impl Network {
    pub(super) fn read(mut from: impl Read) -> Result<Self, Error> {
        let mut text = Vec::new();
        from.read_to_end(&mut text)
            .map_err(|error| Error::new(Code::Input, format!("cannot read standard input: {error}")))?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::new(Code::Decode, format!("the network's configuration: {error}")))
    }

    pub(super) fn is_understood(&self, versions: &[&str]) -> Result<(), Error> {
        if versions.contains(&self.version.as_str()) {
            return Ok(());
        }
        let Self { version, .. } = self;
        let message = format!("cniVersion is `{version}`; it must be one of {}", versions.join(", "));
        Err(Error::new(Code::Version, message))
    }

    /// What the plugins before have done.
    pub(super) fn previous(&self) -> Result<&Value, Error> {
        self.previous.as_ref().ok_or_else(|| {
            let message = format!(
                "network `{}` has no prevResult: sfunnel makes no interface, and has to stand behind a plugin that \
                 does, in a list of plugins",
                self.name
            );
            Error::new(Code::Config, message)
        })
    }

    /// The network's rules, and those that the pod has instead.
    pub(super) fn wishes(&self) -> Result<Wishes, Error> {
        let unknown = |key: &&String| !COMMON.contains(&key.as_str()) && !key.starts_with("cni.dev/");
        if let Some(key) = self.others.keys().find(unknown) {
            return Err(Error::new(Code::Field, format!("network `{}`: `{key}` is not known", self.name)));
        }
        let source = match (&self.ruleset, &self.file) {
            (Some(_), Some(_)) => return Err(self.wrong("ruleset and rulesFile are both there; one will do")),
            (Some(Text::One(text)), None) => Some(Source::new(self.title(), text)),
            (Some(Text::Lines(lines)), None) => Some(Source::new(self.title(), lines.join("\n"))),
            (None, Some(file)) => Some(files::file_source(file)?),
            (None, None) => None,
        };
        let mut wishes = Wishes { source, ..Wishes::default() };
        let attach = &mut wishes.attach;
        attach.place.direction =
            self.word::<Direction>("direction", self.direction.as_deref(), "ingress, egress or both")?;
        attach.treatment.end = self.word::<End>("end", self.end.as_deref(), "client or pod")?;
        attach.treatment.gso = self.word::<GsoArg>("gso", self.gso.as_deref(), "segment, limit or off")?;
        attach.treatment.finish_checksums = self.finish_checksums;
        attach.treatment.no_merge = self.no_merge;
        attach.treatment.counters = self.counters;
        if let Some(annotations) = self.runtime.as_ref().and_then(|runtime| runtime.annotations.as_ref()) {
            wishes.hear(annotations)?;
        }
        Ok(wishes)
    }

    fn title(&self) -> String {
        format!("ruleset of network {}", self.name)
    }

    fn wrong(&self, what: &str) -> Error {
        Error::new(Code::Config, format!("network `{}`: {what}", self.name))
    }

    fn word<T: ValueEnum>(&self, key: &str, text: Option<&str>, must: &str) -> Result<Option<T>, Error> {
        let Some(text) = text else { return Ok(None) };
        T::from_str(text, true)
            .map(Some)
            .map_err(|_| self.wrong(&format!("{key} is `{text}`; it must be {must}")))
    }
}
