//! Names: `define NAME = VALUE`, and what `$NAME` stands for.
//!
//! A definition goes in, the rules after it find its values. A wrong value is told where it is defined,
//! not wherever it is used. Never knows what a value is for: that is in the match or action around `$NAME`.

use std::cell::RefCell;
use std::collections::HashMap;

use super::ast::{Define, Item, Value, Values};
use super::help;
use super::set::{part, set};
use super::value::{Wanted, out_of_range};
use super::word::{Cursor, Parsed, Word, lines, peek, piece, word, wrong};
use crate::diag::{Diagnostic, Span, quote};
use crate::field::{ANY, Notation};

/// What is defined so far.
#[derive(Debug, Default)]
pub(super) struct Names(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    defines: Vec<Define>,
    by_name: HashMap<String, usize>,
    /// For those that stand for one value: where it is written.
    single: Vec<Option<Span>>,
    /// How many values names have stood for so far.
    values: usize,
    /// Some text is not read: it may define any name.
    unread: bool,
}

/// Beyond this many, a misspelled name is not compared with the others.
const MOST_COMPARED: usize = 100;
/// A few lines of names that stand for two others each would be gigabytes.
const MOST_VALUES: usize = 1_000_000;

impl Names {
    pub(super) fn into_defines(self) -> Vec<Define> {
        self.0.into_inner().defines
    }

    /// There is text that is not read.
    pub(super) fn unread(&self) {
        self.0.borrow_mut().unread = true;
    }

    /// What is `read` from the definition, used now.
    fn find<T>(
        &self,
        found: Word<'_>,
        read: impl FnOnce(&Define, Option<Span>) -> Result<T, Diagnostic>,
    ) -> Result<T, Diagnostic> {
        let mut state = self.0.borrow_mut();
        let name = name_of(found)?;
        let Some(index) = state.by_name.get(name).copied() else {
            return match state.unread {
                true => read(
                    &Define { name: name.to_owned(), span: found.span, values: Values::Unknown, used: true },
                    None,
                ),
                false => Err(undefined(&state, found, name)),
            };
        };
        state.defines[index].used = true;
        read(&state.defines[index], state.single[index])
    }

    /// What `$NAME` stands for, each value with the place of `$NAME`. Nothing: it is known to be wrong.
    pub(super) fn values(
        &self,
        found: Word<'_>,
        wanted: Wanted<'_>,
    ) -> Result<Option<Vec<Item>>, Diagnostic> {
        let before = self.0.borrow().values;
        let items = self.find(found, |define, _| match &define.values {
            Values::Unknown => Ok(None),
            // Reported already.
            Values::Known(_) if before > MOST_VALUES => Ok(None),
            Values::Known(set) if before + set.items.len() > MOST_VALUES => Err(too_many(found)),
            Values::Known(set) => {
                set.items.iter().try_for_each(|item| fits(item, define, found, wanted))?;
                Ok(Some(set.items.iter().map(|item| Item { span: found.span, ..*item }).collect::<Vec<_>>()))
            }
        });
        let items = items.inspect_err(|error| {
            if error.message.starts_with(TOO_MANY) {
                self.0.borrow_mut().values = usize::MAX;
            }
        })?;
        self.0.borrow_mut().values += items.as_ref().map_or(0, Vec::len);
        Ok(items)
    }

    fn add(&self, define: Define, single: Option<Span>) -> Result<(), Diagnostic> {
        let mut state = self.0.borrow_mut();
        if let Some(first) = state.by_name.get(&define.name) {
            let first = state.defines[*first].span;
            return Err(Diagnostic::error(
                format!("`{}` is defined twice", define.name),
                define.span,
                "second one",
            )
            .with(first, "first one")
            .help("keep one of them, or choose another name"));
        }
        let index = state.defines.len();
        state.by_name.insert(define.name.clone(), index);
        state.defines.push(define);
        state.single.push(single);
        Ok(())
    }
}

/// `$NAME` without the `$`.
fn name_of<'a>(found: Word<'a>) -> Result<&'a str, Diagnostic> {
    let name = found.text.strip_prefix('$').unwrap_or_default();
    if !name.is_empty() && name.len() == name_len(name) {
        return Ok(name);
    }
    let inner = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let inner = &inner[..name_len(inner)];
    let error = Diagnostic::error(format!("{} is not a name", quote(found.text)), found.span, "not `$NAME`");
    Err(match inner {
        "" => error.help("names are made of letters, digits and `_`, and do not begin with a digit"),
        inner => error.help(format!("write `${inner}`, all of the value being in its definition")),
    })
}

