//! docs/examples, run as they are: containers, variables, rules and ports are read from the manifests themselves.
//!
//! Everything a cluster does to packets is here: namespaces, a router, a node that knows a Service's ports only.
//! What is not: schedulers, kubelets, a CNI of a vendor.

mod support;

#[path = "examples/bypass.rs"]
mod bypass;
#[path = "examples/chart.rs"]
mod chart;
#[path = "examples/cluster.rs"]
mod cluster;
#[path = "examples/manifest.rs"]
mod manifest;
// Other tests use more of it.
#[allow(dead_code)]
#[path = "bypass/cluster.rs"]
mod overlay;
#[path = "examples/runtime.rs"]
mod runtime;
#[path = "examples/schemas.rs"]
mod schemas;
#[path = "examples/use_cases.rs"]
mod use_cases;
#[path = "examples/watching.rs"]
mod watching;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cluster::Cluster;
use manifest::{Manifest, Pod};
use runtime::{clean, run, start};
use serde_json::Value;
use support::lab::{DEADLINE, Ns};
use support::world::NEEDS;
use support::{flows, require, testdata};

const BALANCER: &str = "192.0.2.80";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name)
}

fn to(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// What `sfunnel status --json` says in there.
fn status(ns: &Ns) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(["status", "--json"]).stdin(Stdio::null());
    let output = ns.run(|| command.output()).expect("sfunnel");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let Ok(Value::Array(all)) = serde_json::from_slice(&output.stdout) else { panic!("a list") };
    all
}

/// Interface and hook of everything that is attached.
fn hooks(ns: &Ns) -> Vec<String> {
    let name =
        |one: &Value| format!("{} {}", one["interface"].as_str().unwrap(), one["hook"].as_str().unwrap());
    status(ns).iter().map(name).collect()
}

const BOTH: [&str; 2] = ["eth0 ingress", "eth0 egress"];

fn interfaces(ns: &Ns) -> usize {
    ns.tool("ip", "-o link show").lines().count()
}

/// The Service has one port, and all of these arrive: that one itself, and those that are inside.
fn flows_arrive(client: &Ns, pod: &Ns, address: &str, tcp: &[u16], udp: &[u16]) {
    for port in tcp {
        assert_eq!(flows::tcp(client, pod, to(address, *port), 3, 20), 60, "TCP {port}");
    }
    for port in udp {
        assert_eq!(flows::udp(client, pod, to(address, *port), 50, 1400), 50, "UDP {port}");
    }
    assert_eq!(pod.checksum_errors(), 0);
}

/// Without sfunnel none but the Service's own port leads anywhere.
fn nothing_arrives(client: &Ns, address: &str, port: u16) {
    use std::net::TcpStream;
    let connected = client.run(|| TcpStream::connect_timeout(&to(address, port), DEADLINE / 30));
    assert!(connected.is_err(), "TCP {port} needs no funnel");
}

/// Again, which replaces; then without, which removes.
fn again_and_away(ns: &Ns, pod: &Pod, interfaces_before: usize) {
    let before = hooks(ns);
    let programs = |all: &[Value]| all.iter().map(|one| one["program"].clone()).collect::<Vec<_>>();
    let old = programs(&status(ns));
    for container in pod.init.iter().filter(|container| container.is_ours()) {
        assert!(run(ns, container).status.success());
    }
    assert_eq!(hooks(ns), before, "one filter a hook");
    let new = programs(&status(ns));
    assert!(old.iter().all(|program| !new.contains(program)), "{old:?} and {new:?}: replaced");
    clean(ns, pod);
    assert_eq!(hooks(ns), Vec::<String>::new());
    assert_eq!(interfaces(ns), interfaces_before, "devices are left");
}

