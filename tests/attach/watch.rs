//! `watch`: a process that follows its file and the interfaces of its namespace. What it says is what is waited for;
//! nothing here depends on how long anything takes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sfunnel::net::{Hook, Mark, Netlink};

use super::support::*;

/// Only failures wait this long.
const DEADLINE: Duration = Duration::from_secs(30);

struct Watcher {
    process: Child,
    lines: Receiver<String>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Watcher {
    fn start(file: &Path, args: &[&str]) -> Self {
        let watcher = Self::start_only(file, args);
        watcher.wait_for("watching ");
        watcher
    }

    fn start_only(file: &Path, args: &[&str]) -> Self {
        let mut command = sfunnel();
        command.arg("watch").arg(file).args(args).stdin(Stdio::null());
        let mut process = command.spawn().expect("sfunnel");
        let (sender, lines) = channel();
        let talk = BufReader::new(process.stderr.take().expect("a pipe"));
        thread::spawn(move || talk.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, lines }
    }

    /// All that it says up to a line with this in it.
    fn wait_for(&self, wanted: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line =
                line.unwrap_or_else(|_| panic!("`{wanted}` was never said, but:\n{}", said.join("\n")));
            let found = line.contains(wanted);
            said.push(line);
            if found {
                return said;
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a signal");
    }

    fn end(mut self, signal: Signal) -> (ExitStatus, Vec<String>) {
        self.signal(signal);
        let status = self.process.wait().expect("its end");
        (status, self.lines.iter().collect())
    }

    /// How often it has slept, by itself or because another process had its turn.
    fn switches(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("its status");
        let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        lines.map(|(_, number)| number.trim().parse::<u64>().expect("a number")).sum()
    }

    /// Waits for a while in which nothing wakes it. (Other tests do: their files have the same directory above them.)
    fn sleeps(&self) {
        let start = Instant::now();
        loop {
            let before = self.switches();
            thread::sleep(Duration::from_millis(700));
            if self.switches() == before {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "something keeps waking it");
        }
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.process.id())).expect("its descriptors").count()
    }
}

/// How many rules ours have there.
fn rules(netlink: &mut Netlink, name: &str, hook: Hook) -> Option<usize> {
    let interface = interface(netlink, name);
    names(netlink, &interface, hook).iter().find_map(|name| Mark::read(name)).map(|mark| mark.rules)
}

const ONE: &str = "tcp dport 23 drop\n";
const TWO: &str = "tcp dport 23 drop\nudp dport 9 drop\n";

/// As editors do: another file in its place.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

#[test]
fn rules_follow_the_file_and_stay_when_it_is_wrong() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        fs::write(&file, ONE).unwrap();
        let watcher = Watcher::start(&file, &["-i", "lo"]);
        assert_eq!(rules(netlink, "lo", Hook::Ingress), Some(1));

        replace(&file, TWO);
        watcher.wait_for("attached to lo ingress");
        assert_eq!(rules(netlink, "lo", Hook::Ingress), Some(2));
        // In place, and wrong.
        fs::write(&file, "tcp dport 23 drop\ntcp dport 80 dorp\n").unwrap();
        let said = watcher.wait_for("the rules that are attached stay").join("\n");
        assert!(said.contains("rules.sf:2:14"), "{said}");
        assert_eq!(rules(netlink, "lo", Hook::Ingress), Some(2));
        fs::write(&file, "").unwrap();
        let said = watcher.wait_for("stay").join("\n");
        assert!(said.contains("it is empty; `sfunnel detach` removes rules"), "{said}");
        fs::remove_file(&file).unwrap();
        // Empty and then gone is one piece of news. What comes back is another.
        fs::write(&file, TWO).unwrap();
        watcher.wait_for("attached to lo ingress");
        fs::remove_file(&file).unwrap();
        let said = watcher.wait_for("stay").join("\n");
        assert!(said.contains("No such file or directory"), "{said}");
        // With its directory.
        fs::remove_dir(directory.path()).unwrap();
        fs::create_dir(directory.path()).unwrap();
        fs::write(&file, ONE).unwrap();
        watcher.wait_for("attached to lo ingress");
        assert_eq!(rules(netlink, "lo", Hook::Ingress), Some(1));

        let (status, said) = watcher.end(Signal::SIGTERM);
        assert!(status.success(), "{said:?}");
        assert_eq!(said, ["ended; the rules that are attached stay"]);
        assert_eq!(rules(netlink, "lo", Hook::Ingress), Some(1));
    });
}

/// A kubelet changes a ConfigMap by a link in the middle of the path.
#[test]
fn a_config_map_is_followed() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let version = |name: &str, text: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("ruleset"), text).unwrap();
            symlink(name, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        version("..1", ONE);
        symlink("..data/ruleset", at("ruleset")).unwrap();
        let watcher = Watcher::start(&at("ruleset"), &["-i", "lo"]);
        for (name, old, text, number) in
            [("..2", "..1", TWO, 2), ("..3", "..2", ONE, 1), ("..4", "..3", TWO, 2)]
        {
            version(name, text);
            fs::remove_dir_all(at(old)).unwrap();
            watcher.wait_for("attached to lo ingress");
            assert_eq!(rules(netlink, "lo", Hook::Ingress), Some(number), "{name}");
        }
    });
}

