//! Sets of values as text: addresses as prefixes, numbers as ranges, TCP flags by their names.
//!
//! Takes a field and the values that a rule wants of it, gives what is written after the field's keyword. Never looks at a
//! rule.

use crate::field::{Field, Notation, flag_names};
use crate::matches::{self, Ports, Set, universe};
use crate::protocol::{Family, TCP_FLAGS};

/// What is written after the field's keyword: `10.0.0.1`, `!= 10.0.0.1`, `{ 10.0.0.1, 10.0.0.8/29 }`; whichever of the
/// set and its complement is shorter, if both can be written.
pub fn values(field: Field, sets: &[(Family, Set)]) -> String {
    if let Notation::Flags = field.row().notation {
        return flags(&union(sets));
    }
    let outside: Vec<_> =
        sets.iter().map(|(family, set)| (*family, universe(field, *family) - set)).collect();
    let all = |sets: &[(Family, Set)]| match field.row().notation {
        Notation::Address => sets.iter().flat_map(|(family, set)| prefixes(*family, set)).collect::<Vec<_>>(),
        // The same numbers in both families, but for those that packets of one of them cannot have.
        Notation::Number(_) | Notation::Flags => ranges(field, &union(sets)),
    };
    let (inside, others) = (all(sets), all(&outside));
    let can_be_written = |sets: &[(Family, Set)]| match &field.row().notation {
        // From outside, every family must be named, too.
        Notation::Address => sets.iter().all(|(_, set)| !set.is_empty()),
        Notation::Number(number) => sets.iter().all(|(_, set)| set.first() >= Some(number.min.into())),
        Notation::Flags => true,
    };
    let negated = match (can_be_written(sets), can_be_written(&outside)) {
        (true, false) => false,
        (false, _) => true,
        (true, true) => matches!(field.row().notation, Notation::Address) && others.len() < inside.len(),
    };
    if negated { format!("!= {}", listed(others)) } else { listed(inside) }
}

/// A set of values as its elements, whether they can be written in a rule or not.
pub fn elements(field: Field, family: Family, set: &Set) -> String {
    match field.row().notation {
        Notation::Address => listed(prefixes(family, set)),
        Notation::Number(_) => listed(ranges(field, set)),
        Notation::Flags => match (masked(set), masked(&(universe(Field::FLAGS, family) - set))) {
            (None, None) => cubes(set).iter().map(flags).collect::<Vec<_>>().join(" or "),
            _ => flags(set),
        },
    }
}

fn union(sets: &[(Family, Set)]) -> Set {
    sets.iter().fold(Set::new(), |all, (_, set)| all | set)
}

/// Values of TCP's flags, in the shortest of the forms that rules have for them.
fn flags(set: &Set) -> String {
    let all = |bits: u128| flag_names(bits, ",");
    let outside = universe(Field::FLAGS, Family::V4) - set;
    let exactly = |set: &Set| {
        let each: Vec<String> = set.iter().map(|value| flag_names(value, "|")).collect();
        format!("{{ {} }}", each.join(", "))
    };
    match (masked(set), masked(&outside)) {
        (_, Some((0, mask))) => all(mask),
        (Some((value, mask)), _) => format!("{} / {}", all(value), all(mask)),
        (None, Some((value, mask))) => format!("!= {} / {}", all(value), all(mask)),
        (None, None) if outside.iter().count() < set.iter().count() => format!("!= {}", exactly(&outside)),
        (None, None) => exactly(set),
    }
}

/// The set in parts of which [`masked`] tells the values, halved by one flag after the other.
fn cubes(set: &Set) -> Vec<Set> {
    if set.is_empty() {
        return Vec::new();
    }
    if masked(set).is_some() {
        return vec![set.clone()];
    }
    let parts = TCP_FLAGS.iter().filter_map(|(_, bit)| {
        let (with, without): (Set, Set) = set.iter().partition(|value| value & u128::from(*bit) != 0);
        let halved = !with.is_empty() && !without.is_empty();
        halved.then_some([with, without])
    });
    // The flag that leaves the most that needs no further halving.
    let whole = |parts: &[Set; 2]| {
        parts.iter().filter(|part| masked(part).is_some()).map(|part| part.iter().count()).sum::<usize>()
    };
    let parts = parts.max_by_key(whole);
    parts.iter().flatten().flat_map(cubes).collect()
}

/// Which bits all values have in common, if that says which values these are: those bits, and which of them are looked
/// at.
fn masked(set: &Set) -> Option<(u128, u128)> {
    let any = Field::FLAGS.largest(Family::V4);
    let (ones, zeros) = set.iter().fold((any, any), |(ones, zeros), value| (ones & value, zeros & !value));
    let mask = ones | zeros;
    (set.iter().count() == 1 << (any & !mask).count_ones()).then_some((ones, mask))
}

/// Ports as one writes them.
pub fn ports(ports: &Ports) -> String {
    values(Field::DPORT, &[(Family::V4, matches::widened(ports).as_ref().clone())])
}

/// One of them, or all of them in braces.
pub fn listed(items: Vec<String>) -> String {
    match items.as_slice() {
        [one] => one.clone(),
        many => format!("{{ {} }}", many.join(", ")),
    }
}

fn ranges(field: Field, set: &Set) -> Vec<String> {
    let show = |value: u128| field.show(Family::V4, value);
    set.ranges()
        .map(|range| match (*range.start(), *range.end()) {
            (first, last) if first == last => show(first),
            (first, last) => format!("{}-{}", show(first), show(last)),
        })
        .collect()
}

/// The fewest prefixes that make up the addresses.
pub fn prefixes(family: Family, set: &Set) -> Vec<String> {
    let width = Field::SADDR.largest(family).count_ones();
    let show = |first: u128| Field::SADDR.show(family, first);
    set.ranges().flat_map(|range| cut_into_prefixes(*range.start(), *range.end(), width, show)).collect()
}

/// The fewest prefixes that make up the range, of addresses with this many bits.
fn cut_into_prefixes(mut first: u128, last: u128, width: u32, show: impl Fn(u128) -> String) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        // As large as alignment and what is left allow.
        let aligned = first.trailing_zeros().min(width);
        let fits = (last - first).checked_add(1).map_or(width, u128::ilog2);
        let bits = aligned.min(fits);
        found.push(if bits == 0 { show(first) } else { format!("{}/{}", show(first), width - bits) });
        let end = first + (u128::MAX >> (128 - bits.max(1))) * u128::from(bits > 0);
        match end.checked_add(1).filter(|next| *next <= last) {
            Some(next) => first = next,
            None => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cut_into_prefixes;

    #[test]
    fn a_range_is_cut_into_the_fewest_prefixes() {
        let of = |first, last, width| cut_into_prefixes(first, last, width, |first| first.to_string());
        assert_eq!(of(0, u128::from(u32::MAX), 32), ["0/0"]);
        assert_eq!(of(0, u128::MAX, 128), ["0/0"]);
        assert_eq!(of(7, 7, 32), ["7"]);
        assert_eq!(of(1, 10, 32), ["1", "2/31", "4/30", "8/31", "10"]);
        assert_eq!(of(u128::MAX - 1, u128::MAX, 128), [format!("{}/127", u128::MAX - 1)]);
    }
}
