//! `bypass attach`: rules on the overlay's interface, and what undoes them on the host's.
//!
//! Input: the names of both, and one text for all nodes. Output: programs on both. What is received follows from
//! the nodes: nobody writes it, and it is attached first. What is sent goes to those nodes only that have answered a
//! probe since, by the program that receives there.

mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use super::args::{self, Strict};
use super::attach;
use super::counted::Wanted;
use super::how::How;
use super::rules::{Lists, Rules};
use super::settings::{self, Direction, Target};
use super::{Console, Failure, point};
use crate::codegen::{self, Options};
use crate::diag::Source;
use crate::ir::{Action, Side};
use crate::kernel;
use crate::net::detach::Whose;
use crate::net::gso::Aside;
use crate::net::mark::Reach;
use crate::net::overlay::Ends;
use crate::net::probe::{self, Answer, Peer};
use crate::net::{self, Filter, Hook, Interface, Mark, Netlink, links, peers};
use crate::nodes::Nodes;
use crate::policy;
use crate::router_rules;
use crate::rule_text;

pub fn run(args: &args::Bypass, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        args::BypassCommand::Attach(args) => {
            let bypass = Bypass::read(args, console)?;
            let mut netlink = attach::open(&bypass.target)?;
            let nothing = |console: &mut Console<'_>| console.say("nothing was attached");
            let mut seen = Seen::default();
            bypass.apply(&mut netlink, &mut seen, console).inspect_err(|_| nothing(console))
        }
        args::BypassCommand::Watch(args) => watch::run(args, console),
    }
}

/// What the user wants, whatever the other nodes do.
struct Bypass {
    target: Target,
    overlay: String,
    host: String,
    port: u16,
    receive_only: bool,
    ask_kernel: bool,
    how: How,
    source: Source,
    defines: args::Defines,
}

/// What has been found out of each node, for the next time: only what changes is said again.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<Ipv4Addr, Answer>,
    unknown: Vec<String>,
    notes: Vec<String>,
}

impl Bypass {
    fn read(args: &args::BypassAttach, console: &mut Console<'_>) -> Result<Self, Failure> {
        let overlay = interface(args.overlay_if.as_deref(), "--overlay-if", "OVERLAY_IF", console)?;
        let host = interface(args.host_if.as_deref(), "--host-if", "HOST_IF", console)?;
        let shared = args.attach();
        let target = Target {
            interfaces: Some(vec![overlay.clone(), host.clone()]),
            said: None,
            ..Target::read(&shared.place, Direction::Both, console)?
        };
        Ok(Self {
            target,
            overlay,
            host,
            port: port(args.port, console)?,
            receive_only: args.receive_only,
            ask_kernel: args.peers.is_some(),
            how: How::read(&shared, console)?,
            source: match &args.router_rules {
                Some(folder) => router_rules(folder, args.pods.as_deref())?,
                None => settings::source(&shared, console)?,
            },
            defines: args.defines.clone(),
        })
    }

    /// Attaches what is not attached yet. A program that is there already stays.
    fn apply(
        &self,
        netlink: &mut Netlink,
        seen: &mut Seen,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let _turn = attach::turn(&self.target, netlink, console)?;
        let ends = Ends::find(&links::devices(netlink)?, &self.overlay, &self.host)?;
        let notes = ends.notes();
        if notes != seen.notes {
            notes.iter().for_each(|note| console.say(note));
            seen.notes = notes;
        }
        let source = self.with_peers(netlink, &ends, seen, console)?;
        let source = settings::defined(source, &self.defines);
        let lists = attach::lists(self.how, source, console)?;
        let (rules, nodes) = bypassing(&lists)?;
        let own = own(&nodes, netlink, &ends.host)?;
        let all = nodes.hosts().len() - 1;
        if all == 0 {
            let why = "leads to no other node: there is none to receive from, or to send to".to_owned();
            return Err(net::Error::Unfit { interface: self.overlay.clone(), why }.into());
        }
        let receiving = receiving(&nodes, own, self.port, self.how, console)?;
        let interfaces = [ends.host.clone(), ends.overlay.clone()];
        let standing = net::status(netlink, &interfaces, &Hook::ALL)?;

        let features = kernel::features();
        let of = |side, rules: &Rules| {
            policy::bypass(ends.onward(side), policy::target(features, side, &rules.ruleset, None))
        };
        let of_host = (&ends.host, Hook::Ingress, of(Side::Ingress, &receiving), Aside::default());
        self.put(&receiving, of_host, &standing, netlink, console)?;
        if self.receive_only {
            return Ok(());
        }
        let peers = self.ask(own, &nodes, seen, console)?;
        if peers.is_empty() {
            let removed =
                net::detach(netlink, std::slice::from_ref(&ends.overlay), &[Hook::Egress], Whose::Ours)?;
            if !removed.is_empty() || standing.is_empty() {
                console.say(format!("{}: nothing is sent past the overlay", self.overlay));
            }
            return Ok(());
        }
        let reached = nodes.of(|host| host == own || peers.contains(&host));
        let reach = Reach { reached: peers.len(), all };
        let of_overlay = (
            &ends.overlay,
            Hook::Egress,
            of(Side::Egress, rules),
            Aside { reach: Some(reach), ..Aside::default() },
        );
        self.put(&rules.between(&reached), of_overlay, &standing, netlink, console)
    }

