//! Pods that come and go, interfaces that others have next, and what flows are not fast for.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::cluster::{Cluster, to};
use super::nodes::{Echo, RULES, can_run, echo_server, strict, wait_until_fast};
use super::support::lab::{Capture, DEADLINE, Ns};
use super::support::{Need, require};

/// A pod on a node, with the number and the last byte of the address that are wanted; as the CNI plugin makes it.
fn pod(cluster: &Cluster, node: usize, name: &str, index: Option<u32>, last: u8) -> Ns {
    let (host, ns) = (cluster.host(node), Ns::new("pod"));
    let index = index.map(|index| format!("index {index}")).unwrap_or_default();
    host.tool(
        "ip",
        &format!(
            "link add {name} {index} mtu 1450 type veth peer name eth0 mtu 1450 netns {}",
            ns.path().display()
        ),
    );
    host.tool("ip", &format!("link set {name} master br0"));
    // What the bridge does not know the port of must not come here: it would look like what is looked for.
    host.tool("bridge", &format!("link set dev {name} flood off"));
    host.tool("ip", &format!("link set {name} up"));
    let n = node + 1;
    for args in [
        format!("addr add 10.244.{n}.{last}/24 dev eth0"),
        "link set eth0 up".into(),
        format!("route add default via 10.244.{n}.1"),
    ] {
        ns.tool("ip", &args);
    }
    ns
}

fn index(host: &Ns, name: &str) -> u32 {
    host.run(|| nix::net::if_::if_nametoindex(name)).expect("an interface")
}

#[test]
fn pods_that_come_later_are_found() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    let rules = cluster.rules(RULES);
    let _watches = [0, 1].map(|node| cluster.watch(node, &rules, &["--fast", "--every", "10"]));
    for node in [0, 1] {
        cluster.wait_for_status(node, |status| {
            status.contains("1 of 1 peers") && status.contains("pod0 egress")
        });
    }
    let late = pod(&cluster, 0, "pod9", None, 9);
    cluster.wait_for_status(0, |status| status.contains("pod9 ingress") && status.contains("pod9 egress"));
    let _peers = echo_server(cluster.pod(1, 0), 7000);
    let mut echo = Echo::connect(&late, to(1, 0, 7000));
    wait_until_fast(&cluster, &mut echo, 7000);
    cluster.no_checksum_errors();
}

