//! The whole diagram for Graphviz.
//!
//! Takes a diagram and its rules, gives text in the language of `dot`. Folds nothing.

use std::fmt::Write;

use super::Kind;
use super::sketch::{self, Limits};
use crate::diagram::Diagram;
use crate::ir::Ruleset;

pub fn dot(diagram: &Diagram, ruleset: &Ruleset) -> String {
    let mut out = String::from(
        "digraph sfunnel {\n  rankdir=LR\n  node [fontname=\"monospace\" fontsize=11 shape=box style=rounded]\n  \
         edge [fontname=\"monospace\" fontsize=10 color=gray40]\n",
    );
    for (number, sketch) in sketch::sketches(diagram, ruleset, Limits::ALL).iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  subgraph cluster_{number} {{\n    label={}", quoted(&sketch.title()));
        for (at, shape) in sketch.boxes.iter().enumerate() {
            let look = match shape.kind {
                Kind::Test => " shape=ellipse",
                Kind::Rule => "",
                Kind::Miss | Kind::More => " style=\"rounded,dashed\"",
            };
            let _ = writeln!(out, "    n{number}_{at} [label={}{look}]", quoted(&shape.text));
        }
        for arm in &sketch.arms {
            let (from, to) = (arm.from, arm.to);
            let label = quoted(&arm.values);
            let _ = writeln!(out, "    n{number}_{from} -> n{number}_{to} [label={label}]");
        }
        out += "  }\n";
    }
    out + "}\n"
}

/// A string of the language, in which nothing but quotes and backslashes means anything.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
