//! Spans, and diagnostics about the user's rules.
//!
//! Everything that is wrong with a ruleset is collected as [`Diagnostic`]s and rendered at once,
//! each with file, line, column, a caret and a remedy. Never about the system or our own bugs:
//! those are errors of `kernel` and `net`, and panics.

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// A range of bytes in a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// From the start of this one to the end of the other.
    pub fn to(self, last: Span) -> Span {
        Span { start: self.start, end: last.end }
    }

    /// The empty span right after.
    pub fn after(self) -> Span {
        Span { start: self.end, end: self.end }
    }
}

/// A ruleset's text and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A file name, or the name of a variable or flag.
    pub name: String,
    /// All pieces, a line end between them.
    pub text: String,
    pieces: Vec<Piece>,
}

/// A part of a ruleset that came from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub name: String,
    pub span: Span,
    pub kind: PieceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    Rules,
    /// What stands between the braces of a chain.
    Ingress,
    Egress,
    /// `NAME=VALUE`
    Define,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source::of(vec![(name.into(), PieceKind::Rules, text.into())])
    }

    /// Several pieces, each with the name that messages about it say, in the order in which they are read.
    pub fn of(given: Vec<(String, PieceKind, String)>) -> Source {
        let mut source = Source { name: String::new(), text: String::new(), pieces: Vec::new() };
        let mut names: Vec<&str> = Vec::new();
        for (name, kind, text) in &given {
            if !source.pieces.is_empty() {
                source.text.push('\n');
            }
            let start = source.text.len();
            source.text += text;
            let span = Span { start, end: source.text.len() };
            source.pieces.push(Piece { name: name.clone(), span, kind: *kind });
            if *kind != PieceKind::Define {
                names.push(name);
            }
        }
        if source.pieces.is_empty() {
            let (name, span) = (String::new(), Span::default());
            source.pieces.push(Piece { name, span, kind: PieceKind::Rules });
        }
        source.name = names.join(", ");
        source
    }

    /// The same, with `defines` (`NAME=VALUE`) in front, called `name`.
    #[must_use]
    /// With rules in front.
    pub fn behind(self, name: &str, rules: &str) -> Source {
        let own = self.pieces.iter().map(|piece| {
            let Span { start, end } = piece.span;
            (piece.name.clone(), piece.kind, self.text[start..end].to_owned())
        });
        let first = (name.to_owned(), PieceKind::Rules, rules.to_owned());
        Source::of(std::iter::once(first).chain(own).collect())
    }

    pub fn with_defines(self, name: &str, defines: &[String]) -> Source {
        let before = defines.iter().map(|text| (name.to_owned(), PieceKind::Define, text.clone()));
        let own = self.pieces.iter().map(|piece| {
            let Span { start, end } = piece.span;
            (piece.name.clone(), piece.kind, self.text[start..end].to_owned())
        });
        Source::of(before.chain(own).collect())
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The piece that a place is in, and its line there, counted from 1.
    pub fn line(&self, at: usize) -> (&str, usize) {
        let piece = self.piece(at);
        let before = self.text.get(piece.span.start..at).unwrap_or_default();
        (&piece.name, before.matches('\n').count() + 1)
    }

    fn piece(&self, at: usize) -> &Piece {
        let next = self.pieces.partition_point(|piece| piece.span.start <= at);
        &self.pieces[next.saturating_sub(1)]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// A span with a few words about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub span: Span,
    pub text: String,
}

/// One thing that is wrong, or suspicious.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// What is wrong, in the user's words: lower case, no full stop.
    pub message: String,
    pub primary: Label,
    /// Other places that matter, such as the first of two conflicting words.
    pub secondary: Vec<Label>,
    /// What to write instead.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn error(message: impl Into<String>, span: Span, label: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            message: message.into(),
            primary: Label { span, text: label.into() },
            secondary: Vec::new(),
            help: None,
        }
    }

    pub fn warning(message: impl Into<String>, span: Span, label: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message, span, label) }
    }

    #[must_use]
    pub fn with(mut self, span: Span, label: impl Into<String>) -> Diagnostic {
        self.secondary.push(Label { span, text: label.into() });
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }
}

