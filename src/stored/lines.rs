//! A listing as lines: what each is, and what of it counts.

use super::{Form, Unreadable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// A comment: the rule that what follows was made for.
    Title(&'a str),
    Label(&'a str),
    Instruction,
    /// The second slot of an instruction.
    Rest,
}

#[derive(Debug, Clone)]
pub(super) struct Line<'a> {
    pub kind: Kind<'a>,
    /// The line without slot number and bytes.
    pub words: &'a str,
    /// The bytes of the slot, if they are in the listing.
    pub bytes: Option<&'a str>,
    /// The words without numbers that move with everything in front.
    pub alike: String,
}

impl<'a> Line<'a> {
    /// Where an instruction may jump.
    pub fn target(&self) -> Option<&'a str> {
        let code = self.code();
        let (_, target) = code.split_once("goto ").or_else(|| code.split_once("gotol "))?;
        Some(target.trim())
    }

    /// Whether the next instruction may be the one that runs afterwards.
    pub fn falls_through(&self) -> bool {
        let code = self.code();
        !(code.starts_with("goto") || code == "exit")
    }

    /// The instruction without its note.
    pub fn code(&self) -> &'a str {
        self.words.split_once(';').map_or(self.words, |(code, _)| code).trim()
    }
}

pub(super) fn lines(text: &str, form: Form) -> Result<Vec<Line<'_>>, Unreadable> {
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let (kind, words, bytes) = match (line.strip_prefix("; "), line.strip_suffix(':'), form) {
            (Some(title), _, _) => (Kind::Title(title), line, None),
            (_, Some(label), _) if !label.contains(' ') => (Kind::Label(label), line, None),
            (_, _, Form::Asm) if line.starts_with("    ") && !is_slot(line) => {
                (Kind::Instruction, line, None)
            }
            (_, _, Form::Hex) => {
                let (bytes, words) = hex(line).ok_or(Unreadable::Line(at + 1, "hex"))?;
                let kind = if words.is_empty() { Kind::Rest } else { Kind::Instruction };
                (kind, words, Some(bytes))
            }
            _ => return Err(Unreadable::Line(at + 1, "asm")),
        };
        lines.push(Line { kind, words, bytes, alike: alike(kind, words) });
    }
    if !lines.iter().any(|line| line.kind == Kind::Instruction) {
        return Err(Unreadable::Empty);
    }
    Ok(lines)
}

fn is_slot(line: &str) -> bool {
    hex(line).is_some()
}

/// The bytes of a slot and the words after them.
fn hex(line: &str) -> Option<(&str, &str)> {
    let (slot, rest) = line.trim_start().split_once("  ")?;
    slot.parse::<usize>().ok()?;
    let length = "00 11 22 33 44 55 66 77".len();
    let (bytes, words) = (rest.get(..length)?, rest.get(length..)?);
    let is_byte = |byte: &str| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok();
    (bytes.split(' ').count() == 8 && bytes.split(' ').all(is_byte)).then_some((bytes, words.trim_start()))
}

fn alike(kind: Kind<'_>, words: &str) -> String {
    let nameless = |label: &str| {
        let label = label.split_once('.').filter(|(_, n)| is_number(n)).map_or(label, |(label, _)| label);
        match label.rsplit_once('_') {
            Some((word @ ("node" | "rule"), number)) if is_number(number) => word.to_owned(),
            _ => label.to_owned(),
        }
    };
    match kind {
        Kind::Title(title) => {
            let rule = title.split_once(": ").filter(|(number, _)| number.starts_with("rule "));
            format!("; {}", rule.map_or(title, |(_, text)| text))
        }
        Kind::Label(label) => format!("{}:", nameless(label)),
        Kind::Instruction | Kind::Rest => match words.split_once("goto") {
            Some((before, rest)) => {
                let (jump, note) = rest.split_once(';').unwrap_or((rest, ""));
                let (long, target) = jump.split_once(' ').unwrap_or(("", jump));
                format!("{before}goto{long} {} ;{note}", nameless(target.trim()))
            }
            None => words.to_owned(),
        },
    }
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}
