//! Several ways to bring TCP 8080 to a server through port 80, side by side: what each moves and what it costs.
//!
//! `cargo xtask bench peers` runs it, as root. Nothing is asserted: a number is for a person to judge. Each way has a world of
//! its own, client, middle and server, with the middle doing no more than that way needs: routing (`plain`, `alias`,
//! `funnel`), DNAT with connection tracking, or a proxy (HAProxy and nginx `stream`, as Debian has them, two threads or
//! processes). Runs take turns, in another order each round; a line has the medians. Processor time is that of the whole
//! machine (/proc/stat), so nothing else may run. `SFUNNEL_ROUNDS` rounds (5) of `SFUNNEL_SECONDS` (2) a run.
#![allow(clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::iperf::{self, Server};
use support::lab::{DEADLINE, Ns, attach, find_tool, link};
use support::{Need, require};

const IPERF: u16 = 8080;
/// Another port, for requests: iperf3 serves one client at a time.
const WEB: u16 = 8081;
const CLIENTS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Alias,
    Funnel,
    Dnat,
    Haproxy,
    Nginx,
}

const WAYS: [Way; 6] = [Way::Plain, Way::Alias, Way::Funnel, Way::Dnat, Way::Haproxy, Way::Nginx];

struct World {
    way: Way,
    client: Ns,
    _middle: Ns,
    address: &'static str,
    proxy: Option<Child>,
    _directory: tempfile::TempDir,
    _iperf: Server,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            // nginx takes its workers along if it is asked to end, not if it is killed.
            if let Ok(process) = i32::try_from(proxy.id()) {
                let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
            }
            let _ = proxy.wait();
        }
    }
}

impl World {
    fn new(way: Way) -> Result<World> {
        let (client, middle, server) = (Ns::new("client"), Ns::new("middle"), Ns::new("server"));
        link((&client, "eth0", "10.1.0.1/24"), (&middle, "front", "10.1.0.254/24"));
        link((&server, "eth0", "10.2.0.1/24"), (&middle, "back", "10.2.0.254/24"));
        client.tool("ip", "route add default via 10.1.0.254");
        server.tool("ip", "route add default via 10.2.0.254");
        middle.sysctl("ipv4/ip_forward", "1");
        for ns in [&client, &middle] {
            // Connections by the ten thousand.
            ns.sysctl("ipv4/ip_local_port_range", "1024 65535");
            ns.sysctl("ipv4/tcp_tw_reuse", "1");
        }
        let directory = tempfile::tempdir()?;
        let (address, proxy) = match way {
            Way::Plain | Way::Alias | Way::Funnel => ("10.2.0.1", None),
            Way::Dnat => {
                middle.nft(
                    "table ip service {
                        chain there {
                            type nat hook prerouting priority dstnat;
                            ip daddr 10.1.0.254 dnat to 10.2.0.1;
                        }
                    }",
                );
                ("10.1.0.254", None)
            }
            Way::Haproxy => ("10.1.0.254", Some(haproxy(&middle, directory.path())?)),
            Way::Nginx => ("10.1.0.254", Some(nginx(&middle, directory.path())?)),
        };
        rules(way, &client, &server);
        serve(&server)?;
        let iperf = Server::start(&server, IPERF);
        Ok(World { way, client, _middle: middle, address, proxy, _directory: directory, _iperf: iperf })
    }

    /// Gbit/s that arrived, and processor seconds for each GB.
    fn bulk(&self, seconds: usize) -> Result<(f64, f64)> {
        let before = busy()?;
        let report = iperf::run(&self.client, self.address, &format!("-p {IPERF} -t {seconds}"));
        let spent = busy()? - before;
        let received = &report["end"]["sum_received"];
        let number = |name: &str| received[name].as_f64().context("not a report of iperf3");
        Ok((number("bits_per_second")? / 1e9, spent / (number("bytes")? / 1e9)))
    }

    /// How many times a second clients connect, ask, hear and go; or ask and hear on connections that stay open.
    fn requests(&self, seconds: usize, open: bool) -> Result<f64> {
        let to = SocketAddr::new(self.address.parse()?, WEB);
        let count = AtomicU64::new(0);
        let end = Instant::now() + Duration::from_secs(seconds as u64);
        let work = || -> Result<()> {
            while Instant::now() < end {
                let mut stream = self.client.run(|| TcpStream::connect_timeout(&to, DEADLINE))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                let mut answer = [0; 100];
                loop {
                    stream.write_all(&[7; 100])?;
                    stream.read_exact(&mut answer)?;
                    count.fetch_add(1, Ordering::Relaxed);
                    if !open || Instant::now() >= end {
                        break;
                    }
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
            clients.into_iter().try_for_each(|client| client.join().expect("a client"))
        })
        .with_context(|| format!("{:?}", self.way))?;
        Ok(count.into_inner() as f64 / seconds as f64)
    }
}

