//! The real binary: what stays after it has exited, was killed, or was refused.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sfunnel::net::{Hook, Interface, Mark, Netlink, qdisc::Qdisc};

use super::support::*;

/// Drops all UDP; the other rule makes two rulesets differ.
const DROP_UDP: [&str; 2] =
    ["udp actions drop; tcp dport 1 actions drop", "udp actions drop; tcp dport 2 actions drop"];

fn attach(iface: &str, rules: &str) -> std::process::Output {
    succeed(sfunnel().args(["attach", "-i", iface, "--ruleset", rules]))
}

/// Two sockets on loopback: packets to the second pass `lo` ingress.
fn sockets() -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (sender, receiver)
}

fn passes((sender, receiver): &(UdpSocket, UdpSocket)) -> bool {
    // Loopback delivers within `send`: what is not there afterwards has been dropped.
    sender.send(b"ping").unwrap();
    receiver.set_nonblocking(true).unwrap();
    receiver.recv(&mut [0; 8]).is_ok()
}

fn only_filter(netlink: &mut Netlink, interface: &Interface) -> sfunnel::net::Filter {
    let mut standing = filters(netlink, interface, Hook::Ingress);
    assert_eq!(standing.len(), 1, "{standing:?}");
    standing.remove(0)
}

#[test]
fn the_filter_stays_and_works_after_the_process_has_exited() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let pair = sockets();
        assert!(passes(&pair));
        let output = attach("lo", DROP_UDP[0]);
        assert!(output.stdout.is_empty());
        assert_eq!(talk(&output), "attached to lo ingress\n");
        let filter = only_filter(netlink, &lo);
        assert!(filter.is_ours());
        let mark = Mark::read(filter.name.as_deref().unwrap()).unwrap();
        assert_eq!((mark.version.as_str(), mark.rules), (env!("CARGO_PKG_VERSION"), 2));
        assert!(!passes(&pair));

        let output = succeed(sfunnel().args(["status"]));
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("lo ingress: sfunnel/"));
        let output = succeed(sfunnel().args(["status", "--json"]));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json[0]["interface"], "lo");
        assert_eq!(json[0]["hook"], "ingress");
        assert_eq!(json[0]["rules"], 2);
        assert_eq!(json[0]["program"], filter.program.unwrap());

        succeed(sfunnel().arg("detach"));
        assert!(passes(&pair));
        assert_eq!(qdisc(netlink, &lo), Qdisc::Absent);
        let output = succeed(sfunnel().args(["status", "--json"]));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[]");
    });
}

#[test]
fn a_thousand_replacements_under_a_flood_let_no_packet_through() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let (sender, receiver) = sockets();
        receiver.set_nonblocking(true).unwrap();
        attach("lo", DROP_UDP[1]);

        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flood = {
            let (stop, sent) = (stop.clone(), sent.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(u64::from(sender.send(b"flood").is_ok()), Ordering::Relaxed);
                }
            })
        };
        let mut last = only_filter(netlink, &lo).program;
        for round in 0..1000 {
            attach("lo", DROP_UDP[round % 2]);
            let now = only_filter(netlink, &lo).program;
            assert_ne!(now, last, "round {round} replaced nothing");
            last = now;
        }
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap();
        assert!(sent.load(Ordering::Relaxed) > 1000);
        assert!(receiver.recv(&mut [0; 8]).is_err(), "a packet got through");
    });
}

#[test]
fn kill_9_at_any_moment_leaves_the_old_or_the_new_filter() {
    const ROUNDS: u32 = 200;
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let hash = |netlink: &mut Netlink| {
            let filter = only_filter(netlink, &lo);
            assert!(filter.program.is_some());
            Mark::read(filter.name.as_deref().unwrap()).unwrap().hash
        };
        let start = Instant::now();
        let known = DROP_UDP.map(|rules| {
            attach("lo", rules);
            hash(netlink)
        });
        // From before the first system call of a run to well after its last one.
        let span = start.elapsed();
        let (mut old, mut new) = (0, 0);
        for round in 0..ROUNDS {
            let before = hash(netlink);
            let next = usize::from(before == known[0]);
            let mut command = sfunnel();
            command.args(["attach", "-i", "lo", "--ruleset", DROP_UDP[next]]);
            let mut child: Child = command.spawn().unwrap();
            thread::sleep(span * round / ROUNDS);
            child.kill().unwrap();
            child.wait().unwrap();
            match hash(netlink) {
                now if now == before => old += 1,
                now if now == known[next] => new += 1,
                other => panic!("an unknown filter: {other}"),
            }
        }
        assert!(
            old > 0 && new > 0,
            "{old} killed before the change, {new} after it: the moments were not spread"
        );
    });
}