/// How many bytes of the text are a name.
fn name_len(text: &str) -> usize {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.starts_with(|c: char| c.is_ascii_digit()) {
        true => 0,
        false => text.find(|c| !part(c)).unwrap_or(text.len()),
    }
}

fn undefined(state: &State, found: Word<'_>, name: &str) -> Diagnostic {
    let shown = quote(found.text);
    let error = Diagnostic::error(format!("{shown} is not defined"), found.span, "stands for nothing");
    let known = state.defines.iter().take(MOST_COMPARED).map(|define| define.name.as_str());
    let near =
        known.map(|known| (strsim::osa_distance(&name.to_lowercase(), &known.to_lowercase()), known)).min();
    match near {
        Some((slips, known)) if slips <= 2 && slips < name.len() && name.len() <= 40 => {
            error.help(format!("did you mean `${known}`?"))
        }
        _ => error.help(format!(
            "define it first: {}, or on the command line with `--define`",
            quote(&format!("define {name} = VALUE"))
        )),
    }
}

/// Whether what a name stands for can be used where `found` is.
fn fits(item: &Item, define: &Define, found: Word<'_>, wanted: Wanted<'_>) -> Result<(), Diagnostic> {
    let (number, first, last) = match (wanted.notation, item.first, item.last) {
        (Notation::Address, Value::Address(_), _) => return Ok(()),
        (Notation::Number(number), Value::Number(first), Value::Number(last)) => (number, first, last),
        _ => {
            let message = format!("expected {}, found `{}`", wanted.one(), found.text);
            let label = format!("stands for {}", kind(&define.values));
            let error = Diagnostic::error(message, found.span, label).with(define.span, "defined here");
            return Err(error.help(format!("use a name that stands for {}", wanted.one())));
        }
    };
    let wrong = [first, last].into_iter().find(|value| !(number.min..=number.max).contains(value));
    let Some(wrong) = wrong else { return Ok(()) };
    let text = wrong.to_string();
    let value = Word { text: &text, span: found.span };
    let unread = out_of_range(value, number, Some(wrong));
    Err(unread.advise(wanted.listed().advice()).with(define.span, "defined here"))
}

const NUMBERS: &str = "numbers";
const ADDRESSES: &str = "addresses";
const NOTHING: &str = "nothing";

fn kind(values: &Values) -> &'static str {
    let Values::Known(set) = values else { return NOTHING };
    match set.items.first().map(|item| item.first) {
        Some(Value::Address(_)) => ADDRESSES,
        Some(Value::Number(_)) => NUMBERS,
        None => NOTHING,
    }
}

const TOO_MANY: &str = "names stand for more than";

fn too_many(found: Word<'_>) -> Diagnostic {
    Diagnostic::error(format!("{TOO_MANY} {MOST_VALUES} values in all"), found.span, "one set too many")
        .help("use ranges and prefixes in place of many values, or larger sets in fewer rules")
}

/// The one value that `$NAME` stands for, as if it were written here. Nothing: it is known to be wrong.
pub(super) fn single<'a>(i: Cursor<'a>, found: Word<'a>) -> Result<Option<Word<'a>>, Diagnostic> {
    i.names.find(found, |define, single| match single {
        Some(span) if !i.text(span).contains('-') => Ok(Some(Word { text: i.text(span), span: found.span })),
        _ if define.values == Values::Unknown => Ok(None),
        range => {
            let several = if range.is_some() { "a range of" } else { "several" };
            let label = format!("stands for {several} {}", kind(&define.values));
            let message = format!("expected one value, found {}", quote(found.text));
            let error = Diagnostic::error(message, found.span, label).with(define.span, "defined here");
            Err(error.help("use a name that stands for one value"))
        }
    })
}

