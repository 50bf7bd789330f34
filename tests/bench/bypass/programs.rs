//! The programs that the original was measured with, as far as Debian has them: MPI, memcached.
//!
//! Each runs a few times by each way, bounded in time: a run that fails or takes too long is no number. One whose
//! package is missing is reported as not run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::cluster::Cluster;
use super::support::lab::{Ns, find_tool};
use super::table::{self, Better, Row};
use super::{Lab, Run, Way, in_turns};

const ROUNDS: usize = 3;
/// Debian's, which finds Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

/// Of MPI and memcached, by Debian package.
const MPI: [(&str, &str); 2] = [("mpirun", "openmpi-bin"), ("nsenter", "util-linux")];
const NETPIPE: (&str, &str) = ("NPopenmpi", "netpipe-openmpi");
const MEMCACHED: [(&str, &str); 2] = [("memcached", "memcached"), ("memcaslap", "libmemcached-tools")];

pub fn run(lab: &Lab, seconds: f64) -> Result<()> {
    if there("MPI between two pods", &[&MPI[..], &[NETPIPE]].concat()) {
        let of = |bytes, times| {
            in_turns(ROUNDS, |way| {
                Ok(number(way, netpipe(&lab.of(way), bytes, times, seconds)).unwrap_or(f64::NAN))
            })
        };
        let latencies = of(64, 5000)?;
        Row::new("NetPIPE over Open MPI, 64 bytes one way: us", Better::Less, latencies).print();
        let long = of(4 << 20, 100)?.into_iter().map(|way| way.into_iter().map(gigabits).collect());
        Row::new("the same, 4 MiB: Gbit/s", Better::More, long.collect()).print();
    }
    if there("memcached", &MEMCACHED) {
        let rates =
            in_turns(ROUNDS, |way| Ok(number(way, memcached(&lab.of(way), seconds)).unwrap_or(f64::NAN)))?;
        Row::new("memcached, memcaslap --concurrency=8: ops/s", Better::More, rates).print();
    }
    if there("MPI between three pods", &MPI) && python_has_mpi() {
        println!("\nthree nodes and a switch between them");
        table::head();
        let three = Lab::new(|| Cluster::new(3, 1));
        let times =
            in_turns(ROUNDS, |way| Ok(number(way, all_to_all(&three.of(way), seconds)).unwrap_or(f64::NAN)))?;
        Row::new("MPI all-to-all, 16 MiB a rank, 3 ranks: ms", Better::Less, times).print();
    }
    Ok(())
}

/// A run's result. One that failed says why beside the table.
fn number<T>(way: Way, result: Result<T>) -> Option<T> {
    result.inspect_err(|why| eprintln!("{}: {why:#}", way.name())).ok()
}

/// Whether all of them are; says which are not.
fn there(what: &str, tools: &[(&str, &str)]) -> bool {
    let missing: Vec<&str> =
        tools.iter().filter(|(tool, _)| find_tool(tool).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        println!("{what}: not run, for want of {}", missing.join(", "));
    }
    missing.is_empty()
}

fn python_has_mpi() -> bool {
    let mut python = Command::new(PYTHON);
    python.args(["-c", "import mpi4py"]).stdout(Stdio::null()).stderr(Stdio::null());
    let has = python.status().is_ok_and(|status| status.success());
    if !has {
        println!("MPI all-to-all: not run, for want of python3-mpi4py");
    }
    has
}

/// What a program writes to standard output, if it is done in time.
fn output(ns: &Ns, mut command: Command, seconds: f64) -> Result<String> {
    let mut child = ns.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("not done in {seconds} s");
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{}: {out}{err}", output.status);
    Ok(out)
}

