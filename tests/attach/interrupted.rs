//! Runs over three interfaces and two hooks that are killed before many of their last system calls: they have done all or
//! nothing, or `status` and `doctor` say that it is half, and the same command again finishes it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use sfunnel::net::{Filter, Hook, Interface, Mark, Netlink};

use super::support::*;
use super::tcx::{chain, in_netns_with_tcx};

const NAMES: [&str; 3] = ["one", "two", "three"];
const RULES: [&str; 2] = ["udp actions drop", "udp actions drop; tcp dport 2 actions drop"];
/// A system call at which to kill, how many of the last ones, and every how many-th.
type Points = (&'static str, usize, usize);

/// `strace` (Debian package strace) can kill a process at a system call. `false`: it is not here, and the test has said so.
pub fn strace_is_here() -> bool {
    if Command::new("strace").arg("-V").output().is_ok() {
        return true;
    }
    assert_ne!(std::env::var("SFUNNEL_REQUIRE_KERNEL").as_deref(), Ok("1"), "this test needs strace");
    eprintln!("skipped: no `strace`; install the Debian package strace");
    false
}

fn strace(arguments: &[&str], run: &[&str]) -> Output {
    let mut command = cleared(Command::new("strace"));
    command.args(["-f", "-qq"]).args(arguments).arg("--");
    // Nobody else: with CAP_SYS_ADMIN as well, the number of calls depends on how many programs others have loaded.
    command.args(["setpriv", "--bounding-set=-all,+bpf,+net_admin"]).arg(binary()).args(run);
    command.output().expect("strace runs")
}

/// How often a run makes this system call.
fn count(call: &str, run: &[&str]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let path = file.to_str().unwrap();
    let output = strace(&["-e", &format!("trace={call}"), "-e", "signal=none", "-o", path], run);
    assert!(output.status.success(), "{}", talk(&output));
    fs::read_to_string(&file).unwrap().lines().filter(|line| line.contains(&format!(" {call}("))).count()
}

/// What is on a hook: on clsact and on TCX, how many rules each has; and how many notes there are without a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    clsact: Vec<usize>,
    tcx: Vec<usize>,
    stale: usize,
}

fn state(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> State {
    let all = filters(netlink, interface, hook);
    let programs = chain(interface, hook);
    let rules = |filter: &Filter| Mark::read(filter.name.as_deref().unwrap()).unwrap().rules;
    let (notes, clsact): (Vec<&Filter>, Vec<&Filter>) = all.iter().partition(|filter| filter.is_note());
    let (live, stale): (Vec<&Filter>, Vec<&Filter>) =
        notes.into_iter().partition(|note| note.program.is_some_and(|id| programs.contains(&id)));
    assert_eq!(live.len(), programs.len(), "a program without a note");
    let each = |filters: Vec<&Filter>| filters.into_iter().map(rules).collect();
    State { clsact: each(clsact), tcx: each(live), stale: stale.len() }
}

/// Whether all hooks are in the same state, and that is a whole one.
fn is_whole(netlink: &mut Netlink, interfaces: &[Interface; 3]) -> bool {
    let places = interfaces.iter().flat_map(|interface| Hook::ALL.map(|hook| (interface, hook)));
    let mut states: Vec<State> = places.map(|(interface, hook)| state(netlink, interface, hook)).collect();
    states.sort();
    states.dedup();
    matches!(&states[..], [State { clsact, tcx, stale: 0 }] if clsact.len() + tcx.len() <= 1)
}

/// Kills `run` at these points, every time after `before`. Returns how often it was left half.
fn kill(netlink: &mut Netlink, points: &[Points], before: &dyn Fn(), run: &[&str]) -> usize {
    let interfaces = NAMES.map(|name| interface(netlink, name));
    let (mut half, mut doctor) = (0, 0);
    for (call, last, step) in points {
        before();
        let total = count(call, run);
        for at in (total.saturating_sub(*last) + 1..=total).step_by(*step) {
            before();
            assert!(is_whole(netlink, &interfaces), "before");
            let killed = format!("inject={call}:signal=KILL:when={at}");
            let output = strace(&["-e", &format!("trace={call}"), "-e", &killed], run);
            assert_eq!(output.status.signal(), Some(9), "{call} {at} of {total}: {}", talk(&output));
            let whole = is_whole(netlink, &interfaces);
            let said = String::from_utf8_lossy(&succeed(sfunnel().arg("status")).stdout).into_owned();
            let says = said.contains("half attached by an interrupted run")
                && said.contains("`sfunnel attach` with the same rules and interfaces finishes it");
            assert_eq!(says, !whole, "{call} {at} of {total}: {said}");
            if !whole {
                half += 1;
                if doctor < 2 {
                    doctor += 1;
                    let output = sfunnel().arg("doctor").output().unwrap();
                    let found = String::from_utf8_lossy(&output.stdout);
                    assert_eq!(output.status.code(), Some(1), "{found}");
                    assert!(found.contains("half attached by an interrupted run"), "{found}");
                }
            }
            succeed(sfunnel().args(run));
            assert!(is_whole(netlink, &interfaces), "{call} {at} of {total}: not finished");
        }
    }
    half
}

fn devices(netlink: &mut Netlink) {
    NAMES.iter().for_each(|name| drop(device(netlink, name)));
}

fn attach(hook: &'static str, rules: &'static str) -> Vec<&'static str> {
    let mut run = vec!["attach", "-d", "both", "--hook", hook, "--ruleset", rules];
    NAMES.iter().for_each(|name| run.extend(["-i", name]));
    run
}

const DETACH: [&str; 7] = ["detach", "-i", "one", "-i", "two", "-i", "three"];

#[test]
fn what_is_on_clsact_is_attached_and_detached_as_a_whole() {
    if !strace_is_here() {
        return;
    }
    in_netns_with_tcx(|netlink, _| {
        devices(netlink);
        let none = || drop(succeed(sfunnel().args(DETACH)));
        let old = || drop(succeed(sfunnel().args(attach("clsact", RULES[0]))));
        let points = [("sendto", 40, 1)];
        assert_eq!(kill(netlink, &points, &none, &attach("clsact", RULES[0])), 0);
        assert_eq!(kill(netlink, &points, &old, &attach("clsact", RULES[1])), 0);
        assert_eq!(kill(netlink, &points, &old, &DETACH), 0);
    });
}

#[test]
fn what_is_half_on_tcx_is_said_and_finished_by_the_same_command() {
    if !strace_is_here() {
        return;
    }
    in_netns_with_tcx(|netlink, _| {
        devices(netlink);
        let none = || drop(succeed(sfunnel().args(DETACH)));
        let old = || drop(succeed(sfunnel().args(attach("tcx", RULES[0]))));
        let points = [("bpf", 40, 2), ("sendto", 30, 2)];
        let halves = [
            kill(netlink, &points, &none, &attach("tcx", RULES[0])),
            kill(netlink, &points, &old, &attach("tcx", RULES[1])),
            kill(netlink, &points, &old, &attach("clsact", RULES[1])),
            kill(netlink, &points, &old, &DETACH),
        ];
        assert!(halves.iter().all(|half| *half > 0), "{halves:?}: six system calls each, at least");
    });
}
