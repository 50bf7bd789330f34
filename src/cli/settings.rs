//! Flags, variables and defaults become settings: flags win, then variables, then defaults.
//!
//! Input: parsed arguments and the environment. Output: values that are checked. Never touches the system,
//! but for reading the ruleset.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::args::{Attach, Defines, End, GsoArg, Input, Place};
use super::files::{file_source, text};
use super::{Console, Failure};
use crate::diag::{PieceKind, Source};
use crate::net::{Gso, Hook};

pub const RULESET_FILE: &str = "/etc/sfunnel/ruleset";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    Ingress,
    Egress,
    Both,
}

impl Direction {
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Direction::Ingress => &[Hook::Ingress],
            Direction::Egress => &[Hook::Egress],
            Direction::Both => &Hook::ALL,
        }
    }
}

/// Where to attach, to detach or to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `None`: every interface there is.
    pub interfaces: Option<Vec<String>>,
    pub direction: Direction,
    /// Where `direction` comes from; `None`: it is the default.
    pub said: Option<&'static str>,
    pub netns: Option<String>,
}

impl Target {
    pub fn read(place: &Place, default: Direction, console: &Console<'_>) -> Result<Self, Failure> {
        let (direction, said) = match (place.direction, console.variable("DIRECTION")) {
            (Some(direction), _) => (direction, Some("--direction")),
            (None, None) => (default, None),
            (None, Some(text)) => {
                let direction = Direction::from_str(&text, true).map_err(|_| {
                    Failure::Usage(format!("DIRECTION is `{text}`; it must be ingress, egress or both"))
                })?;
                (direction, Some("DIRECTION"))
            }
        };
        let names = if place.iface.is_empty() { from_variable(console)? } else { from_flags(&place.iface)? };
        if place.netns.as_deref().is_some_and(|netns| netns.trim().is_empty()) {
            return Err(Failure::Usage("`--netns` is empty; leave it out to mean this namespace".to_owned()));
        }
        Ok(Self {
            interfaces: (!names.is_empty()).then_some(names),
            direction,
            said,
            netns: place.netns.clone().or_else(|| console.variable("NETNS")),
        })
    }
}

/// IFACES: names with blanks or commas between them. Blank is not set: an orchestrator often sets what it does not
/// mean; but who writes a comma means something.
fn from_variable(console: &Console<'_>) -> Result<Vec<String>, Failure> {
    let text = console.variable("IFACES").unwrap_or_default();
    let names = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
    let names = once(names.map(str::to_owned));
    if names.is_empty() && text.contains(',') {
        return Err(Failure::Usage(format!(
            "IFACES is `{text}`, which names no interface; leave it empty to mean all"
        )));
    }
    Ok(names)
}

/// One name each.
fn from_flags(given: &[String]) -> Result<Vec<String>, Failure> {
    for name in given {
        let names = name.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
        let flags: Vec<String> = names.map(|name| format!("-i {name}")).collect();
        let wrong = match (flags.is_empty(), name.contains(|c: char| c == ',' || c.is_whitespace())) {
            // An empty flag is a script's variable that was not set.
            (true, _) => "names no interface; leave it out to mean every interface".to_owned(),
            (false, true) => format!("is one name; write `{}`", flags.join(" ")),
            (false, false) => continue,
        };
        return Err(Failure::Usage(format!("`--iface {name}` {wrong}")));
    }
    Ok(once(given.iter().cloned()))
}

/// Each of them once.
fn once(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// How long to wait for an interface that is not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub attempts: u32,
    pub delay: Duration,
}

impl Patience {
    /// One try.
    pub const NONE: Self = Self { attempts: 1, delay: Duration::ZERO };

    pub fn read(args: &Attach, console: &Console<'_>) -> Result<Self, Failure> {
        let attempts = setting(args.attempts.as_deref(), "--attempts", "N_ATTEMPTS", console);
        let delay = setting(args.retry_delay.as_deref(), "--retry-delay", "RETRY_DELAY", console);
        let attempts = attempts.map_or(Ok(6), |(name, text)| {
            text.parse().ok().filter(|attempts| *attempts > 0).ok_or_else(|| {
                Failure::Usage(format!("{name} is `{text}`; it must be a number of tries, 1 or more"))
            })
        })?;
        let delay = delay.map_or(Ok(Duration::from_secs(3)), |(name, text)| {
            let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            seconds
                .ok_or_else(|| Failure::Usage(format!("{name} is `{text}`; it must be a number of seconds")))
        })?;
        Ok(Self { attempts, delay })
    }
}

/// A value and the name under which the user gave it.
fn setting(
    flag: Option<&str>,
    name: &'static str,
    variable: &'static str,
    console: &Console<'_>,
) -> Option<(&'static str, String)> {
    match flag {
        Some(value) => Some((name, value.to_owned())),
        None => console.variable(variable).map(|value| (variable, value)),
    }
}

