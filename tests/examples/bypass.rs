//! docs/examples/bypass on three nodes with a VXLAN between their pods: the container takes TCP past it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::manifest::{Container, Manifest};
use super::overlay::{Cluster, NEEDS, to};
use super::runtime::{self, Running};
use super::support::lab::{Capture, DEADLINE};
use super::support::{Need, flows, require};
use super::{example, status};

const TCPDUMP: Need = Need::Tool("tcpdump", "tcpdump");

/// One of the DaemonSet's pods.
struct Pod {
    running: Running,
    log: tempfile::NamedTempFile,
}

impl Pod {
    fn start(cluster: &Cluster, node: usize, container: &Container) -> Pod {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let to = File::options().append(true).open(log.path()).expect("a file");
        Pod { running: runtime::spawn(cluster.host(node), container, to), log }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log.path()).expect("a log")
    }

    fn wait_for_log(&self, wanted: &str) {
        let start = Instant::now();
        while !self.log().contains(wanted) {
            assert!(start.elapsed() < DEADLINE, "`{wanted}` in {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As Kubernetes stops it.
    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.running.child.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.running.child.wait();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How many TCP packets of a short exchange are inside of the VXLAN, and how many are not.
fn ways(cluster: &Cluster, client: usize, server: usize) -> (usize, usize) {
    let capture = Capture::start(cluster.host(server), "eth0");
    let (from, on) = (cluster.pod(client, 0), cluster.pod(server, 0));
    assert_eq!(flows::tcp(from, on, to(server, 0, 7000), 1, 20), 20);
    let overlaid = |frame: &[u8]| frame.get(36..38) == Some(&[0x12, 0xb5]) && frame.get(73) == Some(&6);
    // Not the probes.
    let port = 7000_u16.to_be_bytes();
    let bare = |frame: &[u8]| {
        frame.get(23) == Some(&6) && (frame.get(34..36) == Some(&port) || frame.get(36..38) == Some(&port))
    };
    let frames = capture.stop(40, |frame| overlaid(frame) || bare(frame)).frames;
    let count = |wanted: &dyn Fn(&[u8]) -> bool| frames.iter().filter(|frame| wanted(frame)).count();
    (count(&overlaid), count(&bare))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_daemonset_takes_tcp_past_the_overlay() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let manifest = Manifest::of(&example("bypass"));
    let pod = manifest.pod("DaemonSet", "bypass");
    assert!(pod.host_network && pod.init.is_empty());
    let [container] = &pod.containers[..] else { panic!("one container") };
    assert!(container.drops_all && container.files.contains_key(Path::new("/etc/rules/r0")));
    let cluster = Cluster::new(3, 1);
    assert!(ways(&cluster, 0, 1).0 >= 40);

    let mut pods: Vec<Pod> = (0..3).map(|node| Pod::start(&cluster, node, container)).collect();
    (0..3).for_each(|node| cluster.wait_for_status(node, |status| status.contains("2 of 2 peers")));
    for said in ["  $OVERLAY_IF='auto'", "  $ROUTER_PORT='1234'", "[INFO] Rules: those in /etc/rules"] {
        assert!(pods[0].log().contains(said), "{}", pods[0].log());
    }
    for (client, server) in [(0, 1), (1, 2), (2, 0)] {
        let (overlaid, bare) = ways(&cluster, client, server);
        assert!(overlaid == 0 && bare >= 40, "{overlaid}, {bare}");
    }

    // The ConfigMap changes, to what cannot be read; and back, to something else.
    let rule = pods[0].running.root.path().join("etc/rules/r0");
    let before = status(cluster.host(0));
    fs::write(&rule, "type=cidr\nfrom=10.244.0.0/16\n").expect("a file");
    pods[0].wait_for_log("error: rule `r0`: it has no `to`; the rules that are attached stay");
    assert_eq!(status(cluster.host(0)), before);
    fs::write(&rule, "type=cidr\nfrom=10.244.2.0/24\nto=10.244.0.0/16\n").expect("a file");
    cluster.wait_for_status(0, |status| status.contains("2 rules, 2 of 2 peers"));
    assert!(ways(&cluster, 0, 2).0 >= 20, "answers of the third node to the first may be past it");
    assert_eq!(ways(&cluster, 0, 1).0, 0);

    // A pod goes, and what sends with it; the others leave its node to the overlay when its program is gone.
    pods[2].stop();
    let hooks = |node| status(cluster.host(node)).len();
    assert_eq!(hooks(2), 1, "it receives still");
    let cleaned = runtime::run_with(cluster.host(2), container, &[("CLEAN", "1")]);
    assert!(cleaned.status.success(), "{}", text(&cleaned));
    assert_eq!(hooks(2), 0);
    pods[1].wait_for_log("warning: node 192.168.77.3 stays on the overlay");
    cluster.wait_for_status(1, |status| status.contains("1 of 2 peers"));
    assert!(ways(&cluster, 1, 2).0 >= 40);
    cluster.no_checksum_errors();
}

#[test]
fn variables_of_the_original_are_checked() {
    if !require(&NEEDS) {
        return;
    }
    let manifest = Manifest::of(&example("bypass"));
    let [container] = &manifest.pod("DaemonSet", "bypass").containers[..] else { panic!("one container") };
    let cluster = Cluster::new(2, 1);
    let host = cluster.host(0);
    let refused = |more: &[(&str, &str)]| {
        let output = runtime::run_with(host, container, more);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        text(&output)
    };
    let said = refused(&[("ROUTER_PORT", "0")]);
    assert!(said.contains("ROUTER_PORT is `0`; it must be a port"), "{said}");
    let said = refused(&[("ROUTER_LOGLEVEL", "LOUD")]);
    assert!(said.contains("it must be DEBUG, INFO, WARNING or ERROR"), "{said}");
    let said = refused(&[("IFACES", "eth0")]);
    assert!(said.contains("IFACES and OVERLAY_IF are both set"), "{said}");
    // Less is said, but what is wrong.
    let said = refused(&[("ROUTER_LOGLEVEL", "ERROR"), ("ROUTER_PORT", "x")]);
    assert_eq!(said.lines().count(), 1, "{said}");
    // Which overlay, if there are two? Nothing to clean is an error, as is nothing to attach to.
    host.tool("ip", "link add vx1 type vxlan id 43 dev eth0 dstport 4790");
    let said = refused(&[("CLEAN", "yes")]);
    assert!(said.contains("there are several, vx0, vx1: say which"), "{said}");
    let output = runtime::run_with(host, container, &[("CLEAN", "yes"), ("OVERLAY_IF", "vx0")]);
    assert!(
        output.status.success() && text(&output).contains("[INFO] Successfully cleaned"),
        "{}",
        text(&output)
    );
}

/// With a variable more, flows go past the stack as well; what the container leaves when it dies, cleaning takes away.
#[test]
fn a_daemonset_takes_flows_past_the_stack() {
    if !require(&NEEDS) || !require(&[TCPDUMP]) {
        return;
    }
    let manifest = Manifest::of(&example("bypass"));
    let mut pod = manifest.pod("DaemonSet", "bypass");
    let [container] = &mut pod.containers[..] else { panic!("one container") };
    for (name, value) in [("ROUTER_FAST", "yes"), ("ROUTER_FLOWS", "1000")] {
        container.env.insert(name.to_owned(), value.to_owned());
    }
    let cluster = Cluster::new(2, 1);
    let mut pods: Vec<Pod> = (0..2).map(|node| Pod::start(&cluster, node, container)).collect();
    for node in [0, 1] {
        cluster.wait_for_status(node, |status| {
            status.contains("1 of 1 peers, fast")
                && status.contains("pod0 ingress")
                && status.contains("pod0 egress")
        });
    }
    // As `kubectl exec` does it.
    let given = ["--peers", "kernel", "--router-rules", "/etc/rules"];
    let run = |command: &[&str], container: &mut Container, more: &[(&str, &str)]| {
        container.args = command.iter().chain(&given).map(|&word| word.to_owned()).collect();
        let output = runtime::run_with(cluster.host(0), container, more);
        container.args.clear();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned() + &text(&output))
    };
    let (code, said) = run(&["bypass", "status"], container, &[]);
    assert!(code == Some(0) && said.contains("pod0: flows past the stack"), "{said}");
    assert_eq!(run(&["bypass", "attach", "--check"], container, &[]), (Some(0), String::new()));
    let (code, said) = run(&["bypass", "attach", "--check"], container, &[("ROUTER_FAST", "no")]);
    assert!(code == Some(3) && said.contains("without `--fast`"), "{said}");

    // Told to stop, it takes them away; killed, it cannot.
    let hooks = |node| status(cluster.host(node)).len();
    pods[1].stop();
    assert_eq!(hooks(1), 1, "it receives still");
    kill(Pid::from_raw(i32::try_from(pods[0].running.child.id()).expect("a process id")), Signal::SIGKILL)
        .expect("a process");
    let _ = pods[0].running.child.wait();
    assert_eq!(hooks(0), 4);
    for node in [0, 1] {
        let cleaned = runtime::run_with(cluster.host(node), container, &[("CLEAN", "1")]);
        assert!(cleaned.status.success(), "{}", text(&cleaned));
        assert_eq!(hooks(node), 0);
    }
    for (name, value, wanted) in [
        ("ROUTER_FAST", "maybe", "ROUTER_FAST is `maybe`; it must be 1, true, yes"),
        ("ROUTER_FLOWS", "3", "ROUTER_FLOWS is `3`; it must be a number, 16 to 16777216"),
    ] {
        let output = runtime::run_with(cluster.host(0), container, &[(name, value)]);
        assert!(output.status.code() == Some(1) && text(&output).contains(wanted), "{}", text(&output));
    }
}
