//! Funneled TCP at full size, as ratios to plain TCP in single segments: iperf3 in paired runs.
//!
//! `cargo xtask bench` runs it, as root. Nothing is asserted: a number is for a person to judge. Worlds of namespaces
//! stand side by side: two plain ones with TSO and GSO off on all interfaces, two that funnel, through TCP and
//! through UDP, with the interfaces' defaults (the router's legs excepted). Runs in them take turns; a line has the
//! medians of the rounds' ratios to the first plain one. The second's says how much of a difference means nothing.
//! `SFUNNEL_ROUNDS` rounds (5) of `SFUNNEL_SECONDS` (1) a run.
#![allow(clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

use std::env;

use anyhow::{Context, Result};
use support::iperf::{self, Server};
use support::lab::attach;
use support::world::{NEEDS, Way, World};
use support::{Need, require};

const PORT: u16 = 8080;

/// `outer`: funneled through it; without, single segments from the start.
fn world(way: Way, outer: Option<&str>) -> (World, Server) {
    let world = World::new(way);
    if let Some(router) = &world.router {
        router.tool("ethtool", "-K rc tso off gso off");
        router.tool("ethtool", "-K rs tso off gso off");
    }
    match outer {
        None => {
            world.client.tool("ethtool", "-K vc tso off gso off");
            world.server.tool("ethtool", "-K vs tso off gso off");
        }
        Some(outer) => {
            let a = world.address;
            let there = format!("ip daddr {a} tcp dport {PORT} actions funnel {outer} dport 80 sport 540");
            let arrived =
                format!("{outer} dport 80 sport 540 actions unfunnel tcp; tcp dport {PORT} actions drop");
            let back = format!("tcp sport {PORT} actions funnel {outer} dport 540 sport 80");
            let returned = format!("ip saddr {a} {outer} sport 80 dport 540 actions unfunnel tcp");
            attach(&world.client, "vc", "egress", &there);
            attach(&world.server, "vs", "ingress", &arrived);
            attach(&world.server, "vs", "egress", &back);
            attach(&world.client, "vc", "ingress", &returned);
        }
    }
    let server = Server::start(&world.server, PORT);
    (world, server)
}

/// Gbit/s that arrived.
fn rate(world: &World, seconds: usize, streams: usize, back: bool) -> Result<f64> {
    let reverse = if back { "-R" } else { "" };
    let args = format!("-p {PORT} -t {seconds} -P {streams} {reverse}");
    let report = iperf::run(&world.client, world.address, &args);
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.context("not a report of iperf3")? / 1e9)
}

fn main() -> Result<()> {
    // `cargo test --benches` calls it without this word: building it is all that is asked then.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    if !require(&NEEDS) || !require(&[Need::Tool("iperf3", "iperf3")]) {
        return Ok(());
    }
    let number = |name, default| env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (number("SFUNNEL_ROUNDS", 5), number("SFUNNEL_SECONDS", 1));
    println!(
        "iperf3, {rounds} rounds of {seconds} s a run; Gbit/s, and ratios to plain in single segments; medians"
    );
    println!("{:<34} {:>6} {:>7} {:>7} {:>7}", "", "plain", "tcp/tcp", "tcp/udp", "(plain)");
    for way in [Way::Direct, Way::Nat] {
        let worlds = [None, Some("tcp"), Some("udp"), None].map(|outer| world(way, outer));
        for streams in [1, 4, 16] {
            for back in [false, true] {
                let mut runs: Vec<[f64; 4]> = Vec::new();
                for round in 0..rounds {
                    let mut row = [0.0; 4];
                    for turn in 0..4 {
                        let at = (round + turn) % 4;
                        row[at] = rate(&worlds[at].0, seconds, streams, back)?;
                    }
                    runs.push(row);
                }
                let of = |number: &dyn Fn(&[f64; 4]) -> f64| median(runs.iter().map(number).collect());
                let direction = if back { "to the client" } else { "to the server" };
                println!(
                    "{:<34} {:>6.2} {:>7.3} {:>7.3} {:>7.3}",
                    format!("{way:?}, {streams:>2} streams, {direction}"),
                    of(&|row| row[0]),
                    of(&|row| row[1] / row[0]),
                    of(&|row| row[2] / row[0]),
                    of(&|row| row[3] / row[0]),
                );
            }
        }
        for (world, _) in &worlds {
            world.no_checksum_errors();
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
