//! Which pods' flows go past the stack: what stands on their veths, against what `attach` would put there.
//!
//! Input: what is known of nodes and interfaces. Output: a judgement for each veth, in words. Changes nothing.

use std::collections::BTreeMap;

use serde::Serialize;

use super::fast;
use super::known::Known;
use crate::cli::Failure;
use crate::kernel;
use crate::net::pods::{self, Pod};
use crate::net::{self, Filter, Hook, Mark, Netlink, links};

/// A pod's veth.
#[derive(Debug, Serialize)]
pub(super) struct PodReport {
    pub(super) interface: String,
    pub(super) state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum State {
    /// Flows go past the stack once they are proven.
    Fast,
    /// They cannot, because of something that the interface has.
    LongWay,
    /// `attach` would change what stands.
    Differs,
}

impl State {
    pub(super) fn text(self) -> &'static str {
        match self {
            State::Fast => "past the stack",
            State::LongWay => "through the stack",
            State::Differs => "not as these rules make it",
        }
    }
}

/// All of them that there is something to say about. `fast`: their flows are to go past the stack.
pub(super) fn judge(known: &Known, fast: bool, netlink: &mut Netlink) -> Result<Vec<PodReport>, Failure> {
    let devices = links::devices(netlink)?;
    let pods = pods::find(netlink, &devices, &known.ends)?;
    let wanted = if fast { fast::names(known)? } else { Vec::new() };
    let ends = [(&known.ends.host, Hook::Ingress), (&known.ends.overlay, Hook::Egress)];
    let interfaces = ends.map(|(interface, _)| interface.clone());
    let of_ends = net::status(netlink, &interfaces, &Hook::ALL)?;
    let of_ends: Vec<&Filter> = ends
        .iter()
        .filter_map(|(on, hook)| of_ends.iter().find(|f| f.interface == **on && f.hook == *hook))
        .collect();
    let all = of_ends.iter().copied().chain(pods.iter().flat_map(|pod| &pod.ours));
    let ids: Vec<u32> = all.filter_map(|filter| filter.program).collect();
    let memory = Memory { of: kernel::flows::of_programs(&ids), ends: of_ends };
    let judged = pods.iter().filter_map(|pod| {
        let (state, why) = match (&pod.obstacle, fast) {
            (Some(why), true) if pod.ours.is_empty() => (State::LongWay, Some(format!("it {why}"))),
            (Some(why), true) => (State::Differs, Some(format!("its flows go past the stack, and it {why}"))),
            (_, false) if pod.ours.is_empty() => return None,
            (_, false) => (State::Differs, Some("its flows go past the stack, without `--fast`".to_owned())),
            (None, true) => match difference(pod, &wanted, &memory) {
                None => (State::Fast, None),
                Some(why) => (State::Differs, Some(why)),
            },
        };
        Some(PodReport { interface: pod.interface.name.clone(), state, why })
    });
    Ok(judged.collect())
}

/// The maps of programs, and the programs on both ends of the bypass.
struct Memory<'a> {
    of: BTreeMap<u32, u32>,
    ends: Vec<&'a Filter>,
}

fn difference(pod: &Pod, wanted: &[(Hook, String)], memory: &Memory<'_>) -> Option<String> {
    for (hook, name) in wanted {
        let Some(filter) = pod.ours.iter().find(|filter| filter.hook == *hook) else {
            return Some(format!("nothing of sfunnel's is attached to its {hook}"));
        };
        let there = filter.name.as_deref().unwrap_or_default();
        if there != name {
            let hash = Mark::read(there).map(|mark| mark.hash).unwrap_or_default();
            return Some(format!(
                "a program with the hash {hash} is attached to its {hook}, and these nodes make another one"
            ));
        }
        // Programs that an attach which did not come to its end has left are no good to each other.
        let map = |filter: &Filter| filter.program.and_then(|id| memory.of.get(&id));
        if let Some(other) =
            memory.ends.iter().find(|end| map(end).is_some_and(|its| map(filter) != Some(its)))
        {
            return Some(format!(
                "its {hook} remembers flows that {} {} does not know: they were attached at different times",
                other.interface.name, other.hook
            ));
        }
    }
    None
}
