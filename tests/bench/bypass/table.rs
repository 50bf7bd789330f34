//! A table with a column for each way, and below each line its ratios to the overlay and to the host.

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
        for (what, to) in [("  times the overlay's", Way::Overlay), ("  times the host's", Way::Host)] {
            println!("{what:<WIDTH$}{}", cells(&|way| format!("x {:.2}", self.ratio(way, to))));
        }
    }

    /// Whether a way is as good against another one as it should be.
    pub fn judge(&self, way: Way, to: Way, wanted: f64) {
        let ratio = self.ratio(way, to);
        let judged = if ratio >= wanted { "met" } else { "missed" };
        println!("{:<WIDTH$} at least {wanted:.2}: {ratio:.3}, {judged}", self.what);
    }

    fn of(&self, way: Way) -> &[f64] {
        let at = Way::ALL.iter().position(|known| *known == way);
        at.and_then(|at| self.results.get(at)).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many times better than another way it is, whatever is measured.
    fn ratio(&self, way: Way, to: Way) -> f64 {
        let pairs = self.of(way).iter().zip(self.of(to));
        let times = |(this, other): (&f64, &f64)| match self.better {
            Better::More => this / other,
            Better::Less => other / this,
        };
        median(pairs.map(times).collect())
    }
}

/// Of those that are numbers; not a number, if there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| !value.is_nan());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
