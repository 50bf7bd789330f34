//! Sets of IPv6 addresses as boxes: four sets of 32-bit words, any combination of which is an address.
//!
//! A prefix is one box, everything outside of a prefix at most four, any range at most seven. Comes from the
//! rules' sets, goes to the tree builder, which knows words only. No address is in two boxes.

use range_set_blaze::RangeSetBlaze;

use super::intervals::Intervals;

/// The boxes whose union is the set.
pub(super) fn of(set: &RangeSetBlaze<u128>) -> Vec<[Intervals; 4]> {
    let ranges: Vec<(u128, u128)> = set.ranges().map(|range| range.into_inner()).collect();
    let mut found = Vec::new();
    descend(&ranges, &mut Vec::new(), &mut found);
    found
}

/// `ranges`, in ascending order and never touching, are of what is left of the address behind the words `above`.
fn descend(ranges: &[(u128, u128)], above: &mut Vec<Intervals>, found: &mut Vec<[Intervals; 4]>) {
    let shift = 96 - 32 * above.len();
    let rest = (1_u128 << shift) - 1;
    // Words behind which everything is in the set, and those behind which something is.
    let mut whole = Vec::new();
    let mut parts: Vec<(u32, Vec<(u128, u128)>)> = Vec::new();
    let mut part = |word: u32, range: (u128, u128)| match parts.last_mut() {
        Some((last, ranges)) if *last == word => ranges.push(range),
        _ => parts.push((word, vec![range])),
    };
    for &(start, end) in ranges {
        let (Ok(first), Ok(last)) = (u32::try_from(start >> shift), u32::try_from(end >> shift)) else {
            continue;
        };
        let (from, to) = (start & rest, end & rest);
        if first == last && (from, to) != (0, rest) {
            part(first, (from, to));
            continue;
        }
        let mut inside = (u64::from(first), u64::from(last) + 1);
        if from != 0 {
            part(first, (from, rest));
            inside.0 += 1;
        }
        if to != rest {
            part(last, (0, to));
            inside.1 -= 1;
        }
        if inside.0 < inside.1
            && let (Ok(first), Ok(last)) = (u32::try_from(inside.0), u32::try_from(inside.1 - 1))
        {
            whole.push((first, last));
        }
    }
    if !whole.is_empty() {
        let any = || Intervals(vec![(0, u32::MAX)]);
        let words: Vec<Intervals> = above.iter().cloned().chain([Intervals(whole)]).collect();
        found.push(std::array::from_fn(|word| words.get(word).cloned().unwrap_or_else(any)));
    }
    for (word, ranges) in parts {
        above.push(Intervals(vec![(word, word)]));
        descend(&ranges, above, found);
        above.pop();
    }
}