/// `NAME=VALUE` of the command line, and nothing else: what follows would be lost.
pub(super) fn given(i: Cursor<'_>) -> Parsed<'_, ()> {
    let (rest, ()) = define(i, None)?;
    let Some(more) = rest.line_behind() else { return Ok((rest, ())) };
    let error = Diagnostic::error("unexpected text after the value", more, "not part of it");
    wrong(rest, vec![error.help("give one value or one set, and rules where the other rules are")])
}

/// `define = "define" NAME "=" ( addresses | numbers )`, after the keyword; without one on the command line.
pub(super) fn define<'a>(i: Cursor<'a>, key: Option<Span>) -> Parsed<'a, ()> {
    let written = |name: &str| match key {
        Some(_) => format!("`define {name} = VALUE`"),
        None => format!("`--define {name}=VALUE`"),
    };
    let refuse =
        |rest: Cursor<'a>, error: Diagnostic| wrong(help::skip(rest, help::Spoils::Rule), vec![error]);
    let Ok((rest, found)) = word(i) else {
        let (message, example) = match key {
            Some(_) => ("expected a name after `define`", "define WEB = { 80, 443 }"),
            None => ("expected a name and a value", "--define WEB=80"),
        };
        let error = Diagnostic::error(message, key.unwrap_or(i.here()), "defines what?");
        return refuse(i, error.help(format!("write for example `{example}`")));
    };
    let len = name_len(found.text);
    let name = &found.text[..len];
    let span = Span { start: found.span.start, end: found.span.start + len };
    if len == 0 || !found.text[len..].is_empty() && !found.text[len..].starts_with('=') {
        let error =
            Diagnostic::error(format!("{} is not a name", quote(found.text)), found.span, "not a name");
        let help = match found.text.strip_prefix('$').filter(|name| name_len(name) > 0) {
            Some(name) => {
                format!("write {}; the `$` is for where it is used", written(&name[..name_len(name)]))
            }
            None => "names are made of letters, digits and `_`, and do not begin with a digit".to_owned(),
        };
        return refuse(rest, error.help(help));
    }
    let i = i.skip_to(span.end);
    let i = match word(i) {
        Ok((_, equal)) if equal.text.starts_with('=') => i.skip_to(equal.span.start + 1),
        _ => {
            let message = format!("expected `=` after `{name}`");
            let error = Diagnostic::error(message, span, "has no value");
            return refuse(i, error.help(format!("write {}", written(name))));
        }
    };
    let (rest, values, single, faults) = value(i, name, span);
    let mut faults = faults;
    let known = values != Values::Unknown;
    let more = word(rest).ok().map(|(_, more)| more);
    if let Some(more) = more.filter(|more| known && !(rest.in_chain && more.text == "}")) {
        let help = match key {
            Some(_) => {
                format!(
                    "write one value, or `{name} = {{ several, values }}`, and rules on lines of their own"
                )
            }
            None => format!("write one value, or a set: `--define '{name}={{ several, values }}'`"),
        };
        let error = Diagnostic::error("expected the end of the definition", more.span, "too much");
        faults.push(error.help(help));
    }
    let right = known && faults.is_empty();
    // There is enough to say about a wrong one.
    faults.extend(i.names.add(Define { name: name.to_owned(), span, values, used: !right }, single).err());
    match right && faults.is_empty() {
        true => Ok((rest, ())),
        false => wrong(help::skip(rest, help::Spoils::Rule), faults),
    }
}

/// What stands after `=`, and where its only value is written.
fn value<'a>(i: Cursor<'a>, name: &str, span: Span) -> (Cursor<'a>, Values, Option<Span>, Vec<Diagnostic>) {
    let text = format!("{name} =");
    let key = Word { text: &text, span };
    let first = match piece(i) {
        Ok((rest, open)) if open.text == "{" => piece(lines(rest)).ok(),
        other => other.ok(),
    };
    // `$A-$B` is of the kind that `$A` is.
    let first = first.map(|(_, first)| part(first, 0, first.text.find('-').unwrap_or(first.text.len())));
    let like = |first| i.names.find(first, |define, _| Ok(kind(&define.values)));
    let kind = match first.filter(|first| first.text.starts_with('$')).map(like) {
        None if first.is_some_and(|first| first.text.contains(['.', ':'])) => ADDRESSES,
        None => NUMBERS,
        Some(Ok(kind)) => kind,
        Some(Err(error)) => return (i, Values::Unknown, None, vec![error]),
    };
    if kind == NOTHING {
        return (i, Values::Unknown, None, Vec::new());
    }
    let notation = if kind == ADDRESSES { &Notation::Address } else { &Notation::Number(ANY) };
    read(i, Wanted::listed_by(notation, key))
}

fn read<'a>(i: Cursor<'a>, wanted: Wanted<'_>) -> (Cursor<'a>, Values, Option<Span>, Vec<Diagnostic>) {
    use nom::Err::{Error, Failure, Incomplete};

    match set(i, wanted) {
        Ok((rest, set)) => {
            let single = match peek(i).filter(|one| one.text.starts_with('$')) {
                Some(one) => i.names.find(one, |_, single| Ok(single)).ok().flatten(),
                None => Some(set.span).filter(|_| set.items.len() == 1 && !i.text(set.span).starts_with('{')),
            };
            (rest, Values::Known(set), single, Vec::new())
        }
        Err(Error(fault) | Failure(fault)) => (fault.rest, Values::Unknown, None, fault.diagnostics),
        Err(Incomplete(_)) => (i, Values::Unknown, None, Vec::new()),
    }
}
