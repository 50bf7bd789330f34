//! What follows from rules, interfaces and nodes: what this node is to receive, and what it may send to whom.
//!
//! Input: what the user wants, and what the kernel knows of both interfaces and, if it is to be asked, of the nodes.
//! Output: rules for both interfaces, towards any of the nodes. Asks the nodes when told to; never attaches anything.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::Seen;
use super::given::{self, Given};
use crate::cli::args::Strict;
use crate::cli::how::How;
use crate::cli::rules::{Lists, Rules};
use crate::cli::{Console, Failure, attach, pod};
use crate::codegen::{Features, Options};
use crate::diag::Source;
use crate::ir::{Action, Side};
use crate::net::mark::Reach;
use crate::net::overlay::Ends;
use crate::net::probe::{self, Answer, Peer};
use crate::net::{self, Interface, Netlink, links, peers};
use crate::nodes::{Node, Nodes};
use crate::{kernel, policy, rule_text};

pub(super) struct Known {
    /// Flows go past the stack.
    fast: bool,
    pub(super) ends: Ends,
    pub(super) nodes: Nodes,
    /// The address of this node.
    pub(super) own: Ipv4Addr,
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
            left_out = others;
            let overlay = &ends.overlay.name;
            let no_host =
                |prefix| format!("warning: {overlay}: the kernel does not know the host of {prefix}");
            notes.extend(unknown.iter().map(no_host));
            let apart = |node| format!("warning: `{}` stays on the overlay: {APART}", rule_text::node(node));
            notes.extend(left_out.iter().map(apart));
            if nodes.is_empty() {
                seen.note(notes, console);
                let why =
                    "leads to no node yet: the kernel has no route by it whose host is known".to_owned();
                return Err(net::Error::Unfit { interface: overlay.clone(), why }.into());
            }
            if given::bypasses(source) {
                whole = whole.behind("the kernel's nodes", &rule_text::nodes(&nodes));
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
        let (rules, between) = bypassing(lists)?;
        let sends = between.is_some();
        let none =
            || Failure::Usage("no rule says `bypass`: there is nothing to take past the overlay".to_owned());
        let nodes = between.or(of_kernel).ok_or_else(none)?;
        let fast = self.fast.is_some();
        if fast {
            super::fast::refuse(&rules, &devices, &ends)?;
        }
        seen.source = Some(whole);
        let own = own(&nodes, netlink, &ends.host)?;
        if nodes.hosts().len() == 1 {
            let why = "leads to no other node: there is none to receive from, or to send to".to_owned();
            return Err(net::Error::Unfit { interface: ends.overlay.name, why }.into());
        }
        let receiving = receiving(&nodes, own, self.port, self.how, console)?;
        Ok(Known { fast, ends, nodes, own, receiving, rules, sends, unknown, left_out })
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

    /// What each of the other nodes answers.
    pub(super) fn ask(&self, port: u16) -> Result<BTreeMap<Ipv4Addr, Answer>, Failure> {
        let digests = self.nodes.digests();
        let ours = digests.get(&self.own).copied().unwrap_or_default();
        let others = digests.into_iter().filter(|(host, _)| *host != self.own);
        let peers: Vec<Peer> = others.map(|(host, digest)| Peer { host, digest: digest ^ ours }).collect();
        let answers = probe::ask(self.own, &peers, port)?;
        Ok(peers.iter().map(|peer| peer.host).zip(answers).collect())
    }

    /// Prefixes that stay on the overlay whatever nodes answer, and why.
    pub(super) fn stay(&self) -> Vec<(String, String)> {
        const NO_HOST: &str = "the kernel does not know its host";
        let unknown = self.unknown.iter().map(|prefix| (prefix.clone(), NO_HOST.to_owned()));
        let apart = self.left_out.iter().map(|node| (rule_text::node(node), APART.to_owned()));
        unknown.chain(apart).collect()
    }

    /// The rules towards these nodes, if there are any.
    pub(super) fn sending(&self, peers: &[Ipv4Addr]) -> Option<(Rules, Reach)> {
        let reached = self.nodes.of(|host| host == self.own || peers.contains(&host));
        let reach = Reach { reached: peers.len(), all: self.nodes.hosts().len() - 1 };
        (self.sends && !peers.is_empty()).then(|| (self.rules.between(&reached), reach))
    }
}

/// The one list of rules for the overlay's interface, and the nodes that it is about, if any of them says `bypass`.
fn bypassing(lists: Lists) -> Result<(Rules, Option<Nodes>), Failure> {
    let chains = lists.sides().is_some();
    let Some((_, rules)) = lists.all().pop().filter(|_| !chains) else {
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
    Ok((rules, nodes))
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
