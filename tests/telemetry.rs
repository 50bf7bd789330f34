//! The use case that docs/use-cases/telemetry.md describes, with its programs: routers with BGP (BIRD) and flow records
//! (softflowd) or samples of packets (pmacctd), and several replicas of a collector (nfacctd, sfacctd) behind one Service with
//! kube-proxy's rules.
//!
//! A replica labels a router's records with AS paths if it has that router's BGP session, and only then.

mod support;

#[path = "affinity/proxy.rs"]
#[allow(dead_code, reason = "one of its modes, one kind of Service")]
mod proxy;
#[path = "telemetry/tools.rs"]
mod tools;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use proxy::{Kind, Mode, NODE, Port, Service};
use support::lab::{Ns, link};
use support::{Need, require};
use tools::{Collector, Daemon, as_path, bird, capture, collector, export, records, sample, sfprobe};

const ROUTERS: u8 = 8;
const REPLICAS: u8 = 4;
const BGP: Port = ("tcp", 179);
const RECORDS: Port = ("udp", 4739);
const SAMPLES: Port = ("udp", 6343);

struct Pipeline {
    service: Service,
    routers: Vec<Router>,
    replicas: Vec<Replica>,
    gateway: Ns,
    _node: Ns,
}

struct Router {
    ns: Ns,
    address: Ipv4Addr,
    _daemons: Vec<Daemon>,
    _directory: tempfile::TempDir,
}

struct Replica {
    ns: Ns,
    directory: tempfile::TempDir,
    _collector: Daemon,
}

impl Replica {
    /// The routers whose sessions it has.
    fn sessions(&self) -> BTreeSet<Ipv4Addr> {
        let sessions = self.ns.tool("ss", "-Htn state established sport = :179");
        let peers = sessions.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':'));
        peers.map(|(address, _)| address.parse().expect("an address")).collect()
    }

    /// What it has of that router.
    fn records_of(&self, router: Ipv4Addr) -> Vec<String> {
        let all = records(self.directory.path()).into_iter();
        all.filter(|(from, _)| *from == router).map(|(_, path)| path).collect()
    }
}

impl Pipeline {
    /// `rules`: the text for both ends, if sfunnel is there.
    fn new(kind: Collector, ports: &[Port], rules: Option<&str>) -> Pipeline {
        let service = Service { kind: Kind::LoadBalancer, local: true, ports: ports.to_vec() };
        let (gateway, node) = (Ns::new("gateway"), Ns::new("node"));
        link((&gateway, "eth0", "10.3.0.1/24"), (&node, "wan", &format!("{NODE}/24")));
        gateway.tool("ip", "route add default via 10.3.0.254");
        node.tool("ip", "route add 10.1.0.0/16 via 10.3.0.1");
        for ns in [&gateway, &node] {
            ns.sysctl("ipv4/ip_forward", "1");
        }
        let (mut addresses, mut replicas) = (Vec::new(), Vec::new());
        for number in 0..REPLICAS {
            let (own, far) = (number * 4 + 1, number * 4 + 2);
            let ns = Ns::new("replica");
            let (own, far) = (Ipv4Addr::new(10, 244, 0, own), Ipv4Addr::new(10, 244, 0, far));
            link((&ns, "eth0", &format!("{own}/30")), (&node, &format!("pod{number}"), &format!("{far}/30")));
            ns.tool("ip", &format!("route add default via {far}"));
            if let Some(rules) = rules {
                attach(&ns, "pod", rules);
            }
            let directory = tempfile::tempdir().expect("a directory");
            let collector = collector(kind, &ns, directory.path());
            addresses.push(own);
            replicas.push(Replica { ns, directory, _collector: collector });
        }
        service.sync(&node, Mode::Nftables, &addresses, &[]);
        if let Some(rules) = rules {
            attach(&gateway, "client", rules);
        }
        let routers = (0..ROUTERS).map(|number| router(number, &gateway, service.address(), kind)).collect();
        Pipeline { service, routers, replicas, gateway, _node: node }
    }

    /// As [`Self::split_of`], with softflowd's records of that version.
    fn split(&self, version: u8) -> usize {
        let directory = tempfile::tempdir().expect("a directory");
        let capture = capture(directory.path());
        self.split_of(&|router| export(&router.ns, &capture, self.service.address(), version))
    }

