//! Is a program still what a stored listing says? And if not: what differs, and which rules is that about?
//!
//! Two listings go in, as `compile --emit asm` and `--emit hex` write them; differences come out, for a person. Knows
//! listings as text: what it says of the stored one does not depend on the version that wrote it.

mod lines;
mod place;
mod rules;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline};

use self::lines::{Kind, Line, lines};
use self::place::{Place, Places};
use self::rules::{Rule, Rules};

/// Lines of instructions that are printed; how many more there are is said.
const MOST_SHOWN: usize = 1000;
/// After this, lines are paired as they come: a difference that is too large to be read need not be the smallest.
const PATIENCE: Duration = Duration::from_secs(2);

/// What counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Every word of the listing.
    Asm,
    /// The bytes of the instructions: names of labels and notes are for the reader.
    Hex,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Same,
    /// The instructions are the same, the words beside them are not.
    Reworded,
    /// What differs, as text.
    Differs(String),
}

/// What the stored listing lacks to be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unreadable {
    #[error("it has no instructions; was it written with another `--emit`?")]
    Empty,
    #[error("line {0} is not one that `--emit {1}` writes")]
    Line(usize, &'static str),
}

/// Compares a stored listing with one that has just been made.
pub fn compare(stored: &str, made: &str, form: Form) -> Result<Answer, Unreadable> {
    let (stored, made) = (lines(stored, form)?, lines(made, form)?);
    let same_words = stored.iter().map(|line| line.words).eq(made.iter().map(|line| line.words));
    let bytes = |line: &Line<'_>| line.bytes.map(str::to_ascii_lowercase);
    let same_bytes = stored.iter().filter_map(bytes).eq(made.iter().filter_map(bytes));
    match (form, same_words, same_bytes) {
        (_, true, true) => return Ok(Answer::Same),
        (Form::Hex, false, true) => return Ok(Answer::Reworded),
        _ => {}
    }
    // Numbers of labels move whenever a rule is added: only where no instruction differs are they looked at.
    let (old, new) = (instructions(&stored), instructions(&made));
    let ops = differences(&old, &new, |line| line.alike.clone());
    if !ops.is_empty() {
        return Ok(Answer::Differs(report((&stored, &old), (&made, &new), &ops)));
    }
    let (old, new): (Vec<_>, Vec<_>) =
        (stored.iter().enumerate().collect(), made.iter().enumerate().collect());
    let ops = differences(&old, &new, |line| format!("{}{}", line.bytes.unwrap_or_default(), line.words));
    let text = report((&stored, &old), (&made, &new), &ops);
    Ok(Answer::Differs(
        text + "no instruction is another: only where jumps lead, or what labels and rules are called\n",
    ))
}

/// Lines that are compared, each with its place in the listing.
type Compared<'a> = Vec<(usize, &'a Line<'a>)>;

