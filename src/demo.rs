//! `sfunnel demo`: two network namespaces, real sockets through funnel and unfunnel, a report.
//!
//! Needs root and nothing else, touches nothing outside namespaces of its own, and leaves nothing behind
//! however it ends: see [`namespace`]. Input: nothing. Output: a [`Report`], or the step that failed.

mod capture;
mod error;
mod flow;
mod lab;
mod life;
mod namespace;
mod packet;
mod report;
mod traffic;
mod wire;

use std::time::{Duration, Instant};

pub use error::Error;
pub use report::Report;

use flow::FLOWS;
use lab::Lab;
use traffic::Count;
use wire::Wire;

/// How long to wait for a packet that should be there at once.
const DEADLINE: Duration = Duration::from_secs(2);

/// What one flow has come to.
#[derive(Debug)]
struct Run {
    sent: Count,
    received: Count,
    wire: Wire,
}

/// Runs it all. Fails unless everything arrived as it was sent, in its funnel.
pub fn run() -> Result<Report, Error> {
    let start = Instant::now();
    let mut lab = Lab::new()?;
    let installation = lab.attach()?;
    lab.tap()?;
    let mut runs = Vec::new();
    for flow in &FLOWS {
        let (sent, received) = traffic::run(&mut lab, flow)?;
        let wire = wire::examine(&lab, flow)?;
        runs.push(Run { sent, received, wire });
    }
    let life = wire::life(&lab)?;
    let mut checksum_errors = Vec::new();
    for end in [&lab.client, &lab.server] {
        let [tcp, udp] = end.namespace.checksum_errors()?;
        if tcp + udp > 0 {
            let found = format!("the {}'s kernel counts {tcp} TCP and {udp} UDP", end.namespace.name);
            return Err(Error::wrong("looking for checksum errors", found));
        }
        checksum_errors.push((end.namespace.name, tcp, udp));
    }
    Ok(Report { life, runs, installation, checksum_errors, took: start.elapsed() })
}
