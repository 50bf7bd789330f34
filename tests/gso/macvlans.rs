//! The macvlans on the segmentation pair, where no checksums have to be finished: their life, and what goes through them.

use super::support::lab::Ns;
use super::support::world::{NEEDS, Way, World};
use super::support::{Need, flows, require};
use super::{
    attach, dropped, funnel_strictly, host, interfaces, json, nothing_gets_out, sent, sent_by, sfunnel,
    succeed,
};

const FUNNEL: &str = "tcp dport 8080 actions funnel tcp sport 540 dport 80";
/// At the other end; whatever has not been funneled is dropped there.
const ARRIVED: &str = "tcp sport 540 dport 80 actions unfunnel tcp; tcp dport 8080 drop";
/// What GRO may have merged is cut by the pair itself, which finishes checksums.
const CROSSES: &str = "udp sport 540 dport 80 actions unfunnel udp";
const TOOLS: [Need; 1] = [Need::Tool("tc", "iproute2")];

fn status(ns: &Ns, args: &[&str]) -> String {
    String::from_utf8_lossy(&sfunnel(ns, &[&["status"], args].concat()).stdout).into_owned()
}

/// What is there beside the interface.
fn beside(ns: &Ns) -> Vec<String> {
    let mut names = interfaces(ns);
    names.retain(|name| name.starts_with("sf"));
    names.sort();
    names
}

#[test]
fn a_macvlan_is_up_without_addresses_and_carries_what_any_interface_does() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    host.sysctl("ipv6/conf/default/disable_ipv6", "0");
    attach(&host, "eth0", "both", FUNNEL);
    assert_eq!(interfaces(&host).len(), 6, "lo, eth0, the pair and a macvlan for each hook");
    for (name, number, below) in
        [("sfc7-eth0", 0x4000_003c, "sfe7-eth0"), ("sfd7-eth0", 0x4000_003d, "sfi7-eth0")]
    {
        let link = &json(&host, &format!("-j -d addr show {name}"))[0];
        assert_eq!((&link["ifindex"], &link["link"]), (&number.into(), &below.into()));
        assert_eq!(link["mtu"], 65_535);
        assert_eq!((&link["gso_max_segs"], &link["linkinfo"]["info_kind"]), (&1.into(), &"macvlan".into()));
        assert_eq!(link["addr_info"], serde_json::json!([]), "{link}");
        let flags = link["flags"].as_array().expect("flags");
        assert!(flags.contains(&"LOWER_UP".into()), "{flags:?}");
        assert!(flags.contains(&"NOARP".into()) && !flags.contains(&"MULTICAST".into()), "{flags:?}");
        assert!(link["ifalias"].as_str().is_some_and(|text| text.starts_with("sfunnel")), "{link}");
    }
    let text = status(&host, &[]);
    assert!(
        text.contains("\neth0 segmentation pair: sfe7-eth0, sfi7-eth0, sfc7-eth0, sfd7-eth0\n"),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&status(&host, &["--json"])).expect("JSON");
    assert_eq!([&json[0]["macvlan"], &json[1]["macvlan"]], ["sfd7-eth0", "sfc7-eth0"]);
}

/// Between two lists of rules each is there for as long as one needs it, and the pair as well.
#[test]
fn a_macvlan_goes_with_the_last_rules_that_need_it() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    let address = |ns: &Ns| json(ns, "-j link show sfc7-eth0")[0]["address"].clone();
    attach(&host, "eth0", "egress", FUNNEL);
    let before = address(&host);
    attach(&host, "eth0", "egress", &format!("{FUNNEL}; tcp dport 1 actions drop"));
    assert_eq!(address(&host), before, "another macvlan");
    attach(&host, "eth0", "ingress", CROSSES);
    assert_eq!(beside(&host), ["sfc7-eth0", "sfe7-eth0", "sfi7-eth0"], "none for ingress");
    attach(&host, "eth0", "egress", CROSSES);
    assert_eq!(beside(&host), ["sfe7-eth0", "sfi7-eth0"], "the pair stays");
    let finish = ["attach", "-i", "eth0", "-d", "egress", "--finish-checksums", "--ruleset", FUNNEL];
    succeed(&host, &finish);
    assert_eq!(interfaces(&host).len(), 4, "with --finish-checksums");
    attach(&host, "eth0", "egress", FUNNEL);
    succeed(&host, &["detach", "-i", "eth0", "-d", "egress"]);
    assert_eq!(interfaces(&host).len(), 4, "ingress still needs the pair");
    attach(&host, "eth0", "egress", FUNNEL);
    assert_eq!(
        succeed(&host, &["detach"]).lines().last(),
        Some("removed segmentation pair sfe7-eth0, sfi7-eth0, sfc7-eth0")
    );
    assert_eq!(interfaces(&host).len(), 2);
}

#[test]
fn a_macvlan_that_does_not_work_is_reported_and_repaired() {
    if !require(&NEEDS) || !require(&TOOLS) {
        return;
    }
    let (host, _far) = host();
    attach(&host, "eth0", "egress", FUNNEL);
    for (tool, args, why) in [
        ("ip", "link del sfc7-eth0", "without its macvlan for egress"),
        ("ip", "link set sfc7-eth0 down", "down: sfc7-eth0"),
        ("tc", "filter del dev sfe7-eth0 egress", "without its filter at sfe7-eth0, egress"),
    ] {
        host.tool(tool, args);
        let text = status(&host, &[]);
        assert!(text.contains(&format!("segmentation pair: BROKEN, {why}; ")), "{text}");
        let text = String::from_utf8_lossy(&sfunnel(&host, &["doctor", "-i", "eth0"]).stdout).into_owned();
        assert!(text.contains(&format!("its segmentation pair is {why}; ")), "{text}");
        attach(&host, "eth0", "egress", FUNNEL);
        assert!(!status(&host, &[]).contains("BROKEN"), "{why}");
    }
}

