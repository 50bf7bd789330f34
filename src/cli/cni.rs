//! sfunnel as a chained CNI plugin (specification 1.1): called by a runtime behind the plugin that made the interface.
//!
//! Comes in: `CNI_COMMAND` and its companions, and the network's configuration on standard input. Goes out: the result
//! of the plugin before, as it came, or an error object; both on standard output. Keeps nothing of its own: what ADD
//! attaches is in the pod's namespace, and goes with it.

mod config;
mod error;

use serde_json::{Value, json};

use self::config::Network;
use self::error::{Code, Error};
use super::args::OnError;
use super::detach::detach_from;
use super::pod::{deaf, is_apart};
use super::settings::{Direction, Patience, Target};
use super::{Console, Failure, attach, drift};
use crate::net;
use crate::net::detach::Whose;

/// Oldest first. Before these there were no chains of plugins.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Answers one call. Returns the exit code.
pub fn run(console: &mut Console<'_>) -> u8 {
    let call = Call::read(console);
    let mut talk = Vec::new();
    let answer = deaf(false, &mut talk, |quiet| call.answer(quiet));
    let talk = String::from_utf8_lossy(&talk).trim_end().to_owned();
    let (code, answer) = match answer {
        Ok(answer) => (0, answer),
        Err(error) => (1, Some(error.object(&call.version(), &talk))),
    };
    if !talk.is_empty() {
        console.say(&talk);
    }
    let Some(answer) = answer else { return code };
    match writeln!(console.out, "{answer}").and_then(|()| console.out.flush()) {
        Ok(()) => code,
        Err(_) => 1,
    }
}

/// What the runtime wants.
struct Call {
    command: String,
    netns: Option<String>,
    interface: Option<String>,
    /// Standard input, or why it cannot be read.
    network: Result<Network, Error>,
}

type Answer = Result<Option<Value>, Error>;

impl Call {
    fn read(console: &Console<'_>) -> Self {
        Self {
            command: console.variable("CNI_COMMAND").unwrap_or_default(),
            netns: console.variable("CNI_NETNS"),
            interface: console.variable("CNI_IFNAME"),
            network: Network::read(std::io::stdin().lock()),
        }
    }

    /// The version that the answer speaks: the caller's, if we know it.
    fn version(&self) -> String {
        let asked = self.network.as_ref().ok().map(|network| network.version.as_str());
        asked.filter(|asked| VERSIONS.contains(asked)).unwrap_or(VERSIONS[4]).to_owned()
    }

    fn answer(&self, console: &mut Console<'_>) -> Answer {
        if self.command == "VERSION" {
            return Ok(Some(json!({ "cniVersion": self.version(), "supportedVersions": VERSIONS })));
        }
        let network = self.network.as_ref().map_err(Error::clone)?;
        network.is_understood(&VERSIONS)?;
        match self.command.as_str() {
            "ADD" => self.add(network, console),
            "CHECK" => self.check(network, console),
            "DEL" => self.del(console),
            // All that we make is in pods' namespaces: there is nothing that could be left over.
            "GC" => Ok(None),
            "STATUS" => status(network, console),
            other => Err(Error::new(Code::Variable, format!("CNI_COMMAND is `{other}`, which is not known"))),
        }
    }

    fn add(&self, network: &Network, console: &mut Console<'_>) -> Answer {
        let result = network.previous()?;
        match self.attach(network, console) {
            Ok(()) => {}
            Err(error) if network.on_error == OnError::Proceed => {
                console.say(format!("warning: {}", error.message));
                console.say("`\"onError\": \"proceed\"`: the pod starts without sfunnel");
            }
            Err(error) => return Err(error),
        }
        Ok(Some(result.clone()))
    }

    fn attach(&self, network: &Network, console: &mut Console<'_>) -> Result<(), Error> {
        let wishes = network.wishes()?;
        let (netns, interface) = self.place()?;
        if wishes.source.is_none() || wishes.interfaces.as_ref().is_some_and(|all| !all.contains(&interface))
        {
            return Ok(());
        }
        Ok(wishes.attach(vec![interface], &netns, console)?)
    }

    fn check(&self, network: &Network, console: &mut Console<'_>) -> Answer {
        network.previous()?;
        let wishes = network.wishes()?;
        let (netns, interface) = self.place()?;
        let excluded = wishes.interfaces.as_ref().is_some_and(|all| !all.contains(&interface));
        let (target, how) = wishes.resolve(vec![interface], &netns, console)?;
        let Some(source) = wishes.source.filter(|_| !excluded) else { return Ok(None) };
        match drift::differences(&target, how, source, console)?.as_slice() {
            [] => Ok(None),
            found => Err(Error::new(Code::Drift, found.join("; "))),
        }
    }

    /// What is gone already is what was wanted.
    fn del(&self, console: &mut Console<'_>) -> Answer {
        let Some(netns) = self.netns.clone() else { return Ok(None) };
        let interface = self.interface.clone().ok_or_else(|| missing("CNI_IFNAME"))?;
        is_apart(&netns)?;
        let target = Target {
            interfaces: Some(vec![interface]),
            direction: Direction::Both,
            said: None,
            netns: Some(netns),
        };
        match detach_from(&target, Patience::NONE, Whose::Ours, console) {
            Ok(()) => Ok(None),
            Err(Failure::Net(error)) if error.is_missing_interface() || is_gone(&error) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    fn place(&self) -> Result<(String, String), Error> {
        let netns = self.netns.clone().ok_or_else(|| missing("CNI_NETNS"))?;
        let interface = self.interface.clone().ok_or_else(|| missing("CNI_IFNAME"))?;
        if !netns.contains('/') {
            let message = format!("CNI_NETNS is `{netns}`, which is not the path of a network namespace");
            return Err(Error::new(Code::Variable, message));
        }
        is_apart(&netns)?;
        Ok((netns, interface))
    }
}

fn missing(name: &str) -> Error {
    Error::new(Code::Variable, format!("{name} is not set"))
}

/// Its path is gone, or nothing is mounted there any more.
fn is_gone(error: &net::Error) -> bool {
    use nix::errno::Errno;
    let net::Error::Namespace { source, .. } = error else { return false };
    matches!(
        source.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EINVAL | Errno::ESRCH)
    )
}

/// Whether pods can be added: the network's own rules have to be right. What a pod brings along is not known yet.
fn status(network: &Network, console: &mut Console<'_>) -> Answer {
    let mut rules = || -> Result<(), Error> {
        let wishes = network.wishes()?;
        let (_, how) = wishes.resolve(Vec::new(), "", console)?;
        if let Some(source) = wishes.source {
            attach::lists(how, source, console)?;
        }
        Ok(())
    };
    match rules() {
        Ok(()) => Ok(None),
        Err(error) => Err(Error { code: Code::NotReady, ..error }),
    }
}