    /// Rules on a hook, unless just these are there.
    fn put(
        &self,
        rules: &Rules,
        wanted: Wanted<'_>,
        standing: &[Filter],
        netlink: &mut Netlink,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        if is_there(rules, &wanted, standing)? {
            return Ok(());
        }
        for attached in attach::attach_lists(
            vec![(rules, vec![wanted])],
            (standing, Vec::new()),
            self.how,
            netlink,
            console,
        )? {
            console.say(point::said(&attached));
        }
        Ok(())
    }

    /// The rules, behind the nodes that the kernel knows, if it is to be asked.
    fn with_peers(
        &self,
        netlink: &mut Netlink,
        ends: &Ends,
        seen: &mut Seen,
        console: &mut Console<'_>,
    ) -> Result<Source, Failure> {
        if !self.ask_kernel {
            return Ok(self.source.clone());
        }
        let peers::Peers { nodes, unknown } = peers::of(netlink, ends)?;
        for prefix in unknown.iter().filter(|prefix| !seen.unknown.contains(prefix)) {
            console.say(format!("{}: the kernel does not know the host of {prefix}", self.overlay));
        }
        seen.unknown = unknown;
        let (nodes, faults) = Nodes::most(&nodes);
        for node in faults.iter().filter(|_| seen.answers.is_empty()) {
            console.say(format!(
                "`{}` stays on the overlay: a byte cannot tell its pods from others of the same node",
                rule_text::node(node)
            ));
        }
        if nodes.is_empty() {
            let why = "leads to no node yet: the kernel has no route by it whose host is known".to_owned();
            return Err(net::Error::Unfit { interface: self.overlay.clone(), why }.into());
        }
        Ok(self.source.clone().behind("the kernel's nodes", &rule_text::nodes(&nodes)))
    }

    /// The hosts that receive. Says what has changed since the last time.
    fn ask(
        &self,
        own: Ipv4Addr,
        nodes: &Nodes,
        seen: &mut Seen,
        console: &mut Console<'_>,
    ) -> Result<Vec<Ipv4Addr>, Failure> {
        let digests = nodes.digests();
        let ours = digests.get(&own).copied().unwrap_or_default();
        let others = digests.into_iter().filter(|(host, _)| *host != own);
        let peers: Vec<Peer> = others.map(|(host, digest)| Peer { host, digest: digest ^ ours }).collect();
        let answers = probe::ask(own, &peers, self.port)?;
        let answers: BTreeMap<Ipv4Addr, Answer> = peers.iter().map(|peer| peer.host).zip(answers).collect();
        for (host, answer) in &answers {
            if seen.answers.get(host) != Some(answer) {
                let before = seen.answers.get(host);
                said(*host, *answer, before, self.port).into_iter().for_each(|said| console.say(said));
            }
        }
        let received = |(host, answer): (&Ipv4Addr, &Answer)| (*answer == Answer::Received).then_some(*host);
        let received = answers.iter().filter_map(received).collect();
        seen.answers = answers;
        Ok(received)
    }
}

/// What a node's answer means, if there is anything to say about it.
fn said(host: Ipv4Addr, answer: Answer, before: Option<&Answer>, port: u16) -> Option<String> {
    match answer {
        Answer::Received => before.map(|_| format!("node {host} receives: bypassed from now on")),
        Answer::Refused => Some(format!(
            "node {host} stays on the overlay: no program there takes what is sent past it, or something on the way \
             clears the urgent pointer"
        )),
        Answer::Silent => Some(format!(
            "node {host} stays on the overlay: no answer from its port {port}: it is not there, or knows other pods"
        )),
    }
}

fn is_there(rules: &Rules, wanted: &Wanted<'_>, standing: &[Filter]) -> Result<bool, Failure> {
    let (interface, hook, options, Aside { reach, .. }) = *wanted;
    let mark = |options: Options| -> Result<Mark, Failure> {
        let mark = Mark::new(&rules.compile(options)?.bytes(), rules.ruleset.rules.len());
        Ok(Mark { counted: rules.ruleset.counts(), reach, ..mark })
    };
    let here = standing.iter().find(|filter| filter.interface == *interface && filter.hook == hook);
    let Some(there) = here.and_then(|filter| Mark::read(filter.name.as_deref()?)) else { return Ok(false) };
    Ok(there == mark(options)?)
}

