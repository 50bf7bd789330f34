//! Colours for a terminal, if wanted.
//!
//! Text goes in padded already: what colours add has no width. Never decides whether they are wanted.

use std::borrow::Cow;

/// The text without what a terminal would obey: an interface may have any name. Line ends, tabs and colours stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(obeyed) {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let colour = rest.strip_prefix("\x1b[").and_then(|code| {
            let end = code.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            code[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
        });
        match (colour, rest.chars().next()) {
            (Some(length), _) => {
                kept.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            (None, Some(c)) => {
                kept.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[c.len_utf8()..];
            }
            (None, None) => break,
        }
    }
    kept.push_str(rest);
    kept.into()
}

#[derive(Debug, Clone, Copy)]
pub struct Paint(pub bool);

impl Paint {
    pub fn title(self, text: &str) -> String {
        self.with("1", text)
    }

    pub fn changed(self, text: &str) -> String {
        self.with("33", text)
    }

    pub fn pushed(self, text: &str) -> String {
        self.with("32", text)
    }

    pub fn popped(self, text: &str) -> String {
        self.with("31", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Paint, printable};

    #[test]
    fn colours_stay_and_nothing_else_that_a_terminal_obeys() {
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        let red = Paint(true).popped("x");
        assert_eq!(printable(&red), red);
        assert_eq!(
            printable("e\x1b[2Jt\x1bh\r0\u{9b}\x1b["),
            "e\u{fffd}[2Jt\u{fffd}h\u{fffd}0\u{fffd}\u{fffd}["
        );
    }
}