#[test]
fn a_legacy_ingress_qdisc_is_refused_with_the_remedy_and_the_others_are_untouched() {
    in_netns(|netlink| {
        let (clean, legacy) = (device(netlink, "clean"), device(netlink, "legacy"));
        add_qdisc(netlink, &legacy, "ingress");
        let rules = DROP_UDP[0];
        let said = fail(
            sfunnel().args(["attach", "-i", "clean", "-i", "legacy", "-d", "egress", "--ruleset", rules]),
            1,
        );
        assert!(said.contains("tc qdisc del dev legacy ingress"), "{said}");
        assert!(filters(netlink, &legacy, Hook::Ingress).is_empty());
        assert_eq!(qdisc(netlink, &legacy), Qdisc::Legacy);
        assert_eq!(qdisc(netlink, &clean), Qdisc::Absent);
    });
}

#[test]
fn detach_and_clean_leave_other_peoples_filters() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let program = program(NEXT, 0);
        add_qdisc(netlink, &lo, "clsact");
        foreign(netlink, &lo, Hook::Ingress, "theirs", 49152, &program);
        foreign(netlink, &lo, Hook::Egress, "sfunnel-exporter", 3, &program);
        foreign(netlink, &lo, Hook::Ingress, ORIGINAL, 49151, &program);
        attach("lo", DROP_UDP[0]);
        succeed(sfunnel().args(["detach"]));
        assert_eq!(names(netlink, &lo, Hook::Ingress), [ORIGINAL, "theirs"]);
        succeed(sfunnel().env("CLEAN", "true"));
        assert_eq!(names(netlink, &lo, Hook::Ingress), ["theirs"]);
        assert_eq!(names(netlink, &lo, Hook::Egress), ["sfunnel-exporter"]);
    });
}

#[test]
fn clean_acts_on_direction_and_interfaces_only_and_needs_no_ruleset() {
    in_netns(|netlink| {
        let (one, two) = (device(netlink, "one"), device(netlink, "two"));
        let program = program(NEXT, 0);
        for interface in [&one, &two] {
            add_qdisc(netlink, interface, "clsact");
            foreign(netlink, interface, Hook::Ingress, ORIGINAL, 1, &program);
            foreign(netlink, interface, Hook::Egress, ORIGINAL, 1, &program);
        }
        let output = succeed(sfunnel().env("CLEAN", "1").env("DIRECTION", "egress").env("IFACES", "one"));
        assert!(talk(&output).contains(&format!("detached from one egress: {ORIGINAL}")));
        assert_eq!(names(netlink, &one, Hook::Ingress), [ORIGINAL]);
        assert!(filters(netlink, &one, Hook::Egress).is_empty());
        assert_eq!(filters(netlink, &two, Hook::Egress).len(), 1);
    });
}