#[test]
fn interfaces_that_appear_or_come_back_get_the_rules() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        // It funnels, so devices come up beside each interface: these are not followed.
        fs::write(&file, "chain egress { udp dport 9 funnel tcp sport 1 dport 2 }").unwrap();
        device(netlink, "other");
        let watcher = Watcher::start_only(&file, &["-i", "eth", "-i", "late"]);
        assert!(watcher.wait_for("watching ").concat().contains("waiting for eth, late"));
        for _ in 0..2 {
            let eth = device(netlink, "eth");
            watcher.wait_for("attached to eth egress");
            assert_eq!(rules(netlink, "eth", Hook::Egress), Some(1));
            delete(netlink, &eth);
        }
        device(netlink, "late");
        watcher.wait_for("attached to late egress");
        assert_eq!(rules(netlink, "other", Hook::Egress), None);
        // What its user has detached is not put back, until he asks for it.
        succeed(sfunnel().args(["detach", "-i", "late"]));
        device(netlink, "eth");
        watcher.wait_for("attached to eth egress");
        assert_eq!(rules(netlink, "late", Hook::Egress), None);
        watcher.signal(Signal::SIGHUP);
        watcher.wait_for("attached to late egress");
        // New rules for the other hook take the place of those for this one.
        replace(&file, "chain ingress { tcp dport 23 drop }");
        watcher.wait_for("detached from late egress");
        assert_eq!(rules(netlink, "late", Hook::Egress), None);
        assert_eq!(rules(netlink, "late", Hook::Ingress), Some(1));
    });
}

#[test]
fn without_names_all_interfaces_are_followed() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        fs::write(&file, "udp dport 9 funnel tcp sport 1 dport 2").unwrap();
        let watcher = Watcher::start(&file, &["-d", "egress", "--detach-on-exit"]);
        assert_eq!(rules(netlink, "lo", Hook::Egress), Some(1));
        device(netlink, "eth");
        // In either order, and never those that came up beside them.
        let mut said = [watcher.wait_for("attached to "), watcher.wait_for("attached to ")].concat();
        said.retain(|line| line.contains("attached to "));
        said.sort();
        assert_eq!(said, ["attached to eth egress", "attached to eth-peer egress"]);
        let (status, said) = watcher.end(Signal::SIGINT);
        assert!(status.success(), "{said:?}");
        for name in ["lo", "eth", "eth-peer"] {
            assert_eq!(rules(netlink, name, Hook::Egress), None, "{name}: {said:?}");
        }
        let left = succeed(Command::new("ip").args(["-o", "link"]).stdout(Stdio::piped())).stdout;
        assert_eq!(String::from_utf8_lossy(&left).lines().count(), 3, "pairs went as well");
    });
}

/// It sleeps between two events, and keeps nothing of the last one.
#[test]
fn it_neither_spins_nor_leaks() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        fs::write(&file, ONE).unwrap();
        let watcher = Watcher::start(&file, &["-i", "lo", "-i", "eth"]);
        let round = |netlink: &mut Netlink, number: u16| {
            replace(&file, &format!("tcp dport {number} drop"));
            watcher.wait_for("attached to lo ingress");
            let eth = device(netlink, "eth");
            watcher.wait_for("attached to eth ingress");
            delete(netlink, &eth);
        };
        round(netlink, 100);
        watcher.sleeps();
        let before = watcher.descriptors();
        for number in 101..120 {
            round(netlink, number);
        }
        watcher.sleeps();
        assert_eq!(watcher.descriptors(), before);
    });
}

#[test]
fn at_the_start_a_mistake_is_an_error() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        let watch = |file: &Path| {
            let mut command = sfunnel();
            command.arg("watch").arg(file).args(["-i", "lo"]);
            command
        };
        assert!(fail(&mut watch(&file), 1).contains("No such file"));
        fs::write(&file, "").unwrap();
        assert!(fail(&mut watch(&file), 1).contains("it is empty"));
        fs::write(&file, "tcp dorp").unwrap();
        assert!(fail(&mut watch(&file), 2).contains("rules.sf:1:5"));
        assert!(fail(&mut watch(Path::new("-")), 2).contains("standard input cannot be watched"));
        assert!(fail(&mut watch(directory.path()), 1).contains("it is no regular file"));
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(fail(&mut watch(&directory.path().join("pipe")), 1).contains("it is no regular file"));
        assert_eq!(rules(netlink, "lo", Hook::Ingress), None);
    });
}

#[test]
fn what_is_said_can_be_json() {
    in_netns(|netlink| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        fs::write(&file, ONE).unwrap();
        let strange = "a\"b\\c";
        device(netlink, strange);
        let watcher = Watcher::start(&file, &["-i", strange, "--log-format", "json"]);
        fs::write(&file, "tcp dport 80 dorp").unwrap();
        let mut said = watcher.wait_for("attached stay");
        let (status, rest) = watcher.end(Signal::SIGTERM);
        assert!(status.success());
        said.extend(rest);
        let said: Vec<Value> = said.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(said.iter().all(|line| line["ts"].as_f64().unwrap() > 1.7e9), "{said:?}");
        let levels: Vec<&str> = said.iter().map(|line| line["level"].as_str().unwrap()).collect();
        assert_eq!(levels, ["error", "info", "info"]);
        assert!(said[0]["message"].as_str().unwrap().contains("dorp\n"), "carets and all: {said:?}");

        let output =
            succeed(sfunnel().args(["attach", "-i", strange, "--log-format", "json", "--ruleset", ONE]));
        let line: Value = serde_json::from_str(talk(&output).trim()).expect("one line of JSON");
        assert_eq!((&line["interface"], &line["hook"]), (&Value::from(strange), &Value::from("ingress")));
    });
}
