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

/// A string of the language, in which nothing but quotes and backslashes means anything. Graphviz reads no string
/// of more than 16,384 bytes: a longer one is written in parts.
fn quoted(text: &str) -> String {
    const PART: usize = 8_000;
    let mut out = String::from("\"");
    let mut part = 0;
    for character in text.chars() {
        if part >= PART {
            out += "\" +\n      \"";
            part = 0;
        }
        let before = out.len();
        if matches!(character, '\\' | '"') {
            out.push('\\');
        }
        out.push(character);
        part += out.len() - before;
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn no_string_is_longer_than_graphviz_reads() {
        assert_eq!(quoted(r#"a "b" \"#), r#""a \"b\" \\""#);
        let ports = "8080, ".repeat(10_000);
        let text = quoted(&ports);
        let parts: Vec<&str> = text.split(" +\n      ").collect();
        assert!(parts.iter().all(|part| part.len() < 16_384));
        let inside =
            |part: &&str| part.strip_prefix('"').and_then(|part| part.strip_suffix('"')).map(str::to_owned);
        assert_eq!(parts.iter().map(inside).collect::<Option<String>>(), Some(ports));
        // An escape is in one part.
        assert!(quoted(&"\"".repeat(20_000)).contains("\\\"\" +\n"));
    }
}
