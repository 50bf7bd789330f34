//! `bypass status`: to which nodes this one sends past the overlay, which are left on it, and why.
//!
//! Input: what `bypass attach` takes. Output: a line for each node. Asks the nodes, and compares with what is attached:
//! a program does not say which nodes it is for, but the same nodes make the same program. Changes nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Serialize;

use super::given::Given;
use super::known::{Known, Way};
use super::pods::{self, PodReport};
use super::{Seen, drift, received, why_not};
use crate::cli::{Console, Failure, args, attach};
use crate::ir::Side;
use crate::net::probe::Answer;
use crate::net::{self, Hook, Mark};
use crate::paint;

#[derive(Debug, Serialize)]
struct Report {
    host_interface: String,
    overlay_interface: String,
    /// What other nodes send is taken as these rules say.
    receives: bool,
    nodes: Vec<NodeReport>,
    /// Prefixes that stay on the overlay, and why.
    left_out: Vec<(String, String)>,
    /// Of `--fast`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pods: Vec<PodReport>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    host: IpAddr,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    direct: bool,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Own,
    Bypassed,
    Overlay,
    /// Something is attached, and not for nodes that can be told from here.
    Unknown,
    /// Sent past the overlay, and nobody is there to receive it.
    Lost,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            State::Own => "this node",
            State::Bypassed => "bypassed",
            State::Overlay => "on the overlay",
            State::Unknown => "not known",
            State::Lost => "LOST",
        }
    }
}

/// More candidates than this are not compiled.
const MOST_TRIED: usize = 256;

pub(super) fn run(args: &args::BypassStatus, console: &mut Console<'_>) -> Result<(), Failure> {
    let given = Given::read(&args.given, console)?;
    let mut netlink = attach::open(&given.target)?;
    let mut quiet = Seen::default();
    let known = given.known(&given.source()?, &mut netlink, &mut quiet, console)?;
    let interfaces = [known.ends.host.clone(), known.ends.overlay.clone()];
    let ours = net::status(&mut netlink, &interfaces, &Hook::ALL)?;
    let there = |side| drift::on(&ours, &known, side).and_then(|filter| Mark::read(filter.name.as_deref()?));
    let receives = match there(Side::Ingress) {
        Some(mark) => drift::is_of(&known, &known.receiving, None, Side::Ingress, &mark)?,
        None => false,
    };
    let answers = known.ask(&mut netlink, given.port)?;
    let sent = match drift::on(&ours, &known, Side::Egress) {
        None => Some(BTreeSet::new()),
        Some(_) => match there(Side::Egress) {
            Some(mark) => sent_to(&known, &received(&answers), &mark)?,
            None => None,
        },
    };
    let node = |way: Way| {
        let (state, why) = match answers.get(&way) {
            None => (State::Own, None),
            Some(Answer::Received) if !known.sends && sent.as_ref().is_some_and(BTreeSet::is_empty) => {
                (State::Overlay, Some("no rule says `bypass`".to_owned()))
            }
            Some(answer) => {
                judged(sent.as_ref().map(|sent| sent.contains(&way)), why_not(*answer, way, given.port))
            }
        };
        NodeReport { host: way.host, direct: way.direct, state, why }
    };
    let report = Report {
        host_interface: known.ends.host.name.clone(),
        overlay_interface: known.ends.overlay.name.clone(),
        receives,
        nodes: known.hosts().into_iter().map(node).collect(),
        left_out: known.stay(),
        pods: pods::judge(&known, given.fast.is_some(), &mut netlink)?,
    };
    if args.json {
        serde_json::to_writer_pretty(&mut *console.out, &report)
            .map_err(|error| Failure::Output(error.into()))?;
        return Ok(writeln!(console.out)?);
    }
    write(&report, console)
}

/// What becomes of packets for a node that is sent to, or not, and that answers like this.
fn judged(sent: Option<bool>, why_not: Option<String>) -> (State, Option<String>) {
    const ATTACH: &str = "`sfunnel bypass attach` or `watch` would change that";
    match (sent, why_not) {
        (Some(true), None) => (State::Bypassed, None),
        (Some(true), Some(why)) => {
            (State::Lost, Some(format!("it is sent past the overlay, and {why}; {ATTACH}")))
        }
        (Some(false), Some(why)) => (State::Overlay, Some(why)),
        (Some(false), None) => (
            State::Overlay,
            Some(format!("it receives, but nothing is sent to it past the overlay; {ATTACH}")),
        ),
        (None, why) => {
            let attached = "what is attached was made from other rules, or for other nodes";
            let why = why.map_or(format!("{attached}; it receives"), |why| format!("{attached}; {why}"));
            (State::Unknown, Some(why))
        }
    }
}

/// Whom the program with this name sends to, if that can be found out: those that receive now, all, or one more or less.
fn sent_to(known: &Known, received: &[Way], there: &Mark) -> Result<Option<BTreeSet<Way>>, Failure> {
    let now: BTreeSet<Way> = received.iter().copied().collect();
    let others: BTreeSet<Way> = known.ways().into_iter().collect();
    let toggled =
        others.iter().map(|way| now.symmetric_difference(&BTreeSet::from([*way])).copied().collect());
    let candidates = [now.clone(), others.clone()].into_iter().chain(toggled);
    let right_size = |ways: &BTreeSet<Way>| there.reach.is_none_or(|reach| reach.reached == ways.len());
    for ways in candidates.filter(right_size).take(MOST_TRIED) {
        let list: Vec<Way> = ways.iter().copied().collect();
        let Some((rules, reach)) = known.sending(&list) else { continue };
        if drift::is_of(known, &rules, Some(reach), Side::Egress, there)? {
            return Ok(Some(ways));
        }
    }
    Ok(None)
}

fn write(report: &Report, console: &mut Console<'_>) -> Result<(), Failure> {
    let Report { host_interface, overlay_interface, receives, nodes, left_out, pods } = report;
    let count = |wanted: State| nodes.iter().filter(|node| node.state == wanted).count();
    let receives = if *receives { "receives" } else { "does not receive what these rules say: attach them" };
    writeln!(console.out, "{} ingress: {receives}", paint::printable(host_interface))?;
    writeln!(
        console.out,
        "{} egress: {} of {} nodes bypassed",
        paint::printable(overlay_interface),
        count(State::Bypassed),
        nodes.iter().filter(|node| node.state != State::Own).count()
    )?;
    for NodeReport { host, direct, state, why } in nodes {
        let why = why.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let way = Way { direct: *direct, host: *host };
        writeln!(console.out, "  {way} {}{why}", state.text())?;
    }
    for (what, why) in left_out {
        writeln!(console.out, "  {} on the overlay: {why}", paint::printable(what))?;
    }
    for PodReport { interface, state, why } in pods {
        let why = why.as_ref().map_or(String::new(), |why| format!(": {}", paint::printable(why)));
        writeln!(console.out, "{}: flows {}{why}", paint::printable(interface), state.text())?;
    }
    Ok(())
}
