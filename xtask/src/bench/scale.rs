//! What `tests/bench/scale.rs` has written, as it is needed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct Scale {
    version: u32,
    pub machine: Machine,
    pub rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
pub struct Machine {
    /// Whether the bench was built as such, and not as a test.
    pub optimised: bool,
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    /// The mean number of processes that wanted to run in the minute before the end.
    pub load: String,
}

#[derive(Debug, Deserialize)]
pub struct Row {
    pub shape: String,
    pub rules: usize,
    pub nodes: usize,
    pub slots: usize,
    pub depth: usize,
    pub chains: usize,
    pub arms: usize,
    pub ends: usize,
    pub seconds: Seconds,
    pub megabytes: f64,
    pub verified: usize,
    /// Over an empty program.
    pub ns: Packets,
    pub linear: Engine,
    pub device: BTreeMap<String, Engine>,
}

#[derive(Debug, Deserialize)]
pub struct Seconds {
    pub read: f64,
    pub build: f64,
    pub emit: f64,
    pub load: f64,
}

/// Nanoseconds for packets of each kind.
#[derive(Debug, Default, Deserialize)]
pub struct Packets {
    pub miss: Option<f64>,
    pub first: Option<f64>,
    pub middle: Option<f64>,
    pub last: Option<f64>,
}

/// Another way to decide, or why it could not.
#[derive(Debug, Deserialize)]
pub struct Engine {
    pub error: Option<String>,
    pub slots: Option<usize>,
    pub load: Option<f64>,
    #[serde(flatten)]
    pub ns: Packets,
}

impl Seconds {
    /// From the text to the program.
    pub fn compile(&self) -> f64 {
        self.read + self.build + self.emit
    }
}

impl Row {
    /// The shape without its size.
    pub fn family(&self) -> &str {
        self.shape.rsplit_once(' ').map_or(&self.shape, |(family, _)| family)
    }

    pub fn a_rule(&self, count: usize) -> f64 {
        float(count) / float(self.rules.max(1))
    }
}

/// Counts are far below the numbers that a float cannot have.
pub fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

impl Scale {
    pub fn read(file: &Path) -> Result<Scale> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let scale: Scale = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        ensure!(scale.version == 1, "{}: version {}", file.display(), scale.version);
        Ok(scale)
    }

    pub fn rows_of<'a>(&'a self, family: &'a str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |row| row.family() == family)
    }
}