/// What becomes of packets of several segments: `--gso`, SFUNNEL_GSO.
pub fn gso(flag: Option<GsoArg>, console: &Console<'_>) -> Result<Gso, Failure> {
    let wanted = match (flag, console.variable("SFUNNEL_GSO")) {
        (Some(wanted), _) => wanted,
        (None, None) => GsoArg::Segment,
        (None, Some(text)) => GsoArg::from_str(&text, true).map_err(|_| {
            Failure::Usage(format!("SFUNNEL_GSO is `{text}`; it must be segment, limit or off"))
        })?,
    };
    Ok(wanted.into())
}

/// Whose end this is: `--end`, SFUNNEL_END.
pub fn end(flag: Option<End>, console: &Console<'_>) -> Result<Option<End>, Failure> {
    let (None, Some(text)) = (flag, console.variable("SFUNNEL_END")) else { return Ok(flag) };
    let wrong = || Failure::Usage(format!("SFUNNEL_END is `{text}`; it must be client or pod"));
    End::from_str(&text, true).map(Some).map_err(|_| wrong())
}

/// A yes-or-no variable; not set means no.
pub fn truth(name: &str, console: &Console<'_>) -> Result<bool, Failure> {
    truth_of(name, &console.variable(name).unwrap_or_default())
}

pub fn truth_of(name: &str, text: &str) -> Result<bool, Failure> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Ok(true),
        "" | "0" | "false" | "no" => Ok(false),
        _ => Err(Failure::Usage(format!("{name} is `{text}`; it must be 1, true, yes, 0, false or no"))),
    }
}

/// The rules: `--ruleset`, `--rules`, SFUNNEL_RULESET or one of each hook, /etc/sfunnel/ruleset.
pub fn source(args: &Attach, console: &Console<'_>) -> Result<Source, Failure> {
    if let Some(text) = &args.ruleset {
        return Ok(Source::new("--ruleset", text));
    }
    if let Some(file) = &args.rules {
        return file_source(file);
    }
    let chains: Vec<_> =
        [("SFUNNEL_RULESET_INGRESS", PieceKind::Ingress), ("SFUNNEL_RULESET_EGRESS", PieceKind::Egress)]
            .into_iter()
            .filter_map(|(name, kind)| Some((name.to_owned(), kind, console.variable(name)?)))
            .collect();
    match (console.variable("SFUNNEL_RULESET"), chains.first()) {
        (Some(_), Some((name, ..))) => {
            return Err(Failure::Usage(format!(
                "SFUNNEL_RULESET and {name} are both set; the first is for rules without a hook of their own: use \
                 SFUNNEL_RULESET_INGRESS and SFUNNEL_RULESET_EGRESS alone"
            )));
        }
        (Some(text), None) => return Ok(Source::new("SFUNNEL_RULESET", text)),
        (None, Some(_)) => return Ok(Source::of(chains)),
        (None, None) => {}
    }
    let file = Path::new(RULESET_FILE);
    match fs::read(file) {
        Ok(bytes) => text(RULESET_FILE, bytes),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            let state = if (console.env)("SFUNNEL_RULESET").is_some() { "is empty" } else { "is not set" };
            Err(Failure::File {
                what: format!(
                    "no ruleset: SFUNNEL_RULESET {state} and {RULESET_FILE} cannot be read (see `sfunnel --help`)"
                ),
                source,
            })
        }
        Err(source) => Err(Failure::File { what: format!("cannot read {RULESET_FILE}"), source }),
    }
}

/// With what `--define` says in front.
pub fn defined(source: Source, defines: &Defines) -> Source {
    if defines.define.is_empty() { source } else { source.with_defines("--define", &defines.define) }
}

