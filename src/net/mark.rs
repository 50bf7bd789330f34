//! What a filter's name says about it: who put it there, from which rules.
//!
//! The name is all the state there is between two runs: tc keeps it, `tc filter show` prints it.

use std::fmt;

use sha2::{Digest, Sha256};

use super::filter::NAME_PREFIX;

/// `sfunnel/0.1.0 1a2b3c4d5e6f 8 rules`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub version: String,
    /// The first twelve hex digits of the SHA-256 of the program.
    pub hash: String,
    pub rules: usize,
}

impl Mark {
    pub fn new(program: &[u8], rules: usize) -> Self {
        let digest = Sha256::digest(program);
        let hash = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), hash, rules }
    }

    /// `None` for a name that another version wrote differently: the filter is still ours.
    pub fn read(name: &str) -> Option<Self> {
        let mut words = name.strip_prefix(NAME_PREFIX)?.strip_prefix('/')?.split(' ');
        let (version, hash, rules) = (words.next()?, words.next()?, words.next()?);
        Some(Self { version: version.to_owned(), hash: hash.to_owned(), rules: rules.parse().ok()? })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, hash, rules } = self;
        write!(f, "{NAME_PREFIX}/{version} {hash} {rules} {}", if *rules == 1 { "rule" } else { "rules" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_the_filters_name() {
        for rules in [0, 1, 65_536] {
            let mark = Mark::new(b"program", rules);
            assert_eq!(Mark::read(&mark.to_string()), Some(mark));
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
