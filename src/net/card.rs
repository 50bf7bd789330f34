//! Cards that finish checksums by the protocol in the IP header, instead of where the kernel tells them to.
//!
//! A funneled packet has the outer protocol there, and its unfinished checksum is the inner one: such a card writes to
//! the wrong place, and the packet is lost. Input: interfaces. Output: those not to be trusted, with a reason. Changes
//! nothing.

use std::fs;

use super::Result;
use super::ethtool::{Ethtool, TX_CHECKSUM};
use super::links::{Device, Interface};
use crate::policy::Gso;

/// Drivers that claim to go where the kernel tells them (`tx-checksum-ip-generic`), and what is known about them.
const DRIVERS: [(&str, &str); 2] = [
    ("e1000e", "QEMU's e1000e parses the packet (net_tx_pkt), whatever offsets the driver gives it"),
    ("vmxnet3", "the device parses TCP and UDP headers; QEMU's ignores the offsets that it is given"),
];
/// The offloads of cards that know protocols, not offsets (`NETIF_F_IP_CSUM`, `NETIF_F_IPV6_CSUM`).
const BY_PROTOCOL: [&str; 2] = ["tx-checksum-ipv4", "tx-checksum-ipv6"];

/// An interface that is not trusted with the checksums of funneled packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrusted {
    pub interface: Interface,
    pub why: String,
}

/// Those of the devices that are not to be trusted. Where ethtool's netlink family is missing, by driver alone.
pub fn distrusted<'a>(devices: impl Iterator<Item = &'a Device>) -> Result<Vec<Distrusted>> {
    let mut ethtool = unless_short(Ethtool::open())?;
    let mut found = Vec::new();
    for device in devices.filter(|device| !device.interface.is_loopback()) {
        let features = match &mut ethtool {
            Some(ethtool) => unless_short(ethtool.active(&device.interface))?,
            None => None,
        };
        if let Some(why) = reason(features.as_deref(), driver(device).as_deref()) {
            found.push(Distrusted { interface: device.interface.clone(), why });
        }
    }
    Ok(found)
}

/// What the kernel does not have can be done without; what it only cannot do at the moment cannot.
fn unless_short<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_short() => Err(error),
        Err(_) => Ok(None),
    }
}

/// `features`: those that are on, if they could be read.
fn reason(features: Option<&[String]>, driver: Option<&str>) -> Option<String> {
    let on = |wanted: &str| features.is_none_or(|features| features.iter().any(|feature| feature == wanted));
    let by_protocol = BY_PROTOCOL.into_iter().any(on);
    if features.is_some() && by_protocol && !on(TX_CHECKSUM) {
        return Some("the card finishes checksums by IP protocol (no tx-checksum-ip-generic)".to_owned());
    }
    // With its offload off, the kernel finishes them.
    let (name, why) = DRIVERS.into_iter().find(|(name, _)| driver == Some(*name))?;
    (by_protocol || on(TX_CHECKSUM))
        .then(|| format!("the driver {name} is not trusted with checksums: {why}"))
}

/// By way of the bus: names in /sys/class/net are of one network namespace.
fn driver(device: &Device) -> Option<String> {
    let (bus, name) = device.parent.as_ref()?;
    let link = fs::read_link(format!("/sys/bus/{bus}/devices/{name}/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// What the user should know. `funneling` are the interfaces whose egress funnels, and whether their checksums are
/// finished first; `elsewhere`, that packets funneled on other interfaces may leave by these unfinished.
pub fn notes(
    distrusted: &[Distrusted],
    funneling: &[(Interface, bool)],
    gso: Gso,
    elsewhere: bool,
) -> Vec<String> {
    let note = |Distrusted { interface, why }: &Distrusted| {
        let name = &interface.name;
        match funneling.iter().find(|(funneling, _)| funneling == interface) {
            Some((_, true)) => {
                Some(format!("{name}: {why}: checksums are finished first, as with --finish-checksums"))
            }
            Some((_, false)) => {
                let instead = if gso == Gso::Segment { "" } else { "`--gso segment`, or " };
                Some(format!(
                    "{name}: {why}: what is funneled with an unfinished checksum is lost; use {instead}`ethtool -K {name} tx off`"
                ))
            }
            None => elsewhere.then(|| format!(
                "{name}: {why}: packets that are funneled elsewhere and leave by it unfinished are lost; use --finish-checksums there"
            )),
        }
    };
    distrusted.iter().filter_map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_trusted_by_features_and_by_driver() {
        let trusted = |features: Option<&[&str]>, driver| {
            let features = features.map(|all| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
            reason(features.as_deref(), driver).is_none()
        };
        // What these cards say on Debian's kernels.
        let (generic, protocols) =
            (Some(["tx-checksum-ip-generic"].as_slice()), Some(BY_PROTOCOL.as_slice()));
        assert!(
            trusted(generic, None) && trusted(generic, Some("virtio_net")) && trusted(generic, Some("veth"))
        );
        assert!(!trusted(Some(&["tx-checksum-ipv4"]), Some("8139cp")));
        assert!(!trusted(protocols, None));
        assert!(!trusted(generic, Some("e1000e")) && !trusted(generic, Some("vmxnet3")));
        // Nothing is left to the card.
        assert!(trusted(Some(&[]), Some("8139cp")) && trusted(Some(&["rx-gro"]), Some("e1000e")));
        // Without ethtool, the driver is all there is to go by.
        assert!(trusted(None, Some("8139cp")) && trusted(None, None) && !trusted(None, Some("e1000e")));
    }

    #[test]
    fn each_distrusted_card_is_named_once() {
        let interface = |index, name: &str| Interface { index, name: name.to_owned(), link_type: 1 };
        let cards: Vec<Distrusted> = [(2, "eth0"), (3, "eth1")]
            .map(|(index, name)| Distrusted { interface: interface(index, name), why: "it is so".to_owned() })
            .into();
        let say = |done, gso, all| notes(&cards, &[(interface(2, "eth0"), done)], gso, all);
        let [first, second] = &say(true, Gso::Segment, true)[..] else { panic!("two cards") };
        assert!(first.contains("eth0: it is so: checksums are finished first"), "{first}");
        assert!(second.contains("eth1: it is so: packets that are funneled elsewhere"), "{second}");
        let [only] = &say(false, Gso::Off, false)[..] else { panic!("nothing leaves by the other one") };
        assert!(only.contains("is lost; use `--gso segment`, or `ethtool -K eth0 tx off`"), "{only}");
    }
}
