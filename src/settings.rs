//! What the kernel knows of a packet besides its bytes, as far as rules match on it or set it: values by field.
//!
//! Comes from `KEYWORD set N` in a rule, from a packet in words, or from a run in the kernel. Which fields there are
//! says the table of fields. Never knows a rule.

use std::fmt;

use crate::field::{Base, Field, Place};
use crate::packet;

/// Values of fields of `struct __sk_buff`, in host byte order. A field need not have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Settings([Option<u32>; ROOM]);

/// More fields than there are in `struct __sk_buff`, so far.
const ROOM: usize = 4;

/// The fields that are there, each with its member of the structure.
pub fn fields() -> impl Iterator<Item = (Field, packet::Field)> {
    // The kernel's structure is the same for both families.
    let in_skb = |place: &Place| place.base == Base::Skb;
    let member = move |field: Field| field.row().place.into_iter().flatten().find(in_skb)?.words.first();
    Field::all().filter_map(move |field| Some((field, *member(field)?)))
}

impl Settings {
    pub fn get(&self, field: Field) -> Option<u32> {
        self.iter().find(|(other, _)| *other == field).map(|(_, value)| value)
    }

    pub fn set(&mut self, field: Field, value: u32) {
        for (slot, _) in self.0.iter_mut().zip(fields()).filter(|(_, (other, _))| *other == field) {
            *slot = Some(value);
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Settings::default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Field, u32)> {
        self.0.into_iter().zip(fields()).filter_map(|(value, (field, _))| Some((field, value?)))
    }
}

impl fmt::Display for Settings {
    /// As actions, a blank between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.iter().map(|(field, value)| format!("{field} set {value}")).collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_every_field() {
        assert!(fields().count() <= ROOM, "make room in `Settings`");
        let mut settings = Settings::default();
        for (value, (field, _)) in (1..).zip(fields()) {
            settings.set(field, value);
            assert_eq!(settings.get(field), Some(value));
        }
        assert_eq!(settings.iter().count(), fields().count());
    }

    #[test]
    fn what_can_be_set_is_there() {
        assert!(Field::settable().all(|settable| fields().any(|(field, _)| field == settable)));
    }
}
