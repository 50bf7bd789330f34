//! The pair's life: what makes it, what it is like, what removes it, what stands in when there can be none.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::support::lab::{Ns, find_tool, link};
use super::support::world::NEEDS;
use super::support::{Need, require};
use super::{attach, dropped, host, interfaces, json, nothing_gets_out, sfunnel, succeed};

/// What GRO may have merged is cut by the pair itself, which finishes checksums.
const CROSSES: &str = "udp sport 540 dport 80 actions unfunnel udp";
/// With a macvlan on the pair.
const DIRECTLY: &str = "tcp dport 8080 actions funnel tcp sport 540 dport 80";
const UNFUNNEL: &str = "tcp sport 540 dport 80 actions unfunnel udp";
const ALIAS: &str = "tcp dport 8080 actions alias dport 80";

fn gso_max_segs(ns: &Ns) -> u64 {
    json(ns, "-j -d link show eth0")[0]["gso_max_segs"].as_u64().expect("a number")
}

#[test]
fn a_pair_is_up_without_addresses_and_carries_what_any_interface_does() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    host.sysctl("ipv6/conf/default/disable_ipv6", "0");
    attach(&host, "eth0", "egress", CROSSES);
    assert_eq!(interfaces(&host).len(), 4, "lo, eth0 and the pair");
    for (name, number) in [("sfe7-eth0", 0x4000_0038), ("sfi7-eth0", 0x4000_0039)] {
        let end = &json(&host, &format!("-j -d addr show {name}"))[0];
        assert_eq!(end["ifindex"], number);
        assert_eq!((&end["mtu"], &end["operstate"]), (&65_535.into(), &"UP".into()));
        assert_eq!(end["gso_max_segs"], 1);
        assert_eq!(end["addr_info"], serde_json::json!([]), "{end}");
        let flags = end["flags"].as_array().expect("flags");
        assert!(flags.contains(&"NOARP".into()) && !flags.contains(&"MULTICAST".into()), "{flags:?}");
        assert!(end["ifalias"].as_str().is_some_and(|text| text.starts_with("sfunnel")), "{end}");
    }
}

#[test]
fn attaching_again_uses_the_pair_again_and_status_names_it() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    attach(&host, "eth0", "egress", CROSSES);
    let address = |ns: &Ns| json(ns, "-j link show sfe7-eth0")[0]["address"].clone();
    let before = address(&host);
    attach(&host, "eth0", "egress", &format!("{CROSSES}; tcp dport 1 actions drop"));
    assert_eq!(address(&host), before, "another pair");

    let text = String::from_utf8_lossy(&sfunnel(&host, &["status"]).stdout).into_owned();
    assert!(text.contains("\neth0 segmentation pair: sfe7-eth0, sfi7-eth0\n"), "{text}");
    let json: serde_json::Value =
        serde_json::from_slice(&sfunnel(&host, &["status", "--json"]).stdout).expect("JSON");
    assert_eq!(json[0]["pair"], serde_json::json!(["sfe7-eth0", "sfi7-eth0"]));

    host.tool("ip", "link del sfe7-eth0");
    let text = String::from_utf8_lossy(&sfunnel(&host, &["status"]).stdout).into_owned();
    assert!(text.contains("segmentation pair: BROKEN, missing; "), "{text}");
    let (code, text) = doctor(&host);
    assert!(text.contains("its segmentation pair is missing") && text.contains("attach again"), "{text}");
    assert_eq!((code, text.matches("BAD").count()), (Some(1), 1), "{text}");
    attach(&host, "eth0", "egress", CROSSES);
    assert_eq!(interfaces(&host).len(), 4);
    let (code, text) = doctor(&host);
    assert_eq!(code, Some(0), "{text}");
}