    /// Waits for all sessions, has records sent until each router's have been written, twice over, and gives how many
    /// routers have their session on one replica and their records on another.
    fn split_of(&self, send: &dyn Fn(&Router)) -> usize {
        wait("sessions", || {
            self.replicas.iter().map(|replica| replica.sessions().len()).sum::<usize>()
                == usize::from(ROUTERS)
        });
        let mut split = 0;
        for (number, router) in (0..).zip(&self.routers) {
            let sent = || send(router);
            let with_session = |replica: &&Replica| replica.sessions().contains(&router.address);
            let home = self.replicas.iter().find(with_session).expect("a session");
            let with_records = || {
                sent();
                self.replicas.iter().find(|replica| !replica.records_of(router.address).is_empty())
            };
            let mut found = None;
            wait("records", || {
                found = with_records();
                found.is_some()
            });
            let found = found.expect("a replica");
            if !std::ptr::eq(home, found) {
                split += 1;
                let paths = found.records_of(router.address);
                assert!(paths.iter().all(String::is_empty), "{paths:?}, of a replica without its routes");
                continue;
            }
            // Its routes may have come after the first records.
            wait("labels", || {
                sent();
                found.records_of(router.address).contains(&as_path(number))
            });
            let elsewhere = self.replicas.iter().filter(|replica| !std::ptr::eq(*replica, home));
            for replica in elsewhere {
                assert_eq!(replica.records_of(router.address), Vec::<String>::new(), "records elsewhere");
            }
        }
        split
    }
}

fn router(number: u8, gateway: &Ns, collector: Ipv4Addr, kind: Collector) -> Router {
    let ns = Ns::new("router");
    let (address, far) = (Ipv4Addr::new(10, 1, number, 1), Ipv4Addr::new(10, 1, number, 2));
    link(
        (&ns, "eth0", &format!("{address}/30")),
        (gateway, &format!("router{number}"), &format!("{far}/30")),
    );
    ns.tool("ip", &format!("route add default via {far}"));
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemons = vec![bird(&ns, directory.path(), number, address, collector)];
    if kind == Collector::Samples {
        daemons.push(sfprobe(&ns, directory.path(), address, collector));
    }
    Router { ns, address, _daemons: daemons, _directory: directory }
}

fn attach(ns: &Ns, end: &str, rules: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(["attach", "-i", "eth0", "--end", end, "--ruleset", rules]).stdin(Stdio::null());
    let output = ns.run(|| command.output()).expect("sfunnel");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn wait(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "no {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The rules as the document has them: the first, or that with this port.
fn documented(port: u16) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use-cases/telemetry.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let mut all = text.split("```sfunnel\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    all.find(|rules| rules.contains(&format!("udp dport {port} "))).expect("rules").to_owned()
}

const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Tool("nft", "nftables"),
    Need::Tool("ss", "iproute2"),
    Need::Tool("bird", "bird2"),
    // With sfacctd and pmacctd.
    Need::Tool("nfacctd", "pmacct"),
];

#[test]
fn routers_and_their_records_meet_on_one_replica() {
    if !require(&NEEDS) || !require(&[Need::Tool("softflowd", "softflowd")]) {
        return;
    }
    let without = Pipeline::new(Collector::Records, &[BGP, RECORDS], None);
    let split = without.split(10);
    assert!(split > 0, "all of {ROUTERS} routers on one replica each, by chance alone");
    drop(without);

    let with = Pipeline::new(Collector::Records, &[BGP], Some(&documented(RECORDS.1)));
    for version in [10, 9, 5] {
        assert_eq!(with.split(version), 0, "version {version}; without sfunnel {split} of {ROUTERS} routers");
    }
    assert_eq!(with.gateway.checksum_errors(), 0);
}

/// sFlow: the router sends heads of packets, with its own address in the datagram as well.
#[test]
fn routers_and_their_samples_meet_on_one_replica() {
    if !require(&NEEDS) {
        return;
    }
    let send = |router: &Router| sample(&router.ns);
    let without = Pipeline::new(Collector::Samples, &[BGP, SAMPLES], None);
    let split = without.split_of(&send);
    assert!(split > 0, "all of {ROUTERS} routers on one replica each, by chance alone");
    drop(without);

    let with = Pipeline::new(Collector::Samples, &[BGP], Some(&documented(SAMPLES.1)));
    assert_eq!(with.split_of(&send), 0, "without sfunnel {split} of {ROUTERS} routers");
    assert_eq!(with.gateway.checksum_errors(), 0);
}