#[test]
fn the_container_attaches_everywhere_by_default_and_says_what_it_read() {
    in_netns(|netlink| {
        device(netlink, "eth0");
        let output =
            succeed(sfunnel().env("SFUNNEL_RULESET", DROP_UDP[0]).env("IFACES", "").env("DEBUG", "yes"));
        let said = talk(&output);
        assert!(output.stdout.is_empty());
        for word in [
            "sfunnel 0.",
            "Linux ",
            "IFACES",
            "DIRECTION",
            "NETNS",
            "CLEAN",
            "DEBUG",
            "N_ATTEMPTS",
            "RETRY_DELAY",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(said.contains(DROP_UDP[0]), "{said}");
        assert!(said.contains("no traces in the kernel"), "{said}");
        for name in ["lo", "eth0", "eth0-peer"] {
            let interface = interface(netlink, name);
            assert_eq!(filters(netlink, &interface, Hook::Ingress).len(), 1);
            assert!(filters(netlink, &interface, Hook::Egress).is_empty());
        }
    });
}

#[test]
fn an_interface_that_comes_later_is_waited_for() {
    in_netns(|netlink| {
        let mut command = sfunnel();
        command.env("SFUNNEL_RULESET", DROP_UDP[0]).env("IFACES", "late lo");
        command.env("N_ATTEMPTS", "1000").env("RETRY_DELAY", "0.02");
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let waiting = lines.find(|line| line.as_ref().unwrap().starts_with("waiting: ")).unwrap().unwrap();
        assert!(waiting.contains("no interface named late"), "{waiting}");
        let lo = interface(netlink, "lo");
        assert!(filters(netlink, &lo, Hook::Ingress).is_empty(), "nothing is changed before all is there");
        let late = device(netlink, "late");
        assert!(child.wait().unwrap().success());
        assert_eq!(filters(netlink, &late, Hook::Ingress).len(), 1);
        assert_eq!(filters(netlink, &lo, Hook::Ingress).len(), 1);
    });
}

#[test]
fn n_attempts_is_a_number_of_tries() {
    in_netns(|_| {
        let start = Instant::now();
        for (attempts, waits) in [("1", 0), ("3", 2)] {
            let mut command = sfunnel();
            command.args(["attach", "-i", "none", "--ruleset", DROP_UDP[0], "--retry-delay", "0.01"]);
            let said = fail(command.args(["--attempts", attempts]), 1);
            assert_eq!(said.matches("waiting: ").count(), waits, "{said}");
            assert!(said.contains("error: no interface named none"), "{said}");
            let mut command = sfunnel();
            command.env("CLEAN", "1").env("IFACES", "none").env("RETRY_DELAY", "0.01");
            let said = fail(command.env("N_ATTEMPTS", attempts), 1);
            assert_eq!(said.matches("waiting: ").count(), waits, "{said}");
        }
        let said = fail(sfunnel().args(["detach", "-i", "none"]), 1);
        assert!(!said.contains("waiting: "), "whoever detaches by hand sees it at once: {said}");
        assert!(start.elapsed() < Duration::from_secs(60), "it waits as long as it is told, not the default");
    });
}

#[test]
fn wrong_rules_attach_nothing_and_exit_2() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let said =
            fail(sfunnel().env("SFUNNEL_RULESET", "udp actions drop\nudp dport 99999 actions drop"), 2);
        assert!(said.contains("99999"), "{said}");
        assert!(said.contains("SFUNNEL_RULESET:2"), "{said}");
        assert_eq!(qdisc(netlink, &lo), Qdisc::Absent);
    });
}

#[test]
fn ethernet_and_l3_interfaces_get_a_program_each_in_one_run() {
    in_netns(|netlink| {
        // `ip` (Debian package iproute2) makes the one L3 device that needs no other module.
        if !tun("tun0") {
            return;
        }
        succeed(sfunnel().args(["attach", "-i", "lo", "-i", "tun0", "--ruleset", DROP_UDP[0]]));
        let programs = ["lo", "tun0"].map(|name| {
            let interface = interface(netlink, name);
            only_filter(netlink, &interface).program
        });
        assert!(programs.iter().all(Option::is_some));
        assert_ne!(programs[0], programs[1]);
    });
}

#[test]
fn attaching_and_detaching_at_the_same_time_is_no_failure() {
    in_netns(|_| {
        let rule = ["attach", "-i", "lo", "-d", "both", "--ruleset", "tcp dport 1 actions drop"];
        let rounds = move |args: &[&str]| {
            for _ in 0..25 {
                succeed(sfunnel().args(args));
            }
        };
        let attach = (0..4).map(|_| thread::spawn(move || rounds(&rule)));
        let detach = (0..4).map(|_| thread::spawn(move || rounds(&["detach", "-i", "lo"])));
        for other in attach.chain(detach).collect::<Vec<_>>() {
            other.join().expect("every one of them succeeds");
        }
    });
}