/// Text of the user's, fit to be quoted in one line of a message: shortened, nothing invisible.
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 40;
    let shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    let cut = if text.chars().nth(LONGEST).is_some() { "..." } else { "" };
    format!("`{}{cut}`", shown.replace("\\'", "'").replace("\\\"", "\""))
}

/// More than these say nothing new, and a megabyte of garbage must not become a gigabyte of talk.
const MOST_SHOWN: usize = 1000;

/// Lines up to this many bytes are shown whole (that is: cut by the renderer to fit a terminal).
/// Of longer ones only this much around each label is given to the renderer, whose work grows
/// with the length of the line.
const WINDOW: usize = 400;

/// All diagnostics as the user sees them, in the order given, and how many there are if more than one.
pub fn render(source: &Source, diagnostics: &[Diagnostic], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let pieces = source.pieces.iter().map(|piece| Lines::new(piece, &source.text));
    let pieces: Vec<Lines<'_>> = pieces.collect();
    let mut out = String::new();
    for diagnostic in diagnostics.iter().take(MOST_SHOWN) {
        let drawn = renderer.render(&[group(&pieces, diagnostic)]);
        // The renderer puts a header without a name between an `Origin` and its snippet.
        for line in drawn.lines().filter(|line| bare(line).trim() != ":::") {
            out += line;
            out += "\n";
        }
        out += "\n";
    }
    if diagnostics.len() > 1 {
        out += &summary(diagnostics);
        out += "\n";
    } else {
        out.pop();
    }
    out
}

/// A line without its colours.
fn bare(line: &str) -> String {
    line.split('\x1b').map(|piece| piece.split_once('m').map_or(piece, |(_, text)| text)).collect()
}

/// `3 errors, 1 warning`
fn summary(diagnostics: &[Diagnostic]) -> String {
    let count = |severity, noun: &str| {
        let n = diagnostics.iter().filter(|d| d.severity == severity).count();
        (n > 0).then(|| format!("{n} {noun}{}", if n == 1 { "" } else { "s" }))
    };
    let counts: Vec<_> = [count(Severity::Error, "error"), count(Severity::Warning, "warning")]
        .into_iter()
        .flatten()
        .collect();
    let hidden = if diagnostics.len() > MOST_SHOWN {
        format!(" (the first {MOST_SHOWN} are shown)")
    } else {
        "".into()
    };
    counts.join(", ") + &hidden
}