/// The rules of a command that only looks at them.
pub fn input_source(input: &Input) -> Result<Source, Failure> {
    match (&input.ruleset, &input.file) {
        (Some(text), _) => Ok(Source::new("--ruleset", text)),
        (None, Some(file)) => file_source(file),
        (None, None) => Err(Failure::Usage("no rules: name a file, or use `--ruleset TEXT`".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Level, LogFormat};

    fn with<T>(variables: &[(&str, &str)], test: impl FnOnce(&Console<'_>) -> T) -> T {
        let env =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let (mut out, mut talk) = (Vec::new(), Vec::new());
        test(&Console {
            out: &mut out,
            talk: &mut talk,
            env: &env,
            color: false,
            out_is_terminal: false,
            log: LogFormat::Text,
            least: Level::default(),
        })
    }

    #[test]
    fn booleans_accept_words_and_refuse_the_rest() {
        for yes in ["1", "true", "yes", "TRUE"] {
            assert!(with(&[("CLEAN", yes)], |console| truth("CLEAN", console)).unwrap());
        }
        for no in ["", "0", "false", "no"] {
            assert!(!with(&[("CLEAN", no)], |console| truth("CLEAN", console)).unwrap());
        }
        assert!(!with(&[], |console| truth("CLEAN", console)).unwrap());
        let error = with(&[("CLEAN", "2")], |console| truth("CLEAN", console)).unwrap_err();
        assert_eq!(error.to_string(), "CLEAN is `2`; it must be 1, true, yes, 0, false or no");
    }

    #[test]
    fn interfaces_are_separated_by_spaces_or_commas_and_empty_means_all() {
        let read = |variables: &[(&str, &str)]| {
            with(variables, |console| Target::read(&Place::default(), Direction::Ingress, console))
                .unwrap()
                .interfaces
        };
        assert_eq!(read(&[("IFACES", " eth0 eth1,eth2\n")]).unwrap(), ["eth0", "eth1", "eth2"]);
        assert_eq!(read(&[("IFACES", "lo eth0 lo")]).unwrap(), ["lo", "eth0"]);
        assert_eq!(read(&[("IFACES", "")]), None);
        assert_eq!(read(&[("IFACES", " \n")]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn only_commas_are_a_mistake_and_so_is_an_empty_namespace() {
        let read = |place: &Place, variables: &[(&str, &str)]| {
            let read = with(variables, |console| Target::read(place, Direction::Ingress, console));
            read.unwrap_err().to_string()
        };
        let said = read(&Place::default(), &[("IFACES", " , ")]);
        assert_eq!(said, "IFACES is ` , `, which names no interface; leave it empty to mean all");
        let said = read(&Place { netns: Some(String::new()), ..Place::default() }, &[("NETNS", "blue")]);
        assert_eq!(said, "`--netns` is empty; leave it out to mean this namespace");
    }

    #[test]
    fn a_flag_that_names_no_interface_is_a_mistake_and_an_empty_variable_is_none() {
        let read = |iface: &str| {
            let place = Place { iface: vec![iface.to_owned()], ..Place::default() };
            with(&[("IFACES", "eth0")], |console| Target::read(&place, Direction::Ingress, console))
        };
        for empty in ["", " ", ","] {
            let said = read(empty).unwrap_err().to_string();
            assert!(said.contains("names no interface"), "{said}");
        }
        for several in ["lo,eth0", "lo, eth0", ",lo eth0"] {
            let said = read(several).unwrap_err().to_string();
            assert!(said.ends_with("is one name; write `-i lo -i eth0`"), "{said}");
        }
    }

    #[test]
    fn a_flag_wins_over_its_variable() {
        let place = Place { iface: vec!["lo".to_owned()], direction: Some(Direction::Both), netns: None };
        let target = with(&[("IFACES", "eth0"), ("DIRECTION", "nonsense"), ("NETNS", "blue")], |console| {
            Target::read(&place, Direction::Ingress, console)
        })
        .unwrap();
        assert_eq!(target.interfaces.unwrap(), ["lo"]);
        assert_eq!(target.direction, Direction::Both);
        assert_eq!(target.netns.unwrap(), "blue");
    }

    #[test]
    fn segments_are_made_unless_told_otherwise() {
        let read = |variables: &[(&str, &str)], flag| with(variables, |console| gso(flag, console));
        assert_eq!(read(&[], None).unwrap(), Gso::Segment);
        assert_eq!(read(&[("SFUNNEL_GSO", "Limit")], None).unwrap(), Gso::Limit);
        assert_eq!(read(&[("SFUNNEL_GSO", "limit")], Some(GsoArg::Off)).unwrap(), Gso::Off);
        assert!(read(&[("SFUNNEL_GSO", "on")], None).is_err());
    }

    #[test]
    fn direction_is_checked_whatever_its_case() {
        let read = |text: &str| {
            with(&[("DIRECTION", text)], |console| {
                Target::read(&Place::default(), Direction::Ingress, console)
            })
        };
        assert_eq!(read("EGRESS").unwrap().direction, Direction::Egress);
        assert_eq!(read("").unwrap().direction, Direction::Ingress);
        assert!(read("sideways").is_err());
    }

    #[test]
    fn attempts_are_a_number_of_tries() {
        let read = |variables: &[(&str, &str)]| {
            with(variables, |console| Patience::read(&Attach::default(), console))
        };
        let default = read(&[]).unwrap();
        assert_eq!((default.attempts, default.delay), (6, Duration::from_secs(3)));
        let set = read(&[("N_ATTEMPTS", "2"), ("RETRY_DELAY", "0.5")]).unwrap();
        assert_eq!((set.attempts, set.delay), (2, Duration::from_millis(500)));
        for wrong in
            [("N_ATTEMPTS", "0"), ("N_ATTEMPTS", "many"), ("RETRY_DELAY", "-1"), ("RETRY_DELAY", "soon")]
        {
            assert!(read(&[wrong]).is_err(), "{wrong:?}");
        }
    }
}
