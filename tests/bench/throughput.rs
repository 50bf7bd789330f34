//! TCP through `alias`, as ratios to plain TCP: iperf3 in paired runs, with and without programs.
//!
//! `cargo xtask bench` runs it, as root. Nothing is asserted: a number is for a person to judge.
//! Four worlds of namespaces stand side by side: one that aliases, with four attachments, two with none,
//! and one whose four attachments match and do nothing. Runs in them take turns, in another order each
//! round; a line has the medians of the rounds' ratios. That of the two plain worlds says how much of a
//! difference means nothing on this machine, that of the idle programs what any program costs there, and
//! processor time for each bit suffers less from what else the machine does. `SFUNNEL_ROUNDS` rounds (7) of
//! `SFUNNEL_SECONDS` (1) a run; `SFUNNEL_WAY` picks a way, `SFUNNEL_STREAMS` a number of streams.
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

/// What is attached in a world, at both ends in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    None,
    /// A rule that matches all packets of the flow and leaves them as they are.
    Accept,
    Alias,
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
    fn new(way: Way, rules: Rules) -> Result<World> {
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
        let four = match rules {
            Rules::None => None,
            Rules::Accept => Some([
                format!("ip daddr {address} tcp dport {PORT} actions accept"),
                format!("tcp dport {PORT} actions accept"),
                format!("tcp sport {PORT} actions accept"),
                format!("ip saddr {address} tcp sport {PORT} actions accept"),
            ]),
            Rules::Alias => Some([
                format!("ip daddr {address} tcp dport {PORT} actions alias dport 80"),
                format!("tcp dport 80 actions unalias {{ {PORT}, 8443 }}"),
                format!("tcp sport {PORT} actions alias sport 80"),
                format!("ip saddr {address} tcp sport 80 actions unalias {PORT}"),
            ]),
        };
        if let Some([there, arrived, back, returned]) = four {
            attach(&client, "vc", "egress", &there);
            attach(&server, "vs", "ingress", &arrived);
            attach(&server, "vs", "egress", &back);
            attach(&client, "vc", "ingress", &returned);
        }
        let mut command = Command::new(lab::find_tool("iperf3").context("iperf3")?);
        command.args(["-s", "--forceflush", "-p", &PORT.to_string()]);
        let iperf = server.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut world = World { client, server, _router: router, address, iperf };
        let mut lines = BufReader::new(world.iperf.stdout.take().context("a pipe")?).lines();
        let listening = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
        // Its pipe stays open and empty.
        thread::spawn(move || lines.count());
        ensure!(listening, "iperf3 does not listen");
        Ok(world)
    }

    fn run(&self, seconds: usize, streams: usize, back: bool) -> Result<Run> {
        let reverse = if back { "-R" } else { "" };
        let args = format!("-c {} -p {PORT} -t {seconds} -P {streams} -J {reverse}", self.address);
        let report: serde_json::Value = serde_json::from_str(&self.client.tool("iperf3", &args))?;
        let end = &report["end"];
        let number = |value: &serde_json::Value| value.as_f64().context("not a report of iperf3");
        let rate = number(&end["sum_received"]["bits_per_second"])? / 1e9;
        let cpu = &end["cpu_utilization_percent"];
        let busy = number(&cpu["host_total"])? + number(&cpu["remote_total"])?;
        Ok(Run { rate, cost: busy / rate })
    }
}

/// Gbit/s that arrived, and processor time for each.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    cost: f64,
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
    let way_wanted = env::var("SFUNNEL_WAY").ok();
    let streams_wanted: Option<usize> = env::var("SFUNNEL_STREAMS").ok().and_then(|n| n.parse().ok());
    println!("iperf3, {rounds} rounds of {seconds} s a run; Gbit/s, and ratios to plain; medians");
    let heads = ["plain", "alias", "ratio", "(plain)", "(accept)", "cpu"];
    let [plain, alias, ratio, again, accept, cpu] = heads;
    println!("{:<34} {plain:>6} {alias:>6} {ratio:>6} {again:>8} {accept:>8} {cpu:>6}", "");
    for way in [Way::Veth, Way::Segments, Way::Router] {
        if way_wanted.as_ref().is_some_and(|wanted| *wanted != format!("{way:?}")) {
            continue;
        }
        let world = |rules| World::new(way, rules);
        let worlds = [world(Rules::None)?, world(Rules::Alias)?, world(Rules::None)?, world(Rules::Accept)?];
        for streams in [1, 4, 16].into_iter().filter(|n| streams_wanted.is_none_or(|wanted| *n == wanted)) {
            for back in [false, true] {
                let mut runs = Vec::new();
                for round in 0..rounds {
                    let mut row = [Run { rate: 0.0, cost: 0.0 }; 4];
                    for turn in 0..4 {
                        let world = (round + turn) % 4;
                        row[world] = worlds[world].run(seconds, streams, back)?;
                    }
                    runs.push(row);
                }
                let of = |number: &dyn Fn(&[Run; 4]) -> f64| median(runs.iter().map(number).collect());
                let direction = if back { "to the client" } else { "to the server" };
                println!(
                    "{:<34} {:>6.2} {:>6.2} {:>6.3} {:>8.3} {:>8.3} {:>6.3}",
                    format!("{way:?}, {streams:>2} streams, {direction}"),
                    of(&|[plain, ..]| plain.rate),
                    of(&|[_, alias, ..]| alias.rate),
                    of(&|[plain, alias, again, _]| 2.0 * alias.rate / (plain.rate + again.rate)),
                    of(&|[plain, _, again, _]| again.rate / plain.rate),
                    of(&|[plain, _, again, accept]| 2.0 * accept.rate / (plain.rate + again.rate)),
                    of(&|[plain, alias, again, _]| 2.0 * alias.cost / (plain.cost + again.cost)),
                );
            }
        }
        let errors = worlds.iter().map(|w| w.client.checksum_errors() + w.server.checksum_errors());
        println!("{way:?}: checksum errors: {:?}", errors.collect::<Vec<_>>());
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
