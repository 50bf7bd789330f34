//! A cluster of namespaces: hosts on one link, a VXLAN between them as flannel makes it, pods on bridges.
//!
//! In: how many nodes, and how many pods on each. Out: a [`Cluster`] in which all pods reach each other through the
//! overlay, with connection tracking and NAT as kube-proxy has it. Everything goes with it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::Need;
use super::support::lab::{DEADLINE, Ns, link};

pub const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Tool("ip", "iproute2"),
    Need::Tool("bridge", "iproute2"),
    Need::Tool("nft", "nftables"),
    Need::Tool("ethtool", "ethtool"),
];

/// A service of which every node sends port 80 to the first pod of the second node, port 7000.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

#[derive(Debug)]
pub struct Node {
    pub host: Ns,
    pub pods: Vec<Ns>,
}

#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub switch: Ns,
}

impl Cluster {
    /// Nodes and pods are counted from 1 in addresses.
    pub fn new(nodes: usize, pods: usize) -> Cluster {
        let switch = Ns::new("switch");
        switch.tool("ip", "link add br0 type bridge");
        switch.tool("ip", "link set br0 up");
        let hosts: Vec<Ns> = (1..=nodes).map(|_| Ns::new("host")).collect();
        for (host, n) in hosts.iter().zip(1..) {
            let port = format!("port{n}");
            link((host, "eth0", &format!("192.168.77.{n}/24")), (&switch, &port, "0.0.0.0"));
            switch.tool("ip", &format!("link set {port} master br0"));
        }
        Cluster { nodes: all(hosts, pods), switch }
    }

    /// Two nodes with one wire between them.
    pub fn pair(pods: usize) -> Cluster {
        let hosts = [Ns::new("host"), Ns::new("host")];
        link((&hosts[0], "eth0", "192.168.77.1/24"), (&hosts[1], "eth0", "192.168.77.2/24"));
        Cluster { nodes: all(hosts.into(), pods), switch: Ns::new("nothing") }
    }

    /// The nodes as they are written, and rules.
    pub fn rules(&self, rules: &str) -> String {
        let line = |n| format!("node 192.168.77.{n} 10.244.{n}.0/24\n");
        (1..=self.nodes.len()).map(line).collect::<String>() + rules
    }

