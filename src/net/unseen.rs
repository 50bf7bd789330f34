//! Hooks that meet no packets, or not those that one would think: known by the kind of device.
//!
//! Input: a device and a hook. Output: why its rules have no effect there, and where they belong. docs/funneling.md has
//! the same table. Changes nothing.

use super::filter::Hook;
use super::links::Device;

/// Why this hook sees no packets, and where rules belong; `devices` are all that there are.
pub fn why(device: &Device, hook: Hook, devices: &[Device]) -> Option<String> {
    let ports = || {
        let of = device.interface.number();
        let names: Vec<&str> =
            devices.iter().filter(|d| d.master == Some(of)).map(|d| d.interface.name.as_str()).collect();
        if names.is_empty() { "the interfaces in it".to_owned() } else { names.join(", ") }
    };
    let below = || {
        let lower = devices.iter().find(|lower| device.lower == Some(lower.interface.number()));
        lower.map_or("the interface below".to_owned(), |lower| lower.interface.name.clone())
    };
    let bare = device.qdisc.as_deref().is_none_or(|qdisc| qdisc == "noqueue");
    Some(match (device.kind.as_deref()?, hook) {
        ("vrf", Hook::Ingress) => {
            format!("a VRF's ingress sees no packets: attach to {}", ports())
        }
        ("vrf", Hook::Egress) if bare => format!(
            "a VRF's egress sees no packets unless it has a qdisc of its own: `tc qdisc add dev {} root pfifo`, or attach to {}",
            device.interface.name,
            ports()
        ),
        ("ipvlan", Hook::Ingress) if device.ipvlan_l3s => {
            format!("the ingress of an ipvlan in mode l3s sees no packets: attach to {}", below())
        }
        ("dummy", Hook::Ingress) => "a dummy device receives no packets: only its egress has any".to_owned(),
        ("ifb", Hook::Ingress) => {
            "an ifb's ingress sees no packets: attach to its egress, or to the interface that redirects to it"
                .to_owned()
        }
        ("nlmon", _) => "an nlmon device carries no IP packets".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Interface;

    fn device(index: i32, name: &str, kind: Option<&str>) -> Device {
        let interface = Interface { index, name: name.to_owned(), link_type: 1 };
        Device { kind: kind.map(str::to_owned), ..Device::bare(interface) }
    }

    #[test]
    fn hooks_that_see_nothing_are_known_with_the_place_for_their_rules() {
        let vrf = device(5, "blue", Some("vrf"));
        let port = Device { master: Some(5), ..device(2, "eth0", None) };
        let shaped = Device { qdisc: Some("pfifo".to_owned()), ..vrf.clone() };
        let ipvlan = Device { lower: Some(2), ipvlan_l3s: true, ..device(7, "ipvl0", Some("ipvlan")) };
        let all = [vrf.clone(), port.clone(), ipvlan.clone()];
        let part = |device: &Device, hook, words: &str| {
            let why = why(device, hook, &all).unwrap_or_default();
            assert!(why.contains(words), "{} {hook}: {why}", device.interface.name);
        };
        part(&vrf, Hook::Ingress, "sees no packets: attach to eth0");
        part(&vrf, Hook::Egress, "`tc qdisc add dev blue root pfifo`, or attach to eth0");
        part(&ipvlan, Hook::Ingress, "attach to eth0");
        part(&device(8, "dummy0", Some("dummy")), Hook::Ingress, "receives no packets");
        part(&device(9, "ifb0", Some("ifb")), Hook::Ingress, "attach to its egress");
        let seen = |device: &Device, hook| assert_eq!(why(device, hook, &all), None);
        seen(&shaped, Hook::Egress);
        seen(&port, Hook::Ingress);
        seen(&Device { ipvlan_l3s: false, ..ipvlan.clone() }, Hook::Ingress);
        for kind in ["veth", "bridge", "bond", "vlan", "vxlan", "macvlan", "tun", "wireguard", "ipip", "xfrm"]
        {
            let device = device(9, kind, Some(kind));
            Hook::ALL.into_iter().for_each(|hook| seen(&device, hook));
        }
        Hook::ALL.into_iter().for_each(|hook| seen(&port, hook));
    }
}
