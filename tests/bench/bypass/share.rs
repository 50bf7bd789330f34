//! How much of a transfer goes past the stack: counters of netfilter on both nodes, and in both pods.
//!
//! Counting costs time, so this is a run of its own, whose rate is not looked at.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::support::iperf::{self, Server};
use super::support::lab::Ns;
use super::{Lab, Way};

/// All packets of the transfer, and probes by themselves: what netfilter sees of a node, and of a pod.
fn count(ns: &Ns, hooks: &[&str], ports: [u16; 2]) {
    let [one, other] = ports;
    let mut chains = String::new();
    for hook in hooks {
        for end in ["sport", "dport"] {
            chains += &format!(
                "chain {hook}_{end} {{ type filter hook {hook} priority -300;
                    tcp {end} {{ {one}, {other} }} tcp urgptr {{ 0xfffd, 0xfffe }} counter name probes accept
                    tcp {end} {{ {one}, {other} }} counter name others
                }}\n"
            );
        }
    }
    ns.nft(&format!("table ip share {{ counter others {{}}\ncounter probes {{}}\n{chains} }}\n"));
}

fn counted(ns: &Ns, name: &str) -> Result<f64> {
    let text = ns.tool("nft", &format!("-j list counter ip share {name}"));
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let all = json["nftables"].as_array().context("no list of counters")?;
    all.iter().find_map(|item| item["counter"]["packets"].as_f64()).context("no counter")
}

/// Of a transfer to a server at that port, which its client knows by that address: the packets of each pod that were not in its
/// node's stack, in percent of all, and how many probes there were.
pub fn print(lab: &Lab, (port, to): (u16, SocketAddr), seconds: f64) -> Result<()> {
    let (cluster, run) = (&lab.fast, lab.of(Way::Fast));
    for node in &cluster.nodes {
        count(&node.host, &["forward"], [port, to.port()]);
        count(&node.pods[0], &["input", "output"], [port, to.port()]);
    }
    let server = Server::start(run.server, port);
    let args = format!("-p {} -t {:.0} -A 1,0", to.port(), seconds.max(1.0));
    iperf::run(run.client, &to.ip().to_string(), &args);
    drop(server);
    println!("of the packets of a transfer to {to}, past the stack:");
    for (end, node) in ["client", "server"].into_iter().zip(&cluster.nodes) {
        let (all, slow) = (counted(&node.pods[0], "others")?, counted(&node.host, "others")?);
        let (percent, probes) = ((all - slow) / all * 100.0, counted(&node.host, "probes")?);
        println!("  {end}'s node: {percent:.3} %, wanted more than 99.9; {probes} probes");
        for ns in [&node.host, &node.pods[0]] {
            ns.nft("delete table ip share\n");
        }
    }
    Ok(())
}
