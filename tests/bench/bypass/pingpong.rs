//! Requests and answers of 64 bytes over one connection, both ends on one processor.
//!
//! There, one waits for the other anyway, and nothing is measured of how idle processors are woken.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::Run;

const BYTES: usize = 64;
/// Before the clock starts.
const WARM_UP: usize = 50;

#[derive(Debug)]
pub struct PingPong {
    /// Exchanges a second.
    pub rate: f64,
    /// Of one, in microseconds.
    pub p50: f64,
}

/// The calling thread stays on one processor.
fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(0)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

pub fn run(run: &Run<'_>, seconds: f64) -> Result<PingPong> {
    let listener = run.server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let to = SocketAddr::from((run.to(), listener.local_addr()?.port()));
    between(run, listener, to, seconds)
}

/// The server listens at a port; the client knows it by another address.
pub fn run_to(run: &Run<'_>, (port, to): (u16, SocketAddr), seconds: f64) -> Result<PingPong> {
    let listener = run.server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    between(run, listener, to, seconds)
}

fn between(run: &Run<'_>, listener: TcpListener, to: SocketAddr, seconds: f64) -> Result<PingPong> {
    let serving = thread::spawn(move || -> Result<()> {
        pin()?;
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; BYTES];
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let result = run.client.run(|| exchange(to, seconds));
    serving.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    result
}

fn exchange(to: SocketAddr, seconds: f64) -> Result<PingPong> {
    pin()?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = [7; BYTES];
    let mut once = || -> Result<()> {
        stream.write_all(&buffer)?;
        Ok(stream.read_exact(&mut buffer)?)
    };
    for _ in 0..WARM_UP {
        once()?;
    }
    let (start, mut times) = (Instant::now(), Vec::new());
    let mut last = start;
    while last.duration_since(start).as_secs_f64() < seconds {
        once()?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    let rate = f64::from(u32::try_from(times.len())?) / last.duration_since(start).as_secs_f64();
    times.sort_unstable();
    let p50 = times.get(times.len() / 2).context("no exchange")?;
    Ok(PingPong { rate, p50: p50.as_secs_f64() * 1e6 })
}
