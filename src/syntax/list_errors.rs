//! Lists without braces, and lists where one value is wanted: what to write instead.
//!
//! A place in the text goes in; what is wrong there and where to read on come out, or nothing if it is no list.
//! Never reads a value.

use super::help;
use super::set::looks_like_a_value;
use super::word::{Cursor, Word, piece, word};
use crate::diag::{Diagnostic, quote};

/// `80,443`: a list that lacks its braces.
pub(super) fn bare_list<'a>(start: Cursor<'a>, key: Word<'_>) -> Option<(Cursor<'a>, Diagnostic)> {
    const LONGEST: usize = 60;
    let (mut i, first) = piece(start).ok()?;
    let mut texts = vec![first.text];
    let mut span = first.span;
    let mut comma = first.text == ",";
    while let Ok((rest, found)) = piece(i)
        && (found.text == "," || comma)
        && !help::is_keyword(found)
        && !matches!(found.text, "{" | "}")
    {
        comma = found.text == ",";
        if !comma {
            texts.push(found.text);
        }
        (i, span) = (rest, span.to(found.span));
    }
    if span == first.span && first.text != "," {
        return None;
    }
    if let Ok((rest, close)) = piece(i)
        && close.text == "}"
    {
        (i, span) = (rest, span.to(close.span));
    }
    if let [one] = texts.iter().filter(|text| **text != ",").collect::<Vec<_>>()[..] {
        let error = Diagnostic::error("a `,` outside of a set", span, "one value");
        return Some((i, error.help(format!("write {}", quote(&format!("{} {one}", key.text))))));
    }
    let list = texts.join(", ");
    let help = if list.len() > LONGEST || list.chars().any(char::is_control) || first.text == "," {
        "write `{` before the list and `}` after it".to_string()
    } else {
        format!("write `{} {{ {list} }}`", key.text)
    };
    Some((i, Diagnostic::error("a set needs braces", span, "several values").help(help)))
}

/// Where one value is wanted: a set, a range or the like, all of it.
pub(super) fn not_one<'a>(start: Cursor<'a>, key: Word<'_>, what: &str) -> Option<(Cursor<'a>, Diagnostic)> {
    let (rest, found) = word(start).ok()?;
    let mut end = (rest, found.span);
    let label = if found.text == "{" {
        let mut i = rest;
        while let Ok((rest, word)) = word(i)
            && !help::is_keyword(word)
        {
            end = (rest, word.span);
            i = rest;
            if word.text == "}" {
                break;
            }
        }
        "a set"
    } else if found.text.contains(',') {
        "a list"
    } else if found.text.find('-').is_some_and(|at| at > 0) && looks_like_a_value(found.text) {
        "a range"
    } else {
        return None;
    };
    let message = format!("`{}` takes {what}", key.text);
    let span = found.span.to(end.1);
    let first = if found.text == "{" { word(rest).map_or("", |(_, word)| word.text) } else { found.text };
    let first: String = first.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let help = match first.as_str() {
        "" => format!("write one value after `{}`", key.text),
        one => format!("write {}", quote(&format!("{} {one}", key.text))),
    };
    Some((end.0, Diagnostic::error(message, span, label).help(help)))
}
