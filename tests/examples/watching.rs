//! The gateway that follows its ConfigMap.

use std::path::Path;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::Cluster;
use super::manifest::Manifest;
use super::runtime::{Running, spawn, start};
use super::support::lab::{DEADLINE, Ns};
use super::support::require;
use super::support::world::NEEDS;
use super::{BALANCER, BOTH, example, flows_arrive, hooks, nothing_arrives, status};

fn until(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < DEADLINE, "not yet: {what}");
        std::thread::yield_now();
    }
}

fn programs(ns: &Ns) -> Vec<String> {
    status(ns).iter().map(|one| one["program"].to_string()).collect()
}

struct Gateway(Running);

impl Gateway {
    /// As Kubernetes stops it; gives the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = i32::try_from(self.0.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a signal");
        self.0.child.wait().expect("an end").code()
    }
}

/// Only what has failed is still there.
impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}

#[test]
fn a_gateway_that_follows_its_config_map() {
    if !require(&NEEDS) {
        return;
    }
    let (pods, gateways) =
        (Manifest::of(&example("init-container")), Manifest::of(&example("gateway-watch")));
    let cluster = Cluster::new(BALANCER, &pods.ports("web"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    start(pod, &pods.pod("Deployment", "web"), |_| ());
    let daemon = gateways.pod("DaemonSet", "gateway-watch-sfunnel");
    assert!(daemon.host_network && daemon.init.is_empty());
    let [container] = &daemon.containers[..] else { panic!("one container") };
    let log = tempfile::NamedTempFile::new().expect("a file");
    let running = Gateway(spawn(gateway, container, log.reopen().expect("a file")));
    until("attached", || hooks(gateway) == BOTH);
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);

    let ruleset = Path::new("/etc/sfunnel/ruleset");
    let old = programs(gateway);
    running.0.change(ruleset, "service funnel tcp sport 540 dport 80 { daddr 192.0.2.80 udp dport 4739 }");
    until("replaced on both hooks", || {
        let new = programs(gateway);
        new.len() == 2 && new.iter().all(|program| !old.contains(program))
    });
    flows_arrive(client, pod, BALANCER, &[80], &[4739]);
    nothing_arrives(client, BALANCER, 8080);

    let right = programs(gateway);
    running.0.change(ruleset, "tcp dport 70000 drop");
    let said = || std::fs::read_to_string(log.path()).expect("a log");
    until("what is wrong", || said().contains("70000 does not fit"));
    assert_eq!(programs(gateway), right, "what is wrong changes nothing");
    running.0.change(ruleset, &container.files[ruleset]);
    until("as before", || {
        use std::net::TcpStream;
        let to = super::to(BALANCER, 8080);
        let error =
            client.run(|| TcpStream::connect_timeout(&to, DEADLINE / 15)).expect_err("nobody listens");
        error.kind() == std::io::ErrorKind::ConnectionRefused
    });
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);

    // A pod that goes leaves them.
    assert_eq!(running.stop(), Some(0));
    assert_eq!(hooks(gateway), BOTH);
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);
}
