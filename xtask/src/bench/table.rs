//! Tables of docs/performance.md from what the bench `scale` has written.

use std::fmt::Write as _;

use super::scale::{Engine, Packets, Row, Scale, float};

/// By name, what stands between the marks on the page.
pub fn all(scale: &Scale) -> Vec<(String, String)> {
    let named = |name: &str, text: String| (name.to_owned(), text);
    vec![
        named("machine", machine(scale)),
        named("targets", targets(scale)),
        named("growth", growth(scale)),
        named("packets", packets(scale)),
        named("beside", beside(scale)),
    ]
}

const CLASSBENCH: [&str; 5] = ["acl1", "acl3", "fw1", "fw2", "ipc1"];

fn machine(scale: &Scale) -> String {
    let machine = &scale.machine;
    let build = if machine.optimised {
        ""
    } else {
        " The build was one for tests, so compiling takes longer than it does in a release."
    };
    format!(
        "{}, {} processors; Linux {}. Load average at the end of the run: {}, of which the bench itself makes 1.{build}\n",
        machine.processor, machine.processors, machine.kernel, machine.load
    )
}

/// What the project has set itself, and the worst that was measured.
fn targets(scale: &Scale) -> String {
    let mut table = String::from("| what | wanted | measured | |\n|---|---|---|---|\n");
    let mut row = |what: &str, wanted: &str, measured: String, met: bool| {
        let _ = writeln!(
            table,
            "| {what} | {wanted} | {measured} | {} |",
            if met { "met" } else { "**missed**" }
        );
    };
    let worst = |rows: &[&Row], of: &dyn Fn(&Row) -> f64| rows.iter().map(|row| of(row)).fold(0.0, f64::max);
    let starting = |words: &[&str]| -> Vec<&Row> {
        scale.rows.iter().filter(|row| words.iter().any(|word| row.shape.starts_with(word))).collect()
    };
    let sets = starting(&["sets", "pool"]);
    let sets: Vec<&Row> = sets.into_iter().filter(|row| !row.shape.ends_with("1000")).collect();
    let (seconds, memory) = (worst(&sets, &|row| row.seconds.compile()), worst(&sets, &|row| row.megabytes));
    row(
        "four sets of up to 300 values in each rule: compile",
        "under 3 s",
        format!("{seconds:.2} s"),
        seconds < 3.0,
    );
    row("the same: memory", "under 300 MB", format!("{memory:.0} MB"), memory < 300.0);
    let uniform: Vec<&Row> = scale.rows.iter().filter(|row| row.shape == "uniform 65536").collect();
    let slots = worst(&uniform, &|row| row.a_rule(row.slots));
    row("65,536 uniform rules: instructions per rule", "at most 8", format!("{slots:.1}"), slots <= 8.0);
    let both = worst(&uniform, &|row| row.seconds.compile() + row.seconds.load);
    row("the same: compile and load", "at most 2.5 s", format!("{both:.2} s"), both <= 2.5);
    let miss = worst(&uniform, &|row| row.ns.miss.unwrap_or(f64::INFINITY));
    row("the same: no match, over an empty program", "at most 20 ns", format!("{miss:.1} ns"), miss <= 20.0);
    let classbench = starting(&CLASSBENCH);
    let seconds = worst(&classbench, &|row| row.seconds.compile());
    row(
        "ClassBench, 1,000 and 10,000 rules: compile",
        "at most 3 s",
        format!("{seconds:.2} s"),
        seconds <= 3.0,
    );
    let arms =
        worst(&classbench, &|row| (float(row.arms) - float(256 * row.chains)).max(0.0) / float(row.ends));
    let wanted = "at most 3, and 256 for each chain";
    row(
        "the same: arms of the diagram for each end of a range",
        wanted,
        format!("{arms:.2}, and 256"),
        arms <= 3.0,
    );
    // One for each protocol is the diagram itself.
    let more = |set: &str| {
        let row = scale.rows.iter().find(|row| row.shape == format!("{set} 1000"));
        row.map_or(usize::MAX, |row| row.chains.saturating_sub(2))
    };
    let chains = CLASSBENCH.map(more);
    row(
        "the same, 1,000 rules: chains beyond one for each protocol (the decision tree before had 0, 13, 28, 22, 14)",
        "at most half",
        chains.map(|chains| chains.to_string()).join(", "),
        chains.iter().zip([0, 13, 28, 22, 14]).all(|(now, before)| 2 * now <= before),
    );
    table
}

fn growth(scale: &Scale) -> String {
    let mut table = String::from(
        "| shape | rules | instructions | per rule | nodes per rule | depth | chains | compile s | load s | MB | verified |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in &scale.rows {
        let _ = writeln!(
            table,
            "| {} | {} | {} | {:.1} | {:.1} | {} | {} | {:.3} | {:.3} | {:.0} | {} |",
            row.shape,
            row.rules,
            row.slots,
            row.a_rule(row.slots),
            row.a_rule(row.nodes),
            row.depth,
            row.chains,
            row.seconds.compile(),
            row.seconds.load,
            row.megabytes,
            row.verified
        );
    }
    table
}

/// Ours and the linear program, by themselves.
fn packets(scale: &Scale) -> String {
    let mut table = String::from(
        "| shape | miss | first | middle | last | linear: miss | first | middle | last | its instructions | its load s |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in &scale.rows {
        let linear = &row.linear;
        let _ = write!(table, "| {} | {} | ", row.shape, four(&row.ns));
        let _ = match &linear.error {
            Some(error) => writeln!(table, "{} | | | | {} | |", plain(error), count(linear.slots)),
            None => {
                writeln!(table, "{} | {} | {} |", four(&linear.ns), count(linear.slots), seconds(linear.load))
            }
        };
    }
    table
}

/// On a device, beside nftables.
fn beside(scale: &Scale) -> String {
    let mut table = String::from(
        "| shape | sfunnel: s | miss | last | nft rules: s | miss | last | nft map: s | miss | last |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let cells = |engine: Option<&Engine>| match engine {
        None => "– | – | –".to_owned(),
        Some(Engine { error: Some(error), .. }) => format!("{} | – | –", plain(error)),
        Some(engine) => {
            format!("{} | {} | {}", seconds(engine.load), number(engine.ns.miss), number(engine.ns.last))
        }
    };
    for row in &scale.rows {
        let of = |way: &str| cells(row.device.get(way));
        let _ = writeln!(table, "| {} | {} | {} | {} |", row.shape, of("sfunnel"), of("rules"), of("map"));
    }
    table
}

fn four(ns: &Packets) -> String {
    [ns.miss, ns.first, ns.middle, ns.last].map(number).join(" | ")
}

fn number(value: Option<f64>) -> String {
    value.map_or(
        "–".to_owned(),
        |value| if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") },
    )
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2}"))
}

fn count(value: Option<usize>) -> String {
    value.map_or("–".to_owned(), |value| value.to_string())
}

/// What does not end a cell.
fn plain(error: &str) -> String {
    error.replace('|', "/")
}
