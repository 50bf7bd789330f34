//! What to say about a word that fits nowhere: a slip of the pen, two words glued together,
//! something the language will have one day, or an invisible character.
//!
//! A word goes in, a diagnostic and how much text it spoils come out. Never decides what is legal.

use std::net::IpAddr;

use nom::Err;

use super::ast::ActionKind;
use super::set::looks_like_a_value;
use super::word::{Cursor, Parsed, Word, lines, peek, word, wrong};
use crate::diag::{Diagnostic, Span, quote};
use crate::field::{Field, Notation, PORT, Reply};

/// The words that start neither an action nor a match on a field.
const WORDS: [&str; 13] = [
    "ip6", "ip", "tcp", "udp", "actions", "encap", "decap", "flags", "chain", "define", "service", "probe",
    "node",
];

/// Every word of the language.
fn keywords() -> impl Iterator<Item = &'static str> {
    WORDS.into_iter().chain(ActionKind::keywords()).chain(Field::all().map(Field::keyword))
}

/// The word of the language that this one is.
fn keyword(text: &str) -> Option<&'static str> {
    keywords().find(|keyword| *keyword == text)
}

/// What people coming from other languages write.
const SYNONYMS: [(&str, &str); 15] = [
    ("action", "actions"),
    ("pass", "accept"),
    ("allow", "accept"),
    ("permit", "accept"),
    ("return", "accept"),
    ("deny", "drop"),
    ("reject", "drop"),
    ("block", "drop"),
    ("discard", "drop"),
    ("src", "saddr"),
    ("dst", "daddr"),
    ("ipv4", "ip"),
    ("ip4", "ip"),
    ("ipv6", "ip6"),
    ("port", "dport"),
];

/// Planned, or common elsewhere, but not here: word, what to do instead, and what it spoils.
const PLANNED: [(&str, &str, Spoils); 4] = [
    ("include", "write all rules in one ruleset", Spoils::Rule),
    ("icmp", "match `tcp` or `udp`: other protocols pass unchanged", Spoils::Word),
    ("icmpv6", "match `tcp` or `udp`: other protocols pass unchanged", Spoils::Word),
    ("sctp", "match `tcp` or `udp`: other protocols pass unchanged", Spoils::Word),
];

/// How much of the rule means nothing once this word is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoils {
    Word,
    UntilAction,
    Rule,
}

/// A word that starts neither a match nor an action. Where an action must be, it stands for one, and
/// what follows are its arguments, whatever they look like.
pub(super) fn unknown_word(word: Word<'_>, at_actions: bool) -> (Diagnostic, Spoils) {
    if let Some(list) = list_of_actions(word, at_actions) {
        return (list, Spoils::Rule);
    }
    let is_action = at_actions || meant(word.text).is_some_and(ActionKind::starts_with);
    let (diagnostic, spoils) = unknown(word);
    (diagnostic, if is_action { Spoils::Rule } else { spoils })
}

/// `drop,accept`: not a set of values, but several actions.
fn list_of_actions(word: Word<'_>, at_actions: bool) -> Option<Diagnostic> {
    let mut parts = word.text.split(',').filter(|part| !part.is_empty());
    if !word.text.contains(',') || word.text.starts_with('{') {
        return None;
    }
    let first = parts.clone().find(|part| ActionKind::starts_with(part));
    let is_list = parts.all(ActionKind::starts_with);
    if !(is_list && (at_actions || first.is_some())) {
        return None;
    }
    let error = Diagnostic::error("a rule has one action, without commas", word.span, "a list of actions");
    Some(match first {
        Some(first) => error.help(format!("keep one of them, such as `{first}`")),
        None => error.help("keep the first action"),
    })
}

