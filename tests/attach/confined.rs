//! Little privilege, other namespaces, an empty file system.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use sfunnel::net::Hook;

use super::support::*;

const RULES: &str = "udp dport 4739 actions funnel tcp sport 540 dport 179; tcp dport 80 actions drop";

/// `setpriv` (Debian package util-linux) with these capabilities left, and no others.
pub fn with_capabilities(capabilities: &str) -> Command {
    let mut command = cleared(Command::new("setpriv"));
    command.arg(format!("--bounding-set=-all{capabilities}"));
    command
}

#[test]
fn bpf_and_net_admin_are_enough() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let mut command = with_capabilities(",+bpf,+net_admin");
        succeed(command.arg(binary()).args(["attach", "-i", "lo", "-d", "both", "--ruleset", RULES]));
        assert_eq!(filters(netlink, &lo, Hook::Ingress).len(), 1);
        let mut command = with_capabilities(",+bpf,+net_admin");
        succeed(command.arg(binary()).args(["attach", "-i", "lo", "-d", "both", "--ruleset", RULES]));
        assert_eq!(filters(netlink, &lo, Hook::Egress).len(), 1);
        succeed(with_capabilities(",+net_admin").arg(binary()).arg("detach"));
        assert!(filters(netlink, &lo, Hook::Egress).is_empty());
    });
}

#[test]
fn a_missing_capability_is_named() {
    in_netns(|_| {
        for (left, missing) in [
            (",+net_admin", "CAP_BPF missing"),
            (",+bpf", "CAP_NET_ADMIN missing"),
            (",+chown", "CAP_BPF and CAP_NET_ADMIN missing"),
        ] {
            let mut command = with_capabilities(left);
            let said = fail(command.arg(binary()).args(["attach", "-i", "lo", "--ruleset", RULES]), 1);
            assert!(said.contains(missing), "{left}: {said}");
        }
        let said = fail(with_capabilities(",+bpf").arg(binary()).args(["detach", "-i", "none"]), 1);
        assert!(said.contains("no interface named none"), "{said}");
    });
}

#[test]
fn an_empty_chroot_without_proc_and_sys_is_enough() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let root = tempfile::tempdir().unwrap();
        fs::copy(binary(), root.path().join("sfunnel")).unwrap();
        // The third capability is chroot's, to get there.
        let mut command = with_capabilities(",+bpf,+net_admin,+sys_chroot");
        command.arg("chroot").arg(root.path()).arg("/sfunnel");
        succeed(command.env("SFUNNEL_RULESET", RULES).env("DIRECTION", "both"));
        assert_eq!(filters(netlink, &lo, Hook::Egress).len(), 1);
        let mut command = with_capabilities(",+bpf,+net_admin,+sys_chroot");
        let output = succeed(command.arg("chroot").arg(root.path()).args(["/sfunnel", "status"]));
        let hooks =
            String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("lo ")).count();
        assert_eq!(hooks, 2);
    });
}

#[test]
fn a_namespace_is_entered_by_name_path_or_process() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let inside = File::open("/proc/thread-self/ns/net").unwrap();
        // A /run of this thread's own, with the namespace under a name.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::create_dir("/run/netns").unwrap();
        let named = Path::new("/run/netns/blue");
        fs::write(named, "").unwrap();
        mount(Some("/proc/thread-self/ns/net"), named, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let mut resident = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();

        for target in ["blue", "/run/netns/blue", &resident.id().to_string()] {
            succeed(sfunnel().args(["attach", "-i", "lo", "--netns", target, "--ruleset", RULES]));
            assert_eq!(filters(netlink, &lo, Hook::Ingress).len(), 1, "{target}");
            assert!(succeed(sfunnel().args(["status"])).stdout.is_empty(), "only there");
            succeed(sfunnel().env("CLEAN", "1").env("NETNS", target));
            assert!(filters(netlink, &lo, Hook::Ingress).is_empty(), "{target}");
        }
        fs::write("/run/netns/unmounted", "").unwrap();
        for (target, said) in [("red", "mount /var/run/netns"), ("unmounted", "with propagation")] {
            let error = fail(sfunnel().args(["status", "--netns", target]), 1);
            assert!(error.contains(said), "{error}");
        }
        resident.kill().unwrap();
        resident.wait().unwrap();
        setns(inside, CloneFlags::CLONE_NEWNET).unwrap();
    });
}
