//! What follows from rules, interfaces and nodes: what this node is to receive, and what it may send to whom.
//!
//! Input: what the user wants, and what the kernel knows of both interfaces and, if it is to be asked, of the nodes.
//! Output: rules for both interfaces, towards any of the nodes. Asks the nodes when told to; never attaches anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use super::Seen;
use super::given::{self, Given};
use crate::cli::args::Strict;
use crate::cli::how::How;
use crate::cli::rules::{Lists, Rules};
use crate::cli::{Console, Failure, attach, pod};
use crate::codegen::{Features, Options};
use crate::diag::Source;
use crate::hops::{Hop, Hops};
use crate::ir::{Action, Side};
use crate::net::mark::Reach;
use crate::net::overlay::Ends;
use crate::net::probe::direct::Path;
use crate::net::probe::{self, Answer, Peer};
use crate::net::{self, Interface, Netlink, links, peers};
use crate::nodes::{Node, Nodes};
use crate::{kernel, policy, rule_text};

/// A way past the overlay to another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// Without, what goes there is rewritten.
    pub(super) direct: bool,
    pub(super) host: IpAddr,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.host, if self.direct { " (direct)" } else { "" })
    }
}

pub(super) struct Known {
    /// Flows go past the stack.
    fast: bool,
    pub(super) ends: Ends,
    pub(super) nodes: Nodes,
    /// The address of this node; none (0.0.0.0) if there are no nodes.
    pub(super) own: Ipv4Addr,
    /// What rules that say `direct` are between, and which of their hosts this one is.
    pub(super) hops: Hops,
    own_hosts: Vec<IpAddr>,
    /// For what arrives by the host's interface.
    pub(super) receiving: Rules,
    /// For what leaves by the overlay's, towards all nodes.
    pub(super) rules: Rules,
    /// Whether any of them says `bypass`.
    pub(super) sends: bool,
    /// Prefixes by the overlay that no host is known of.
    unknown: Vec<String>,
    /// Nodes whose pods the field cannot tell apart.
    left_out: Vec<Node>,
}

impl Given {
    pub(super) fn known(
        &self,
        source: &Source,
        netlink: &mut Netlink,
        seen: &mut Seen,
        console: &mut Console<'_>,
    ) -> Result<Known, Failure> {
        let devices = links::devices(netlink)?;
        let ends = self.ends(netlink, &devices)?;
        let mut notes: Vec<String> =
            ends.notes().into_iter().map(|note| format!("warning: {note}")).collect();
        let (mut unknown, mut left_out) = (Vec::new(), Vec::new());
        let mut whole = source.clone();
        let mut of_kernel = None;
        if self.asks_kernel(source) {
            let found = peers::of(netlink, &ends)?;
            unknown = found.unknown;
            let (nodes, others) = Nodes::most(&found.nodes);
            // Where nothing is rewritten, pods need no numbers.
            let direct = given::only_direct(source);
            let (hops, apart) = Hops::most(&found.nodes.iter().map(Node::hop).collect::<Vec<_>>());
            left_out = if direct { Vec::new() } else { others };
            notes.extend(apart.iter().filter(|_| direct).map(|hop| {
                format!(
                    "warning: {overlay}: pods from {} on are another node's as well",
                    hop.first,
                    overlay = ends.overlay.name
                )
            }));
            let overlay = &ends.overlay.name;
            let no_host =
                |prefix| format!("warning: {overlay}: the kernel does not know the host of {prefix}");
            notes.extend(unknown.iter().map(no_host));
            let apart = |node| format!("warning: `{}` stays on the overlay: {APART}", rule_text::node(node));
            notes.extend(left_out.iter().map(apart));
            let nobody = if direct { hops.is_empty() } else { nodes.is_empty() };
            if nobody {
                seen.note(notes, console);
                let why =
                    "leads to no node yet: the kernel has no route by it whose host is known".to_owned();
                return Err(net::Error::Unfit { interface: overlay.clone(), why }.into());
            }
            if given::bypasses(source) {
                let text = if direct { rule_text::hops(&hops) } else { rule_text::nodes(&nodes) };
                whole = whole.behind("the kernel's nodes", &text);
            } else {
                // Such as those about labels that no pod has at present.
                notes.push(format!("warning: no rule says `bypass`: nothing is sent past {overlay}"));
            }
            of_kernel = Some(nodes);
        }
        seen.note(notes, console);
        let whole = self.defined(whole);
        // What there is to say of rules has been said when they were new.
        let lists = match seen.source.as_ref() == Some(&whole) {
            true => {
                pod::deaf(false, &mut std::io::sink(), |deaf| attach::lists(self.how, whole.clone(), deaf))?
            }
            false => attach::lists(self.how, whole.clone(), console)?,
        };
        let (rules, between, hops) = bypassing(lists)?;
        let sends = between.is_some() || !hops.is_empty();
        let none =
            || Failure::Usage("no rule says `bypass`: there is nothing to take past the overlay".to_owned());
        let nodes = match between {
            None if !hops.is_empty() => Nodes::default(),
            between => between.or(of_kernel).ok_or_else(none)?,
        };
        let fast = self.fast.is_some();
        if fast && !hops.is_empty() {
            return Err(Failure::Usage(
                "`--fast` is for flows that are rewritten: leave it out, or `direct`".to_owned(),
            ));
        }
        if fast {
            super::fast::refuse(&rules, &devices, &ends)?;
        }
        seen.source = Some(whole);
        let hosts = nodes.hosts().into_keys().map(IpAddr::from).chain(hops.hosts()).collect();
        let own_hosts = own(&hosts, netlink, &ends.host)?;
        let is_own = |host: &Ipv4Addr| own_hosts.contains(&IpAddr::from(*host));
        let own = match nodes.hosts().into_keys().find(is_own) {
            Some(own) => own,
            None if nodes.is_empty() => Ipv4Addr::UNSPECIFIED,
            None => return Err(nameless(&ends.host, &own_hosts)),
        };
        if hosts.iter().all(|host| own_hosts.contains(host)) {
            let why = "leads to no other node: there is none to receive from, or to send to".to_owned();
            return Err(net::Error::Unfit { interface: ends.overlay.name, why }.into());
        }
        let mut text = String::new();
        if !nodes.is_empty() {
            text += &rule_text::receiving(&nodes, own, self.port);
        }
        text += &rule_text::receiving_direct(&hops, &own_hosts, self.port);
        let receiving = receiving(text, self.how, console)?;
        Ok(Known { fast, ends, nodes, own, hops, own_hosts, receiving, rules, sends, unknown, left_out })
    }
}

