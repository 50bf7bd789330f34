//! Where does a register's value lead? As compares and jumps, some in a row or halving what is left.
//!
//! Takes runs of values, each with its target, and emits jumps; knows neither fields nor rules. Never a compare that
//! could go one way only (V2): runs are not empty, and neighbours lead to different places.

use asm::{Cond, Label, Reg};

use super::emit::Emit;

/// From the value after the previous run's last, up to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run<T> {
    pub last: u32,
    pub then: T,
}

/// What a search is for.
pub(super) trait Search {
    /// A place that values lead to.
    type Place: Copy + PartialEq;

    fn emit(&mut self) -> &mut Emit;

    /// Ends the path: goes to the place, or emits what it is.
    fn go(&mut self, place: Self::Place);

    /// The place's label, if a jump there is all there is to do, and it is near.
    fn label(&mut self, place: Self::Place) -> Option<Label>;

    /// A test as the listing says it: the field, the operator, the value.
    fn note(&self, op: &str, value: u32) -> String;

    /// A label for the values that are not, or above, the one that is tested.
    fn other(&mut self, word: &str, value: u32) -> Label;
}

/// How many single values are compared one after the other.
const IN_A_ROW: usize = 4;

/// Goes where the value of `key`, which is at least `first` and at most the last run's last, leads.
pub(super) fn search<S: Search>(s: &mut S, key: Reg, first: u32, runs: &[Run<S::Place>]) {
    let [run, rest @ ..] = runs else { return };
    if rest.is_empty() {
        return s.go(run.then);
    }
    if let Some((singles, other)) = singles(first, runs) {
        for (at, (value, then)) in singles.iter().enumerate() {
            // The last one falls through, and all other values take a jump.
            let rest = if at + 1 == singles.len() { s.label(other) } else { None };
            if let Some(label) = rest {
                let note = s.note("==", *value);
                s.emit().jump_if_note(Cond::ne32(key, *value), label, &note);
                return s.go(*then);
            }
            unless(s, Cond::ne32(key, *value), ("==", *value), "not", |s| s.go(*then));
        }
        return s.go(other);
    }
    let (lower, upper) = runs.split_at(runs.len() / 2);
    let Some(split) = lower.last().map(|run| run.last) else { return };
    if let [run] = lower
        && let Some(label) = s.label(run.then)
    {
        let note = s.note(">", split);
        s.emit().jump_if_note(Cond::le32(key, split), label, &note);
        return search(s, key, split.saturating_add(1), upper);
    }
    if let [run] = upper
        && let Some(label) = s.label(run.then)
    {
        let note = s.note("<=", split);
        s.emit().jump_if_note(Cond::gt32(key, split), label, &note);
        return search(s, key, first, lower);
    }
    unless(s, Cond::gt32(key, split), ("<=", split), "above", |s| search(s, key, first, lower));
    search(s, key, split.saturating_add(1), upper);
}

/// `then` falls through, unless the condition holds: that goes on after it.
fn unless<S: Search>(s: &mut S, not: Cond, (op, value): (&str, u32), word: &str, then: impl FnOnce(&mut S)) {
    let other = s.other(word, value);
    let note = s.note(op, value);
    s.emit().jump_if_note(not, other, &note);
    then(s);
    s.emit().bind(other);
}

/// A few single values, and the one place to which all others lead.
fn singles<T: Copy + PartialEq>(first: u32, runs: &[Run<T>]) -> Option<(Vec<(u32, T)>, T)> {
    let firsts = std::iter::once(first).chain(runs.iter().map(|run| run.last.saturating_add(1)));
    let spans: Vec<(u32, &Run<T>)> = firsts.zip(runs).collect();
    // Values that are more than one, or else those in between, all lead to one place.
    let other = spans.iter().find(|(first, run)| *first != run.last).or(spans.get(1))?.1.then;
    let singles: Vec<(u32, T)> =
        spans.iter().filter(|(_, run)| run.then != other).map(|(_, run)| (run.last, run.then)).collect();
    let all_single = spans.iter().all(|(first, run)| run.then == other || *first == run.last);
    (all_single && singles.len() <= IN_A_ROW).then_some((singles, other))
}