fn group<'a>(pieces: &'a [Lines<'a>], diagnostic: &'a Diagnostic) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = level.primary_title(diagnostic.message.as_str()).elements(None::<Origin<'_>>);
    let labels = std::iter::once((AnnotationKind::Primary, &diagnostic.primary))
        .chain(diagnostic.secondary.iter().map(|label| (AnnotationKind::Context, label)));

    // Labels that are close together share a snippet; the others get one each.
    let mut excerpts: Vec<Excerpt<'a>> = Vec::new();
    for (kind, label) in labels {
        let next = pieces.partition_point(|lines| lines.piece.span.start <= label.span.start);
        let lines = &pieces[next.saturating_sub(1)];
        match excerpts.iter_mut().find_map(|excerpt| excerpt.widened(lines, label.span)) {
            Some(excerpt) => excerpt.labels.push((kind, label)),
            None => excerpts.push(Excerpt::around(lines, kind, label)),
        }
    }
    for excerpt in &excerpts {
        group = group.element(excerpt.origin()).element(excerpt.snippet());
    }
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// A part of a piece that is short enough to be shown, and the labels in it.
struct Excerpt<'a> {
    lines: &'a Lines<'a>,
    span: Span,
    labels: Vec<(AnnotationKind, &'a Label)>,
}

impl<'a> Excerpt<'a> {
    fn around(lines: &'a Lines<'a>, kind: AnnotationKind, label: &'a Label) -> Excerpt<'a> {
        Excerpt { lines, span: lines.window(label.span), labels: vec![(kind, label)] }
    }

    /// This excerpt, grown to hold `span` too, if that leaves it short.
    fn widened(&mut self, lines: &Lines<'a>, span: Span) -> Option<&mut Self> {
        let more = lines.window(span);
        let both = Span { start: self.span.start.min(more.start), end: self.span.end.max(more.end) };
        let fits = self.lines.piece.span == lines.piece.span && both.end - both.start <= 2 * WINDOW;
        fits.then(|| {
            self.span = both;
            self
        })
    }

    /// `name:line:column` of the first label.
    ///
    /// An `Origin` of its own, because a snippet's path would count columns from where a long line is cut.
    fn origin(&self) -> Origin<'a> {
        let start = self.labels.first().map_or(0, |(_, label)| label.span.start);
        let Lines { piece, .. } = self.lines;
        Origin::path(piece.name.as_str()).line(self.lines.line(start)).char_column(self.lines.column(start))
    }

    fn snippet(&self) -> Snippet<'a, Annotation<'a>> {
        let Span { start, end } = self.span;
        let annotations = self.labels.iter().map(|(kind, label)| {
            let from = label.span.start.clamp(start, end) - start;
            let to = label.span.end.clamp(start, end) - start;
            kind.span(from..to).label(label.text.as_str())
        });
        let shown = &self.lines.text[start..end];
        Snippet::source(shown).line_start(self.lines.line(start)).annotations(annotations)
    }
}

/// Finds lines and columns without walking the text again for every diagnostic.
struct Lines<'a> {
    piece: &'a Piece,
    /// Of all pieces.
    text: &'a str,
    /// Where each line of the piece starts.
    starts: Vec<usize>,
    /// How many characters start before each block of `BLOCK` bytes of the piece.
    chars: Vec<usize>,
}

const BLOCK: usize = 256;

impl<'a> Lines<'a> {
    fn new(piece: &'a Piece, text: &'a str) -> Lines<'a> {
        let Span { start, end } = piece.span;
        let own = &text[start..end];
        let newlines = own.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let starts = std::iter::once(start).chain(newlines.map(|(at, _)| start + at + 1)).collect();
        let mut before = 0;
        let chars = std::iter::once(0)
            .chain(own.as_bytes().chunks(BLOCK).map(|block| {
                before += count_chars(block);
                before
            }))
            .collect();
        Lines { piece, text, starts, chars }
    }

    /// Counted from 1.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at).max(1)
    }

    /// Counted from 1, in characters.
    fn column(&self, at: usize) -> usize {
        self.chars_before(at) - self.chars_before(self.starts[self.line(at) - 1]) + 1
    }

    fn chars_before(&self, at: usize) -> usize {
        let Span { start, end } = self.piece.span;
        let block = (at.clamp(start, end) - start) / BLOCK;
        let from = start + block * BLOCK;
        self.chars[block] + count_chars(&self.text.as_bytes()[from..at.clamp(from, end)])
    }

    /// The line around `span`, or what is near `span` in a long one.
    fn window(&self, span: Span) -> Span {
        let line = self.line(span.start);
        let start = self.starts[line - 1];
        let end = self.starts.get(line).map_or(self.piece.span.end, |next| next - 1);
        let end = if self.text[start..end].ends_with('\r') { end - 1 } else { end };
        if end - start <= WINDOW {
            return Span { start, end };
        }
        Span {
            start: self.text.floor_char_boundary(span.start.saturating_sub(WINDOW / 2).max(start)),
            end: self.text.floor_char_boundary((span.start + WINDOW / 2).min(end)),
        }
    }
}

/// Bytes that are not the continuation of a character (RFC 3629).
fn count_chars(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}
