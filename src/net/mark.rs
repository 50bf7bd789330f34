//! What a filter's name says about it: who put it there, from which rules.
//!
//! The name is all the state there is between two runs: tc keeps it, `tc filter show` prints it.

use std::fmt;

use sha2::{Digest, Sha256};

use super::filter::NAME_PREFIX;

/// What a hook does with packets of several segments that it cannot funnel as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GsoSetup {
    /// Leaves them alone, or meets none.
    #[default]
    Pass,
    /// Sends them through the interface's segmentation pair.
    Pair,
    /// Sends them to the macvlan on that pair's end.
    Macvlan,
    /// The interface's sockets make none: its `gso_max_segs` is 1, and was this.
    Limited(u32),
}

/// How many of the other nodes `bypass` sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub reached: usize,
    pub all: usize,
}

/// `sfunnel/0.1.0 1a2b3c4d5e6f 8 rules`, or `..., counted`, `..., 3 of 4 peers`, `..., fast`, `..., merging`, `..., finishing`, and then `..., pair`,
/// `..., macvlan` or `..., gso_max_segs was 65535`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub version: String,
    /// The first twelve hex digits of the SHA-256 of the program.
    pub hash: String,
    pub rules: usize,
    pub gso: GsoSetup,
    /// What is unfunneled goes through the interface's merging pair.
    pub merging: bool,
    /// All that is funneled goes through the segmentation pair.
    pub finishing: bool,
    /// Some rule counts.
    pub counted: bool,
    /// Of a hook that sends past an overlay.
    pub reach: Option<Reach>,
    /// Flows go past the stack.
    pub fast: bool,
}

const COUNTED: &str = ", counted";
const MERGING: &str = ", merging";
const FINISHING: &str = ", finishing";
const PEERS: &str = " peers";
const FAST: &str = ", fast";
const PAIR: &str = ", pair";
const MACVLAN: &str = ", macvlan";
const LIMITED: &str = ", gso_max_segs was ";

impl Mark {
    pub fn new(program: &[u8], rules: usize) -> Self {
        let digest = Sha256::digest(program);
        let hash = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hash,
            rules,
            gso: GsoSetup::Pass,
            merging: false,
            finishing: false,
            counted: false,
            reach: None,
            fast: false,
        }
    }

    /// The name of a filter on a device beside an interface, which has no rules.
    pub fn end(&self) -> String {
        format!("{NAME_PREFIX}/{} {} hands back", self.version, self.hash)
    }

    /// `None` for a name that another version wrote differently: the filter is still ours.
    pub fn read(name: &str) -> Option<Self> {
        let mut words = name.strip_prefix(NAME_PREFIX)?.strip_prefix('/')?.split(' ');
        let (version, hash, rules) = (words.next()?, words.next()?, words.next()?);
        let rules = rules.parse().ok()?;
        let gso = match name.split_once(LIMITED).and_then(|(_, number)| number.parse().ok()) {
            Some(before) => GsoSetup::Limited(before),
            None if name.ends_with(PAIR) => GsoSetup::Pair,
            None if name.ends_with(MACVLAN) => GsoSetup::Macvlan,
            None => GsoSetup::Pass,
        };
        let (version, hash) = (version.to_owned(), hash.to_owned());
        let [merging, finishing, counted, fast] =
            [MERGING, FINISHING, COUNTED, FAST].map(|word| name.contains(word));
        let reach = name.split(", ").find_map(reach);
        Some(Self { version, hash, rules, gso, merging, finishing, counted, reach, fast })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, hash, rules, gso, merging, finishing, counted, reach, fast } = self;
        write!(f, "{NAME_PREFIX}/{version} {hash} {rules} {}", if *rules == 1 { "rule" } else { "rules" })?;
        f.write_str(if *counted { COUNTED } else { "" })?;
        if let Some(Reach { reached, all }) = reach {
            write!(f, ", {reached} of {all}{PEERS}")?;
        }
        f.write_str(if *fast { FAST } else { "" })?;
        f.write_str(if *merging { MERGING } else { "" })?;
        f.write_str(if *finishing { FINISHING } else { "" })?;
        match gso {
            GsoSetup::Pass => Ok(()),
            GsoSetup::Pair => f.write_str(PAIR),
            GsoSetup::Macvlan => f.write_str(MACVLAN),
            GsoSetup::Limited(before) => write!(f, "{LIMITED}{before}"),
        }
    }
}

fn reach(word: &str) -> Option<Reach> {
    let (reached, all) = word.strip_suffix(PEERS)?.split_once(" of ")?;
    Some(Reach { reached: reached.parse().ok()?, all: all.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_the_filters_name() {
        for (rules, gso) in [
            (0, GsoSetup::Pass),
            (1, GsoSetup::Pair),
            (2, GsoSetup::Macvlan),
            (65_536, GsoSetup::Limited(65_535)),
        ] {
            for bits in 0..16 {
                let [counted, merging, finishing, fast] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                let reach = counted.then_some(Reach { reached: rules, all: 65_536 });
                let mark =
                    Mark { gso, merging, finishing, counted, reach, fast, ..Mark::new(b"program", rules) };
                assert_eq!(Mark::read(&mark.to_string()), Some(mark));
            }
        }
        assert_eq!(Mark::read("sfunnel"), None);
        assert_eq!(Mark::read("tc_sfunnel.o:[funnel]"), None);
    }

    #[test]
    fn the_hash_tells_programs_apart() {
        assert_eq!(Mark::new(b"", 0).hash, "e3b0c44298fc");
        assert_ne!(Mark::new(b"a", 0).hash, Mark::new(b"b", 0).hash);
    }
}