/// Exit code and findings.
fn doctor(ns: &Ns) -> (Option<i32>, String) {
    let output = sfunnel(ns, &["doctor", "-i", "eth0"]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_pair_goes_with_the_last_rules_that_need_it() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    for without in [ALIAS, UNFUNNEL, "tcp actions accept"] {
        attach(&host, "eth0", "egress", without);
        assert_eq!(interfaces(&host).len(), 2, "{without}");
        attach(&host, "eth0", "egress", CROSSES);
        attach(&host, "eth0", "ingress", without);
        assert_eq!(interfaces(&host).len(), 4, "{without}, while egress needs it");
        attach(&host, "eth0", "egress", without);
        assert_eq!(interfaces(&host).len(), 2, "{without}, on egress as well");
    }
    attach(&host, "eth0", "both", CROSSES);
    succeed(&host, &["detach", "-i", "eth0", "-d", "ingress"]);
    assert_eq!(interfaces(&host).len(), 4);
    succeed(&host, &["detach", "-i", "eth0", "-d", "egress"]);
    assert_eq!(interfaces(&host).len(), 2);
}

#[test]
fn a_hundred_rounds_leave_nothing_behind() {
    if !require(&NEEDS) || !require(&[Need::Tool("tc", "iproute2")]) {
        return;
    }
    let (host, _far) = host();
    let state =
        |ns: &Ns| (interfaces(ns), ns.tool("tc", "qdisc show"), ns.tool("tc", "filter show dev eth0 egress"));
    let before = state(&host);
    for round in 0..100 {
        let direction = ["egress", "ingress", "both"][round % 3];
        let (rules, devices) = if round % 2 == 0 { (CROSSES, 4) } else { (DIRECTLY, 5 + round % 3 / 2) };
        succeed(&host, &["attach", "-d", direction, "--ruleset", rules]);
        assert_eq!(interfaces(&host).len(), devices, "not for lo, not for the pair itself");
        succeed(&host, &["detach"]);
    }
    assert_eq!(state(&host), before);
}

#[test]
fn a_pair_whose_interface_has_gone_is_removed_when_met() {
    if !require(&NEEDS) {
        return;
    }
    for args in [&["detach", "-i", "lo"][..], &["attach", "-i", "lo", "--ruleset", CROSSES]] {
        let (host, _far) = host();
        attach(&host, "eth0", "egress", CROSSES);
        host.tool("ip", "link del eth0");
        assert_eq!(interfaces(&host).len(), 3);
        let said = String::from_utf8_lossy(&sfunnel(&host, &["status"]).stdout).into_owned();
        let left = "segmentation pair sfe7-eth0, sfi7-eth0: left over, interface 7, which it was for, is gone; \
                    `sfunnel detach` removes it\n";
        assert_eq!(said, left);
        let said = succeed(&host, args);
        assert!(said.contains("removed segmentation pair sfe7-eth0, sfi7-eth0\n"), "{said}");
        assert!(!said.contains("nothing of sfunnel's"), "{said}");
        assert_eq!(interfaces(&host), ["lo"]);
    }
}

#[test]
fn a_pair_whose_filters_somebody_has_removed_is_named_and_removed() {
    if !require(&NEEDS) || !require(&[Need::Tool("tc", "iproute2")]) {
        return;
    }
    let (host, _far) = host();
    attach(&host, "eth0", "egress", CROSSES);
    host.tool("tc", "qdisc del dev eth0 clsact");
    let output = sfunnel(&host, &["status", "--json"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[]\n");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("sfe7-eth0, sfi7-eth0: left over, nothing on eth0 uses it any more"), "{said}");
    let (code, text) = doctor(&host);
    assert!(text.contains("left over, nothing on eth0") && code == Some(0), "{text}");
    assert_eq!(succeed(&host, &["detach"]), "removed segmentation pair sfe7-eth0, sfi7-eth0\n");
    assert_eq!(interfaces(&host).len(), 2);
}

#[test]
fn an_attachment_that_fails_takes_its_pair_back() {
    if !require(&NEEDS) || !require(&[Need::Tool("tc", "iproute2")]) {
        return;
    }
    let (host, _far) = host();
    host.tool("ip", "link add other type veth peer name other-peer");
    host.tool("tc", "qdisc add dev other ingress");
    for gso in ["segment", "limit"] {
        let output = sfunnel(
            &host,
            &["attach", "-i", "eth0", "-i", "other", "-d", "egress", "--gso", gso, "--ruleset", CROSSES],
        );
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(interfaces(&host).len(), 4, "lo, eth0, other, other-peer");
        assert_eq!(gso_max_segs(&host), 65_535);
    }
}

#[test]
fn the_pair_itself_is_never_attached_to() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    attach(&host, "eth0", "egress", CROSSES);
    for command in [&["attach", "--ruleset", CROSSES][..], &["detach"]] {
        let output = sfunnel(&host, &[command, &["-i", "sfe7-eth0"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("sfe7-eth0 is sfunnel's own"), "{said}");
    }
}

#[test]
fn a_limit_is_remembered_and_taken_back() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    host.tool("ip", "link set eth0 gso_max_segs 44");
    let limit = |direction: &str, rules: &str| {
        succeed(&host, &["attach", "-i", "eth0", "-d", direction, "--gso", "limit", "--ruleset", rules]);
    };
    limit("egress", CROSSES);
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (1, 2));
    limit("both", CROSSES);
    succeed(&host, &["detach", "-i", "eth0", "-d", "ingress"]);
    assert_eq!(gso_max_segs(&host), 1);
    // Each of these has no more need of it.
    attach(&host, "eth0", "egress", ALIAS);
    assert_eq!(gso_max_segs(&host), 44);
    limit("egress", CROSSES);
    attach(&host, "eth0", "egress", CROSSES);
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (44, 4));
    limit("egress", CROSSES);
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (1, 2));
    succeed(&host, &["detach", "-i", "eth0"]);
    assert_eq!(gso_max_segs(&host), 44);
}