/// Why the kernel's nodes are not all taken.
const APART: &str = "a byte tells 256 pods of a node apart, and with these there are more";

impl Known {
    /// How the program of a hook is compiled for this kernel.
    pub(super) fn options(&self, side: Side) -> Options {
        self.options_for(kernel::features(), side)
    }

    /// The same for a kernel that has these features.
    pub(super) fn options_for(&self, features: Features, side: Side) -> Options {
        let rules = if side == Side::Ingress { &self.receiving } else { &self.rules };
        policy::bypass(
            self.ends.onward(side),
            policy::target(features, side, &rules.ruleset, None),
            self.fast,
        )
    }

    /// To all other nodes.
    pub(super) fn ways(&self) -> Vec<Way> {
        self.hosts().into_iter().filter(|way| !self.is_own(*way)).collect()
    }

    /// The same, and this node.
    pub(super) fn hosts(&self) -> BTreeSet<Way> {
        let rewritten = self.nodes.hosts().into_keys().map(|host| Way { direct: false, host: host.into() });
        // This node has to have an address of the same version.
        let has_own = |host: &IpAddr| self.own_hosts.iter().any(|own| own.is_ipv4() == host.is_ipv4());
        let direct = self.hops.hosts().into_iter().filter(has_own).map(|host| Way { direct: true, host });
        rewritten.chain(direct).collect()
    }

    pub(super) fn is_own(&self, way: Way) -> bool {
        if way.direct { self.own_hosts.contains(&way.host) } else { way.host == IpAddr::from(self.own) }
    }

    /// Which pods of IPv4 are behind which other host, either way.
    pub(super) fn others(&self) -> Vec<Node> {
        let v4 = |hop: &Hop| match (hop.host, hop.first, hop.last) {
            (IpAddr::V4(host), IpAddr::V4(first), IpAddr::V4(last)) => Some(Node { host, first, last }),
            _ => None,
        };
        let mut pods: Vec<Node> = self.nodes.iter().copied().collect();
        pods.extend(
            self.hops.iter().filter_map(v4).filter(|node| !self.nodes.iter().any(|known| known == node)),
        );
        pods.retain(|node| node.host != self.own && !self.own_hosts.contains(&IpAddr::from(node.host)));
        pods
    }

    /// What each of the other nodes answers.
    pub(super) fn ask(&self, netlink: &mut Netlink, port: u16) -> Result<BTreeMap<Way, Answer>, Failure> {
        let digests = self.nodes.digests();
        let ours = digests.get(&self.own).copied().unwrap_or_default();
        let others = digests.into_iter().filter(|(host, _)| *host != self.own);
        let peers: Vec<Peer> = others.map(|(host, digest)| Peer { host, digest: digest ^ ours }).collect();
        let answers = probe::ask(self.own, &peers, port)?;
        let mut all: BTreeMap<Way, Answer> = peers
            .iter()
            .zip(answers)
            .map(|(peer, answer)| (Way { direct: false, host: peer.host.into() }, answer))
            .collect();
        let direct = self.ways().into_iter().filter(|way| way.direct);
        let paths: Vec<Path> = direct.map(|way| self.path(way.host)).collect();
        let answers = probe::direct::ask(netlink, &self.ends.host, &paths, port)?;
        let ways = paths.iter().map(|path| Way { direct: true, host: path.host });
        all.extend(ways.zip(answers));
        Ok(all)
    }

