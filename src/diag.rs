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

    /// The empty span right behind.
    pub fn after(self) -> Span {
        Span { start: self.end, end: self.end }
    }
}

/// A ruleset's text and where it came from (a file name, or the name of a variable or flag).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source { name: name.into(), text: text.into() }
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
    let lines = Lines::new(&source.text);
    let mut out = String::new();
    for diagnostic in diagnostics.iter().take(MOST_SHOWN) {
        let drawn = renderer.render(&[group(&source.name, &lines, diagnostic)]);
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

fn group<'a>(name: &'a str, lines: &Lines<'a>, diagnostic: &'a Diagnostic) -> Group<'a> {
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
        match excerpts.iter_mut().find_map(|excerpt| excerpt.widened(lines, label.span)) {
            Some(excerpt) => excerpt.labels.push((kind, label)),
            None => excerpts.push(Excerpt::around(lines, kind, label)),
        }
    }
    for excerpt in &excerpts {
        group = group.element(excerpt.origin(name, lines)).element(excerpt.snippet(lines));
    }
    match &diagnostic.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}

/// A piece of the source that is short enough to be shown, and the labels in it.
struct Excerpt<'a> {
    span: Span,
    labels: Vec<(AnnotationKind, &'a Label)>,
}

impl<'a> Excerpt<'a> {
    fn around(lines: &Lines<'a>, kind: AnnotationKind, label: &'a Label) -> Excerpt<'a> {
        Excerpt { span: lines.window(label.span), labels: vec![(kind, label)] }
    }

    /// This excerpt, grown to hold `span` too, if that leaves it short.
    fn widened(&mut self, lines: &Lines<'a>, span: Span) -> Option<&mut Self> {
        let more = lines.window(span);
        let both = Span { start: self.span.start.min(more.start), end: self.span.end.max(more.end) };
        let fits = both.end - both.start <= 2 * WINDOW;
        fits.then(|| {
            self.span = both;
            self
        })
    }

    /// `name:line:column` of the first label.
    ///
    /// An `Origin` of its own, because a snippet's path would count columns from where a long line is cut.
    fn origin(&self, name: &'a str, lines: &Lines<'a>) -> Origin<'a> {
        let start = self.labels.first().map_or(0, |(_, label)| label.span.start);
        Origin::path(name).line(lines.line(start)).char_column(lines.column(start))
    }

    fn snippet(&self, lines: &Lines<'a>) -> Snippet<'a, Annotation<'a>> {
        let Span { start, end } = self.span;
        let annotations = self.labels.iter().map(|(kind, label)| {
            let from = label.span.start.clamp(start, end) - start;
            let to = label.span.end.clamp(start, end) - start;
            kind.span(from..to).label(label.text.as_str())
        });
        Snippet::source(&lines.text[start..end]).line_start(lines.line(start)).annotations(annotations)
    }
}

/// Finds lines and columns without walking the text again for every diagnostic.
struct Lines<'a> {
    text: &'a str,
    /// Where each line starts.
    starts: Vec<usize>,
    /// How many characters start before each block of `BLOCK` bytes.
    chars: Vec<usize>,
}

const BLOCK: usize = 256;

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let mut before = 0;
        let chars = std::iter::once(0)
            .chain(text.as_bytes().chunks(BLOCK).map(|block| {
                before += count_chars(block);
                before
            }))
            .collect();
        Lines { text, starts, chars }
    }

    /// Counted from 1.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at)
    }

    /// Counted from 1, in characters.
    fn column(&self, at: usize) -> usize {
        self.chars_before(at) - self.chars_before(self.starts[self.line(at) - 1]) + 1
    }

    fn chars_before(&self, at: usize) -> usize {
        let block = at / BLOCK;
        self.chars[block] + count_chars(&self.text.as_bytes()[block * BLOCK..at])
    }

    /// The line around `span`, or what is near `span` in a long one.
    fn window(&self, span: Span) -> Span {
        let line = self.line(span.start);
        let start = self.starts[line - 1];
        let end = self.starts.get(line).map_or(self.text.len(), |next| next - 1);
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