fn unknown(word: Word<'_>) -> (Diagnostic, Spoils) {
    if let Some((name, help, spoils)) = PLANNED.iter().find(|(name, ..)| *name == word.text) {
        let message = format!("`{name}` is not supported in this version");
        return (Diagnostic::error(message, word.span, "not supported").help(*help), *spoils);
    }
    if let Some(odd) = odd_value(word) {
        return (odd, Spoils::Word);
    }
    if let "{" | "}" = word.text {
        let (message, help) = match word.text {
            "{" => ("a set belongs to a match", "write for example `dport { 80, 443 }`"),
            _ => ("`}` without `{`", "remove it"),
        };
        return (Diagnostic::error(message, word.span, "not expected here").help(help), Spoils::Word);
    }
    if let "chain" | "define" | "node" = word.text {
        let message = format!("`{}` inside a rule", word.text);
        let error = Diagnostic::error(message, word.span, "starts a line of its own");
        return (error.help("end the rule before it with `;` or a new line"), Spoils::Rule);
    }
    if word.text == "probe" {
        let error = Diagnostic::error("`probe` out of place", word.span, "goes to the end of `unbypass`");
        return (error.help("write for example `unbypass probe 1234`"), Spoils::UntilAction);
    }
    if word.text == "direct" {
        let label = "goes right behind `bypass` or `unbypass`";
        let error = Diagnostic::error("`direct` out of place", word.span, label);
        return (error.help("write for example `bypass direct`"), Spoils::Word);
    }
    if word.text == "flags" {
        let error = Diagnostic::error("`flags` out of place", word.span, "goes to the end of `funnel tcp`");
        return (
            error.help("write for example `funnel tcp sport 540 dport 80 flags psh|ack`"),
            Spoils::UntilAction,
        );
    }
    let message = format!("unknown word {}", quote(word.text));
    let error = Diagnostic::error(message, word.span, "not a match nor an action");
    let error = match remedy(word.text).or_else(|| without_match(word.text)) {
        Some(remedy) => error.help(remedy),
        None => {
            let quoted = |words: &mut dyn Iterator<Item = &str>| {
                words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            };
            // Those that make a flow; a list of all would be too long to help.
            let of_flows = Field::all().filter(|field| field.row().reply != Reply::Unknown);
            let fields = of_flows.map(Field::keyword);
            let matches = quoted(&mut ["ip", "ip6", "tcp", "udp"].into_iter().chain(fields));
            let actions = quoted(&mut ActionKind::keywords());
            error.help(format!("matches are {matches} and others (docs/rules.md); actions are {actions}"))
        }
    };
    (error, Spoils::Word)
}

/// The cursor after what `spoils` says, and after the arguments of the word that was not
/// understood: whatever resembles no word of the language.
pub(super) fn skip(mut i: Cursor<'_>, spoils: Spoils) -> Cursor<'_> {
    let mut depth = 0_usize;
    while let Ok((rest, word)) = word(i) {
        match word.text {
            "{" => depth += 1,
            "}" if depth == 0 && i.in_chain => break,
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        let stop = match spoils {
            Spoils::Word => is_word_of_ours(word),
            Spoils::UntilAction => ActionKind::starts_with(word.text),
            Spoils::Rule => false,
        };
        if stop {
            break;
        }
        i = rest;
    }
    i
}

/// The value that `key`, the last word of its line, has in a later line: `read` there, and one error about all
/// of the rule's lines. No rule begins like a value.
pub(super) fn in_next_line<'a, T>(
    i: Cursor<'a>,
    key: Word<'_>,
    sets: bool,
    read: impl FnOnce(Cursor<'a>) -> Parsed<'a, T>,
) -> Option<Parsed<'a, T>> {
    let next = lines(i);
    let value = peek(next).filter(|value| looks_like_a_value(value.text) || sets && value.text == "{")?;
    let mut errors = Vec::new();
    if !i.over_lines {
        let key_text = key.text.trim_end_matches(" =");
        let message = format!("the value of `{key_text}` is on the next line");
        let error = Diagnostic::error(message, value.span, "goes on here");
        errors.push(error.with(key.span, "has no value on its own line").help(JOIN));
    }
    Some(match read(next.over_lines(true)) {
        Ok((rest, _)) => wrong(rest, errors),
        Err(Err::Error(fault) | Err::Failure(fault)) => {
            errors.extend(fault.diagnostics);
            wrong(fault.rest, errors)
        }
        incomplete @ Err(Err::Incomplete(_)) => incomplete,
    })
}

/// A comparison as a range of the numbers that `key` is matched by, or of ports.
pub(super) fn compared(operator: &str, operand: &str, key: Word<'_>) -> String {
    let (below, or_equal) = (operator.starts_with('<'), operator.contains('='));
    let (min, max) = match Field::named(key.text).map(|field| &field.row().notation) {
        Some(Notation::Number(number)) => (number.min, number.max),
        _ => (PORT.min, PORT.max),
    };
    let range = operand.parse::<u32>().ok().and_then(|value| match (below, or_equal) {
        (true, true) => (min, value).into(),
        (true, false) => Some((min, value.checked_sub(1)?)),
        (false, true) => (value, max).into(),
        (false, false) => Some((value.checked_add(1)?, max)),
    });
    match range.filter(|(first, last)| min <= *first && first <= last && *last <= max) {
        Some((first, last)) => format!("`{} {first}-{last}`", key.text),
        None => format!("a range, such as `{} FIRST-LAST`", key.text),
    }
}

/// Rules up to this many bytes are repeated in remedies.
pub(crate) const LONGEST_QUOTED: usize = 100;
/// What to do about rules over several lines.
pub(super) const JOIN: &str = "join the lines";

pub(super) fn is_keyword(word: Word<'_>) -> bool {
    keyword(word.text).is_some()
}

/// Worth a look of its own: a keyword, or something one can say more about than "unknown".
fn is_word_of_ours(word: Word<'_>) -> bool {
    is_keyword(word) || PLANNED.iter().any(|(name, ..)| *name == word.text) || remedy(word.text).is_some()
}

/// Names, where no value is expected, lines that were to go on, and what no eye can see.
pub(super) fn odd_value(word: Word<'_>) -> Option<Diagnostic> {
    if word.text.starts_with('$') {
        let error = Diagnostic::error("a name out of place", word.span, "stands for numbers or addresses");
        return Some(error.help("write it where values are: `dport $NAME`, `saddr { $NAME, 10.0.0.1 }`"));
    }
    if word.text.ends_with('\\') {
        let span = Span { start: word.span.end - 1, end: word.span.end };
        let error = Diagnostic::error("a rule ends with its line", span, "does not continue it");
        return Some(error.help("join the lines, without `\\`"));
    }
    invisible(word)
}

/// A value without a match before it, and protocols as a list.
fn without_match(text: &str) -> Option<String> {
    let address = || text.split('/').next().is_some_and(|text| text.parse::<IpAddr>().is_ok());
    let protocols = || text.split(',').all(|part| matches!(part, "tcp" | "udp" | ""));
    Some(match text {
        _ if text.parse::<u16>().is_ok_and(|port| port > 0) => {
            format!("write a port after its match, on the same line: `dport {text}` or `sport {text}`")
        }
        _ if address() => {
            format!("write an address after its match, on the same line: `daddr {text}` or `saddr {text}`")
        }
        _ if protocols() => "write two rules, one with `tcp` and one with `udp`".to_owned(),
        _ => return None,
    })
}

/// What was probably meant.
fn remedy(text: &str) -> Option<String> {
    const LONGEST: usize = 60;
    if text.len() > LONGEST {
        return None;
    }
    let lower = text.to_lowercase();
    if keyword(&lower).is_some() {
        return Some(format!("words are lower case: write `{lower}`"));
    }
    if let Some(meant) = synonym(&lower) {
        return Some(format!("did you mean `{meant}`?"));
    }
    if let Some((key, value)) = text.split_once('=')
        && keyword(key).is_some()
    {
        return Some(format!("`=` is not an operator: write `{key} {}`", value.trim_start_matches('=')));
    }
    if let Some(words) = unglued(text) {
        return Some(format!("put blanks between the words: `{words}`"));
    }
    misspelled(&lower).map(|keyword| format!("did you mean `{keyword}`?"))
}

/// The word of the language that this one, which is none, was meant to be.
pub(super) fn meant(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    keyword(&lower).or_else(|| synonym(&lower)).or_else(|| misspelled(&lower))
}

fn synonym(lower: &str) -> Option<&'static str> {
    SYNONYMS.iter().find(|(synonym, _)| *synonym == lower).map(|(_, keyword)| *keyword)
}

