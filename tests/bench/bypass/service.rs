//! The same to a Service, whose address NAT changes on the client's node: against the host, in pairs of neighbours.

use std::net::SocketAddr;

use anyhow::Result;

use super::cluster::SERVICE;
use super::table::median;
use super::{Lab, Way, pingpong, share};

/// Ping-pong to the Service that every node of a cluster knows, as often as there are rounds; then how much of a transfer goes
/// past the stack.
pub fn run(lab: &Lab, rounds: usize, seconds: f64) -> Result<()> {
    let service = SocketAddr::from((SERVICE, 80));
    let (mut rates, mut halves) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let host = || pingpong::run(&lab.of(Way::Host), seconds / 3.0);
        let fast = || pingpong::run_to(&lab.of(Way::Fast), (7000, service), seconds / 3.0);
        let (host, fast) = if round % 2 == 0 {
            let host = host()?;
            (host, fast()?)
        } else {
            let fast = fast()?;
            (host()?, fast)
        };
        rates.push(fast.rate / host.rate);
        halves.push(host.p50 / fast.p50);
    }
    println!("\nto a Service, `fast` against the host:");
    for (what, ratios) in [("p50 of ping-pong", halves), ("ping-pong", rates)] {
        let ratio = median(ratios);
        println!("{what}: at least 0.90: {ratio:.3}, {}", if ratio >= 0.9 { "met" } else { "missed" });
    }
    share::print(lab, (7000, service), seconds * 3.0)
}
