//! Words: the only lexical production, and the only place that looks at single bytes.
//!
//! A [`Cursor`] goes in, a [`Word`] and the cursor after it come out. Everything that is not
//! blank, `;`, `#` or the end of the line is (part of) some word, so no text is ever refused
//! here. `!=` is a word of its own, with or without blanks around it.

use nom::error::{ErrorKind, ParseError};
use nom::{Err, IResult};

use super::define::Names;
use crate::diag::{Diagnostic, Span};

/// A place in the source. All productions take one and return the one where they stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    source: &'a str,
    at: usize,
    pub names: &'a Names,
    /// A `}` on its own ends what is being read.
    pub in_chain: bool,
    /// A value was found on the next line, and reading continued there: already reported.
    pub over_lines: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub text: &'a str,
    pub span: Span,
}

/// Why a production failed. Without diagnostics: "this is not mine, try the next production".
/// With some: it is mine, and this is what is wrong with it; `rest` is where to read on.
#[derive(Debug)]
pub(super) struct Fault<'a> {
    pub rest: Cursor<'a>,
    pub diagnostics: Vec<Diagnostic>,
}

pub(super) type Parsed<'a, T> = IResult<Cursor<'a>, T, Fault<'a>>;

impl<'a> ParseError<Cursor<'a>> for Fault<'a> {
    fn from_error_kind(rest: Cursor<'a>, _: ErrorKind) -> Self {
        Fault { rest, diagnostics: Vec::new() }
    }

    fn append(_: Cursor<'a>, _: ErrorKind, other: Self) -> Self {
        other
    }
}

/// "Not mine."
pub(super) fn no<T>(i: Cursor<'_>) -> Parsed<'_, T> {
    Err(Err::Error(Fault { rest: i, diagnostics: Vec::new() }))
}

/// "Mine, but wrong"; reading goes on at `rest`.
pub(super) fn wrong<T>(rest: Cursor<'_>, diagnostics: Vec<Diagnostic>) -> Parsed<'_, T> {
    Err(Err::Failure(Fault { rest, diagnostics }))
}

/// `word = "!=" | "{" | "}" | ( any character but blank, ";", "#", "{", "}", newline )+`
///
/// `${NAME}`, which is for shells, stays in one piece.
pub(super) fn word(i: Cursor<'_>) -> Parsed<'_, Word<'_>> {
    up_to(i, b'\n')
}

/// A word, or what there is of it before a `stop`.
fn up_to(i: Cursor<'_>, stop: u8) -> Parsed<'_, Word<'_>> {
    let i = i.skip(is_blank);
    let bytes = i.bytes();
    let len = if bytes.starts_with(b"!=") {
        2
    } else if bytes.starts_with(b"{") || bytes.starts_with(b"}") {
        1
    } else if let Some(name) = bytes.strip_prefix(b"${") {
        let odd = |byte: u8| !(byte.is_ascii_alphanumeric() || byte == b'_');
        let end = name.iter().position(|&byte| odd(byte)).unwrap_or(name.len());
        2 + end + usize::from(name.get(end) == Some(&b'}'))
    } else {
        let ends = |at: usize, byte: u8| {
            is_blank(byte)
                || byte == stop
                || matches!(byte, b'\n' | b';' | b'#' | b'{' | b'}')
                || bytes.get(at..at + 2) == Some(b"!=")
        };
        bytes.iter().enumerate().position(|(at, &byte)| ends(at, byte)).unwrap_or(bytes.len())
    };
    if len == 0 {
        return no(i);
    }
    let span = Span { start: i.at, end: i.at + len };
    Ok((Cursor { at: span.end, ..i }, Word { text: &i.source[span.start..span.end], span }))
}

/// `piece = "{" | "}" | "," | word without a ","`: what sets are made of.
pub(super) fn piece(i: Cursor<'_>) -> Parsed<'_, Word<'_>> {
    let i = i.skip(is_blank);
    if i.bytes().first() == Some(&b',') {
        let span = Span { start: i.at, end: i.at + 1 };
        return Ok((Cursor { at: span.end, ..i }, Word { text: i.text(span), span }));
    }
    up_to(i, b',')
}

/// The word that comes next in this rule, if any.
pub(super) fn peek(i: Cursor<'_>) -> Option<Word<'_>> {
    word(i).ok().map(|(_, word)| word)
}

/// One given word.
pub(super) fn keyword<'a>(text: &'static str) -> impl Fn(Cursor<'a>) -> Parsed<'a, Word<'a>> {
    move |i| match word(i) {
        Ok((rest, word)) if word.text == text => Ok((rest, word)),
        _ => no(i),
    }
}

/// `separator = { blank | newline | ";" | comment }`, `comment = "#" { any character but newline }`
///
/// A `;` in a comment is part of the comment.
pub(super) fn separator(i: Cursor<'_>) -> Cursor<'_> {
    let mut i = i.over_lines(false);
    loop {
        i = i.skip(|byte| is_blank(byte) || matches!(byte, b'\n' | b';'));
        if i.bytes().first() != Some(&b'#') {
            return i;
        }
        i = i.skip(|byte| byte != b'\n');
    }
}

/// After blanks, ends of lines and comments: what may stand between the pieces of a set.
pub(super) fn lines(mut i: Cursor<'_>) -> Cursor<'_> {
    loop {
        i = i.skip(|byte| is_blank(byte) || byte == b'\n');
        if i.bytes().first() != Some(&b'#') {
            return i;
        }
        i = i.skip(|byte| byte != b'\n');
    }
}

/// The end of this line.
pub(super) fn line_end(i: Cursor<'_>) -> Cursor<'_> {
    i.skip(|byte| byte != b'\n')
}

impl<'a> Cursor<'a> {
    /// At the start of a piece of `source`, after its byte order mark if some editor left one.
    pub fn new(source: &'a str, piece: Span, names: &'a Names) -> Self {
        let source = &source[..piece.end];
        let mark = if source[piece.start..].starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Cursor { source, at: piece.start + mark, names, in_chain: false, over_lines: false }
    }

    /// The same place, read as that of a chain between braces, or not.
    pub fn in_chain(self, in_chain: bool) -> Self {
        Cursor { in_chain, ..self }
    }

    /// The same place, in a line that was read on from another, or not.
    pub fn over_lines(self, over_lines: bool) -> Self {
        Cursor { over_lines, ..self }
    }

    /// Further on in the same text.
    pub fn skip_to(self, at: usize) -> Self {
        Cursor { at: at.clamp(self.at, self.source.len()), ..self }
    }

    /// The rest of the text, blanks around it left out, up to the end of its first line.
    pub fn line_behind(self) -> Option<Span> {
        let start = self.skip(|byte| is_blank(byte) || byte == b'\n').at;
        let line = self.source[start..].lines().next()?.trim_end();
        (!line.is_empty()).then_some(Span { start, end: start + line.len() })
    }

    /// The empty span right here.
    pub fn here(self) -> Span {
        Span { start: self.at, end: self.at }
    }

    pub fn text(self, span: Span) -> &'a str {
        &self.source[span.start..span.end]
    }

    fn bytes(self) -> &'a [u8] {
        &self.source.as_bytes()[self.at..]
    }

    fn skip(self, skipped: impl Fn(u8) -> bool) -> Self {
        let len = self.bytes().iter().position(|&byte| !skipped(byte)).unwrap_or(self.bytes().len());
        Cursor { at: self.at + len, ..self }
    }
}

/// A carriage return is a blank, so files with CRLF line ends need no care.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\x0b' | b'\x0c')
}
