//! What kube-proxy does to a node for one Service, in each of its modes.
//!
//! In: a Service and its endpoints, all of them on this node. Out: the node's rules, with kube-proxy's chains, sets and
//! marks, and its `sessionAffinity: ClientIP` of three hours. Applied again with other endpoints it does what kube-proxy
//! does then, its cleaning of connection tracking included: of UDP alone.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use super::support::lab::{Ns, find_tool};

pub const POD_NETWORK: &str = "10.244.0.0/16";
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 254);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const BALANCER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// `sessionAffinityConfig.clientIP.timeoutSeconds`, as it is by default.
const SECONDS: u32 = 10_800;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Nftables,
    Ipvs,
}

/// By which of its addresses clients call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    LoadBalancer,
    NodePort,
    ClusterIp,
}

/// `tcp` or `udp`, and the port, which is the pods' as well.
pub type Port = (&'static str, u16);

#[derive(Debug, Clone)]
pub struct Service {
    pub kind: Kind,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    pub ports: Vec<Port>,
}

impl Service {
    pub fn address(&self) -> Ipv4Addr {
        match self.kind {
            Kind::LoadBalancer => BALANCER,
            Kind::NodePort => NODE,
            Kind::ClusterIp => CLUSTER_IP,
        }
    }

    /// What clients call that port of it.
    pub fn port(&self, port: u16) -> u16 {
        if self.kind == Kind::NodePort { node_port(port) } else { port }
    }

    /// Brings the node's rules up to date with these endpoints; `gone` are those that were there before.
    pub fn sync(&self, node: &Ns, mode: Mode, endpoints: &[Ipv4Addr], gone: &[Ipv4Addr]) {
        match mode {
            Mode::Iptables => pipe(node, "iptables-restore", &[], &self.iptables(endpoints)),
            Mode::Nftables => pipe(node, "nft", &["-f", "-"], &self.nftables(endpoints)),
            Mode::Ipvs => self.ipvs(node, endpoints, gone),
        }
        for address in gone {
            for (protocol, port) in self.ports.iter().filter(|(protocol, _)| *protocol == "udp") {
                let args =
                    format!("-D -p {protocol} --orig-port-dst {} --reply-src {address}", self.port(*port));
                // It also fails where there is nothing to delete.
                let mut command = Command::new(find_tool("conntrack").expect("conntrack"));
                command.args(args.split_whitespace()).stdin(Stdio::null());
                node.run(|| command.output()).expect("conntrack");
            }
        }
    }

    /// Its chains for one port, with what leads there from the addresses of the Service.
    fn iptables(&self, endpoints: &[Ipv4Addr]) -> String {
        let (mut chains, mut rules) = (String::new(), String::new());
        for chain in ["SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"] {
            let _ = writeln!(chains, ":KUBE-{chain} - [0:0]");
        }
        rules.push_str(
            "-A PREROUTING -j KUBE-SERVICES\n\
             -A OUTPUT -j KUBE-SERVICES\n\
             -A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
        );
        for (protocol, port) in &self.ports {
            let id = format!("{protocol}{port}");
            for prefix in ["SVC", "SVL", "EXT"] {
                let _ = writeln!(chains, ":KUBE-{prefix}-{id} - [0:0]");
            }
            let to = format!("-p {protocol} -m {protocol} --dport {port}");
            let _ = write!(
                rules,
                "-A KUBE-SERVICES -d {CLUSTER_IP}/32 {to} -j KUBE-SVC-{id}\n\
                 -A KUBE-SVC-{id} ! -s {POD_NETWORK} -d {CLUSTER_IP}/32 {to} -j KUBE-MARK-MASQ\n"
            );
            if self.kind == Kind::LoadBalancer {
                let _ = writeln!(rules, "-A KUBE-SERVICES -d {BALANCER}/32 {to} -j KUBE-EXT-{id}");
            }
            let node_port = node_port(*port);
            let _ = writeln!(
                rules,
                "-A KUBE-NODEPORTS -p {protocol} -m {protocol} --dport {node_port} -j KUBE-EXT-{id}"
            );
            if self.local {
                let _ = write!(
                    rules,
                    "-A KUBE-EXT-{id} -s {POD_NETWORK} -j KUBE-SVC-{id}\n\
                     -A KUBE-EXT-{id} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ\n\
                     -A KUBE-EXT-{id} -m addrtype --src-type LOCAL -j KUBE-SVC-{id}\n\
                     -A KUBE-EXT-{id} -j KUBE-SVL-{id}\n"
                );
            } else {
                let _ =
                    write!(rules, "-A KUBE-EXT-{id} -j KUBE-MARK-MASQ\n-A KUBE-EXT-{id} -j KUBE-SVC-{id}\n");
            }
            let names: Vec<String> =
                endpoints.iter().map(|endpoint| format!("KUBE-SEP-{id}-{}", endpoint.octets()[3])).collect();
            for prefix in ["SVC", "SVL"] {
                for name in &names {
                    let _ = writeln!(
                        rules,
                        "-A KUBE-{prefix}-{id} -m recent --name {name} --rcheck --seconds {SECONDS} --reap -j {name}"
                    );
                }
                for (at, name) in names.iter().enumerate() {
                    let left = names.len() - at;
                    let chance = match left {
                        1 => String::new(),
                        _ => format!(
                            "-m statistic --mode random --probability {:.11}",
                            1.0 / f64::from(u8::try_from(left).expect("a few"))
                        ),
                    };
                    let _ = writeln!(rules, "-A KUBE-{prefix}-{id} {chance} -j {name}");
                }
            }
            for (endpoint, name) in endpoints.iter().zip(&names) {
                let _ = writeln!(chains, ":{name} - [0:0]");
                let _ = write!(
                    rules,
                    "-A {name} -s {endpoint}/32 -j KUBE-MARK-MASQ\n\
                     -A {name} -p {protocol} -m recent --name {name} --set -m {protocol} \
                     -j DNAT --to-destination {endpoint}:{port}\n"
                );
            }
        }
        rules.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
        format!(
            "*filter\n:KUBE-FORWARD - [0:0]\n-A FORWARD -j KUBE-FORWARD\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n*nat\n{chains}{rules}COMMIT\n"
        )
    }

    /// The same as maps of verdicts, with a set of addresses for each endpoint.
    fn nftables(&self, endpoints: &[Ipv4Addr]) -> String {
        let mut script = NFTABLES.replace("NODE", &NODE.to_string());
        let mut chain = |name: &str, rules: &str| {
            let _ = write!(script, "add chain ip kube-proxy {name}\nflush chain ip kube-proxy {name}\n");
            for rule in rules.lines() {
                let _ = writeln!(script, "add rule ip kube-proxy {name} {rule}");
            }
        };
        let mut elements = String::new();
        for (protocol, port) in &self.ports {
            let id = format!("{protocol}-{port}");
            let mut choice = String::new();
            for endpoint in endpoints {
                let name = format!("{id}-{}", endpoint.octets()[3]);
                let _ = writeln!(
                    elements,
                    "add set ip kube-proxy affinity-{name} {{ type ipv4_addr; flags dynamic, timeout; timeout {SECONDS}s; }}"
                );
                let _ = writeln!(choice, "ip saddr @affinity-{name} goto endpoint-{name}");
            }
            script_endpoints(&mut chain, endpoints, (protocol, *port), &id);
            let numbered: Vec<String> = (endpoints.iter().enumerate())
                .map(|(at, endpoint)| format!("{at} : goto endpoint-{id}-{}", endpoint.octets()[3]))
                .collect();
            let _ =
                writeln!(choice, "numgen random mod {} vmap {{ {} }}", endpoints.len(), numbered.join(", "));
            let internal = format!(
                "ip daddr {CLUSTER_IP} {protocol} dport {port} ip saddr != {POD_NETWORK} jump mark-for-masquerade"
            );
            chain(&format!("service-{id}"), &format!("{internal}\n{choice}"));
            chain(&format!("local-{id}"), &choice);
            let external = if self.local {
                format!(
                    "ip saddr {POD_NETWORK} goto service-{id}\n\
                     fib saddr type local jump mark-for-masquerade\n\
                     fib saddr type local goto service-{id}\n\
                     goto local-{id}"
                )
            } else {
                format!("jump mark-for-masquerade\ngoto service-{id}")
            };
            chain(&format!("external-{id}"), &external);
            let _ = writeln!(
                elements,
                "add element ip kube-proxy service-ips {{ {CLUSTER_IP} . {protocol} . {port} : goto service-{id} }}"
            );
            if self.kind == Kind::LoadBalancer {
                let _ = writeln!(
                    elements,
                    "add element ip kube-proxy service-ips {{ {BALANCER} . {protocol} . {port} : goto external-{id} }}"
                );
            }
            let _ = writeln!(
                elements,
                "add element ip kube-proxy service-nodeports {{ {protocol} . {} : goto external-{id} }}",
                node_port(*port)
            );
        }
        // Sets before the rules that name them, elements after the chains that they name.
        let (sets, elements): (Vec<&str>, Vec<&str>) =
            elements.lines().partition(|line| line.starts_with("add set"));
        let (tables, rules) = script.split_once("# rules\n").expect("a mark");
        format!("{tables}{}\n{rules}{}\n", sets.join("\n"), elements.join("\n"))
    }

    /// A virtual server for each address and port, with persistence; addresses are those of a dummy device.
    fn ipvs(&self, node: &Ns, endpoints: &[Ipv4Addr], gone: &[Ipv4Addr]) {
        let first = gone.is_empty();
        if first {
            for (name, value) in [("conntrack", "1"), ("expire_nodest_conn", "1")] {
                node.sysctl(&format!("ipv4/vs/{name}"), value);
            }
            node.tool("ip", "link add kube-ipvs0 type dummy");
            for address in [CLUSTER_IP, BALANCER] {
                node.tool("ip", &format!("addr add {address}/32 dev kube-ipvs0"));
            }
            let marks = if self.local { "" } else { "jump marks;" };
            node.nft(&format!(
                "table ip kube-proxy {{
                    chain marks {{ ip daddr {{ {BALANCER}, {NODE} }} meta mark set meta mark or 0x4000; }}
                    chain prerouting {{ type nat hook prerouting priority dstnat; {marks} }}
                    chain postrouting {{
                        type nat hook postrouting priority srcnat;
                        meta mark and 0x4000 == 0x4000 masquerade fully-random;
                    }}
                    chain forward {{ type filter hook forward priority filter; ct state invalid drop; }}
                }}"
            ));
        }
        let real = node.tool("ipvsadm", "-Sn");
        for (protocol, port) in &self.ports {
            let flag = if *protocol == "udp" { "-u" } else { "-t" };
            for virtual_server in [
                format!("{flag} {CLUSTER_IP}:{port}"),
                format!("{flag} {BALANCER}:{port}"),
                format!("{flag} {NODE}:{}", node_port(*port)),
            ] {
                if first {
                    node.tool("ipvsadm", &format!("-A {virtual_server} -s rr -p {SECONDS}"));
                }
                for endpoint in gone {
                    node.tool("ipvsadm", &format!("-d {virtual_server} -r {endpoint}:{port}"));
                }
                for endpoint in endpoints {
                    let server = format!("{virtual_server} -r {endpoint}:{port} -m");
                    if !real.contains(&server) {
                        node.tool("ipvsadm", &format!("-a {server}"));
                    }
                }
            }
        }
    }
}

