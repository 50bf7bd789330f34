//! `--log-format json`: what is said, as one object a line.
//!
//! Input: a text of one line or several. Output: JSON without a line end in it. Reads the clock and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

/// `ts` in seconds since 1970, `level`, `message`, and what it is about.
pub(super) fn json(about: &[(&str, &str)], message: &str) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = Value::from(since.as_secs_f64());
    let mut object = Map::from_iter([
        ("ts".to_owned(), millis),
        ("level".to_owned(), level(message).into()),
        ("message".to_owned(), message.into()),
    ]);
    object.extend(about.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))));
    Value::Object(object).to_string()
}

/// Everything that is more than a message says so in its first word.
fn level(message: &str) -> &'static str {
    match message.split_once(':').map(|(word, _)| word) {
        Some("error") => "error",
        Some("warning") => "warning",
        Some("debug") => "debug",
        _ => "info",
    }
}