    /// Attaches the rules to a node, counted from 0. Returns what it has said.
    pub fn attach(&self, node: usize, rules: &str, more: &[&str]) -> String {
        let output = self.try_attach(node, rules, more);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "sfunnel bypass attach, on node {node}: {err}");
        err
    }

    pub fn try_attach(&self, node: usize, rules: &str, more: &[&str]) -> Output {
        let rules = self.rules(rules);
        let attach = ["bypass", "attach", "--overlay-if", "vx0", "--host-if", "eth0", "--ruleset", &rules];
        self.sfunnel(node, &[&attach, more].concat())
    }

    /// All nodes: first those that receive, then those that send.
    pub fn attach_all(&self, rules: &str) {
        (0..self.nodes.len()).for_each(|node| drop(self.attach(node, rules, &["--receive-only"])));
        for node in 0..self.nodes.len() {
            let said = self.attach(node, rules, &[]);
            assert!(!said.contains("stays on the overlay"), "{said}");
        }
    }

    /// The same, and flows go past the stack.
    pub fn attach_all_fast(&self, rules: &str) {
        (0..self.nodes.len()).for_each(|node| drop(self.attach(node, rules, &["--receive-only"])));
        for node in 0..self.nodes.len() {
            let said = self.attach(node, rules, &["--fast"]);
            assert!(!said.contains("stays on the overlay"), "{said}");
        }
    }

    pub fn sfunnel(&self, node: usize, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(args).arg("--netns").arg(self.nodes[node].host.path());
        command.stdin(Stdio::null()).output().expect("sfunnel")
    }

    /// What is attached.
    pub fn status(&self, node: usize) -> String {
        String::from_utf8_lossy(&self.sfunnel(node, &["status"]).stdout).into_owned()
    }

    /// Waits until `status` says that.
    pub fn wait_for_status(&self, node: usize, wanted: impl Fn(&str) -> bool) {
        let start = Instant::now();
        while !wanted(&self.status(node)) {
            assert!(start.elapsed() < DEADLINE, "{}", self.status(node));
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A process that watches, and attaches what it has to.
    pub fn watch(&self, node: usize, rules: &str, more: &[&str]) -> Watch {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(["bypass", "watch", "--overlay-if", "vx0", "--host-if", "eth0", "--ruleset", rules]);
        command
            .args(if more.contains(&"--every") { &[][..] } else { &["--every", "0.2"] })
            .args(more)
            .arg("--netns")
            .arg(self.nodes[node].host.path());
        Watch(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("sfunnel"))
    }

    /// The same with rules in files, as these arguments say; what it says goes to another file.
    pub fn watch_files(&self, node: usize, args: &[&str], log: &Path) -> Watch {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        command.args(["bypass", "watch", "--overlay-if", "vx0", "--host-if", "eth0", "--every", "0.2"]);
        command.args(args).arg("--netns").arg(self.nodes[node].host.path());
        let log = File::create(log).expect("a file");
        Watch(command.stdin(Stdio::null()).stderr(log).spawn().expect("sfunnel"))
    }

    pub fn host(&self, node: usize) -> &Ns {
        &self.nodes[node].host
    }

    pub fn pod(&self, node: usize, pod: usize) -> &Ns {
        &self.nodes[node].pods[pod]
    }

    /// Every stack of it.
    pub fn no_checksum_errors(&self) {
        for ns in self.nodes.iter().flat_map(|node| [&node.host].into_iter().chain(&node.pods)) {
            assert_eq!(ns.checksum_errors(), 0, "{}", ns.name);
        }
    }
}

/// `sfunnel bypass watch`, told to stop when this is dropped.
#[derive(Debug)]
pub struct Watch(Child);

impl Watch {
    /// Waits until it has ended.
    pub fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A pod's address, node and pod counted from 0.
pub fn address(node: usize, pod: usize) -> Ipv4Addr {
    let byte = |n: usize| u8::try_from(n).expect("a small cluster");
    Ipv4Addr::new(10, 244, byte(node + 1), byte(pod + 2))
}

pub fn to(node: usize, pod: usize, port: u16) -> SocketAddr {
    (address(node, pod), port).into()
}

fn all(hosts: Vec<Ns>, pods: usize) -> Vec<Node> {
    let nodes = hosts.len();
    hosts.into_iter().zip(1..).map(|(host, n)| node(host, n, nodes, pods)).collect()
}

fn node(host: Ns, n: usize, nodes: usize, pods: usize) -> Node {
    for name in ["ip_forward", "conf/all/rp_filter", "conf/default/rp_filter"] {
        host.sysctl(&format!("ipv4/{name}"), "1");
    }
    let mac = |n: usize| format!("02:00:00:00:77:{n:02x}");
    let vxlan = "type vxlan id 42 dev eth0 dstport 4789 nolearning";
    host.tool("ip", &format!("link add vx0 mtu 1450 address {} {vxlan} local 192.168.77.{n}", mac(n)));
    host.tool("ip", &format!("addr add 10.244.{n}.0/32 dev vx0"));
    host.tool("ip", "link set vx0 up");
    host.tool("ip", "link add br0 type bridge");
    host.tool("ip", &format!("addr add 10.244.{n}.1/24 dev br0"));
    host.tool("ip", "link set br0 up");
    for other in (1..=nodes).filter(|other| *other != n) {
        host.tool("ip", &format!("route add 10.244.{other}.0/24 via 10.244.{other}.0 dev vx0 onlink"));
        let mac = mac(other);
        host.tool("ip", &format!("neigh add 10.244.{other}.0 lladdr {mac} dev vx0 nud permanent"));
        host.tool("bridge", &format!("fdb add {mac} dev vx0 dst 192.168.77.{other}"));
    }
    host.nft(&format!(
        "table ip proxy {{
             chain pre {{ type nat hook prerouting priority -100; ip daddr {SERVICE} tcp dport 80 dnat to 10.244.2.2:7000; }}
             chain post {{ type nat hook postrouting priority 100; ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade; }}
             chain forward {{ type filter hook forward priority 0; ct state invalid drop; }}
         }}\n"
    ));
    let pods = (0..pods).map(|pod| {
        let ns = Ns::new("pod");
        let name = format!("pod{pod}");
        link((&host, &name, "0.0.0.0"), (&ns, "eth0", &format!("10.244.{n}.{}/24", pod + 2)));
        for (ns, name) in [(&host, name.as_str()), (&ns, "eth0")] {
            ns.tool("ip", &format!("link set {name} mtu 1450"));
        }
        host.tool("ip", &format!("link set {name} master br0"));
        ns.tool("ip", &format!("route add default via 10.244.{n}.1"));
        ns
    });
    let pods = pods.collect();
    Node { host, pods }
}