/// What is the same for every Service.
const NFTABLES: &str = "\
add table ip kube-proxy
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict; }
add set ip kube-proxy nodeport-ips { type ipv4_addr; }
add element ip kube-proxy nodeport-ips { NODE }
add chain ip kube-proxy services
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat; }
add chain ip kube-proxy nat-output { type nat hook output priority -100; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority srcnat; }
add chain ip kube-proxy filter-forward { type filter hook forward priority filter; }
flush table ip kube-proxy
# rules
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy mark-for-masquerade meta mark set meta mark or 0x4000
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting meta mark and 0x4000 == 0 return
add rule ip kube-proxy nat-postrouting meta mark set meta mark xor 0x4000
add rule ip kube-proxy nat-postrouting masquerade fully-random
add rule ip kube-proxy filter-forward ct state invalid drop
";

fn script_endpoints(
    chain: &mut impl FnMut(&str, &str),
    endpoints: &[Ipv4Addr],
    (protocol, port): Port,
    id: &str,
) {
    for endpoint in endpoints {
        let name = format!("{id}-{}", endpoint.octets()[3]);
        chain(
            &format!("endpoint-{name}"),
            &format!(
                "ip saddr {endpoint} jump mark-for-masquerade\n\
                 update @affinity-{name} {{ ip saddr }}\n\
                 meta l4proto {protocol} dnat to {endpoint}:{port}"
            ),
        );
    }
}

/// Of the range that Kubernetes takes them from.
fn node_port(port: u16) -> u16 {
    30_000 + port % 2_768
}

fn pipe(ns: &Ns, tool: &str, args: &[&str], input: &str) {
    let mut command = Command::new(find_tool(tool).unwrap_or_else(|| panic!("no `{tool}`")));
    command.args(args).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ns.run(|| command.spawn()).expect("a process");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("rules");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{tool}: {}\n{input}", String::from_utf8_lossy(&output.stderr));
}
