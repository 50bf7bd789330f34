//! As much of a cluster as packets see: a router, and a node that translates a Service's ports.
//!
//! In: the Service's address and ports. Out: namespaces, linked.

use super::manifest::Port;
use super::support::lab::{Ns, link};

/// client ── gateway ── node ── pod. The node has the Service's address and ports, and knows no others.
pub struct Cluster {
    /// Knows nothing of sfunnel, and its way to the Service is through the gateway. `eth0`.
    pub client: Ns,
    /// A router, whose `eth0` is towards the load balancer.
    pub gateway: Ns,
    _node: Ns,
    /// `eth0`.
    pub pod: Ns,
}

impl Cluster {
    /// A load balancer that leaves the client's address alone (`externalTrafficPolicy: Local`).
    pub fn new(address: &str, ports: &[Port]) -> Cluster {
        let (client, gateway, node, pod) =
            (Ns::new("client"), Ns::new("gateway"), Ns::new("node"), Ns::new("pod"));
        link((&client, "eth0", "10.1.0.1/24"), (&gateway, "lan", "10.1.0.254/24"));
        link((&gateway, "eth0", "10.3.0.1/24"), (&node, "wan", "10.3.0.254/24"));
        link((&pod, "eth0", "10.2.0.1/24"), (&node, "pod", "10.2.0.254/24"));
        client.tool("ip", "route add default via 10.1.0.254");
        gateway.tool("ip", "route add default via 10.3.0.254");
        pod.tool("ip", "route add default via 10.2.0.254");
        node.tool("ip", "route add 10.1.0.0/24 via 10.3.0.1");
        for router in [&gateway, &node] {
            router.sysctl("ipv4/ip_forward", "1");
        }
        let translated = ports.iter().map(|Port { protocol, port, target }| {
            format!("ip daddr {address} {protocol} dport {port} dnat to 10.2.0.1:{target};")
        });
        node.nft(&format!(
            "table ip service {{
                chain there {{ type nat hook prerouting priority dstnat; {} }}
                chain rest {{ type filter hook prerouting priority filter; ip daddr {address} drop; }}
            }}",
            translated.collect::<String>()
        ));
        Cluster { client, gateway, _node: node, pod }
    }
}
