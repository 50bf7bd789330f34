//! What `check` says, at its places in the text.
//!
//! Takes diagnostics, gives them with offsets as scripts count: in units of UTF-16. Changes no word.

use serde::Serialize;

use crate::diag::{Diagnostic, Label, Severity, Span};

#[derive(Debug, Serialize)]
pub(super) struct Remark<'a> {
    severity: &'static str,
    message: &'a str,
    help: Option<&'a str>,
    /// The first is what it is about.
    labels: Vec<Place<'a>>,
}

#[derive(Debug, Serialize)]
struct Place<'a> {
    start: usize,
    end: usize,
    text: &'a str,
}

impl<'a> Remark<'a> {
    pub(super) fn new(diagnostic: &'a Diagnostic, offsets: &Offsets) -> Self {
        let place = |label: &'a Label| {
            let (start, end) = offsets.span(label.span);
            Place { start, end, text: &label.text }
        };
        Remark {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: &diagnostic.message,
            help: diagnostic.help.as_deref(),
            labels: std::iter::once(&diagnostic.primary).chain(&diagnostic.secondary).map(place).collect(),
        }
    }
}

/// From bytes to units of UTF-16.
#[derive(Debug)]
pub(super) struct Offsets {
    /// For each character beyond ASCII: where it ends, in bytes, and how many more of these there are than units.
    more: Vec<(usize, usize)>,
}

impl Offsets {
    pub(super) fn new(text: &str) -> Self {
        let mut sum = 0;
        let more = text.char_indices().filter(|(_, c)| !c.is_ascii()).map(|(at, c)| {
            sum += c.len_utf8() - c.len_utf16();
            (at + c.len_utf8(), sum)
        });
        Offsets { more: more.collect() }
    }

    pub(super) fn of(&self, byte: usize) -> usize {
        let before = self.more.partition_point(|(end, _)| *end <= byte);
        byte - before.checked_sub(1).and_then(|last| self.more.get(last)).map_or(0, |(_, sum)| *sum)
    }

    pub(super) fn span(&self, span: Span) -> (usize, usize) {
        (self.of(span.start), self.of(span.end))
    }
}

#[cfg(test)]
mod tests {
    use super::Offsets;

    #[test]
    fn offsets_are_those_of_a_script() {
        let text = "aé😀b";
        let offsets = Offsets::new(text);
        for (byte, _) in text.char_indices().chain([(text.len(), ' ')]) {
            assert_eq!(offsets.of(byte), text[..byte].encode_utf16().count(), "{byte}");
        }
    }
}
