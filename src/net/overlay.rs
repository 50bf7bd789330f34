//! The two interfaces of a bypass: which can be one, and why others cannot.
//!
//! Input: devices, and names as far as somebody has said them. Output: both interfaces, and what programs on them have to
//! know of each other; or what is in the way. Never changes an interface, and never guesses which of several is meant.

use super::links::{Device, Interface};
use super::netlink::Netlink;
use super::{Error, Link, Result, peers};
use crate::codegen::{Fast, Onward};
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

const OVERLAYS: [&str; 2] = ["vxlan", "geneve"];

impl Ends {
    /// What nobody has named is found: the one overlay that there is, and the interface that it sends by.
    ///
    /// # Errors
    ///
    /// There is none, or more than one; or it is not what it would have to be.
    pub fn choose(
        netlink: &mut Netlink,
        devices: &[Device],
        overlay: Option<&str>,
        host: Option<&str>,
    ) -> Result<Self> {
        let overlay = overlay.map_or_else(|| only_overlay(devices), |name| Ok(name.to_owned()))?;
        let host = match host {
            Some(name) => name.to_owned(),
            None => host_of(netlink, devices, &overlay)?,
        };
        Self::find(devices, &overlay, &host)
    }

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

    /// What the programs of pods' veths have to know.
    pub fn fast(&self) -> Fast {
        Fast { host: self.host.number(), overlay: self.onward(Side::Ingress) }
    }

    /// What is no obstacle, but may be a mistake.
    pub fn notes(&self) -> Vec<String> {
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

/// The name of the one that can be bypassed, or why there is none.
fn only_overlay(devices: &[Device]) -> Result<String> {
    let is_overlay = |device: &&Device| device.kind.as_deref().is_some_and(|kind| OVERLAYS.contains(&kind));
    let all: Vec<&Device> = devices.iter().filter(is_overlay).collect();
    let fit: Vec<&str> = all
        .iter()
        .filter(|device| against_overlay(device, devices).is_none())
        .map(|device| device.interface.name.as_str())
        .collect();
    match (&fit[..], &all[..]) {
        ([one], _) => Ok((*one).to_owned()),
        ([], []) => Err(Error::NoOverlay { why: "there is no interface of vxlan or geneve".to_owned() }),
        ([], unfit) => {
            let why = |device: &&Device| {
                format!("{} {}", device.interface.name, against_overlay(device, devices).unwrap_or_default())
            };
            Err(Error::NoOverlay { why: unfit.iter().map(why).collect::<Vec<_>>().join("; ") })
        }
        (several, _) => Err(Error::NoOverlay {
            why: format!(
                "there are several, {}: say which, with --overlay-if or in OVERLAY_IF",
                several.join(", ")
            ),
        }),
    }
}

/// The name of the interface that an overlay's packets leave by.
fn host_of(netlink: &mut Netlink, devices: &[Device], overlay: &str) -> Result<String> {
    let Some(over) = devices.iter().find(|device| device.interface.name == overlay) else {
        return Err(Error::NoSuchInterface {
            missing: vec![overlay.to_owned()],
            present: devices.iter().map(|device| device.interface.name.clone()).collect(),
        });
    };
    let told = devices.iter().find(|device| Some(device.interface.number()) == over.sends_by);
    if let Some(device) = told {
        return Ok(device.interface.name.clone());
    }
    if let Some(from) = over.sends_from {
        for device in devices {
            if peers::addresses(netlink, &device.interface)?.contains(&from) {
                return Ok(device.interface.name.clone());
            }
        }
    }
    let why = "does not say which interface it sends by: name that, with --host-if or in HOST_IF".to_owned();
    Err(Error::Unfit { interface: overlay.to_owned(), why })
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

        // Of all these, one could be meant.
        assert_eq!(only_overlay(&devices).unwrap(), "flannel.1");
        let none = |devices: &[Device]| only_overlay(devices).unwrap_err().to_string();
        assert!(none(&devices[2..6]).contains("vx1 is in the bridge br0"), "{}", none(&devices[2..6]));
        assert!(none(&devices[..1]).contains("no interface of vxlan or geneve"));
        let two = [&devices[..], &[device(10, "vxlan.calico", "vxlan")]].concat();
        assert!(none(&two).contains("several, flannel.1, vxlan.calico"), "{}", none(&two));
    }
}
