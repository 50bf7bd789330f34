//! A table with a column for each way, and below each line its ratios to the overlay.

use super::Way;

/// Which of two results is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

#[derive(Debug)]
pub struct Row {
    what: String,
    better: Better,
    /// Of each way, a result for each round.
    results: Vec<Vec<f64>>,
}

const WIDTH: usize = 46;

pub fn head() {
    let names: String = Way::ALL.iter().map(|way| format!(" {:>10}", way.name())).collect();
    println!("{:<WIDTH$}{names}", "");
}

impl Row {
    pub fn new(what: impl Into<String>, better: Better, results: Vec<Vec<f64>>) -> Row {
        Row { what: what.into(), better, results }
    }

    pub fn print(&self) {
        let shown = |value: f64| match value {
            value if value.is_nan() => "-".to_owned(),
            value if value >= 1000.0 => format!("{value:.0}"),
            value if value >= 100.0 => format!("{value:.1}"),
            value => format!("{value:.2}"),
        };
        let cells = |of: &dyn Fn(Way) -> String| -> String {
            Way::ALL.iter().map(|way| format!(" {:>10}", of(*way))).collect()
        };
        let medians = cells(&|way| shown(median(self.of(way).to_vec())));
        println!("{:<WIDTH$}{medians}", self.what);
        println!("{:<WIDTH$}{}", "  times the overlay's", cells(&|way| format!("x {:.2}", self.ratio(way))));
    }

    /// Whether a way is as much better than the overlay as it should be.
    pub fn judge(&self, way: Way, wanted: f64) {
        let ratio = self.ratio(way);
        let judged = if ratio >= wanted { "met" } else { "missed" };
        println!("{:<WIDTH$} at least {wanted:.2}: {ratio:.2}, {judged}", self.what);
    }

    fn of(&self, way: Way) -> &[f64] {
        let at = Way::ALL.iter().position(|known| *known == way);
        at.and_then(|at| self.results.get(at)).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many times better it is than the overlay, whatever is measured.
    fn ratio(&self, way: Way) -> f64 {
        let pairs = self.of(way).iter().zip(self.of(Way::Overlay));
        median(
            pairs
                .map(
                    |(this, overlay)| {
                        if self.better == Better::More { this / overlay } else { overlay / this }
                    },
                )
                .collect(),
        )
    }
}

/// Of those that are numbers; not a number, if there is none.
fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