#[test]
fn where_no_pair_can_be_made_it_says_so_and_limits() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    // Somebody has the number that the pair would have.
    host.tool("ip", &format!("link add taken index {} type veth peer name taken-peer", 0x4000_0038));
    let said = succeed(&host, &["attach", "-i", "eth0", "-d", "egress", "--ruleset", CROSSES]);
    assert!(said.contains("cannot make the veth pair") && said.contains("--gso limit"), "{said}");
    assert_eq!(gso_max_segs(&host), 1);
    succeed(&host, &["detach", "-i", "eth0"]);
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (65_535, 4));
}

/// Where to send a packet goes along with it, outside its bytes, and would not come back from a pair.
#[test]
fn a_tunnel_that_is_told_with_each_packet_is_limited_instead() {
    if !require(&NEEDS) {
        return;
    }
    let host = Ns::new("host");
    host.tool("ip", "link add eth0 type vxlan external dstport 4790");
    let said = succeed(&host, &["attach", "-i", "eth0", "-d", "egress", "--ruleset", CROSSES]);
    assert!(said.contains("--gso limit"), "{said}");
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (1, 2));
    succeed(&host, &["detach"]);
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (65_535, 2));
}

/// The filter's name says what to put back, so it stands before anything is changed.
#[test]
fn a_killed_attach_limits_nothing_that_detach_does_not_put_back() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    for round in 0..30 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        let args =
            ["attach", "-i", "eth0", "-d", "egress", "--gso", "limit", "--ruleset", CROSSES, "--netns"];
        let mut child = command.args(args).arg(host.path()).stderr(Stdio::null()).spawn().expect("sfunnel");
        thread::sleep(Duration::from_millis(round));
        child.kill().expect("a child");
        child.wait().expect("its end");
        succeed(&host, &["detach"]);
        assert_eq!(gso_max_segs(&host), 65_535, "killed after {round} ms");
    }
}

/// It is held up by a note that nobody reads, when the pair is there and nothing relies on it yet.
#[test]
fn a_pair_that_somebody_takes_away_meanwhile_is_made_anew() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    host.tool("ip", "link add tunnel type vxlan external dstport 4790");
    let (mut unread, full) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(["attach", "-i", "eth0", "-i", "tunnel", "-d", "egress", "--ruleset", CROSSES, "--netns"]);
    let mut child = command.arg(host.path()).stderr(full).spawn().expect("sfunnel");
    drop(command);
    let asleep = format!("/proc/{}/wchan", child.id());
    while !std::fs::read_to_string(&asleep).expect("/proc").contains("pipe_write") {
        thread::sleep(Duration::from_millis(5));
    }
    host.tool("ip", "link del sfe7-eth0");
    let mut said = String::new();
    unread.read_to_string(&mut said).expect("what it said");
    assert!(child.wait().expect("its end").success(), "{said}");
    assert!(
        said.contains("eth0: somebody else has broken its segmentation pair meanwhile (missing)"),
        "{said}"
    );
    let text = String::from_utf8_lossy(&sfunnel(&host, &["status"]).stdout).into_owned();
    assert!(text.contains("\neth0 segmentation pair: sfe7-eth0, sfi7-eth0\n"), "{text}");
}

