//! How much of a transfer goes past the stack: counters of netfilter on both nodes, and in both pods.
//!
//! Counting costs time, so this is a run of its own, whose rate is not looked at.

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::support::iperf::{self, Server};
use super::support::lab::Ns;
use super::{PORT, Run};

/// All packets of the transfer, and probes by themselves: what netfilter sees of a node, and of a pod.
fn count(ns: &Ns, hooks: &[&str]) {
    let mut chains = String::new();
    for hook in hooks {
        for end in ["sport", "dport"] {
            chains += &format!(
                "chain {hook}_{end} {{ type filter hook {hook} priority -300;
                    tcp {end} {PORT} tcp urgptr 0xfffe counter name probes accept
                    tcp {end} {PORT} counter name others
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

/// Of each node, the client's first: the packets of its pod that were not in its stack, in percent of all; and how many probes
/// there were.
pub fn fast(cluster: &Cluster, run: &Run<'_>, seconds: f64) -> Result<Vec<(f64, f64)>> {
    for node in &cluster.nodes {
        count(&node.host, &["forward"]);
        count(&node.pods[0], &["input", "output"]);
    }
    let server = Server::start(run.server, PORT);
    iperf::run(run.client, &run.to().to_string(), &format!("-p {PORT} -t {:.0} -A 1,0", seconds.max(1.0)));
    drop(server);
    let mut shares = Vec::new();
    for node in &cluster.nodes {
        let (all, slow) = (counted(&node.pods[0], "others")?, counted(&node.host, "others")?);
        shares.push(((all - slow) / all * 100.0, counted(&node.host, "probes")?));
        for ns in [&node.host, &node.pods[0]] {
            ns.nft("delete table ip share\n");
        }
    }
    Ok(shares)
}