/// A rank at each of these ends, started from the first.
fn mpi(run: &Run<'_>, ranks: usize, folder: &Path) -> Result<Command> {
    // What stands in for ssh: Open MPI calls it with a host and a command.
    let agent = folder.join("agent");
    let cases = run.all.iter().enumerate().map(|(at, (ns, address))| {
        let own = folder.join(at.to_string());
        fs::create_dir_all(&own)?;
        Ok(format!("{address}) namespace={} own={};;\n", ns.path().display(), own.display()))
    });
    let cases = cases.collect::<std::io::Result<String>>()?;
    let script = format!(
        "#!/bin/sh\nhost=$1\nshift\ncase $host in\n{cases}*) exit 1;;\nesac\n\
         exec nsenter --net=$namespace env TMPDIR=$own sh -c \"$*\"\n"
    );
    fs::write(&agent, script)?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
    let hosts: Vec<String> = run.all.iter().take(ranks).map(|(_, address)| format!("{address}:1")).collect();
    let mut command = Command::new(find_tool("mpirun").context("mpirun")?);
    command.args([
        "--allow-run-as-root",
        "--mca",
        "btl",
        "tcp,self",
        "--mca",
        "pml",
        "ob1",
        "--mca",
        "mpi_yield_when_idle",
        "1",
        "--map-by",
        "node",
    ]);
    command.args([
        "--mca",
        "btl_tcp_if_include",
        "eth0",
        "--mca",
        "oob_tcp_if_include",
        "eth0",
        "--bind-to",
        "none",
    ]);
    command.args(["--mca", "plm_rsh_agent"]).arg(&agent);
    command.args(["-np", &ranks.to_string(), "-host", &hosts.join(",")]).env("TMPDIR", folder);
    Ok(command)
}

/// Of 4 MiB that take so many microseconds.
fn gigabits(microseconds: f64) -> f64 {
    f64::from(8 << 22) / microseconds / 1e3
}

/// Microseconds one way for so many bytes.
fn netpipe(run: &Run<'_>, bytes: u32, times: u32, seconds: f64) -> Result<f64> {
    let folder = TempDir::new()?;
    let results = folder.path().join("results");
    let mut command = mpi(run, 2, folder.path())?;
    let [bytes, times] = [bytes, times].map(|number| number.to_string());
    command.arg(find_tool(NETPIPE.0).context("NPopenmpi")?);
    command.args(["-l", &bytes, "-u", &bytes, "-p", "0", "-n", &times, "-o"]).arg(&results);
    output(run.client, command, seconds.max(1.0) * 3.0)?;
    // Bytes, Mbit/s, seconds one way.
    let text = fs::read_to_string(&results)?;
    let one_way = text.split_whitespace().nth(2).and_then(|word| word.parse::<f64>().ok());
    Ok(one_way.with_context(|| format!("no results of NetPIPE: {text}"))? * 1e6)
}

/// Milliseconds for each rank to send 16 MiB to every rank.
fn all_to_all(run: &Run<'_>, seconds: f64) -> Result<f64> {
    const SCRIPT: &str = "
from mpi4py import MPI
import array, statistics
c = MPI.COMM_WORLD
size = 16 << 20
a, b = bytearray(size * c.size), bytearray(size * c.size)
times = []
for _ in range(6):
    c.Barrier()
    t = MPI.Wtime()
    c.Alltoall([a, size, MPI.BYTE], [b, size, MPI.BYTE])
    c.Barrier()
    times.append(MPI.Wtime() - t)
if c.rank == 0:
    print(statistics.median(times[1:]) * 1e3)
";
    let folder = TempDir::new()?;
    let script = folder.path().join("alltoall.py");
    fs::write(&script, SCRIPT)?;
    let mut command = mpi(run, 3, folder.path())?;
    command.arg(PYTHON).arg(&script);
    let said = output(run.client, command, seconds.max(1.0) * 3.0)?;
    said.trim().parse().with_context(|| format!("not a number: {said}"))
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Operations a second.
fn memcached(run: &Run<'_>, seconds: f64) -> Result<f64> {
    let mut server = Command::new(find_tool("memcached").context("memcached")?);
    server.args(["-u", "root", "-U", "0", "-t", "1", "-l", &run.to().to_string()]);
    let _server = Stopped(run.server.spawn(server.stdin(Stdio::null()).stderr(Stdio::null())));
    let to = format!("{}:11211", run.to());
    let start = Instant::now();
    let address = to.parse().context("an address")?;
    while run.client.run(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))).is_err() {
        ensure!(start.elapsed() < Duration::from_secs(10), "memcached does not listen");
        thread::sleep(Duration::from_millis(50));
    }
    let mut client = Command::new(find_tool("memcaslap").context("memcaslap")?);
    let time = format!("{:.0}s", (seconds / 4.0).clamp(1.0, 60.0));
    client.args(["-s", &to, "--threads=1", "--concurrency=8", "-t", &time]);
    let said = output(run.client, client, seconds + 20.0)?;
    let rate = said.split("TPS:").nth(1).and_then(|rest| rest.split_whitespace().next());
    rate.and_then(|rate| rate.parse().ok()).with_context(|| format!("no rate: {said}"))
}