fn instructions<'a>(lines: &'a [Line<'a>]) -> Compared<'a> {
    lines.iter().enumerate().filter(|(_, line)| line.kind == Kind::Instruction).collect()
}

/// The runs of lines that differ.
fn differences(old: &Compared<'_>, new: &Compared<'_>, key: impl Fn(&Line<'_>) -> String) -> Vec<DiffOp> {
    let keys = |lines: &Compared<'_>| lines.iter().map(|(_, line)| key(line)).collect::<Vec<_>>();
    let until = Instant::now().checked_add(PATIENCE);
    let mut ops = steps(Algorithm::Myers, &keys(old), &keys(new), until);
    ops.retain(|op| !matches!(op, DiffOp::Equal { .. }));
    ops
}

/// What leads from one list to the other. By numbers, the same ones for the same entries: the algorithms would be in the
/// binary once for each type that they compare.
fn steps<T: Eq + Hash>(algorithm: Algorithm, old: &[T], new: &[T], until: Option<Instant>) -> Vec<DiffOp> {
    let mut known = HashMap::new();
    let mut number = |entry| {
        let next = known.len();
        *known.entry(entry).or_insert(next)
    };
    let old: Vec<usize> = old.iter().map(&mut number).collect();
    let new: Vec<usize> = new.iter().map(&mut number).collect();
    capture_diff_slices_deadline(algorithm, &old, &new, until)
}

type Side<'a> = (&'a [Line<'a>], &'a Compared<'a>);

fn report((old, old_lines): Side<'_>, (new, new_lines): Side<'_>, ops: &[DiffOp]) -> String {
    let (before, after) = (Places::new(old), Places::new(new));
    let rules = Rules::pair(before.rules(), after.rules());
    let mut report = Report { rules, groups: Vec::new(), shown: 0, gone: 0, new: 0 };
    for op in ops {
        for (at, line) in &old_lines[op.old_range()] {
            report.line('-', line, || before.of(*at).map(Rule::Old));
        }
        for (at, line) in &new_lines[op.new_range()] {
            report.line('+', line, || after.of(*at).map(Rule::New));
        }
    }
    report.finish()
}

struct Report {
    rules: Rules,
    /// Lines by what they are about, in the order of the first of them.
    groups: Vec<(Place<Rule>, String)>,
    shown: usize,
    gone: usize,
    new: usize,
}

impl Report {
    fn line(&mut self, sign: char, line: &Line<'_>, place: impl FnOnce() -> Place<Rule>) {
        if let Kind::Instruction = line.kind {
            *(if sign == '-' { &mut self.gone } else { &mut self.new }) += 1;
        }
        self.shown += 1;
        if self.shown > MOST_SHOWN {
            return;
        }
        let place = place().map(|rule| self.rules.as_new(rule));
        let known = self.groups.iter().position(|(known, _)| *known == place);
        let known = known.unwrap_or_else(|| {
            self.groups.push((place, String::new()));
            self.groups.len() - 1
        });
        let bytes = line.bytes.map(|bytes| format!("{bytes}  ")).unwrap_or_default();
        let line = format!("  {sign} {bytes}{}", line.words);
        let _ = writeln!(self.groups[known].1, "{}", line.trim_end());
    }

    fn finish(self) -> String {
        let mut text = String::new();
        for (place, lines) in &self.groups {
            text += &self.rules.head(place);
            text += lines;
        }
        if let Some(more) = self.shown.checked_sub(MOST_SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(text, "and {more} more lines");
        }
        if self.gone + self.new > 0 {
            let _ = writeln!(text, "instructions: {} gone, {} new", self.gone, self.new);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codegen::{self, Link, Options};
    use crate::diag::Source;
    use crate::diagram;

    fn listing(rules: &str, form: Form) -> String {
        let ruleset = crate::read(&Source::new("rules", rules)).unwrap().ruleset;
        let diagram = diagram::build(&ruleset);
        let program = codegen::compile(&ruleset, &diagram, Options::pass_gso(Link::Ethernet)).unwrap();
        let title = |rule: u32| Some(format!("rule {rule}: {}", ruleset.rules[rule as usize].text));
        match form {
            Form::Asm => program.listing(&title),
            Form::Hex => program.hex(&title),
        }
    }

    fn differs(old: &str, new: &str, form: Form) -> String {
        match compare(&listing(old, form), &listing(new, form), form).unwrap() {
            Answer::Differs(text) => text,
            other => panic!("{other:?}"),
        }
    }

    const OLD: &str = "ip udp dport 4739 funnel tcp sport 540 dport 179
                       ip udp dport 4740 drop
                       ip tcp dport 80 drop";

    #[test]
    fn what_is_the_same_is_the_same() {
        for form in [Form::Asm, Form::Hex] {
            let listing = listing(OLD, form);
            assert_eq!(compare(&listing, &listing, form), Ok(Answer::Same));
            // As version control on another system may have left it.
            assert_eq!(compare(&listing.replace('\n', "\r\n"), &listing, form), Ok(Answer::Same));
        }
    }

    #[test]
    fn a_test_is_about_the_rule_that_it_leads_to() {
        let text = differs(OLD, &OLD.replace("4740", "4750"), Form::Asm);
        let expected = "rule 1: ip udp dport 4750 drop
  was: rule 1: ip udp dport 4740 drop
  -     if w2 != 4740 goto miss.2             ; dport == 4740
  +     if w2 != 4750 goto miss.2             ; dport == 4750
instructions: 1 gone, 1 new
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_rule_in_front_moves_the_others_and_does_not_change_them() {
        for form in [Form::Asm, Form::Hex] {
            let text = differs(OLD, &format!("ip tcp dport 25 drop\n{OLD}"), form);
            assert!(text.contains("rule 0: ip tcp dport 25 drop\n  + "), "{text}");
            assert!(!text.contains("udp dport"), "{text}");
            assert!(text.ends_with("instructions: 0 gone, 2 new\n"), "{text}");
        }
    }

    #[test]
    fn a_rule_that_moves_keeps_its_name() {
        let new = format!("ip tcp dport 25 drop\n{}", OLD.replace("sport 540", "sport 541"));
        let text = differs(OLD, &new, Form::Asm);
        let expected = "rule 1: ip udp dport 4739 funnel tcp sport 541 dport 179
  was: rule 0: ip udp dport 4739 funnel tcp sport 540 dport 179
  -     w8 = 0x21c00b3                        ; sport 540, dport 179
  +     w8 = 0x21d00b3                        ; sport 541, dport 179
";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn tests_that_several_rules_share_name_them() {
        let new = "ip daddr 10.0.0.1 udp dport 53 drop\nip daddr 10.0.0.1 udp dport 80 funnel udp sport 1 dport 2\n";
        let text = differs(&new.replace("10.0.0.1", "10.0.0.2"), new, Form::Asm);
        let expected = "rule 0: ip daddr 10.0.0.1 udp dport 53 drop
  was: rule 0: ip daddr 10.0.0.2 udp dport 53 drop
rule 1: ip daddr 10.0.0.1 udp dport 80 funnel udp sport 1 dport 2
  was: rule 1: ip daddr 10.0.0.2 udp dport 80 funnel udp sport 1 dport 2
  -     if w2 != 0xa000002 goto miss";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn the_ports_of_a_header_are_in_the_rule_itself() {
        let text = differs(OLD, &OLD.replace("sport 540", "sport 541"), Form::Hex);
        assert!(text.starts_with("rule 0: "), "{text}");
        assert!(text.contains("  + b4 08 00 00 b3 00 1d 02  w8 = 0x21d00b3"), "{text}");
    }

    #[test]
    fn a_routine_is_that_of_its_rules() {
        let text = differs(OLD, &OLD.replace("funnel tcp", "funnel udp"), Form::Asm);
        let of = |routine: &str| format!("\n{routine}, for\nrule 0: ip udp dport 4739 funnel udp sport 540");
        assert!(text.contains(&of("funnel_udp_in_udp")), "{text}");
        assert!(text.contains(&of("funnel_udp_in_tcp")), "{text}");
    }

    #[test]
    fn words_count_in_asm_and_bytes_in_hex() {
        let (asm, hex) = (listing(OLD, Form::Asm), listing(OLD, Form::Hex));
        let reworded = |listing: &str| listing.replace("dport == 4740", "the port of it");
        assert_eq!(compare(&reworded(&hex), &hex, Form::Hex), Ok(Answer::Reworded));
        assert!(matches!(compare(&reworded(&asm), &asm, Form::Asm), Ok(Answer::Differs(_))));
    }

    #[test]
    fn jumps_that_lead_elsewhere_are_no_secret() {
        let asm = listing(OLD, Form::Asm);
        let Ok(Answer::Differs(text)) =
            compare(&asm.replacen("goto miss", "goto miss.9", 1), &asm, Form::Asm)
        else {
            panic!("the same?")
        };
        assert!(text.contains("goto miss.9"), "{text}");
        assert!(text.ends_with("only where jumps lead, or what labels and rules are called\n"), "{text}");
        // A byte that no word tells.
        let hex = listing(OLD, Form::Hex);
        let changed = hex.replacen("b4 00 00 00 ff ff ff ff", "b4 00 00 00 ff ff ff fe", 1);
        let Ok(Answer::Differs(text)) = compare(&changed, &hex, Form::Hex) else { panic!("the same?") };
        assert!(text.contains("  - b4 00 00 00 ff ff ff fe  w0 = -1"), "{text}");
    }

    #[test]
    fn what_is_no_listing_is_refused() {
        let hex = listing(OLD, Form::Hex);
        assert_eq!(compare("", &hex, Form::Hex), Err(Unreadable::Empty));
        let asm = listing(OLD, Form::Asm);
        assert_eq!(compare(&asm, &hex, Form::Hex), Err(Unreadable::Line(1, "hex")));
        assert_eq!(compare(&hex, &asm, Form::Asm), Err(Unreadable::Line(1, "asm")));
        assert_eq!(compare("garbage\n", &asm, Form::Asm), Err(Unreadable::Line(1, "asm")));
    }

    #[test]
    fn a_difference_of_everything_ends() {
        let many = |base: usize| {
            let rule =
                |n: usize| format!("ip tcp dport {} saddr 10.{}.{}.1 drop\n", base + n, n % 250, n / 250);
            (0..3_000).map(rule).collect::<String>()
        };
        let text = differs(&many(1), &many(40_000), Form::Asm);
        assert!(text.lines().count() < 4 * MOST_SHOWN && text.contains(" more lines\n"), "{}", text.len());
    }
}
