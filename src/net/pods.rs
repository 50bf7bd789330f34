//! Which interfaces of a node are pods', and why some cannot be passed by.
//!
//! Input: devices, and both ends of a bypass. Output: veths that lead to other namespaces, each with what is in the way, if
//! anything is. Never changes an interface.

use std::fs;

use super::filter::{self, Filter, Hook};
use super::links::{Device, Interface};
use super::mark::Mark;
use super::netlink::Netlink;
use super::overlay::Ends;
use super::qdisc::{self, Qdisc};
use super::{Result, companion, tcx};

/// A veth that leads to another namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub interface: Interface,
    /// Our programs on it, for what goes past the stack.
    pub ours: Vec<Filter>,
    /// Why its packets have to take the long way.
    pub obstacle: Option<String>,
}

/// Why no packet of this node may go past the stack, if there is a reason. `policies`: how many there are of IPsec.
pub fn obstacle(devices: &[Device], ends: &Ends, policies: Option<usize>) -> Option<String> {
    if let Some(netkit) = devices.iter().find(|device| device.kind.as_deref() == Some("netkit")) {
        return Some(format!(
            "{} is a netkit device, and the kernel drops what is put behind one from another interface (bpf_redirect_peer)",
            netkit.interface.name
        ));
    }
    let overlay = devices.iter().find(|device| device.interface == ends.overlay);
    let by =
        overlay.and_then(|overlay| devices.iter().find(|by| Some(by.interface.number()) == overlay.sends_by));
    if let Some(by) = by.filter(|by| by.interface != ends.host) {
        return Some(format!(
            "{} sends by {}, not by {}: past the overlay, packets would go another way, and in the clear if it encrypts",
            ends.overlay.name, by.interface.name, ends.host.name
        ));
    }
    if let Some(count @ 1..) = policies {
        return Some(format!(
            "{count} IPsec policies are in force: what they encrypt of the overlay's packets would be in the clear"
        ));
    }
    // Of the calling thread's namespace. Without conntrack, there is none.
    let loose = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_loose");
    if loose.is_ok_and(|loose| loose.trim() == "0") {
        return Some(
            "nf_conntrack_tcp_loose is 0: conntrack would not take up again a flow that it has forgotten while it was at rest"
                .to_owned(),
        );
    }
    None
}

/// All of them, in the kernel's order.
pub fn find(netlink: &mut Netlink, devices: &[Device], ends: &Ends) -> Result<Vec<Pod>> {
    let qdiscs = qdisc::all(netlink)?;
    let leads_to_pod = |device: &&Device| {
        device.elsewhere
            && device.kind.as_deref() == Some("veth")
            && device.interface != ends.host
            && device.interface != ends.overlay
            && companion::which(&device.interface).is_none()
    };
    let mut pods = Vec::new();
    for device in devices.iter().filter(leads_to_pod) {
        let qdisc = qdiscs.get(&device.interface.index).copied().unwrap_or_default();
        pods.push(look(netlink, device, qdisc)?);
    }
    Ok(pods)
}

fn look(netlink: &mut Netlink, device: &Device, qdisc: Qdisc) -> Result<Pod> {
    let interface = device.interface.clone();
    let mut ours = Vec::new();
    let mut obstacle = match (device.qdisc.as_deref(), qdisc) {
        (_, Qdisc::Legacy) => {
            Some("has the qdisc `ingress`, whose filters would not see what goes past them".to_owned())
        }
        (Some(shaper), _) if !["noqueue", "noop"].contains(&shaper) => {
            Some(format!("has the qdisc `{shaper}`, which would not shape what goes past it"))
        }
        _ => None,
    };
    for hook in Hook::ALL {
        let filters = filter::list(netlink, &interface, hook, qdisc)?;
        let standing = tcx::look(&interface, hook, &filters)?;
        let others = standing.as_ref().map(tcx::Standing::others).unwrap_or_default();
        let here = standing.into_iter().flat_map(|standing| standing.ours);
        let here: Vec<Filter> = here.chain(filters.iter().filter(|f| f.is_ours()).cloned()).collect();
        let is_fast =
            |filter: &Filter| filter.name.as_deref().and_then(Mark::read).is_some_and(|mark| mark.fast);
        if let Some(rules) = here.iter().find(|filter| !is_fast(filter)) {
            let name = rules.name.as_deref().unwrap_or_default();
            obstacle = obstacle.or(Some(format!("has rules of its own on {hook} (`{name}`)")));
        }
        let foreign =
            filters.iter().find(|filter| filter.is_reached() && !filter.is_ours() && !filter.is_note());
        let foreign = foreign.map(|filter| filter.name.clone().unwrap_or_else(|| filter.kind.clone()));
        if let Some(name) = foreign.or_else(|| others.first().map(|_| tcx::describe(&others))) {
            let why =
                format!("has a filter of others on {hook} ({name}), which would not see what goes past it");
            obstacle = obstacle.or(Some(why));
        }
        ours.extend(here.into_iter().filter(is_fast));
    }
    Ok(Pod { interface, ours, obstacle })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_whose_packets_have_to_stay_are_known() {
        let device = |index, name: &str, kind: &str| {
            let interface = Interface { index, name: name.to_owned(), link_type: 1 };
            Device { kind: Some(kind.to_owned()), address: Some([2; 6]), ..Device::bare(interface) }
        };
        let overlay = Device { sends_by: Some(2), ..device(3, "flannel.1", "vxlan") };
        let good = vec![
            device(2, "eth0", "veth"),
            overlay.clone(),
            device(4, "veth1", "veth"),
            device(5, "wg0", "wireguard"),
        ];
        let ends = Ends::find(&good, "flannel.1", "eth0").unwrap();
        let why = |devices: &[Device], policies| obstacle(devices, &ends, policies).unwrap_or_default();
        assert_eq!(why(&good, Some(0)), "");
        assert!(why(&good, Some(2)).contains("2 IPsec policies"));
        let netkit = [good.clone(), vec![device(6, "nk0", "netkit")]].concat();
        assert!(why(&netkit, None).contains("nk0 is a netkit device"));
        let by_wireguard = Device { sends_by: Some(5), ..overlay };
        let other: Vec<Device> = good
            .iter()
            .map(|d| if d.interface == by_wireguard.interface { by_wireguard.clone() } else { d.clone() })
            .collect();
        assert!(why(&other, None).contains("sends by wg0, not by eth0"), "{}", why(&other, None));
    }
}
