//! What the kernel did with one packet, in words.
//!
//! Input: the outcome of a run, and what the matching rule's counter says of it. Output: its fate and a sentence. The
//! reason is always the program's own; nothing here looks at a packet to find one. Never runs anything.

use super::guarded;
use super::report::Fate;
use crate::codegen::Segmenter;
use crate::codegen::counters::Reason;
use crate::ir::Action;
use crate::kernel::counters::Counted;
use crate::kernel::trial::{Outcome, REDIRECT, SHOT};

/// A packet's way through the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub outcome: Outcome,
    /// By the matching rule.
    pub counted: Option<Counted>,
    /// The device that it was sent to, uncounted: it comes back from there.
    pub segmenter: Option<Segmenter>,
    /// What comes back, and what the program then does with it: segments, or the packet with a finished checksum.
    pub pieces: Vec<(Vec<u8>, Ran)>,
}

impl Ran {
    /// `before`: the frame that was run.
    pub fn fate(&self, before: &[u8]) -> Fate {
        let of_pieces = |fate| self.pieces.iter().any(|(frame, piece)| piece.fate(frame) == fate);
        match (self.outcome.verdict, self.counted) {
            _ if !self.pieces.is_empty() => [Fate::Changed, Fate::Unchanged, Fate::Answered]
                .into_iter()
                .find(|fate| of_pieces(*fate))
                .unwrap_or(Fate::Dropped),
            (SHOT, _) => Fate::Dropped,
            (_, Some(Counted::Because(Reason::MtuTold))) => Fate::Answered,
            _ if self.outcome.frame == before => Fate::Unchanged,
            _ => Fate::Changed,
        }
    }

    /// The frames that are passed on.
    pub fn frames(&self, before: &[u8]) -> Vec<&[u8]> {
        if !self.pieces.is_empty() {
            return self.pieces.iter().flat_map(|(frame, piece)| piece.frames(frame)).collect();
        }
        match self.fate(before) {
            Fate::Changed | Fate::Unchanged => vec![&self.outcome.frame],
            Fate::Dropped | Fate::Answered | Fate::Unknown => Vec::new(),
        }
    }

    /// What became of it, and why not what the rule says.
    pub fn verdict(&self, before: &[u8], action: Option<&Action>) -> String {
        if let Some(segmenter) = self.segmenter {
            return self.after(segmenter, action);
        }
        let settings = self.outcome.settings.iter().filter(|(_, value)| *value != 0);
        let with: String = settings.map(|(field, value)| format!(", with {field} {value}")).collect();
        let why = match self.counted {
            Some(Counted::Because(reason)) => {
                Some(reason.text().split_once(": ").map_or(reason.text(), |(_, why)| why))
            }
            _ => None,
        };
        let verdict = match (self.fate(before), why) {
            (Fate::Answered, Some(why)) => format!("answered: {why}"),
            (Fate::Dropped, Some(why)) => match action.and_then(|action| guarded(action, before)) {
                Some(port) if self.counted == Some(Counted::Because(Reason::Guarded)) => {
                    format!("dropped: {why}: {port}")
                }
                _ => format!("dropped: {why}"),
            },
            (Fate::Dropped, None) => "dropped".to_owned(),
            (Fate::Changed, _) if self.outcome.verdict == REDIRECT => match action {
                Some(Action::Bypass { .. }) => "sent out of the host's interface, changed".to_owned(),
                Some(Action::Undirect { .. }) => "handed to the overlay's interface".to_owned(),
                Some(Action::Unbypass { .. }) => "handed to the overlay's interface, changed".to_owned(),
                _ => "passed on, changed, by way of the merging pair".to_owned(),
            },
            // On ingress, the link address is another one.
            (_, None) if self.outcome.verdict == REDIRECT => match action {
                Some(Action::Undirect { .. }) => "handed to the overlay's interface".to_owned(),
                _ => "sent out of the host's interface as it is".to_owned(),
            },
            (Fate::Changed, _) => "passed on, changed".to_owned(),
            (_, Some(why)) => format!("passed on unchanged: {why}"),
            (_, None) => "passed on unchanged".to_owned(),
        };
        verdict + &with
    }

    /// Of a packet that a companion device has cut, or has finished the checksum of.
    fn after(&self, segmenter: Segmenter, action: Option<&Action>) -> String {
        let device = match segmenter {
            Segmenter::Pair => "the segmentation pair",
            Segmenter::Macvlan => "a macvlan",
        };
        let mut verdicts: Vec<(String, usize)> = Vec::new();
        for (frame, piece) in &self.pieces {
            let verdict = piece.verdict(frame, action);
            match verdicts.last_mut() {
                Some((last, count)) if *last == verdict => *count += 1,
                _ => verdicts.push((verdict, 1)),
            }
        }
        match (self.pieces.len(), verdicts.as_slice()) {
            (0, _) => format!("sent to {device}, and not followed further"),
            (1, [(verdict, _)]) => format!("once through {device}, then {verdict}"),
            (count, [(verdict, _)]) => format!("cut into {count} segments by {device}, each then {verdict}"),
            (count, several) => {
                let each: Vec<String> =
                    several.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
                format!("cut into {count} segments by {device}: {}", each.join("; "))
            }
        }
    }
}