/// By sockets (TCP and UDP_SEGMENT), over IPv4 and IPv6: none crosses the pair.
#[test]
fn packets_are_cut_without_crossing_the_pair() {
    if !require(&NEEDS) || !require(&TOOLS) {
        return;
    }
    for world in [World::new(Way::Direct), World::six(Way::Direct)] {
        funnel_strictly(&world, "tcp", "tcp");
        assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), 4 << 20), 4 << 20);
        assert!(sent(&world.client, "sfc") > 2_500, "{}", world.ip);
        assert_eq!(crossed(&world.client), 0, "{}", world.ip);
    }
    let world = World::new(Way::Direct);
    funnel_strictly(&world, "udp", "tcp");
    assert_eq!(flows::udp_gso(&world.client, &world.server, world.to(8080), 30, 1_200), 30);
    assert_eq!((sent(&world.client, "sfc"), crossed(&world.client)), (30, 0));
}

#[test]
fn what_a_router_funnels_on_ingress_is_cut_without_crossing_the_pair() {
    if !require(&NEEDS) || !require(&TOOLS) {
        return;
    }
    let world = World::new(Way::Routed);
    let router = world.router.as_ref().expect("a router");
    router.tool("ethtool", "-K rc gro on");
    router.tool("ethtool", "-K rs gro on");
    attach(router, "rc", "ingress", FUNNEL);
    attach(&world.server, "vs", "ingress", ARRIVED);
    assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), 4 << 20), 4 << 20);
    assert!(sent(router, "sfd") > 2_500);
    assert_eq!(crossed(router), 0);
    world.no_checksum_errors();
}

/// How many packets an end of the segmentation pair has sent to the other.
fn crossed(ns: &Ns) -> u64 {
    sent_by(ns, |name| name.starts_with("sfe") || name.starts_with("sfi"))
}

/// The kernel may have no macvlan: somebody has its number here.
#[test]
fn where_no_macvlan_can_be_made_segments_cross_the_pair() {
    if !require(&NEEDS) || !require(&TOOLS) {
        return;
    }
    let world = World::new(Way::Direct);
    let index = json(&world.client, "-j link show vc")[0]["ifindex"].as_u64().expect("a number");
    let taken = 0x4000_0000 + 8 * index + 4;
    world.client.tool("ip", &format!("link add taken index {taken} type veth peer name taken-peer"));
    let rules = ["attach", "-i", "vc", "-d", "egress", "--ruleset", FUNNEL];
    let said = succeed(&world.client, &rules);
    assert!(said.contains("cannot make the macvlan sfc") && said.contains("which is slower"), "{said}");
    assert!(!status(&world.client, &[]).contains("BROKEN"));
    attach(&world.server, "vs", "ingress", ARRIVED);
    assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), 4 << 20), 4 << 20);
    assert!(crossed(&world.client) > 2_500);
    // Without a word, as soon as there can be one.
    world.client.tool("ip", "link del taken");
    assert!(!succeed(&world.client, &rules).contains("slower"));
    let crossed_before = crossed(&world.client);
    assert_eq!(flows::bulk(&world.client, &world.server, world.to(8080), 4 << 20), 4 << 20);
    assert_eq!(crossed(&world.client), crossed_before);
}

/// The kernel drops what devices on top of one another send too deep inside each other (`IP_TUNNEL_RECURSION_LIMIT`): by
/// way of a macvlan it would be here.
#[test]
fn interfaces_on_top_of_others_have_their_packets_cross_the_pair() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::new(Way::Direct);
    for (ns, iface, local, remote) in [(&world.client, "vc", 1, 2), (&world.server, "vs", 2, 1)] {
        ns.tool("ip", &format!("link set {iface} mtu 1700"));
        ns.tool("ip", &format!("addr add 10.8.0.{local}/24 dev {iface}"));
        for level in 1..=2 {
            let (own, other) =
                (format!("10.8.{}.{local}", level - 1), format!("10.8.{}.{remote}", level - 1));
            ns.tool(
                "ip",
                &format!("link add v{level} type vxlan id {level} local {own} remote {other} dstport 4789"),
            );
            ns.tool("ip", &format!("link set v{level} mtu {} up", 1700 - 50 * level));
            ns.tool("ip", &format!("addr add 10.8.{level}.{local}/24 dev v{level}"));
        }
    }
    attach(&world.client, "v2", "egress", FUNNEL);
    attach(&world.server, "v2", "ingress", ARRIVED);
    let to = "10.8.2.2:8080".parse().expect("an address");
    assert_eq!(flows::bulk(&world.client, &world.server, to, 4 << 20), 4 << 20);
    assert!(crossed(&world.client) > 2_500);
    world.client.tool("ip", "link add b0 type bridge");
    attach(&world.client, "b0", "egress", FUNNEL);
    assert!(!interfaces(&world.client).iter().any(|name| name.starts_with("sfc")), "on top of others");
}

/// Whatever reaches a macvlan by itself crosses the pair as a stranger, and is dropped there.
#[test]
fn nothing_gets_through_a_macvlan_but_what_the_program_has_sent() {
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump")]) {
        return;
    }
    let (host, far) = host();
    attach(&host, "eth0", "both", FUNNEL);
    nothing_gets_out(&host, &far, ["sfc7-eth0", "sfd7-eth0"]);
    assert_eq!([dropped(&host, "sfi7-eth0"), dropped(&host, "sfe7-eth0")], [1, 1]);
}
