//! The decision diagram as a picture: boxes and lines, each with its place.
//!
//! Takes a [`Diagram`] and its rules, gives [`Drawing`]s, or their text as SVG or for Graphviz. Where boxes are is worked
//! out by the crate `layout-rs`. What is too large to be looked at is folded; only the text for Graphviz has all of it.
//! Never decides anything: what is drawn is what [`Diagram::groups`] says.

mod dot;
mod layout;
mod sketch;
mod svg;

use serde::Serialize;

pub use self::dot::dot;
pub use self::svg::svg;
use crate::diagram::Diagram;
use crate::ir::Ruleset;

/// What packets of a protocol are asked, and where that leads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drawing {
    pub title: String,
    pub width: f64,
    pub height: f64,
    pub shapes: Vec<Shape>,
    pub lines: Vec<Line>,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shape {
    pub kind: Kind,
    pub text: String,
    /// The nodes of the diagram that it stands for: one for each version of IP.
    pub nodes: Vec<usize>,
    pub rule: Option<usize>,
    /// Of a test's folded lines: it stands for what the groups of its values from this one on lead to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<usize>,
    /// Its upper left corner.
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Test,
    Rule,
    /// No rule: the packet passes.
    Miss,
    /// What is folded.
    More,
}

/// From a test to what values of its field lead to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Shapes.
    pub from: usize,
    pub to: usize,
    /// The values, shortened, and all of them.
    pub text: String,
    pub full: String,
    /// The middle of the text.
    pub x: f64,
    pub y: f64,
    /// As SVG has it.
    pub path: String,
}

/// A drawing for each protocol, folded; both versions of IP in one where their diagrams look alike.
pub fn drawings(diagram: &Diagram, ruleset: &Ruleset) -> Vec<Drawing> {
    sketch::sketches(diagram, ruleset, sketch::Limits::FOLDED).iter().map(layout::layout).collect()
}
