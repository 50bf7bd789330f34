//! `--finish-checksums`: what is funneled passes NAT on the sender's machine, and whoever checks it behind that.

use super::support::lab::{Capture, Ns};
use super::support::world::{NEEDS, Strict, funneled, unfunneled};
use super::support::{Need, flows, model, require};
use super::{interfaces, sfunnel, succeed};

/// The rules of all four hooks.
fn attach(world: &Strict, more: &[&str], [there, arrived, back, returned]: [&str; 4]) {
    let hooks = [
        (&world.client, "vc", "egress", there),
        (&world.server, "vs", "ingress", arrived),
        (&world.server, "vs", "egress", back),
        (&world.client, "vc", "ingress", returned),
    ];
    for (ns, iface, direction, rules) in hooks {
        succeed(ns, &[&["attach", "-i", iface, "-d", direction, "--ruleset", rules], more].concat());
    }
}

#[test]
fn nat_and_a_strict_hop_behind_it_pass_what_is_finished() {
    const BYTES: usize = 4 << 20;
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump")]) {
        return;
    }
    for outer in ["tcp", "udp"] {
        let rules = [
            "udp dport 4739 actions funnel OUTER dport 179 sport 540; tcp dport 8080 actions funnel udp dport 80 sport 540",
            "OUTER dport 179 sport 540 actions unfunnel udp; udp dport 80 sport 540 actions unfunnel tcp",
            "tcp sport 8080 actions funnel udp sport 80 dport 540",
            "udp sport 80 dport 540 actions unfunnel tcp",
        ];
        let rules = rules.map(|rules| rules.replace("OUTER", outer));
        let world = Strict::new();
        let (client, server) = (&world.client, &world.server);

        attach(&world, &[], rules.each_ref().map(String::as_str));
        assert_eq!(flows::udp(client, server, Strict::to(4739), 5, 100), 0, "udp over {outer} needs no help");

        attach(&world, &["--finish-checksums"], rules.each_ref().map(String::as_str));
        let capture = Capture::start(server, "vs");
        assert_eq!(flows::udp(client, server, Strict::to(4739), 50, 1400), 50, "udp over {outer}");
        let frames = capture.stop(50, funneled).frames;
        for frame in frames.iter().filter(|frame| funneled(frame)) {
            assert!(model::checksums_are_right(frame), "outer, {outer}");
            assert!(model::checksums_are_right(&unfunneled(frame, ("udp", outer))), "inner, {outer}");
        }
        assert_eq!(flows::tcp(client, server, Strict::to(8080), 3, 20), 60, "tcp over udp");
        assert_eq!(flows::bulk(client, server, Strict::to(8080), BYTES), BYTES, "tcp over udp");
        let sent = flows::udp_gso(client, server, Strict::to(4739), 20, 1000);
        assert_eq!(sent, 20, "udp over {outer}, in one packet");
        assert_eq!(client.checksum_errors() + server.checksum_errors(), 0);
    }
}

#[test]
fn to_finish_checksums_takes_a_segmentation_pair() {
    if !require(&NEEDS) {
        return;
    }
    let host = Ns::new("host");
    host.tool("ip", "link add eth0 type veth");
    let rules = ["--ruleset", "udp dport 1 actions funnel udp sport 2 dport 3"];
    let attach = |more: &[&str]| sfunnel(&host, &[&["attach", "-i", "eth0"], more, &rules].concat());
    let output = attach(&["--finish-checksums", "--gso", "off"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("needs a segmentation pair: leave out `--gso off`"), "{said}");
    assert_eq!((output.status.code(), interfaces(&host).len()), (Some(2), 3));
    assert!(attach(&["--finish-checksums", "-d", "egress"]).status.success());
    assert_eq!(interfaces(&host).len(), 5);
}

/// A card that finishes checksums by protocol cannot be had here, so the interface is said to be one.
#[test]
fn where_the_card_is_not_trusted_egress_finishes_checksums() {
    use sfunnel::ir::Side;
    use sfunnel::net::card::Distrusted;
    use sfunnel::net::{Hook, Netlink, gso, links};
    use sfunnel::policy::{Choices, Gso, Needs};
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = super::host();
    let source = sfunnel::diag::Source::new("rules", "udp dport 4739 actions funnel tcp sport 540 dport 179");
    let ruleset = sfunnel::check::read(&source).expect("rules").ruleset;
    let needs = [Side::Ingress, Side::Egress].map(|side| Needs::of(side, &ruleset, Choices::default()));
    host.run(|| {
        let mut netlink = Netlink::open().expect("a socket");
        let interfaces = links::find(&mut netlink, &["eth0".to_owned()]).expect("eth0");
        let card = Distrusted { interface: interfaces[0].clone(), why: "it is said so".to_owned() };
        for (cards, gso, finishes) in [
            (&[][..], Gso::Segment, false),
            (std::slice::from_ref(&card), Gso::Segment, true),
            (std::slice::from_ref(&card), Gso::Limit, false),
        ] {
            let prepared =
                gso::prepare(&mut netlink, gso, &interfaces, &needs, &[], &[], cards).expect("prepared");
            let hook = |hook| prepared.of(&interfaces[0], hook).finishing;
            assert_eq!((hook(Hook::Egress), hook(Hook::Ingress)), (finishes, false), "{gso}");
            prepared.undo(&mut netlink);
        }
    });
}

/// What a veth leaves to others it leaves as the kernel says, whatever is switched off.
#[test]
fn an_interface_that_goes_where_the_kernel_says_is_trusted() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = super::host();
    let rules = "udp dport 4739 actions funnel tcp sport 540 dport 179";
    for tx in ["on", "off"] {
        host.tool("ethtool", &format!("-K eth0 tx {tx}"));
        let said = succeed(&host, &["attach", "-i", "eth0", "-d", "egress", "--ruleset", rules]);
        assert!(!said.contains("checksum"), "tx {tx}: {said}");
        let status = sfunnel(&host, &["status"]);
        assert!(!String::from_utf8_lossy(&status.stdout).contains("finishing"), "tx {tx}");
    }
}