/// Which of the nodes this one is.
fn own(nodes: &Nodes, netlink: &mut Netlink, host: &Interface) -> Result<Ipv4Addr, Failure> {
    let addresses = peers::addresses(netlink, host)?;
    let hosts = nodes.hosts();
    addresses.iter().find(|address| hosts.contains_key(address)).copied().ok_or_else(|| {
        let all: Vec<String> = addresses.iter().map(Ipv4Addr::to_string).collect();
        let all = if all.is_empty() { "has none".to_owned() } else { format!("has {}", all.join(", ")) };
        let why = format!("{all}, and no `node` has an address of it for its host: which node is this?");
        net::Error::Unfit { interface: host.name.clone(), why }.into()
    })
}

/// The rules of a folder, as a ConfigMap is mounted: hidden names are its own.
fn router_rules(folder: &Path, pods: Option<&Path>) -> Result<Source, Failure> {
    let unreadable = |path: &Path| {
        let what = format!("cannot read {}", path.display());
        move |source| Failure::File { what, source }
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || !path.is_file() {
            continue;
        }
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(Failure::Usage(format!("{}: not a name of a rule", path.display())));
        }
        files.insert(name, fs::read_to_string(&path).map_err(unreadable(&path))?);
    }
    let pods = pods.map(|path| fs::read_to_string(path).map_err(unreadable(path))).transpose()?;
    let text =
        router_rules::ruleset(&files, pods.as_deref()).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Source::new(folder.display().to_string(), text))
}

fn interface(
    flag: Option<&str>,
    name: &str,
    variable: &str,
    console: &Console<'_>,
) -> Result<String, Failure> {
    let given = flag.map(str::to_owned).or_else(|| console.variable(variable));
    given.filter(|name| !name.trim().is_empty()).ok_or_else(|| {
        Failure::Usage(format!("which interface? Say it with {name}, or in the variable {variable}"))
    })
}

/// Where nodes answer probes.
fn port(flag: Option<u16>, console: &Console<'_>) -> Result<u16, Failure> {
    const DEFAULT: u16 = 1234;
    let (None, Some(text)) = (flag, console.variable("ROUTER_PORT")) else {
        return Ok(flag.unwrap_or(DEFAULT));
    };
    let port = text.trim().parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| Failure::Usage(format!("ROUTER_PORT is `{text}`; it must be a port, 1 to 65535")))
}

/// Rules that bypass, where one interface is named.
pub(super) fn refuse(lists: &Lists) -> Result<(), Failure> {
    match lists.each().any(|(_, rules)| codegen::bypasses(&rules.ruleset)) {
        false => Ok(()),
        true => Err(Failure::Usage(
            "these rules are for two interfaces, an overlay's and the host's: attach them with `sfunnel bypass attach`"
                .to_owned(),
        )),
    }
}

/// The one list of rules for the overlay's interface, and the nodes that it is about.
fn bypassing(lists: &Lists) -> Result<(&Rules, Nodes), Failure> {
    let Some(rules) = lists.of(Side::Egress).filter(|_| lists.sides().is_none()) else {
        return Err(Failure::Usage(
            "rules to bypass an overlay are for packets that leave by it: write them without chains"
                .to_owned(),
        ));
    };
    let mut nodes = None;
    for rule in &rules.ruleset.rules {
        match &rule.action {
            Action::Bypass { nodes: all } => nodes = Some(all.clone()),
            Action::Accept | Action::Drop => {}
            other => {
                return Err(Failure::Usage(format!(
                    "`{}` does not go with `bypass`: rules for packets that leave by an overlay say `bypass`, `accept` \
                     or `drop`; what is received follows from the nodes",
                    other
                )));
            }
        }
    }
    let none =
        || Failure::Usage("no rule says `bypass`: there is nothing to take past the overlay".to_owned());
    nodes.map(|nodes| (rules, nodes)).ok_or_else(none)
}

/// The rules for what arrives from other nodes.
fn receiving(
    nodes: &Nodes,
    own: Ipv4Addr,
    port: u16,
    how: How,
    console: &mut Console<'_>,
) -> Result<Rules, Failure> {
    let source = Source::new("what is received", rule_text::receiving(nodes, own, port));
    let mut lists = Lists::read(source, Strict::default(), console)
        .map_err(|_| Failure::Internal("the rules for what is received".to_owned()))?;
    how.count(&mut lists);
    let mut all = lists.all();
    let internal = || Failure::Internal("no rules for what is received".to_owned());
    all.pop().map(|(_, rules)| rules).ok_or_else(internal)
}
