//! Drawings as an SVG file of its own.
//!
//! Takes drawings, gives text that is the same for the same rules. Light and dark as whoever shows it prefers; no script,
//! no font from elsewhere. Escaping is the crate's (`maud`).

use maud::{Markup, PreEscaped, html};

use super::{Drawing, Kind};

/// What both looks have in common, and what each is.
const STYLE: &str = include_str!("svg.css");
const TITLE: f64 = 28.0;

/// All drawings, one below the other.
pub fn svg(drawings: &[Drawing]) -> String {
    let width = drawings.iter().map(|drawing| drawing.width).fold(220.0, f64::max);
    let height: f64 = drawings.iter().map(|drawing| drawing.height + TITLE).sum();
    let mut top = 0.0;
    let all = drawings.iter().map(|drawing| {
        let at = top;
        top += drawing.height + TITLE;
        self::drawing(drawing, at)
    });
    let all: Vec<Markup> = all.collect();
    let titles: Vec<&str> = drawings.iter().map(|drawing| drawing.title.as_str()).collect();
    let picture = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (width) " " (height) } width=(width) height=(height)
            role="img" aria-label={ "Decision diagram: " (titles.join("; ")) } {
            style { (PreEscaped(STYLE)) }
            @for drawing in &all { (drawing) }
        }
    };
    // A line for each element: a change of the rules is a change of few lines.
    let text = picture.into_string().replace("></path>", "/>").replace("></rect>", "/>");
    text.replace("><", ">\n<") + "\n"
}

fn drawing(drawing: &Drawing, top: f64) -> Markup {
    html! {
        g transform={ "translate(0 " (top) ")" } {
            text.title x="8" y="19" { (drawing.title) }
            g transform={ "translate(0 " (TITLE) ")" } {
                @for line in &drawing.lines {
                    path.line d=(line.path) {}
                    text.values x=(line.x) y=(line.y + 4.0) { (line.text) }
                }
                @for shape in &drawing.shapes {
                    g class=(class(shape.kind)) {
                        rect x=(shape.x) y=(shape.y) width=(shape.width) height=(shape.height) rx=(radius(shape.kind)) {}
                        text x=(shape.x + shape.width / 2.0) y=(shape.y + shape.height / 2.0 + 4.0) { (shape.text) }
                    }
                }
            }
        }
    }
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Test => "test",
        Kind::Rule => "rule",
        Kind::Miss => "miss",
        Kind::More => "more",
    }
}

fn radius(kind: Kind) -> u8 {
    match kind {
        Kind::Test => 13,
        Kind::Rule | Kind::Miss | Kind::More => 4,
    }
}