/// Both ports, each behind one of its own, and the way back.
fn rules(way: Way, client: &Ns, server: &Ns) {
    if !matches!(way, Way::Alias | Way::Funnel) {
        return;
    }
    let both = [(IPERF, 80, 540), (WEB, 81, 541)];
    let lines = |line: &dyn Fn((u16, u16, u16)) -> String| both.map(line).join("\n");
    let [there, arrived, back, returned] = if way == Way::Alias {
        [
            lines(&|(port, through, _)| format!("tcp dport {port} alias dport {through}")),
            lines(&|(port, through, _)| format!("tcp dport {through} unalias {port}")),
            lines(&|(port, through, _)| format!("tcp sport {port} alias sport {through}")),
            lines(&|(port, through, _)| format!("tcp sport {through} unalias {port}")),
        ]
    } else {
        [
            lines(&|(port, to, from)| format!("tcp dport {port} funnel tcp sport {from} dport {to}")),
            lines(&|(port, to, from)| format!("tcp sport {from} dport {to} unfunnel tcp dport {port}")),
            lines(&|(port, to, from)| format!("tcp sport {port} funnel tcp sport {to} dport {from}")),
            lines(&|(port, to, from)| format!("tcp sport {to} dport {from} unfunnel tcp sport {port}")),
        ]
    };
    attach(client, "eth0", "egress", &there);
    attach(server, "eth0", "ingress", &arrived);
    attach(server, "eth0", "egress", &back);
    attach(client, "eth0", "ingress", &returned);
}

/// Answers each hundred bytes with as many, for as long as the process lives.
fn serve(server: &Ns) -> Result<()> {
    let listener = server.run(|| TcpListener::bind(("0.0.0.0", WEB)))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut request = [0; 100];
                let _ = stream.set_nodelay(true);
                while stream.read_exact(&mut request).is_ok() && stream.write_all(&request).is_ok() {}
            });
        }
    });
    Ok(())
}

fn haproxy(ns: &Ns, directory: &Path) -> Result<Child> {
    let listen =
        |port: u16| format!("listen p{port}\n  bind 10.1.0.254:{port}\n  server one 10.2.0.1:{port}\n");
    let config = format!(
        "global\n  nbthread 2\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n{}{}",
        listen(IPERF),
        listen(WEB)
    );
    let file = directory.join("haproxy.cfg");
    fs::write(&file, config)?;
    start(ns, "haproxy", &["-db", "-f"], &file)
}

fn nginx(ns: &Ns, directory: &Path) -> Result<Child> {
    let server = |port: u16| {
        format!("server {{ listen 10.1.0.254:{port}; proxy_pass 10.2.0.1:{port}; tcp_nodelay on; }}")
    };
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off; worker_processes 2; user root;\n\
         pid {0}/pid; error_log {0}/log;\nevents {{ worker_connections 4096; }}\nstream {{ {1} {2} }}\n",
        directory.display(),
        server(IPERF),
        server(WEB)
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config)?;
    start(ns, "nginx", &["-c"], &file)
}

fn start(ns: &Ns, tool: &str, args: &[&str], file: &Path) -> Result<Child> {
    let mut command = Command::new(find_tool(tool).context("no such tool")?);
    command.args(args).arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = ns.spawn(&mut command);
    let start = Instant::now();
    while !ns.tool("ss", "-Hnlt").contains(&format!(":{WEB} ")) {
        ensure!(child.try_wait()?.is_none() && start.elapsed() < DEADLINE, "{tool} does not listen");
        thread::yield_now();
    }
    Ok(child)
}

/// Seconds that the machine's processors have been busy: all of /proc/stat but idle and waiting for disks.
fn busy() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<f64> =
        first.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<_, _>>()?;
    ensure!(ticks.len() == 8, "not /proc/stat: {first}");
    // USER_HZ is 100 for every program.
    Ok((ticks.iter().sum::<f64>() - ticks[3] - ticks[4]) / 100.0)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<()> {
    // `cargo test --benches` calls it without this word: building it is all that is asked then.
    if !env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let tools = [
        Need::Root,
        Need::Tool("ip", "iproute2"),
        Need::Tool("nft", "nftables"),
        Need::Tool("iperf3", "iperf3"),
        Need::Tool("haproxy", "haproxy"),
        Need::Tool("nginx", "nginx"),
    ];
    if !require(&tools) {
        return Ok(());
    }
    let number = |name, default| env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (rounds, seconds) = (number("SFUNNEL_ROUNDS", 5), number("SFUNNEL_SECONDS", 2));
    let worlds: Vec<World> = WAYS.into_iter().map(World::new).collect::<Result<_>>()?;
    let mut runs: Vec<Vec<[f64; 4]>> = vec![Vec::new(); WAYS.len()];
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            let at = (round + turn) % WAYS.len();
            let (rate, cost) = worlds[at].bulk(seconds)?;
            let (open, new) = (worlds[at].requests(seconds, true)?, worlds[at].requests(seconds, false)?);
            runs[at].push([rate, cost, open, new]);
        }
    }
    println!("TCP from client to server by way of a third, {rounds} rounds of {seconds} s a run; medians");
    println!("{:<10} {:>8} {:>10} {:>12} {:>13}", "", "Gbit/s", "CPU s/GB", "requests/s", "connections/s");
    for (way, runs) in WAYS.iter().zip(&runs) {
        let [rate, cost, open, new] = [0, 1, 2, 3].map(|at| median(runs.iter().map(|run| run[at])));
        println!("{:<10} {rate:>8.2} {cost:>10.2} {open:>12.0} {new:>13.0}", format!("{way:?}"));
    }
    Ok(())
}