/// Two ends of a pipe that takes nothing more until it is read.
fn full_pipe() -> (File, File) {
    let (unread, full) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let mut filling = File::from(full.try_clone().expect("a descriptor"));
    fcntl(&full, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe that does not block");
    while filling.write(b"....").is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).expect("one that does");
    (File::from(unread), File::from(full))
}

/// What a filter alone knows goes with it: nobody could put it back any more.
#[test]
fn a_killed_detach_leaves_no_limit_that_nobody_knows_of() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    for round in 0..30 {
        let args = ["attach", "-i", "eth0", "-d", "egress", "--gso", "limit", "--ruleset", CROSSES];
        succeed(&host, &args);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(["detach", "--netns"]).arg(host.path()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sfunnel");
        thread::sleep(Duration::from_micros(round * 700));
        child.kill().expect("a child");
        child.wait().expect("its end");
        let attached = !sfunnel(&host, &["status"]).stdout.is_empty();
        assert_eq!(gso_max_segs(&host), if attached { 1 } else { 65_535 }, "killed in round {round}");
    }
}

#[test]
fn with_gso_off_nothing_is_made_or_set() {
    if !require(&NEEDS) {
        return;
    }
    let (host, _far) = host();
    succeed(&host, &["attach", "-i", "eth0", "-d", "both", "--gso", "off", "--ruleset", CROSSES]);
    assert_eq!((gso_max_segs(&host), interfaces(&host).len()), (65_535, 2));
}

#[test]
fn bpf_and_net_admin_are_enough_to_make_and_remove_a_pair() {
    if !require(&NEEDS) || !require(&[Need::Tool("setpriv", "util-linux")]) {
        return;
    }
    let (host, _far) = host();
    for (capabilities, args, expected) in [
        (",+bpf,+net_admin", &["attach", "-i", "eth0", "-d", "both", "--ruleset", CROSSES][..], 4),
        (",+bpf,+net_admin", &["attach", "-i", "eth0", "-d", "both", "--ruleset", CROSSES], 4),
        (",+bpf,+net_admin", &["attach", "-i", "eth0", "-d", "both", "--ruleset", DIRECTLY], 6),
        (",+net_admin", &["detach"], 2),
    ] {
        let mut command = Command::new(find_tool("setpriv").expect("setpriv"));
        command.arg(format!("--bounding-set=-all{capabilities}")).arg(env!("CARGO_BIN_EXE_sfunnel"));
        let output = host.run(|| command.args(args).output()).expect("setpriv");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(interfaces(&host).len(), expected, "{args:?}");
    }
}

/// Whatever reaches an end by itself must not get to the interface: neighbour discovery, a person's ping.
#[test]
fn nothing_gets_through_a_pair_but_what_the_program_has_sent() {
    if !require(&NEEDS) || !require(&[Need::Tool("tcpdump", "tcpdump")]) {
        return;
    }
    let (host, far) = host();
    attach(&host, "eth0", "both", CROSSES);
    nothing_gets_out(&host, &far, ["sfe7-eth0", "sfi7-eth0"]);
    assert_eq!(dropped(&host, "sfi7-eth0"), 1, "what one end has sent is dropped at the other");
}

#[test]
fn names_of_interfaces_may_be_as_long_as_they_get() {
    if !require(&NEEDS) {
        return;
    }
    let (host, far) = host();
    link((&host, "an-iface-name-1", "10.2.0.1/24"), (&far, "an-iface-name-2", "10.2.0.2/24"));
    attach(&host, "an-iface-name-1", "egress", CROSSES);
    assert_eq!(interfaces(&host).len(), 5);
    succeed(&host, &["detach"]);
    assert_eq!(interfaces(&host).len(), 3);
}