/// As the DaemonSet has it: the verifier then takes less.
#[test]
fn three_capabilities_are_enough() {
    if !can_run() || !require(&[Need::Tool("setpriv", "util-linux")]) {
        return;
    }
    let cluster = strict(1);
    (0..2).for_each(|node| drop(cluster.attach(node, RULES, &["--receive-only"])));
    for node in [0, 1] {
        let mut command = Command::new("setpriv");
        command.args([
            "--bounding-set=-all,+bpf,+net_admin,+net_raw",
            env!("CARGO_BIN_EXE_sfunnel"),
            "bypass",
            "attach",
        ]);
        command.args([
            "--fast",
            "--overlay-if",
            "vx0",
            "--host-if",
            "eth0",
            "--ruleset",
            &cluster.rules(RULES),
        ]);
        let output = cluster.host(node).run(|| command.stdin(Stdio::null()).output()).expect("setpriv");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let _peers = echo_server(cluster.pod(1, 0), 7000);
    let mut echo = Echo::connect(cluster.pod(0, 0), to(1, 0, 7000));
    wait_until_fast(&cluster, &mut echo, 7000);
}

/// A server that goes on sending to a pod that has gone, and whose interface's number another one has at once.
#[test]
fn nothing_of_an_old_flow_comes_to_the_next_who_has_the_interfaces_number() {
    if !can_run() {
        return;
    }
    for watched in [false, true] {
        let cluster = strict(1);
        let rules = cluster.rules(RULES);
        cluster.attach_all_fast(RULES);
        let _watch = watched.then(|| cluster.watch(0, &rules, &["--fast"]));
        let gone = pod(&cluster, 0, "gone", None, 8);
        if watched {
            cluster.wait_for_status(0, |status| status.contains("gone ingress"));
        } else {
            cluster.attach(0, RULES, &["--fast"]);
        }
        let listener = cluster.pod(1, 0).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
        let mut stream =
            gone.run(|| TcpStream::connect_timeout(&to(1, 0, 7000), DEADLINE)).expect("a connection");
        let (mut server, _) = listener.accept().expect("a connection");
        server.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..300 {
            server.write_all(&[1; 1000]).expect("a write");
            stream.read_exact(&mut buffer[..1000]).expect("a read");
            stream.write_all(&[2; 1000]).expect("a write");
            server.read_exact(&mut buffer[..1000]).expect("a read");
        }
        let number = index(cluster.host(0), "gone");
        // As much as the window lets it, and then again and again.
        server.set_nonblocking(true).expect("a mode");
        while server.write(&[3; 10_000]).is_ok() {}
        cluster.host(0).tool("ip", "link del gone");
        let next = pod(&cluster, 0, "next", Some(number), 9);
        assert_eq!(index(cluster.host(0), "next"), number);
        let capture = Capture::start(&next, "eth0");
        for _ in 0..60 {
            let _ = server.write(&[3; 10_000]);
            thread::sleep(Duration::from_millis(50));
        }
        let frames = capture.stop(0, |_| true).frames;
        let old = frames.iter().filter(|frame| frame.get(30..34) == Some(&[10, 244, 1, 8])).count();
        assert_eq!(old, 0, "frames for the pod that has gone, of {}", frames.len());
    }
}

/// Its address has been given to another pod: that one answers for itself, as it would without all this.
#[test]
fn a_flow_of_a_pod_that_has_gone_ends_at_the_next_who_has_its_address() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    let rules = cluster.rules(RULES);
    cluster.attach_all_fast(RULES);
    let _watch = cluster.watch(0, &rules, &["--fast"]);
    let gone = pod(&cluster, 0, "gone", None, 8);
    cluster.wait_for_status(0, |status| status.contains("gone ingress"));
    let listener = cluster.pod(1, 0).run(|| TcpListener::bind("0.0.0.0:7000")).expect("bind");
    let mut stream =
        gone.run(|| TcpStream::connect_timeout(&to(1, 0, 7000), DEADLINE)).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    for _ in 0..300 {
        server.write_all(&[1; 100]).expect("a write");
        stream.read_exact(&mut [0; 100]).expect("a read");
    }
    cluster.host(0).tool("ip", "link del gone");
    let next = pod(&cluster, 0, "next", None, 8);
    let _peers = echo_server(cluster.pod(1, 0), 7001);
    let mut echo = Echo::connect(&next, to(1, 0, 7001));
    wait_until_fast(&cluster, &mut echo, 7001);
    // The old connection is reset, by the stack of the pod that does not know it.
    server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let _ = server.write_all(&[1; 100]);
    let ended = server.read(&mut [0; 1]).expect_err("an end");
    assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
    cluster.no_checksum_errors();
}

#[test]
fn what_would_miss_something_is_refused_with_the_reason() {
    if !can_run() {
        return;
    }
    let cluster = strict(2);
    let host = cluster.host(0);
    let said = |rules: &str| {
        let output = cluster.try_attach(0, rules, &["--fast"]);
        assert!(!output.status.success(), "{rules}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let dscp = said("tcp dport 7000 dscp 46 actions bypass\n");
    assert!(dscp.contains("matches on `dscp`"), "{dscp}");
    let mark = said("tcp dport 7000 actions bypass mark set 7\n");
    assert!(mark.contains("sets `mark`"), "{mark}");
    host.sysctl("netfilter/nf_conntrack_tcp_loose", "0");
    let loose = said(RULES);
    assert!(loose.contains("nf_conntrack_tcp_loose is 0"), "{loose}");
    host.sysctl("netfilter/nf_conntrack_tcp_loose", "1");

    // Of one pod only: all others are taken.
    host.tool("tc", "qdisc add dev pod1 root tbf rate 100mbit burst 32k latency 50ms");
    let said = cluster.attach(0, RULES, &["--fast"]);
    assert!(said.contains("pod1: its flows stay on the long way: it has the qdisc `tbf`"), "{said}");
    assert!(cluster.status(0).contains("pod0 ingress") && !cluster.status(0).contains("pod1"));
    host.tool("tc", "qdisc del dev pod1 root");
    host.tool("tc", "qdisc add dev pod1 clsact");
    host.tool("tc", "filter add dev pod1 ingress protocol ip pref 7 u32 match u32 0 0 flowid 1:1");
    let said = cluster.attach(0, RULES, &["--fast"]);
    assert!(
        said.contains("pod1: its flows stay on the long way: it has a filter of others on ingress"),
        "{said}"
    );
    host.tool("tc", "filter del dev pod1 ingress");
    assert!(
        cluster
            .sfunnel(0, &["attach", "-i", "pod1", "--ruleset", "udp dport 9 actions drop"])
            .status
            .success()
    );
    let said = cluster.attach(0, RULES, &["--fast"]);
    assert!(
        said.contains("pod1: its flows stay on the long way: it has rules of its own on ingress"),
        "{said}"
    );
    assert!(cluster.status(0).contains("pod1 ingress"), "they stay");
}