    /// Both ends of each prefix of either node are asked from, and asked for.
    fn path(&self, host: IpAddr) -> Path {
        let same = |hop: &&Hop| hop.host.is_ipv4() == host.is_ipv4();
        let from: Vec<&Hop> =
            self.hops.iter().filter(same).filter(|hop| self.own_hosts.contains(&hop.host)).collect();
        let to: Vec<&Hop> = self.hops.iter().filter(|hop| hop.host == host).collect();
        let rounds = if from.is_empty() { 0 } else { from.len().max(to.len()) };
        let pairs = from.iter().cycle().zip(to.iter().cycle()).take(rounds);
        let pairs = pairs.flat_map(|(from, to)| [(from.first, to.first), (from.last, to.last)]).collect();
        Path { host, pairs }
    }

    /// Prefixes that stay on the overlay whatever nodes answer, and why.
    pub(super) fn stay(&self) -> Vec<(String, String)> {
        const NO_HOST: &str = "the kernel does not know its host";
        let unknown = self.unknown.iter().map(|prefix| (prefix.clone(), NO_HOST.to_owned()));
        let apart = self.left_out.iter().map(|node| (rule_text::node(node), APART.to_owned()));
        unknown.chain(apart).collect()
    }

    /// The rules towards these nodes, if there are any.
    pub(super) fn sending(&self, ways: &[Way]) -> Option<(Rules, Reach)> {
        let has = |direct, host| ways.contains(&Way { direct, host });
        let nodes = self.nodes.of(|host| host == self.own || has(false, host.into()));
        let hops = self.hops.towards(|host| self.own_hosts.contains(&host) || has(true, host));
        let reach = Reach { reached: ways.len(), all: self.ways().len() };
        (self.sends && !ways.is_empty()).then(|| (self.rules.between(&nodes, &hops), reach))
    }
}

/// The one list of rules for the overlay's interface, and the nodes that it is about, if any of them says `bypass`.
fn bypassing(lists: Lists) -> Result<(Rules, Option<Nodes>, Hops), Failure> {
    let chains = lists.sides().is_some();
    let Some((_, rules)) = lists.all().pop().filter(|_| !chains) else {
        return Err(Failure::Usage(
            "rules to bypass an overlay are for packets that leave by it: write them without chains"
                .to_owned(),
        ));
    };
    let (mut nodes, mut hops) = (None, Hops::default());
    for rule in &rules.ruleset.rules {
        match &rule.action {
            Action::Bypass { nodes: all } => nodes = Some(all.clone()),
            Action::Direct { hops: all } => hops = all.clone(),
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
    Ok((rules, nodes, hops))
}

/// Which of the hosts this one is.
fn own(hosts: &BTreeSet<IpAddr>, netlink: &mut Netlink, host: &Interface) -> Result<Vec<IpAddr>, Failure> {
    let v4 = peers::addresses(netlink, host)?.into_iter().map(IpAddr::from);
    let v6 = peers::addresses6(netlink, host)?.into_iter().map(IpAddr::from);
    let all: Vec<IpAddr> = v4.chain(v6).collect();
    let own: Vec<IpAddr> = all.iter().filter(|address| hosts.contains(address)).copied().collect();
    if own.is_empty() { Err(nameless(host, &all)) } else { Ok(own) }
}

fn nameless(host: &Interface, all: &[IpAddr]) -> Failure {
    // Link-local ones tell nobody anything.
    let all = all.iter().filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()));
    let all: Vec<String> = all.map(IpAddr::to_string).collect();
    let all = if all.is_empty() { "has none".to_owned() } else { format!("has {}", all.join(", ")) };
    let why = format!("{all}, and no `node` has an address of it for its host: which node is this?");
    net::Error::Unfit { interface: host.name.clone(), why }.into()
}

/// The rules for what arrives from other nodes.
fn receiving(text: String, how: How, console: &mut Console<'_>) -> Result<Rules, Failure> {
    let source = Source::new("what is received", text);
    let mut lists = Lists::read(source, Strict::default(), console)
        .map_err(|_| Failure::Internal("the rules for what is received".to_owned()))?;
    how.count(&mut lists);
    let mut all = lists.all();
    let internal = || Failure::Internal("no rules for what is received".to_owned());
    all.pop().map(|(_, rules)| rules).ok_or_else(internal)
}
