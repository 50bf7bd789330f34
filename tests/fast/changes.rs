//! What comes and goes under a flow: programs on either node, and the whole of a peer.

use std::time::Instant;

use super::cluster::{Cluster, to};
use super::nodes::{Echo, RULES, can_run, echo_server, invalid, strict, wait_for_state, wait_until_fast};
use super::support::flows::Pieces;
use super::support::lab::DEADLINE;

/// Those that send, on all nodes; then those that receive.
fn detach_all(cluster: &Cluster) {
    for interface in ["vx0", "eth0"] {
        for node in [0, 1] {
            assert!(cluster.sfunnel(node, &["detach", "-i", interface]).status.success());
        }
    }
}

#[test]
fn attaching_and_detaching_lose_no_byte() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    let mut pieces = Pieces::start(cluster.pod(0, 0), cluster.pod(1, 0), to(1, 0, 7000));
    for _ in 0..2 {
        pieces.send(2 << 20);
        cluster.attach_all_fast(RULES);
        pieces.send(8 << 20);
        // Once more, with maps that are new.
        cluster.attach_all_fast(RULES);
        pieces.send(4 << 20);
        // Back to the way through the stack, and to the overlay.
        cluster.attach_all(RULES);
        assert!(!cluster.status(0).contains("pod0"), "{}", cluster.status(0));
        pieces.send(2 << 20);
        detach_all(&cluster);
    }
    pieces.send(1 << 20);
    pieces.end();
    wait_for_state(&cluster, 7000, "TIME_WAIT");
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}

/// A node may take flows past its stack, or not, whatever the other does.
#[test]
fn each_node_decides_alone() {
    if !can_run() {
        return;
    }
    for (one, other) in
        [("--fast", ""), ("", "--fast"), ("--fast", "--receive-only"), ("--receive-only", "--fast")]
    {
        let cluster = strict(1);
        (0..2).for_each(|node| drop(cluster.attach(node, RULES, &["--receive-only"])));
        for (node, flag) in [one, other].into_iter().enumerate() {
            let flags: Vec<&str> = [flag].into_iter().filter(|flag| !flag.is_empty()).collect();
            cluster.attach(node, RULES, &flags);
        }
        let _peers = echo_server(cluster.pod(1, 0), 7000);
        let mut echo = Echo::connect(cluster.pod(0, 0), to(1, 0, 7000));
        echo.exchange_often(500);
        echo.exchange(1 << 20);
        echo.exchange_often(500);
        drop(echo);
        wait_for_state(&cluster, 7000, "TIME_WAIT");
        assert_eq!(invalid(&cluster), 0, "{one} {other}");
        cluster.no_checksum_errors();
    }
}

#[test]
fn a_peer_that_leaves_and_comes_back_is_followed() {
    if !can_run() {
        return;
    }
    let cluster = strict(1);
    let rules = cluster.rules(RULES);
    let _first = cluster.watch(0, &rules, &["--fast"]);
    let mut second = cluster.watch(1, &rules, &["--fast"]);
    for node in [0, 1] {
        cluster.wait_for_status(node, |status| status.contains("1 of 1 peers"));
    }
    let _peers = echo_server(cluster.pod(1, 0), 7000);
    let mut echo = Echo::connect(cluster.pod(0, 0), to(1, 0, 7000));
    wait_until_fast(&cluster, &mut echo, 7000);
    second.stop();
    let left = cluster.status(1);
    assert!(!left.contains("pod0") && !left.contains("vx0"), "{left}");
    echo.exchange_often(50);
    assert!(cluster.sfunnel(1, &["detach"]).status.success());
    echo.exchange_often(50);
    cluster.wait_for_status(0, |status| !status.contains("peers"));
    echo.exchange(1 << 20);
    let _second = cluster.watch(1, &rules, &["--fast"]);
    cluster.wait_for_status(0, |status| status.contains("1 of 1 peers"));
    wait_until_fast(&cluster, &mut echo, 7000);
    // Conntrack's memory is lost in the middle of it.
    for node in &cluster.nodes {
        node.host.tool("conntrack", "-F");
    }
    let start = Instant::now();
    while cluster.nodes.iter().any(|node| !node.host.tool("conntrack", "-L -p tcp").contains("dport=7000 ")) {
        echo.exchange_often(100);
        assert!(start.elapsed() < DEADLINE, "conntrack is not told of it");
    }
    drop(echo);
    wait_for_state(&cluster, 7000, "TIME_WAIT");
    assert_eq!(invalid(&cluster), 0);
    cluster.no_checksum_errors();
}