#[test]
fn an_init_container_and_a_gateway() {
    if !require(&NEEDS) {
        return;
    }
    let (pods, gateways) = (Manifest::of(&example("init-container")), Manifest::of(&example("gateway")));
    let cluster = Cluster::new(BALANCER, &pods.ports("web"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    let interfaces = [gateway, pod].map(interfaces);
    nothing_arrives(client, BALANCER, 8080);

    let (web, daemon) = (pods.pod("Deployment", "web"), gateways.pod("DaemonSet", "gateway-sfunnel"));
    assert!(daemon.host_network && !web.host_network);
    start(pod, &web, |other| {
        assert_eq!(other.name, "nginx");
        assert_eq!(hooks(pod), BOTH, "before the first packet");
    });
    start(gateway, &daemon, |other| assert_eq!(other.name, "pause"));
    assert_eq!(hooks(gateway), BOTH);
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);

    again_and_away(pod, &web, interfaces[1]);
    again_and_away(gateway, &daemon, interfaces[0]);
    nothing_arrives(client, BALANCER, 8080);
}

#[test]
fn a_sidecar_starts_when_the_rules_are_attached() {
    if !require(&NEEDS) {
        return;
    }
    let manifest = Manifest::of(&example("sidecar"));
    let cluster = Cluster::new(BALANCER, &manifest.ports("collector"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    let collector = manifest.pod("Deployment", "collector");
    let before = interfaces(pod);
    let mut others = Vec::new();
    start(pod, &collector, |other| {
        others.push((other.name.clone(), other.sidecar));
        assert_eq!(hooks(pod), BOTH, "when {} starts", other.name);
    });
    assert_eq!(others, [("relay".to_owned(), true), ("collector".to_owned(), false)]);
    // The far end of the same rules.
    let rules = manifest.object("ConfigMap", "collector-sfunnel")["data"]["ruleset"].as_str().expect("rules");
    attach(gateway, &["--end", "client", "--ruleset", rules]);
    flows_arrive(client, pod, BALANCER, &[], &[4739, 6343]);
    again_and_away(pod, &collector, before);
}

/// With the host's own command: `sfunnel attach`.
fn attach(ns: &Ns, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(["attach", "-i", "eth0"]).args(args).stdin(Stdio::null());
    let output = ns.run(|| command.output()).expect("sfunnel");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_consumer_through_a_cluster_ip() {
    if !require(&NEEDS) {
        return;
    }
    let manifest = Manifest::of(&example("consumer"));
    let address = manifest.object("Service", "web")["spec"]["clusterIP"].as_str().expect("an address");
    let cluster = Cluster::new(address, &manifest.ports("web"));
    let Cluster { client, pod, .. } = &cluster;
    nothing_arrives(client, address, 8080);
    let pods = [(client, "consumer"), (pod, "web")];
    let before = pods.map(|(ns, _)| interfaces(ns));
    for (ns, name) in pods {
        start(ns, &manifest.pod("Deployment", name), |other| assert_eq!(other.name, name));
        assert_eq!(hooks(ns), BOTH);
    }
    flows_arrive(client, pod, address, &[80, 8080], &[4739]);
    for ((ns, name), before) in pods.into_iter().zip(before) {
        again_and_away(ns, &manifest.pod("Deployment", name), before);
    }
}

/// The runtime calls the hook with the annotations of the pod, which has no capability.
#[test]
fn annotations_without_privileges() {
    if !require(&NEEDS) {
        return;
    }
    use std::io::Write;
    let manifest = Manifest::of(&example("annotations"));
    let web = manifest.pod("Pod", "web");
    assert!(
        web.init.is_empty() && web.containers.iter().all(|one| one.drops_all && one.capabilities.is_empty())
    );
    let cluster = Cluster::new(BALANCER, &Manifest::of(&example("init-container")).ports("web"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    let mut process = pod.spawn(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()));
    let state = serde_json::json!({
        "ociVersion": "1.0.2", "id": "web", "status": "creating", "pid": process.id(), "bundle": "/none",
        "annotations": web.annotations,
    });
    let mut hook = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    let mut hook =
        hook.arg("oci-hook").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sfunnel");
    hook.stdin.take().expect("a pipe").write_all(state.to_string().as_bytes()).expect("the state");
    let output = hook.wait_with_output().expect("an end");
    let _ = process.kill();
    let _ = process.wait();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hooks(pod), BOTH);
    attach(gateway, &["--end", "client", "--ruleset", &web.annotations["sfunnel/ruleset"]]);
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);
}

/// Its pods have an init container that is not ours, and ours comes first.
#[test]
fn a_kustomize_component_and_a_host() {
    if !require(&NEEDS) {
        return;
    }
    let Some(manifest) = schemas::kustomized(&example("kustomize/overlay")) else { return };
    let cluster = Cluster::new(BALANCER, &Manifest::of(&example("init-container")).ports("web"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    let web = manifest.pod("Deployment", "web");
    let before = [gateway, pod].map(interfaces);
    let mut others = Vec::new();
    start(pod, &web, |other| {
        assert_eq!(hooks(pod), BOTH, "when {} starts", other.name);
        others.push(other.name.clone());
    });
    assert_eq!(others, ["migrate", "web"]);

    let program = Path::new(env!("CARGO_BIN_EXE_sfunnel")).parent().expect("a directory");
    let mut script = Command::new(example("host/attach.sh"));
    script.env("PATH", format!("{}:/usr/bin:/bin", program.display())).stdin(Stdio::null());
    for _ in 0..2 {
        let output = gateway.run(|| script.output()).expect("the script");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(hooks(gateway), BOTH);
    }
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);
    again_and_away(pod, &web, before[1]);
    let mut detach = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    assert!(gateway.run(|| detach.arg("detach").output()).expect("sfunnel").status.success());
    assert_eq!((hooks(gateway).len(), interfaces(gateway)), (0, before[0]));
}

#[test]
fn a_helm_chart() {
    if !require(&NEEDS) {
        return;
    }
    let pods = Manifest::of(&example("init-container"));
    let cluster = Cluster::new(BALANCER, &pods.ports("web"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    let (web, daemon) = (pods.pod("Deployment", "web"), chart::chart().pod("DaemonSet", "edge-sfunnel"));
    let before = interfaces(gateway);
    start(pod, &web, |_| ());
    start(gateway, &daemon, |_| ());
    assert!(daemon.host_network);
    flows_arrive(client, pod, BALANCER, &[80, 8080], &[4739]);
    again_and_away(gateway, &daemon, before);
}

/// The manifest of the original's introduction, with another image and nothing else; and its two commands for the
/// other end, with the same variables.
#[test]
fn the_originals_example_with_another_image() {
    if !require(&NEEDS) {
        return;
    }
    let text = std::fs::read_to_string(testdata("original/example.yaml")).expect("the example");
    let manifest = Manifest::parse(&text);
    let cluster = Cluster::new("1.1.1.1", &manifest.ports("my-loadbalancer-service"));
    let Cluster { client, gateway, pod, .. } = &cluster;
    nothing_arrives(client, "1.1.1.1", 8080);
    let nginx = manifest.pod("Deployment", "my-nginx-deployment");
    start(pod, &nginx, |_| ());
    // No IFACES: every interface, lo among them.
    assert_eq!(hooks(pod), ["lo ingress", "lo egress", "eth0 ingress", "eth0 egress"]);
    for (direction, rules) in [
        ("egress", "ip daddr 1.1.1.1 tcp dport 8080 actions funnel tcp dport 80 sport 540"),
        ("ingress", "ip saddr 1.1.1.1 tcp sport 80 dport 540 actions unfunnel tcp"),
    ] {
        let mut host = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
        host.env("IFACES", "eth0")
            .env("DIRECTION", direction)
            .env("SFUNNEL_RULESET", rules)
            .stdin(Stdio::null());
        let output = gateway.run(|| host.output()).expect("sfunnel");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    flows_arrive(client, pod, "1.1.1.1", &[80, 8080], &[]);
    // `CLEAN=1` of the original: of each container, its own direction.
    for container in &nginx.init {
        assert!(runtime::run_with(pod, container, &[("CLEAN", "1")]).status.success());
    }
    assert_eq!(hooks(pod), Vec::<String>::new());
}
