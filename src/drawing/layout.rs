//! Places for boxes and lines, as `layout-rs` finds them.
//!
//! Takes a sketch, gives a drawing, from left to right. The values of an arm are a box of their own to the layout, so
//! that there is room for them. Never changes what is drawn.

use std::fmt::Write;

use layout::core::base::Orientation;
use layout::core::format::{ClipHandle, RenderBackend};
use layout::core::geometry::{Point, Position};
use layout::core::style::{LineStyleKind, StyleAttr};
use layout::std_shapes::shapes::{Arrow, Element, LineEndKind, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::sketch::Sketch;
use super::{Drawing, Line, Shape};

/// Of a character, at 12 pixels, in the fonts with a fixed width.
const CHARACTER: f64 = 7.3;
const HEIGHT: f64 = 26.0;
const TEXT_HEIGHT: f64 = 16.0;
const MARGIN: f64 = 8.0;
/// Characters of a text.
const LONGEST: usize = 34;

pub(super) fn layout(sketch: &Sketch) -> Drawing {
    let mut graph = VisualGraph::new(Orientation::LeftToRight);
    let boxes: Vec<_> = sketch
        .boxes
        .iter()
        .enumerate()
        .map(|(at, shape)| graph.add_node(element(&shape.text, 22.0, HEIGHT, &format!("box {at}"))))
        .collect();
    for (at, arm) in sketch.arms.iter().enumerate() {
        let values = graph.add_node(element(&arm.values, 10.0, TEXT_HEIGHT, &format!("values {at}")));
        graph.add_edge(arrow(&format!("line {at}")), boxes[arm.from], values);
        graph.add_edge(arrow(&format!("line {at}")), values, boxes[arm.to]);
    }
    let mut places = Places {
        boxes: vec![(Point::zero(), Point::zero()); sketch.boxes.len()],
        values: vec![(Point::zero(), Point::zero()); sketch.arms.len()],
        paths: vec![Vec::new(); sketch.arms.len()],
    };
    graph.do_it(false, false, false, &mut places);
    places.drawing(sketch)
}

fn element(text: &str, padding: f64, height: f64, name: &str) -> Element {
    let size = Point::new(width(text) + padding, height);
    let mut element = Element::create_with_properties(
        ShapeKind::new_box(""),
        StyleAttr::simple(),
        Orientation::LeftToRight,
        size,
        name,
    );
    element.pos = Position::new(Point::zero(), size, Point::zero(), Point::new(22.0, 12.0));
    element
}

fn arrow(name: &str) -> Arrow {
    let look = StyleAttr::simple();
    Arrow::with_properties(
        LineEndKind::None,
        LineEndKind::Arrow,
        LineStyleKind::Normal,
        "",
        &look,
        name,
        &None,
        &None,
    )
}

fn width(text: &str) -> f64 {
    let characters = u32::try_from(text.chars().count().min(LONGEST)).unwrap_or(u32::MAX);
    f64::from(characters) * CHARACTER
}

/// As much of a text as there is room for.
fn short(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// What the layout draws: only places are kept.
struct Places {
    /// Upper left corners and sizes.
    boxes: Vec<(Point, Point)>,
    values: Vec<(Point, Point)>,
    /// Of each arm, both parts.
    paths: Vec<Vec<Vec<(Point, Point)>>>,
}

impl RenderBackend for Places {
    fn draw_rect(
        &mut self,
        xy: Point,
        size: Point,
        _: &StyleAttr,
        name: Option<String>,
        _: Option<ClipHandle>,
    ) {
        let name = name.unwrap_or_default();
        let (list, at) = match name.split_once(' ') {
            Some(("box", at)) => (&mut self.boxes, at),
            Some(("values", at)) => (&mut self.values, at),
            _ => return,
        };
        if let Some(place) = at.parse().ok().and_then(|at: usize| list.get_mut(at)) {
            *place = (xy, size);
        }
    }

    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        _: bool,
        _: (bool, bool),
        _: &StyleAttr,
        name: Option<String>,
        _: &str,
    ) {
        let name = name.unwrap_or_default();
        let at = name.strip_prefix("line ").and_then(|at| at.parse().ok());
        if let Some(paths) = at.and_then(|at: usize| self.paths.get_mut(at)) {
            paths.push(path.to_vec());
        }
    }

    fn draw_line(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_circle(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_text(&mut self, _: Point, _: &str, _: &StyleAttr) {}

    fn create_clip(&mut self, _: Point, _: Point, _: usize) -> ClipHandle {
        0
    }
}

impl Places {
    fn drawing(self, sketch: &Sketch) -> Drawing {
        let all = || self.boxes.iter().chain(&self.values);
        let left = all().map(|(xy, _)| xy.x).fold(f64::INFINITY, f64::min) - MARGIN;
        let top = all().map(|(xy, _)| xy.y).fold(f64::INFINITY, f64::min) - MARGIN;
        let right = all().map(|(xy, size)| xy.x + size.x).fold(left, f64::max) + MARGIN;
        let bottom = all().map(|(xy, size)| xy.y + size.y).fold(top, f64::max) + MARGIN;
        let moved = |point: Point| Point::new((point.x - left).round(), (point.y - top).round());
        let shapes = sketch.boxes.iter().zip(&self.boxes).map(|(shape, (xy, size))| Shape {
            kind: shape.kind,
            text: short(&shape.text),
            nodes: shape.nodes.clone(),
            rule: shape.rule,
            after: shape.after,
            x: (xy.x - left).round(),
            y: (xy.y - top).round(),
            width: size.x.round(),
            height: size.y.round(),
        });
        let shapes: Vec<Shape> = shapes.collect();
        let right_of = |(xy, size): (Point, Point)| moved(Point::new(xy.x + size.x, xy.y + size.y / 2.0));
        let left_of = |(xy, size): (Point, Point)| moved(Point::new(xy.x, xy.y + size.y / 2.0));
        let lines = sketch.arms.iter().zip(&self.values).zip(&self.paths);
        let lines = lines.map(|((arm, values), paths)| {
            let (xy, size) = *values;
            let ends = [(self.boxes[arm.from], *values), (*values, self.boxes[arm.to])];
            let parts = ends.iter().zip(paths).map(|((from, to), path)| {
                // The ends are the boxes'.
                let between = path.iter().skip(1).take(path.len().saturating_sub(2));
                let between = between.map(|(_, point)| moved(*point));
                let points = std::iter::once(right_of(*from)).chain(between).chain([left_of(*to)]);
                curve(&points.collect::<Vec<_>>())
            });
            Line {
                from: arm.from,
                to: arm.to,
                text: short(&arm.values),
                full: arm.values.clone(),
                x: (xy.x + size.x / 2.0 - left).round(),
                y: (xy.y + size.y / 2.0 - top).round(),
                path: parts.collect::<Vec<_>>().join(" "),
            }
        });
        let lines = lines.collect();
        Drawing {
            title: sketch.title(),
            width: (right - left).round(),
            height: (bottom - top).round(),
            shapes,
            lines,
        }
    }
}

/// Bézier curves that leave and arrive level, by way of the places that the layout keeps free for the line.
fn curve(points: &[Point]) -> String {
    let mut text = String::new();
    for (from, to) in points.iter().zip(points.iter().skip(1)) {
        let middle = ((from.x + to.x) / 2.0).round();
        if text.is_empty() {
            let _ = write!(text, "M{},{}", from.x, from.y);
        }
        let _ = write!(text, " C{middle},{} {middle},{} {},{}", from.y, to.y, to.x, to.y);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(short("22, 80"), "22, 80");
        let long = short(&"ä".repeat(100));
        assert_eq!((long.chars().count(), long.ends_with('…')), (34, true));
    }
}
