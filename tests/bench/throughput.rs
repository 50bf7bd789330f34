//! TCP through `alias`, as ratios to plain TCP: iperf3 in paired runs, with and without programs.
//!
//! `cargo xtask bench` runs it, as root. Nothing is asserted: a number is for a person to judge.
//! Two worlds of namespaces stand side by side, one with four attachments and one with none. Runs in
//! them take turns, the first one too; a line is the median of the ratios of its pairs.
//! `SFUNNEL_ROUNDS` pairs (7) of `SFUNNEL_SECONDS` (1) each.
#![allow(clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::{env, thread};

use anyhow::{Context, Result, ensure};
use support::lab::{self, Ns, attach, link};
use support::{Need, require};

const PORT: u16 = 8080;
const SERVICE: &str = "10.96.0.10";

/// What lies between the two, and how their interfaces are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Veth,
    /// TSO and GSO are off at both ends.
    Segments,
    /// A router that rewrites both addresses and tracks the connections.
    Router,
}

struct World {
    client: Ns,
    server: Ns,
    /// Lives as long as the world.
    _router: Option<Ns>,
    address: &'static str,
    iperf: Child,
}

impl World {
    fn new(way: Way, aliased: bool) -> Result<World> {
        let (client, server) = (Ns::new("client"), Ns::new("server"));
        let (mut router, mut address) = (None, "10.1.0.2");
        if way == Way::Router {
            router = Some(through_router(&client, &server));
            address = SERVICE;
        } else {
            link((&client, "vc", "10.1.0.1/24"), (&server, "vs", "10.1.0.2/24"));
        }
        if way == Way::Segments {
            client.tool("ethtool", "-K vc tso off gso off");
            server.tool("ethtool", "-K vs tso off gso off");
        }
        if aliased {
            let to = format!("ip daddr {address} tcp dport {PORT} actions alias dport 80");
            attach(&client, "vc", "egress", &to);
            attach(&server, "vs", "ingress", "tcp dport 80 actions unalias { 8080, 8443 }");
            attach(&server, "vs", "egress", "tcp sport 8080 actions alias sport 80");
            let back = format!("ip saddr {address} tcp sport 80 actions unalias {PORT}");
            attach(&client, "vc", "ingress", &back);
        }
        let mut command = Command::new(lab::find_tool("iperf3").context("iperf3")?);
        command.args(["-s", "--forceflush", "-p", &PORT.to_string()]);
        let mut iperf =
            server.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut lines = BufReader::new(iperf.stdout.take().context("a pipe")?).lines();
        let listening = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
        // Its pipe stays open and empty.
        thread::spawn(move || lines.count());
        let world = World { client, server, _router: router, address, iperf };
        ensure!(listening, "iperf3 does not listen");
        Ok(world)
    }

    /// Gbit/s that arrive.
    fn run(&self, seconds: usize, streams: usize, back: bool) -> Result<f64> {
        let reverse = if back { "-R" } else { "" };
        let args = format!("-c {} -p {PORT} -t {seconds} -P {streams} -J {reverse}", self.address);
        let report: serde_json::Value = serde_json::from_str(&self.client.tool("iperf3", &args))?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.context("iperf3 reports no sum")? / 1e9)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.iperf.kill();
        let _ = self.iperf.wait();
    }
}

fn through_router(client: &Ns, server: &Ns) -> Ns {
    let router = Ns::new("router");
    link((client, "vc", "10.1.0.1/24"), (&router, "rc", "10.1.0.254/24"));
    link((server, "vs", "10.2.0.1/24"), (&router, "rs", "10.2.0.254/24"));
    router.sysctl("ipv4/ip_forward", "1");
    client.tool("ip", "route add default via 10.1.0.254");
    router.nft(&format!(
        "table ip service {{
            chain there {{ type nat hook prerouting priority dstnat; ip daddr {SERVICE} dnat to 10.2.0.1; }}
            chain back {{ type nat hook postrouting priority srcnat; oifname rs masquerade; }}
        }}"
    ));
    router
}

fn main() -> Result<()> {
    // `cargo test --benches` calls it without this word: building it is all that is asked then.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let tools = [("ip", "iproute2"), ("nft", "nftables"), ("ethtool", "ethtool"), ("iperf3", "iperf3")];
    if !require(&[Need::Root]) || !tools.iter().all(|(tool, package)| require(&[Need::Tool(tool, package)])) {
        return Ok(());
    }
    let number = |name, default| env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (number("SFUNNEL_ROUNDS", 7), number("SFUNNEL_SECONDS", 1));
    println!("iperf3, {rounds} pairs of {seconds} s; Gbit/s, medians");
    println!("{:<34} {:>8} {:>8} {:>8}", "", "plain", "alias", "ratio");
    for way in [Way::Veth, Way::Segments, Way::Router] {
        let (plain, aliased) = (World::new(way, false)?, World::new(way, true)?);
        for streams in [1, 4, 16] {
            for back in [false, true] {
                let (mut base, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
                for round in 0..rounds {
                    let first = if round % 2 == 0 { &plain } else { &aliased };
                    let second = if round % 2 == 0 { &aliased } else { &plain };
                    let (a, b) = (first.run(seconds, streams, back)?, second.run(seconds, streams, back)?);
                    let (b, o) = if round % 2 == 0 { (a, b) } else { (b, a) };
                    base.push(b);
                    ours.push(o);
                    ratios.push(o / b);
                }
                let direction = if back { "to the client" } else { "to the server" };
                let name = format!("{way:?}, {streams:>2} streams, {direction}");
                let (base, ours, ratio) = (median(base), median(ours), median(ratios));
                println!("{name:<34} {base:>8.2} {ours:>8.2} {ratio:>8.3}");
            }
        }
        let worlds = [&plain, &aliased].map(|w| w.client.checksum_errors() + w.server.checksum_errors());
        println!("{way:?}: checksum errors, plain and aliased: {worlds:?}");
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
