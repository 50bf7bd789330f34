//! `status --prometheus`: the text format of Prometheus, for node_exporter's textfile collector.
//!
//! Input: what `status` has found. Output: metrics, each with its HELP and TYPE even where it has no sample, so
//! that a query finds them. Labels hold rules and names of interfaces, which may be any text: they are escaped.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::io;

use crate::kernel::counters::{Count, Counts};
use crate::net::pair::Pair;

/// What is attached to one hook.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    pub(super) interface: &'a str,
    pub(super) hook: String,
    pub(super) point: String,
    pub(super) version: &'a str,
    pub(super) hash: &'a str,
    pub(super) rules: Option<usize>,
    /// Companion pairs that this uses, and whether each works.
    pub(super) pairs: Vec<(Pair, bool)>,
    pub(super) counters: Option<&'a Counts>,
    /// It counts, and the numbers cannot be read.
    pub(super) unreadable: bool,
}

/// A metric, with its samples.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    lines: Vec<(String, u64)>,
}

impl Metric {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self { name, kind, help, lines: Vec::new() }
    }

    fn add(&mut self, labels: &Labels, value: u64) {
        self.lines.push((labels.0.clone(), value));
    }
}

/// `name="value"`, with commas between.
#[derive(Debug, Clone, Default)]
struct Labels(String);

impl Labels {
    fn with(&self, name: &str, value: &str) -> Self {
        let comma = if self.0.is_empty() { "" } else { "," };
        Self(format!("{}{comma}{name}=\"{}\"", self.0, Escaped(value)))
    }
}

/// A label's value as the format wants it.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                // Readers differ on whether these end a line.
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    f.write_char(char::REPLACEMENT_CHARACTER)?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

pub(super) fn write(samples: &[Sample<'_>], left: usize, out: &mut dyn io::Write) -> io::Result<()> {
    let mut hooks = Metric::new("sfunnel_hooks", "gauge", "Hooks that sfunnel is attached to.");
    let mut devices =
        Metric::new("sfunnel_left_behind", "gauge", "Companion devices that nothing needs any more.");
    let mut attached = Metric::new(
        "sfunnel_attached_info",
        "gauge",
        "What is attached: version, and the beginning of the program's SHA-256.",
    );
    let mut rules = Metric::new("sfunnel_rules", "gauge", "Rules of what is attached.");
    let mut pairs = Metric::new(
        "sfunnel_pair_healthy",
        "gauge",
        "Whether a companion pair works; if not, what goes through it is lost.",
    );
    let mut readable = Metric::new(
        "sfunnel_counters_readable",
        "gauge",
        "Whether the counters of a hook that counts were read.",
    );
    let mut packets = Metric::new(
        "sfunnel_rule_packets_total",
        "counter",
        "Packets that a rule's action was carried out on.",
    );
    let mut bytes = Metric::new("sfunnel_rule_bytes_total", "counter", "Bytes of these packets.");
    let mut other_packets = Metric::new(
        "sfunnel_rule_exception_packets_total",
        "counter",
        "Packets that a rule matched, and why its action was not carried out.",
    );
    let mut other_bytes =
        Metric::new("sfunnel_rule_exception_bytes_total", "counter", "Bytes of these packets.");

    // A sample may be there once. Two on one hook are there for as long as one replaces the other.
    let mut seen = BTreeSet::new();
    for sample in samples {
        let labels = Labels::default().with("interface", sample.interface).with("hook", &sample.hook);
        let labels = labels.with("point", &sample.point);
        if !seen.insert(labels.0.clone()) {
            continue;
        }
        attached.add(&labels.with("version", sample.version).with("hash", sample.hash), 1);
        if let Some(number) = sample.rules {
            rules.add(&labels, wide(number));
        }
        for (pair, works) in &sample.pairs {
            let name = match pair {
                Pair::Segmentation => "segmentation",
                Pair::Merging => "merging",
            };
            pairs.add(&labels.with("pair", name), u64::from(*works));
        }
        if sample.unreadable || sample.counters.is_some() {
            readable.add(&labels, u64::from(!sample.unreadable));
        }
        for rule in sample.counters.iter().flat_map(|counts| &counts.rules) {
            let labels = labels.with("rule", &rule.about.rule.to_string()).with("text", &rule.about.text);
            let Count { packets: done, bytes: size } = rule.count;
            packets.add(&labels, done);
            bytes.add(&labels, size);
            for reason in &rule.reasons {
                let labels = labels.with("reason", reason.reason.key());
                other_packets.add(&labels, reason.count.packets);
                other_bytes.add(&labels, reason.count.bytes);
            }
        }
    }
    hooks.add(&Labels::default(), wide(seen.len()));
    devices.add(&Labels::default(), wide(left));
    let all = [hooks, devices, attached, rules, pairs, readable, packets, bytes, other_packets, other_bytes];
    for Metric { name, kind, help, lines } in all {
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        for (labels, value) in lines {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            writeln!(out, "{name}{labels} {value}")?;
        }
    }
    Ok(())
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_be_left() {
        let labels = Labels::default().with("text", "a\\\"} 1\nx{y=\"\r\u{1b}[2J\u{2028}");
        assert_eq!(labels.0, "text=\"a\\\\\\\"} 1\\nx{y=\\\"\u{fffd}\u{fffd}[2J\u{fffd}\"");
    }
}
