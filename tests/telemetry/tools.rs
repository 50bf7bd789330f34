//! The programs of a telemetry pipeline: BIRD, softflowd, and of pmacct nfacctd, sfacctd and pmacctd.
//!
//! In: namespaces and addresses. Out: running processes, which end with what holds them, and what collectors wrote.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::support::lab::{Ns, find_tool};

/// The collector's.
const AS: u32 = 65_000;
/// All routers have a route there, each by another way.
pub const DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// A process, which ends with this.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    fn start(ns: &Ns, tool: &str, directory: &Path, args: &[&str]) -> Daemon {
        let log = fs::File::create(directory.join("log")).expect("a file");
        let mut command = Command::new(find_tool(tool).unwrap_or_else(|| panic!("no `{tool}`")));
        command.args(args).current_dir(directory);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        Daemon(ns.spawn(&mut command))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The way of a router, as its BGP says: its own number and its neighbour's, as nfacctd writes them.
pub fn as_path(router: u8) -> String {
    format!("{}_{}", 64_600 + u32::from(router), 64_500 + u32::from(router))
}

/// A router's BGP, which keeps a session with the collector.
pub fn bird(ns: &Ns, directory: &Path, router: u8, address: Ipv4Addr, collector: Ipv4Addr) -> Daemon {
    let own = 64_600 + u32::from(router);
    let config = format!(
        "router id {address};
         protocol device {{ }}
         protocol static {{ ipv4; route 198.51.100.0/24 blackhole; }}
         protocol bgp collector {{
             local {address} as {own};
             neighbor {collector} as {AS};
             multihop;
             connect delay time 1; connect retry time 1; error wait time 1, 1;
             ipv4 {{ import none; export filter {{ bgp_path.prepend({}); accept; }}; }};
         }}\n",
        64_500 + u32::from(router)
    );
    fs::write(directory.join("bird.conf"), config).expect("a file");
    Daemon::start(ns, "bird", directory, &["-f", "-c", "bird.conf", "-s", "bird.ctl"])
}

/// What routers export, and so what their collector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collector {
    /// NetFlow and IPFIX on UDP 4739: nfacctd.
    Records,
    /// sFlow on UDP 6343: sfacctd.
    Samples,
}

/// A replica of the collector, with BGP on TCP 179.
pub fn collector(kind: Collector, ns: &Ns, directory: &Path) -> Daemon {
    let (name, port) = match kind {
        Collector::Records => ("nfacctd", 4739),
        Collector::Samples => ("sfacctd", 6343),
    };
    let config = format!(
        "daemonize: false
{name}_port: {port}
bgp_daemon: true
bgp_daemon_ip: 0.0.0.0
bgp_daemon_port: 179
bgp_daemon_as: {AS}
bgp_daemon_max_peers: 100
{name}_as: bgp
{name}_net: bgp
plugins: print
aggregate: peer_src_ip, dst_host, as_path
print_output: json
print_output_file: records.json
print_output_file_append: true
print_refresh_time: 1
",
    );
    pmacct(ns, directory, name, &config)
}

/// One of pmacct's programs.
fn pmacct(ns: &Ns, directory: &Path, name: &str, config: &str) -> Daemon {
    let file = format!("{name}.conf");
    fs::write(directory.join(&file), config).expect("a file");
    // Its plugins are processes that outlive it, were it not for a process namespace of their own.
    let program = find_tool(name).unwrap_or_else(|| panic!("no `{name}`")).display().to_string();
    let args = ["--pid", "--fork", "--kill-child", &program, "-f", &file];
    Daemon::start(ns, "unshare", directory, &args)
}

/// A router's exporter of sFlow: takes samples of `lan`, of every packet towards [`DESTINATION`].
pub fn sfprobe(ns: &Ns, directory: &Path, router: Ipv4Addr, collector: Ipv4Addr) -> Daemon {
    ns.tool("ip", "link add lan type veth peer name far");
    ns.tool("ip", "link set far up");
    ns.tool("ip", "link set lan up");
    ns.tool("ip", &format!("route add {DESTINATION}/32 dev lan"));
    ns.tool("ip", &format!("neigh add {DESTINATION} lladdr 02:00:00:00:00:09 dev lan"));
    let config = format!(
        "daemonize: false
pcap_interface: lan
pcap_filter: dst host {DESTINATION}
plugins: sfprobe
sfprobe_receiver: {collector}:6343
sfprobe_agentip: {router}
sampling_rate: 1
"
    );
    pmacct(ns, directory, "pmacctd", &config)
}

/// A packet for [`sfprobe`] to sample.
pub fn sample(ns: &Ns) {
    let sent = ns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(&[7; 100], (DESTINATION, 53)));
    assert_eq!(sent.expect("a datagram"), 100);
}

/// What the collector wrote: the router, and the AS path that it found, which is empty without a route of that router.
pub fn records(directory: &Path) -> Vec<(Ipv4Addr, String)> {
    let text = fs::read_to_string(directory.join("records.json")).unwrap_or_default();
    // The last line may be half written.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let records = whole.map(|line| {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(record["ip_dst"], DESTINATION.to_string());
        let router = record["peer_ip_src"].as_str().expect("a router").parse().expect("an address");
        (router, record["as_path"].as_str().unwrap_or_default().to_owned())
    });
    records.collect()
}

/// A capture with one datagram towards [`DESTINATION`], for softflowd to make a record of.
pub fn capture(directory: &Path) -> PathBuf {
    let mut ip = vec![0x45, 0, 0, 128, 0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, 9];
    ip.extend(DESTINATION.octets());
    ip.extend([0x30, 0x39, 0, 53, 0, 108, 0, 0]);
    ip.resize(128, 7);
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0], &ip[..]].concat();
    let length = u32::try_from(frame.len()).expect("a length").to_le_bytes();
    let head = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat();
    let packet = [&[0x80, 0, 0, 0x60, 0, 0, 0, 0], &length[..], &length, &frame].concat();
    let file = directory.join("traffic.pcap");
    fs::write(&file, [head, packet].concat()).expect("a file");
    file
}

/// A router's exporter: reads the capture, sends the record to UDP 4739, and ends. `version`: 5, 9, or 10, which is IPFIX.
pub fn export(ns: &Ns, capture: &Path, collector: Ipv4Addr, version: u8) {
    ns.tool("softflowd", &format!("-r {} -n {collector}:4739 -v {version}", capture.display()));
}
