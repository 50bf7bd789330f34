//! The two interfaces of a bypass: which can be one, and why others cannot.
//!
//! Input: devices and two names. Output: both interfaces, and what programs on them have to know of each other; or
//! what is in the way. Never changes an interface.

use super::links::{Device, Interface};
use super::{Error, Link, Result};
use crate::codegen::Onward;
use crate::ir::Side;

/// Both ends of the way past an overlay, on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    pub overlay: Interface,
    pub host: Interface,
    /// Of the overlay's interface.
    mac: [u8; 6],
    kind: Option<String>,
}

impl Ends {
    /// # Errors
    ///
    /// One of them is not there, or not what it would have to be.
    pub fn find(devices: &[Device], overlay: &str, host: &str) -> Result<Self> {
        let find = |name: &str| devices.iter().find(|device| device.interface.name == name);
        let (Some(over), Some(under)) = (find(overlay), find(host)) else {
            let missing = [overlay, host].into_iter().filter(|name| find(name).is_none());
            return Err(Error::NoSuchInterface {
                missing: missing.map(str::to_owned).collect(),
                present: devices.iter().map(|device| device.interface.name.clone()).collect(),
            });
        };
        let unfit = |interface: &str, why: String| Err(Error::Unfit { interface: interface.to_owned(), why });
        if over.interface == under.interface {
            return unfit(overlay, "is said to be both the overlay's interface and the host's".to_owned());
        }
        if let Some(why) = against_overlay(over, devices) {
            return unfit(overlay, why);
        }
        if let Some(why) = against_host(under, devices) {
            return unfit(host, why);
        }
        let Some(mac) = over.address else { return unfit(overlay, "has no link address".to_owned()) };
        let kind = over.kind.clone();
        Ok(Self { overlay: over.interface.clone(), host: under.interface.clone(), mac, kind })
    }

    /// What the program on the hook of this side has to know: that of the host's interface on ingress, of the
    /// overlay's on egress.
    pub fn onward(&self, side: Side) -> Onward {
        match side {
            Side::Ingress => Onward { interface: self.overlay.number(), mac: self.mac },
            Side::Egress => Onward { interface: self.host.number(), mac: [0; 6] },
        }
    }

    /// What is no obstacle, but may be a mistake.
    pub fn notes(&self) -> Vec<String> {
        const OVERLAYS: [&str; 2] = ["vxlan", "geneve"];
        match self.kind.as_deref() {
            Some(kind) if OVERLAYS.contains(&kind) => Vec::new(),
            kind => vec![format!(
                "{}: is it an overlay's interface? It is {}, not of vxlan or geneve; what matches and leaves by it is \
                 bypassed all the same",
                self.overlay.name,
                kind.map_or("of no kind that the kernel names".to_owned(), |kind| format!("of kind {kind}")),
            )],
        }
    }
}

/// The kind of what an interface is in.
fn master<'a>(device: &Device, devices: &'a [Device]) -> Option<(&'a str, &'a str)> {
    let master = devices.iter().find(|other| Some(other.interface.number()) == device.master)?;
    Some((master.interface.name.as_str(), master.kind.as_deref()?))
}

fn against_overlay(device: &Device, devices: &[Device]) -> Option<String> {
    if device.link() != Some(Link::Ethernet) || device.interface.is_loopback() {
        let kind = device.kind.as_deref().unwrap_or("such");
        return Some(format!(
            "is no interface of an overlay that can be bypassed: packets on it have no link header, and the kernel sends \
             on none without (bpf_redirect_neigh); {kind} tunnels, such as Calico's tunl0, would have to become VXLAN"
        ));
    }
    if let Some((bridge, "bridge")) = master(device, devices) {
        return Some(format!(
            "is in the bridge {bridge}: pods find each other across it by their link addresses, which would be lost past \
             the overlay; it works where the pods of each node have a prefix that is routed"
        ));
    }
    device.per_packet.then(|| {
        "is told with each packet where to send it (external mode), and what has sent it there reads on arrival who it is \
         from: past the overlay nobody would say"
            .to_owned()
    })
}

fn against_host(device: &Device, devices: &[Device]) -> Option<String> {
    if device.link() != Some(Link::Ethernet) || device.interface.is_loopback() {
        return Some(
            "is no Ethernet interface: what arrives by it could not be handed to the overlay's".to_owned(),
        );
    }
    match master(device, devices) {
        Some((name, kind @ ("bridge" | "bond" | "team"))) => Some(format!(
            "is in the {kind} {name}, which has the host's address: name that as the host's interface"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: i32, name: &str, kind: &str) -> Device {
        let link_type = if kind == "ipip" { 768 } else { 1 };
        let interface = Interface { index, name: name.to_owned(), link_type };
        let kind = (!kind.is_empty()).then(|| kind.to_owned());
        Device { kind, address: Some([2, 0, 0, 0, 0, 1]), ..Device::bare(interface) }
    }

    #[test]
    fn only_interfaces_that_packets_can_be_taken_past_are_taken() {
        let (host, overlay) = (device(2, "eth0", ""), device(3, "flannel.1", "vxlan"));
        let bridge = device(4, "br0", "bridge");
        let devices = [
            host,
            overlay.clone(),
            bridge,
            device(5, "tunl0", "ipip"),
            Device { master: Some(4), ..device(6, "vx1", "vxlan") },
            Device { per_packet: true, ..device(7, "cilium_vxlan", "vxlan") },
            Device { master: Some(4), ..device(8, "eth1", "") },
            device(9, "veth9", "veth"),
        ];
        let ends = Ends::find(&devices, "flannel.1", "eth0").unwrap();
        assert_eq!(ends.onward(Side::Ingress), Onward { interface: 3, mac: [2, 0, 0, 0, 0, 1] });
        assert_eq!(ends.onward(Side::Egress).interface, 2);
        assert_eq!(ends.notes(), [""; 0]);
        let refused =
            |overlay: &str, host: &str| Ends::find(&devices, overlay, host).unwrap_err().to_string();
        for (overlay, host, part) in [
            ("flannel.1", "flannel.1", "both"),
            ("flannel.9", "eth9", "no interface named flannel.9, eth9"),
            ("tunl0", "eth0", "no link header"),
            ("vx1", "eth0", "in the bridge br0"),
            ("cilium_vxlan", "eth0", "external mode"),
            ("flannel.1", "eth1", "name that"),
            ("flannel.1", "tunl0", "no Ethernet interface"),
        ] {
            assert!(refused(overlay, host).contains(part), "{}", refused(overlay, host));
        }
        assert!(Ends::find(&devices, "veth9", "eth0").unwrap().notes()[0].contains("of kind veth"));
    }
}
