//! TCP from pod to pod: between the hosts, by the overlay, and past it; side by side, in turns.
//!
//! `cargo xtask bench bypass` runs it, as root. Nothing is asserted: a number is for a person to judge. Clusters of
//! namespaces stand side by side, each with what it needs attached for as long as the bench runs. Short runs in them take turns,
//! in another order each round; a line has the medians of the rounds, and of their ratios to the overlay and to the host *in the
//! same round*. The overlay is there twice: what the second's ratio is off from 1 means nothing.
//!
//! `SFUNNEL_ROUNDS` rounds (15) of `SFUNNEL_SECONDS` (1) a run of iperf3, a third of that for ping-pong; `SFUNNEL_PROGRAMS`
//! seconds (20) for each run of the programs that the original was measured with, 0 for none.
//! Another way to be measured is a variant of `Way`, and a cluster in `Lab`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../bypass/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "bypass/pingpong.rs"]
mod pingpong;
#[path = "bypass/programs.rs"]
mod programs;
#[path = "bypass/service.rs"]
mod service;
#[path = "bypass/share.rs"]
mod share;
#[path = "../support/mod.rs"]
mod support;
#[path = "bypass/table.rs"]
mod table;

use std::env;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use cluster::{Cluster, NEEDS, address};
use support::iperf::{self, Server};
use support::lab::Ns;
use support::{Need, require};
use table::{Better, Row};

const IPERF: Need = Need::Tool("iperf3", "iperf3");
const PORT: u16 = 5201;

/// How packets get from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From host to host: what there is to reach.
    Host,
    Overlay,
    Bypass,
    /// Past both nodes' stacks as well.
    Fast,
    /// The overlay once more.
    Again,
}

impl Way {
    pub const ALL: [Way; 5] = [Way::Host, Way::Overlay, Way::Bypass, Way::Fast, Way::Again];

    pub fn name(self) -> &'static str {
        match self {
            Way::Host => "host",
            Way::Overlay => "overlay",
            Way::Bypass => "bypass",
            Way::Fast => "fast",
            Way::Again => "(overlay)",
        }
    }
}

/// Where a run is: who connects, to whom.
#[derive(Debug)]
pub struct Run<'a> {
    pub client: &'a Ns,
    pub server: &'a Ns,
    /// Of every node's end, the client's first, the server's second.
    pub all: Vec<(&'a Ns, Ipv4Addr)>,
}

impl Run<'_> {
    pub fn to(&self) -> Ipv4Addr {
        self.all[1].1
    }
}

/// Clusters that differ in what is attached.
#[derive(Debug)]
pub struct Lab {
    plain: Cluster,
    again: Cluster,
    bypassed: Cluster,
    fast: Cluster,
}

/// All that is bypassed.
const RULES: &str = "tcp actions bypass\n";

impl Lab {
    pub fn new(cluster: impl Fn() -> Cluster) -> Lab {
        let lab = Lab { plain: cluster(), again: cluster(), bypassed: cluster(), fast: cluster() };
        lab.bypassed.attach_all(RULES);
        lab.fast.attach_all_fast(RULES);
        lab
    }

    fn clusters(&self) -> [&Cluster; 4] {
        [&self.plain, &self.again, &self.bypassed, &self.fast]
    }

    pub fn of(&self, way: Way) -> Run<'_> {
        let cluster = match way {
            Way::Host | Way::Overlay => &self.plain,
            Way::Bypass => &self.bypassed,
            Way::Fast => &self.fast,
            Way::Again => &self.again,
        };
        let end = |node: usize| match way {
            Way::Host => {
                let last = u8::try_from(node + 1).expect("a small cluster");
                (cluster.host(node), Ipv4Addr::new(192, 168, 77, last))
            }
            _ => (cluster.pod(node, 0), address(node, 0)),
        };
        let all: Vec<_> = (0..cluster.nodes.len()).map(end).collect();
        Run { client: all[0].0, server: all[1].0, all }
    }

    /// Whether the hosts' interfaces can segment what is in a tunnel.
    fn segments_tunnels(&self, yes: bool) {
        let (tunnels, gro) = if yes { ("on", "off") } else { ("off", "on") };
        for node in self.clusters().into_iter().flat_map(|cluster| &cluster.nodes) {
            node.host.tool(
                "ethtool",
                &format!("-K eth0 tx-udp_tnl-segmentation {tunnels} tx-udp_tnl-csum-segmentation {tunnels} gro {gro}"),
            );
        }
    }

    fn checksum_errors(&self) -> u64 {
        let nodes = self.clusters().into_iter().flat_map(|cluster| &cluster.nodes);
        nodes.flat_map(|node| [&node.host].into_iter().chain(&node.pods)).map(Ns::checksum_errors).sum()
    }
}

