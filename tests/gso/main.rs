//! Packets of several segments: what sockets hand over uncut (TCP, UDP_SEGMENT) and what receivers have
//! merged (GRO), through funnels and unfunnels, with the interfaces' defaults. Needs root; each test has
//! network namespaces of its own.

#[path = "../support/mod.rs"]
mod support;

mod big;
mod devices;
mod finish;
mod kinds;
mod macvlans;
mod merging;
mod metadata;
mod pairs;
mod quic;
mod traffic;

use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

use support::lab::{Capture, Ns};
use support::packet::Packet;
use support::world::World;
use support::{Need, flows};

const IPERF3: Need = Need::Tool("iperf3", "iperf3");

/// Runs the real binary on a namespace.
fn sfunnel(ns: &Ns, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(args).arg("--netns").arg(ns.path()).stdin(Stdio::null());
    command.output().expect("sfunnel")
}

/// The same, insisting on success; gives what it said.
fn succeed(ns: &Ns, args: &[&str]) -> String {
    let output = sfunnel(ns, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "in {}: sfunnel {args:?}: {said}", ns.name);
    said
}

/// The rules of one hook, and where.
fn attach(ns: &Ns, iface: &str, direction: &str, rules: &str) {
    succeed(ns, &["attach", "-i", iface, "-d", direction, "--ruleset", rules]);
}

/// Port 8080 through `outer`, both ways. What arrives on any other way than through the funnel is dropped.
fn funnel_strictly(world: &World, inner: &str, outer: &str) {
    let (ip, a) = (world.ip, world.address);
    let there = format!("{ip} daddr {a} {inner} dport 8080 actions funnel {outer} dport 80 sport 540");
    let arrived =
        format!("{outer} dport 80 sport 540 actions unfunnel {inner}; {inner} dport 8080 actions drop");
    let back = format!("{inner} sport 8080 actions funnel {outer} dport 540 sport 80");
    let returned = format!(
        "{ip} saddr {a} {outer} sport 80 dport 540 actions unfunnel {inner}; {ip} saddr {a} {inner} sport 8080 actions drop"
    );
    attach(&world.client, "vc", "egress", &there);
    attach(&world.server, "vs", "ingress", &arrived);
    attach(&world.server, "vs", "egress", &back);
    attach(&world.client, "vc", "ingress", &returned);
}

/// The names of a namespace's interfaces.
fn interfaces(ns: &Ns) -> Vec<String> {
    let links = ns.tool("ip", "-j link show");
    let links: serde_json::Value = serde_json::from_str(&links).expect("JSON");
    let names = links.as_array().expect("a list").iter().map(|link| &link["ifname"]);
    names.map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// A namespace with an interface `eth0`, number 7.
fn host() -> (Ns, Ns) {
    let (host, far) = (Ns::new("host"), Ns::new("far"));
    let peer = far.path();
    host.tool("ip", &format!("link add eth0 index 7 type veth peer name eth0 netns {}", peer.display()));
    for (ns, address) in [(&host, "10.1.0.1/24"), (&far, "10.1.0.2/24")] {
        ns.tool("ip", &format!("addr add {address} dev eth0"));
        ns.tool("ip", "link set eth0 up");
    }
    (host, far)
}

/// What `ip` says in JSON.
fn json(ns: &Ns, args: &str) -> serde_json::Value {
    serde_json::from_str(&ns.tool("ip", args)).expect("JSON")
}

/// How many packets have left by this end of a namespace's pair, or by the macvlan on it: `sfe` for segments of what
/// egress has, `sfi` for those of ingress, `sfm` for what is to be merged.
fn sent(ns: &Ns, end: &str) -> u64 {
    assert!(interfaces(ns).iter().any(|name| name.starts_with(end)), "no pair");
    let macvlan = match end {
        "sfe" => Some("sfc"),
        "sfi" => Some("sfd"),
        _ => None,
    };
    sent_by(ns, |name| name.starts_with(end) || macvlan.is_some_and(|macvlan| name.starts_with(macvlan)))
}

/// How many have left by these interfaces.
fn sent_by(ns: &Ns, wanted: impl Fn(&str) -> bool) -> u64 {
    let of = |name: String| {
        let link = json(ns, &format!("-j -s link show {name}"));
        link[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
    };
    interfaces(ns).into_iter().filter(|name| wanted(name)).map(of).sum()
}

/// Sends a packet by each of these devices of a [`host`]; by its interface none may leave.
fn nothing_gets_out(host: &Ns, far: &Ns, devices: [&str; 2]) {
    let capture = Capture::start(far, "eth0");
    for device in devices {
        let frame = Packet::parse("ip 10.1.0.1 > 10.1.0.2 udp 1 > 7 len 5000").expect("words").frame();
        flows::send_nonlinear(host, device, &frame);
    }
    // This one is sent last, and arrives.
    let socket = host.run(|| UdpSocket::bind("10.1.0.1:0")).expect("bind");
    socket.send_to(b"last", "10.1.0.2:9").expect("send");
    let to = |frame: &[u8], port: u16| frame.get(36..38) == Some(&port.to_be_bytes());
    let frames = capture.stop(1, |frame| to(frame, 9)).frames;
    assert_eq!(frames.iter().filter(|frame| to(frame, 7)).count(), 0);
}

/// How many packets were dropped where they arrived at this end.
fn dropped(ns: &Ns, end: &str) -> u64 {
    let qdiscs = ns.tool("tc", &format!("-s -j qdisc show dev {end}"));
    let qdiscs: serde_json::Value = serde_json::from_str(&qdiscs).expect("JSON");
    let clsact = qdiscs.as_array().expect("a list").iter().find(|qdisc| qdisc["kind"] == "clsact");
    clsact.expect("clsact")["drops"].as_u64().expect("a number")
}
