//! A pod as a runtime has made it before it calls us: a process in a network namespace of its own, with `eth0`.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use sfunnel::net::{Hook, Mark, Netlink, links};

use super::support::*;

pub struct Pod {
    process: Child,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pod {
    pub fn start() -> Self {
        let mut process = Command::new("unshare");
        process.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let pod = Self { process: process.spawn().expect("unshare, of the Debian package util-linux") };
        let namespace = |path: &str| fs::read_link(path).ok();
        let deadline = Instant::now() + Duration::from_secs(30);
        while namespace(&pod.netns()) == namespace("/proc/thread-self/ns/net") {
            assert!(Instant::now() < deadline, "unshare makes no namespace");
            thread::sleep(Duration::from_millis(2));
        }
        pod.inside(|netlink| {
            device(netlink, "eth0");
            up(netlink, "eth0");
            up(netlink, "eth0-peer");
            up(netlink, "lo");
        });
        pod
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Runs with a netlink socket in the pod's namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce(&mut Netlink) -> T + Send) -> T {
        let netns = File::open(self.netns()).expect("the pod is there");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(netns, CloneFlags::CLONE_NEWNET).expect("the pod's namespace");
                work(&mut Netlink::open().expect("a netlink socket"))
            });
            inside.join().expect("what runs in the pod")
        })
    }

    /// How many rules ours have on ingress and on egress of an interface.
    pub fn rules(&self, name: &str) -> [Option<usize>; 2] {
        self.inside(|netlink| {
            let interface = interface(netlink, name);
            Hook::ALL.map(|hook| {
                let names = names(netlink, &interface, hook);
                names.iter().find_map(|name| Mark::read(name)).map(|mark| mark.rules)
            })
        })
    }

    /// Every interface of the pod.
    pub fn interfaces(&self) -> Vec<String> {
        self.inside(|netlink| {
            links::list(netlink).expect("the interfaces").into_iter().map(|one| one.name).collect()
        })
    }
}

/// Runs a command with this on standard input.
pub fn hear(command: &mut Command, input: &str) -> Output {
    let mut child = command.spawn().expect("the command starts");
    // One that refuses at once does not read it.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the command ends")
}