/// Rounds of short runs, the ways in turn: each way's results, round by round.
pub fn in_turns(rounds: usize, mut run: impl FnMut(Way) -> Result<f64>) -> Result<Vec<Vec<f64>>> {
    let mut results = vec![Vec::new(); Way::ALL.len()];
    for round in 0..rounds {
        for turn in 0..Way::ALL.len() {
            let at = (round + turn) % Way::ALL.len();
            results[at].push(run(Way::ALL[at])?);
        }
    }
    Ok(results)
}

fn bulk(lab: &Lab, rounds: usize, seconds: f64) -> Result<Vec<Vec<f64>>> {
    // The servers of hosts are in the namespaces of their own.
    let servers: Vec<Server> = Way::ALL.iter().map(|way| Server::start(lab.of(*way).server, PORT)).collect();
    let results = in_turns(rounds, |way| {
        let run = lab.of(way);
        let report = iperf::run(
            run.client,
            &run.to().to_string(),
            &format!("-p {PORT} -t {:.0} -A 1,0", seconds.max(1.0)),
        );
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(rate.context("not a report of iperf3")? / 1e9)
    });
    drop(servers);
    results
}

fn main() -> Result<()> {
    // `cargo test --benches` calls it without this word: building it is all that is asked then.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    if !require(&NEEDS) || !require(&[IPERF]) {
        return Ok(());
    }
    let number = |name, default: f64| env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (number("SFUNNEL_ROUNDS", 15.0), number("SFUNNEL_SECONDS", 1.0));
    let programs = number("SFUNNEL_PROGRAMS", 20.0);
    let rounds = format!("{rounds:.0}").parse::<usize>()?.max(1);

    println!("two nodes, {rounds} rounds of {seconds} s a run; medians, and ratios in the same round");
    table::head();
    let lab = Lab::new(|| Cluster::pair(1));
    lab.segments_tunnels(true);
    let mut halves = Vec::new();
    let rates = in_turns(rounds, |way| {
        let result = pingpong::run(&lab.of(way), seconds / 3.0)?;
        halves.push((way, result.p50));
        Ok(result.rate)
    })?;
    let of = |way: Way| halves.iter().filter(|(of, _)| *of == way).map(|(_, p50)| *p50).collect();
    let middle = Row::new("ping-pong, 64 bytes, one CPU: p50, us", Better::Less, Way::ALL.map(of).into());
    middle.print();
    let pingpong = Row::new("ping-pong: exchanges a second", Better::More, rates);
    pingpong.print();

    let with =
        Row::new("iperf3, the wire segments tunnels: Gbit/s", Better::More, bulk(&lab, rounds, seconds)?);
    with.print();
    lab.segments_tunnels(false);
    let without = Row::new("iperf3, it does not: Gbit/s", Better::More, bulk(&lab, rounds, seconds)?);
    without.print();
    if programs > 0.0 {
        programs::run(&lab, programs)?;
    }
    println!("\nchecksum errors: {}", lab.checksum_errors());
    // On a busy machine, the rate is also that of everything else.
    println!("\nwanted of `bypass`, against the overlay:");
    for (row, wanted) in [(&middle, 1.15), (&pingpong, 1.15), (&without, 1.8), (&with, 1.0)] {
        row.judge(Way::Bypass, Way::Overlay, wanted);
    }
    println!("\nwanted of `fast`, against the host:");
    for (row, wanted) in [(&middle, 0.93), (&pingpong, 0.93), (&without, 0.85), (&with, 0.85)] {
        row.judge(Way::Fast, Way::Host, wanted);
    }
    share::print(&lab, (PORT, (lab.of(Way::Fast).to(), PORT).into()), seconds * 3.0)?;
    service::run(&lab, rounds, seconds)
}
