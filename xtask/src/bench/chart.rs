//! Charts of how things grow with the number of rules, as SVG.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::scale::{Row, Scale, float};

const SIZE: (u32, u32) = (760, 420);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x55, 0x55, 0x55),
];

struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

pub fn all(scale: &Scale) -> Result<Vec<(&'static str, String)>> {
    let line = |name, family, of: &dyn Fn(&Row) -> Option<f64>| Line {
        name,
        points: scale.rows_of(family).filter_map(|row| Some((float(row.rules), of(row)?))).collect(),
    };
    let on_device = |way: &'static str| move |row: &Row| row.device.get(way)?.ns.miss;
    let load = |way: &'static str| move |row: &Row| row.device.get(way)?.load;
    let slots = |row: &Row| Some(row.a_rule(row.slots));
    let packets = [
        line("sfunnel", "uniform", &on_device("sfunnel")),
        line("nftables, one rule each", "uniform", &on_device("rules")),
        line("nftables, one map", "uniform", &on_device("map")),
        line("linear program (by itself)", "uniform", &|row| row.linear.ns.miss),
    ];
    let seconds = [
        line("sfunnel attach, all of it", "uniform", &load("sfunnel")),
        line("of that, compiling", "uniform", &|row| Some(row.seconds.compile())),
        line("nft -f, one rule each", "uniform", &load("rules")),
        line("nft -f, one map", "uniform", &load("map")),
    ];
    let slots = [
        line("uniform", "uniform", &slots),
        line("uniform, IPv6", "uniform ip6", &slots),
        line("prefixes", "prefixes", &slots),
        line("prefixes, IPv6", "prefixes ip6", &slots),
    ];
    Ok(vec![
        ("miss", chart("A packet that no rule matches: ns over nothing attached", "ns", &packets)?),
        ("seconds", chart("From rules to filtering: seconds", "s", &seconds)?),
        ("slots", chart("Instructions per rule, all included", "instructions per rule", &slots)?),
    ])
}

/// Logarithmic both ways.
fn chart(title: &str, unit: &str, lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, title, unit, lines).map_err(|error| anyhow!("{title}: {error}"))?;
    Ok(svg + "\n")
}

fn draw(svg: &mut String, title: &str, unit: &str, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    // What is not above 0 has no logarithm: less than nothing is noise.
    let points = || lines.iter().flat_map(|line| &line.points).filter(|point| point.1 > 0.0);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(1.0, f64::max);
    let least = points().map(|point| point.1).fold(f64::INFINITY, f64::min).min(1.0);
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(62)
        .build_cartesian_2d(
            (1.0..1.2 * most(|point| point.0)).log_scale(),
            (0.8 * least..1.4 * most(|point| point.1)).log_scale(),
        )?;
    let number = |value: &f64| if *value >= 0.01 { format!("{value}") } else { format!("{value:.0e}") };
    chart
        .configure_mesh()
        .x_desc("rules")
        .y_desc(unit)
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(WHITE)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS) {
        let points = || line.points.iter().copied().filter(|point| point.1 > 0.0);
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points().map(|point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}
