//! As much of a cluster as packets see: a runtime that starts containers, a node that translates a Service's ports.
//!
//! In: containers of manifests, and where. Out: the binary was run as its image would be: in a root of its own with
//! nothing else in it, with the capabilities of the manifest and no others, in the pod's network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use super::manifest::{Container, Pod, Port};
use super::support::lab::{Ns, link};

/// Runs a container to its end.
pub fn run(ns: &Ns, container: &Container) -> Output {
    run_with(ns, container, &[])
}

/// With variables besides those of the manifest.
pub fn run_with(ns: &Ns, container: &Container, more: &[(&str, &str)]) -> Output {
    assert!(container.is_ours(), "{}", container.image);
    let root = tempfile::tempdir().expect("a directory");
    let inside = |path: &Path| root.path().join(path.strip_prefix("/").expect("an absolute path"));
    fs::write(inside(Path::new("/sfunnel")), "").expect("a file");
    for directory in &container.directories {
        fs::create_dir_all(inside(directory)).expect("a directory");
    }
    for (path, text) in &container.files {
        fs::create_dir_all(inside(path).parent().expect("a directory")).expect("a directory");
        fs::write(inside(path), text).expect("a file");
    }
    let allowed = capabilities(container);
    ns.run(|| {
        enter(root.path(), container.read_only);
        for capability in CapabilitySet::all().iter().filter(|one| !allowed.contains(*one)) {
            // What this kernel does not know cannot be dropped.
            let _ = remove_capability_from_bounding_set(capability);
        }
        let mut command = Command::new("/sfunnel");
        command.env_clear().envs(&container.env).envs(more.iter().copied()).stdin(Stdio::piped());
        command.output().expect("the container starts")
    })
}

/// Makes that directory the root of this thread, with the binary in it.
fn enter(root: &Path, read_only: bool) {
    let flags = |source: Option<&Path>, target: &Path, flags| {
        mount(source, target, None::<&str>, flags, None::<&str>).expect("a mount");
    };
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    flags(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    flags(Some(root), root, MsFlags::MS_BIND);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_sfunnel"));
    flags(Some(&binary), &root.join("sfunnel"), MsFlags::MS_BIND);
    if read_only {
        flags(None, root, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    }
    chroot(root).expect("chroot");
    std::env::set_current_dir("/").expect("the root");
}

fn capabilities(container: &Container) -> CapabilitySet {
    let mut all = CapabilitySet::empty();
    for name in &container.capabilities {
        all |= match name.as_str() {
            "BPF" => CapabilitySet::BPF,
            "NET_ADMIN" => CapabilitySet::NET_ADMIN,
            "SYS_ADMIN" => CapabilitySet::SYS_ADMIN,
            other => panic!("no example needs CAP_{other}"),
        };
    }
    // Of a runtime's default ones, what could make a difference.
    if !container.drops_all {
        all |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::NET_RAW | CapabilitySet::SETUID;
    }
    all
}

/// Starts a pod: init containers in their order, ours to their end. `other` sees those of others when they start.
pub fn start(ns: &Ns, pod: &Pod, mut other: impl FnMut(&Container)) {
    for container in pod.init.iter().chain(&pod.containers) {
        if !container.is_ours() {
            other(container);
            continue;
        }
        let output = run(ns, container);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}, in {}: {said}", container.name, ns.name);
    }
}

/// Starts it again with `CLEAN`, on both hooks.
pub fn clean(ns: &Ns, pod: &Pod) {
    for container in pod.init.iter().filter(|container| container.is_ours()) {
        let output = run_with(ns, container, &[("CLEAN", "yes"), ("DIRECTION", "both")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// client ── gateway ── node ── pod. The node has the Service's address and ports, and knows no others.
pub struct Cluster {
    /// Knows nothing of sfunnel, and its way to the Service is through the gateway. `eth0`.
    pub client: Ns,
    /// A router, whose `eth0` is towards the load balancer.
    pub gateway: Ns,
    _node: Ns,
    /// `eth0`.
    pub pod: Ns,
}

impl Cluster {
    /// A load balancer that leaves the client's address alone (`externalTrafficPolicy: Local`).
    pub fn new(address: &str, ports: &[Port]) -> Cluster {
        let (client, gateway, node, pod) =
            (Ns::new("client"), Ns::new("gateway"), Ns::new("node"), Ns::new("pod"));
        link((&client, "eth0", "10.1.0.1/24"), (&gateway, "lan", "10.1.0.254/24"));
        link((&gateway, "eth0", "10.3.0.1/24"), (&node, "wan", "10.3.0.254/24"));
        link((&pod, "eth0", "10.2.0.1/24"), (&node, "pod", "10.2.0.254/24"));
        client.tool("ip", "route add default via 10.1.0.254");
        gateway.tool("ip", "route add default via 10.3.0.254");
        pod.tool("ip", "route add default via 10.2.0.254");
        node.tool("ip", "route add 10.1.0.0/24 via 10.3.0.1");
        for router in [&gateway, &node] {
            router.sysctl("ipv4/ip_forward", "1");
        }
        let translated = ports.iter().map(|Port { protocol, port, target }| {
            format!("ip daddr {address} {protocol} dport {port} dnat to 10.2.0.1:{target};")
        });
        node.nft(&format!(
            "table ip service {{
                chain there {{ type nat hook prerouting priority dstnat; {} }}
                chain rest {{ type filter hook prerouting priority filter; ip daddr {address} drop; }}
            }}",
            translated.collect::<String>()
        ));
        Cluster { client, gateway, _node: node, pod }
    }
}
