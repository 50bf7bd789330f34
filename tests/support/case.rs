//! A ruleset and packets to run through it, as a text file (`testdata/regressions/*.txt`).
//!
//! In and out: text such as the one below. Free text on top says what to look at. Packets are the
//! words of `words.rs` or `hex FRAME`; `gso N` and `mark N` may follow either, and `#` starts a comment.
//! A packet may end in `=> rule N`, `=> miss`: checked against the model, which is then checked
//! against the other engines.
//!
//! ```text
//! Inner UDP with an absent checksum keeps it absent.
//!
//! -- rules --
//! ip udp dport 4739 actions funnel tcp dport 179 sport 540
//! -- packets --
//! ip 10.0.0.1 > 192.168.254.1 udp 25000 > 4739 nosum len 3    => rule 0
//! ```

use std::fmt;
use std::fs;
use std::path::PathBuf;

use super::fields::{SKB, Skb};
use super::packet::{Packet, hex, unhex};
use super::rules::{self, Rule};

#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub rules: Vec<Rule>,
    pub packets: Vec<Sample>,
}

/// One frame, and the words for it when there are.
#[derive(Clone)]
pub struct Sample {
    pub frame: Vec<u8>,
    pub gso: u32,
    pub skb: Skb,
    pub words: String,
    /// `Some(None)`: no rule matches.
    pub expected: Option<Option<usize>>,
}

impl Sample {
    pub fn new(packet: &Packet) -> Sample {
        let words = packet.to_string();
        Sample { frame: packet.frame(), gso: packet.gso, skb: packet.skb, words, expected: None }
    }

    fn parse(line: &str) -> Result<Sample, String> {
        let (packet, comment) = line.split_once('#').unwrap_or((line, ""));
        let (packet, expected) = match packet.split_once("=>") {
            None => (packet, None),
            Some((packet, expected)) => match expected.trim() {
                "miss" => (packet, Some(None)),
                rule => {
                    let index = rule.strip_prefix("rule ").and_then(|n| n.parse().ok());
                    let index = index.ok_or(format!("`{rule}`: neither `rule N` nor `miss`"))?;
                    (packet, Some(Some(index)))
                }
            },
        };
        let mut sample = match packet.trim().strip_prefix("hex ") {
            None => Sample::new(&Packet::parse(packet)?),
            Some(rest) => {
                let mut parts = rest.split_whitespace();
                let frame = unhex(parts.next().unwrap_or_default())?;
                let (mut gso, mut skb) = (0, Skb::default());
                while let (Some(word), Some(value)) = (parts.next(), parts.next()) {
                    let value = value.parse().map_err(|_| format!("`{value}` is no number"))?;
                    match SKB.iter().position(|(name, _)| *name == word) {
                        Some(index) => skb[index] = value,
                        None if word == "gso" => gso = value,
                        None => return Err(format!("`{word}` follows no frame")),
                    }
                }
                Sample { frame, gso, skb, words: comment.trim().to_owned(), expected: None }
            }
        };
        sample.expected = expected;
        Ok(sample)
    }
}

impl Case {
    pub fn parse(name: &str, text: &str) -> Result<Case, String> {
        let (_, rest) = text.split_once("-- rules --\n").ok_or(format!("{name}: no rules"))?;
        let (rules, packets) = rest.split_once("-- packets --\n").ok_or(format!("{name}: no packets"))?;
        let lines = packets.lines().filter(|line| !line.trim().is_empty());
        let packets: Result<Vec<Sample>, String> =
            lines.filter(|line| !line.starts_with('#')).map(Sample::parse).collect();
        Ok(Case { name: name.to_owned(), rules: Rule::parse_all(rules)?, packets: packets? })
    }

    /// Every `*.txt` of a directory under `testdata/`.
    pub fn read_all(directory: &str) -> Vec<Case> {
        let directory = super::testdata(directory);
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.expect("a directory entry").path())
            .filter(|path| path.extension().is_some_and(|e| e == "txt"))
            .collect();
        files.sort();
        let case = |path: PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            Case::parse(&name, &text).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        files.into_iter().map(case).collect()
    }
}

/// Ready to save.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What to look at: say it here.\n\n-- rules --")?;
        write!(f, "{}-- packets --", rules::text(&self.rules))?;
        for packet in &self.packets {
            write!(f, "\nhex {}", hex(&packet.frame))?;
            let known = SKB.iter().zip(packet.skb).map(|((word, _), value)| (*word, value));
            for (word, value) in [("gso", packet.gso)].into_iter().chain(known) {
                if value != 0 {
                    write!(f, " {word} {value}")?;
                }
            }
            write!(f, "  # {}", packet.words)?;
        }
        writeln!(f)
    }
}

/// Proptest prints failing input with `Debug`: let it be the file to save.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