/// The keyword that is one slip of the pen away, or two in long ones.
fn misspelled(lower: &str) -> Option<&'static str> {
    if lower.len() > 12 || lower.chars().filter(char::is_ascii_alphabetic).count() < 2 {
        return None;
    }
    let distances = keywords().map(|keyword| (strsim::osa_distance(lower, keyword), keyword));
    let (slips, keyword) = distances.min()?;
    let allowed = if keyword.len() > 4 { 2 } else { 1 };
    (slips <= allowed).then_some(keyword)
}

/// `iptcpdport80` as `ip tcp dport 80`: keywords and values that were written without blanks.
fn unglued(text: &str) -> Option<String> {
    let mut words = Vec::new();
    let mut known = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let fitting = keywords().filter(|keyword| rest.starts_with(keyword));
        let len = match fitting.max_by_key(|keyword| keyword.len()) {
            Some(keyword) => {
                known += 1;
                keyword.len()
            }
            None => {
                let value = |c: char| c.is_ascii_digit() || matches!(c, '.' | '/');
                let len = rest.find(|c: char| !value(c)).unwrap_or(rest.len());
                if len == 0 || words.is_empty() {
                    return None;
                }
                len
            }
        };
        let (word, tail) = rest.split_at(len);
        words.push(word);
        rest = tail;
    }
    (known > 0 && words.len() > 1).then(|| words.join(" "))
}

/// Blanks that are no blanks, as copied from web pages, and control characters.
fn invisible(word: Word<'_>) -> Option<Diagnostic> {
    let odd = |c: char| {
        c.is_control()
            || (c.is_whitespace() && !c.is_ascii())
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{feff}')
    };
    let (at, c) = word.text.char_indices().find(|&(_, c)| odd(c))?;
    let span = Span { start: word.span.start + at, end: word.span.start + at + c.len_utf8() };
    let code = u32::from(c);
    Some(
        Diagnostic::error(
            format!("invisible character U+{code:04X}"),
            span,
            "looks like a blank, or like nothing",
        )
        .help("replace it with a blank"),
    )
}
