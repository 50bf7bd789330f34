//! What is said: how much it matters, and `--log-format json`, one object a line.
//!
//! Input: a text of one line or several. Output: its level; JSON without a line end in it. Reads the clock and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

/// `ts` in seconds since 1970, `level`, `message`, and what it is about.
pub(super) fn json(about: &[(&str, &str)], message: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = Value::from(since.as_secs_f64());
    let mut object = Map::from_iter([
        ("ts".to_owned(), millis),
        ("level".to_owned(), Level::of(message).name().into()),
        ("message".to_owned(), message.into()),
    ]);
    object.extend(about.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))));
    Value::Object(object).to_string()
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    #[default]
    Debug,
    Info,
    Warning,
    Error,
}

impl Level {
    /// Everything that is more than a message says so in its first word.
    pub fn of(message: &str) -> Self {
        match message.split_once([':', ']']).map(|(word, _)| word) {
            Some("error" | "[ERROR" | "FATAL") => Level::Error,
            Some("warning" | "[WARNING") => Level::Warning,
            Some("debug") => Level::Debug,
            _ => Level::Info,
        }
    }

    /// As Python's `logging` calls them.
    pub fn read(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "DEBUG" => Some(Level::Debug),
            "INFO" => Some(Level::Info),
            "WARNING" => Some(Level::Warning),
            "ERROR" => Some(Level::Error),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}
