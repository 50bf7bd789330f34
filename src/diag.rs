//! Spans, and diagnostics about the user's rules.
//!
//! Everything that is wrong with a ruleset is collected as [`Diagnostic`]s and rendered at once,
//! each with file, line, column, a caret and a remedy. Never about the system or our own bugs:
//! those are errors of `kernel` and `net`, and panics.

/// A range of bytes in a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// A ruleset's text and where it came from (a file name, or the name of a variable or flag).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub text: String,
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
