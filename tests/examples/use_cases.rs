//! Rulesets of docs/use-cases, read from the documents and run: each is a Service with one port.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::cluster::Cluster;
use super::manifest::Port;
use super::support::lab::{DEADLINE, Ns, attach as attach_rules, find_tool, link};
use super::support::world::NEEDS;
use super::support::{Need, flows, require};
use super::{BALANCER, attach, flows_arrive, to};

/// The n-th ruleset of a document.
fn ruleset(document: &str, number: usize) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/use-cases").join(document);
    let text = fs::read_to_string(path).expect("the document");
    let block = text.split("```sfunnel\n").nth(number + 1).expect("a ruleset");
    block.split("```").next().expect("an end").to_owned()
}

/// A Service with that port alone; the ruleset at both ends; and these ports, its own among them.
fn arrives(rules: &str, service: (&str, u16), tcp: &[u16], udp: &[u16]) {
    let (protocol, port) = (service.0.to_owned(), service.1.into());
    let cluster = Cluster::new(BALANCER, &[Port { protocol, port, target: port }]);
    let Cluster { client, gateway, pod, .. } = &cluster;
    for udp in udp.iter().filter(|udp| ("udp", **udp) != service) {
        let sent = flows::udp(client, pod, to(BALANCER, *udp), 1, 100);
        assert_eq!(sent, 0, "UDP {udp} needs no funnel");
    }
    attach(gateway, &["--end", "client", "--ruleset", rules]);
    attach(pod, &["--end", "pod", "--ruleset", rules]);
    flows_arrive(client, pod, BALANCER, tcp, udp);
}

#[test]
fn port_ranges() {
    if require(&NEEDS) {
        arrives(&ruleset("port-ranges.md", 0), ("udp", 5060), &[], &[5060, 16_384, 32_767]);
        arrives(&ruleset("port-ranges.md", 1), ("tcp", 21), &[21, 30_000, 30_099], &[]);
    }
}

#[test]
fn ike() {
    if require(&NEEDS) {
        arrives(&ruleset("ike.md", 0), ("udp", 4500), &[], &[500, 4500]);
    }
}

#[test]
fn radius() {
    if require(&NEEDS) {
        arrives(&ruleset("radius.md", 0), ("udp", 1812), &[], &[1812, 1813]);
    }
}

#[test]
fn tcp_and_udp() {
    if require(&NEEDS) {
        arrives(&ruleset("tcp-and-udp.md", 0), ("tcp", 443), &[443], &[443]);
        arrives(&ruleset("tcp-and-udp.md", 1), ("udp", 443), &[443], &[443]);
    }
}

/// nginx in between, as a proxy for one port.
struct Nginx {
    process: std::process::Child,
    _directory: tempfile::TempDir,
}

impl Nginx {
    fn start(ns: &Ns, server: &str) -> Nginx {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str| directory.path().join(name);
        let module = PathBuf::from("/usr/lib/nginx/modules/ngx_stream_module.so");
        assert!(module.exists(), "no {}: Debian package libnginx-mod-stream", module.display());
        let config = format!(
            "load_module {};\ndaemon off; master_process off; pid {}; error_log {};\nevents {{ }}\n\
             stream {{ server {{ {server} }} }}\n",
            module.display(),
            file("pid").display(),
            file("log").display()
        );
        fs::write(file("nginx.conf"), config).expect("a file");
        let mut command = Command::new(find_tool("nginx").expect("nginx"));
        command.arg("-c").arg(file("nginx.conf")).stdin(Stdio::null());
        let process = ns.spawn(&mut command);
        let start = Instant::now();
        while ns.tool("ss", "-Hnl -tu").trim().is_empty() {
            assert!(start.elapsed() < DEADLINE, "nginx does not listen");
            std::thread::yield_now();
        }
        Nginx { process, _directory: directory }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn proxies() {
    let tools = [Need::Tool("nginx", "nginx"), Need::Tool("ss", "iproute2")];
    if !require(&NEEDS) || !require(&tools) {
        return;
    }
    let (client, proxy, server) = (Ns::new("client"), Ns::new("proxy"), Ns::new("server"));
    link((&client, "eth0", "10.1.0.1/24"), (&proxy, "front", "10.1.0.2/24"));
    link((&server, "eth0", "10.2.0.1/24"), (&proxy, "back", "10.2.0.2/24"));
    proxy.tool("ip", &format!("addr add {BALANCER}/32 dev lo"));
    client.tool("ip", "route add default via 10.1.0.2");
    let egress = |rules: &str| {
        attach(&client, &["-d", "egress", "--finish-checksums", "--ruleset", rules]);
    };
    egress(&ruleset("proxies.md", 0));
    attach_rules(&server, "eth0", "ingress", &ruleset("proxies.md", 1));
    let udp = "listen 4739 udp; proxy_pass 10.2.0.1:4739; proxy_responses 0;";
    let nginx = Nginx::start(&proxy, udp);
    for port in [6343, 4739] {
        assert_eq!(
            flows::udp(&client, &server, to(BALANCER, port), 50, 1400),
            50,
            "UDP {port} through nginx"
        );
    }
    drop(nginx);

    let _nginx = Nginx::start(&proxy, "listen 179; proxy_pass 10.2.0.1:179;");
    egress("udp dport 6343 actions funnel tcp sport 540 dport 179");
    attach_rules(&server, "eth0", "ingress", "tcp dport 179 actions unfunnel udp dport 6343");
    assert_eq!(flows::tcp(&client, &server, to(BALANCER, 179), 1, 5), 5, "TCP itself");
    assert_eq!(flows::udp(&client, &server, to(BALANCER, 6343), 1, 100), 0, "a proxy for TCP ends a funnel");
}
