//! The system refuses one call of `attach`, each in turn: what comes of it is the system's error or a success that holds,
//! and after an error everything is as it was. `strace` makes the calls fail.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sfunnel::net::links::{self, Device};
use sfunnel::net::qdisc::Qdisc;
use sfunnel::net::{Hook, Interface, Netlink};

use super::support::*;

const RULES: &str = "udp dport 4739 actions funnel tcp sport 540 dport 179 counter; tcp sport 540 dport 179 actions unfunnel tcp";
const ATTACH: [&str; 7] = ["attach", "-i", "scarce0", "-d", "both", "--ruleset", RULES];

/// A kind of call, what it says, and how many of the calls are let through between two that fail: each has its own run.
struct Refusal {
    call: &'static str,
    error: &'static str,
    step: usize,
}

const fn refusal(call: &'static str, error: &'static str, step: usize) -> Refusal {
    Refusal { call, error, step }
}

/// With the number `n` of such calls refused. `None`: there are not so many.
fn refused(Refusal { call, error, .. }: &Refusal, n: usize, log: &Path) -> Option<Output> {
    let mut command = cleared(Command::new("strace"));
    command.args([
        "-f",
        "-qq",
        "-e",
        &format!("trace={call}"),
        "-e",
        &format!("inject={call}:error={error}:when={n}"),
    ]);
    command.arg("-o").arg(log).arg(binary()).args(ATTACH);
    let output = command.output().expect("strace runs");
    fs::read_to_string(log).expect("a log").contains("(INJECTED)").then_some(output)
}

/// All that must be the same after an error.
fn state(netlink: &mut Netlink, device: &Interface) -> (Vec<Device>, usize, Qdisc) {
    let filters = Hook::ALL.map(|hook| filters(netlink, device, hook).len()).iter().sum();
    let mut devices = links::devices(netlink).unwrap();
    devices.iter_mut().for_each(|device| (device.running, device.carrier) = (false, false));
    (devices, filters, qdisc(netlink, device))
}

fn walk<const N: usize>(refusals: [Refusal; N]) {
    if let Err(error) = Command::new("strace").arg("-V").output() {
        assert_ne!(std::env::var("SFUNNEL_REQUIRE_KERNEL").as_deref(), Ok("1"), "strace: {error}");
        eprintln!("skipped: no `strace` ({error}); install the Debian package strace");
        return;
    }
    in_netns(move |netlink| {
        let device = device(netlink, "scarce0");
        up(netlink, "scarce0");
        up(netlink, "scarce0-peer");
        let before = state(netlink, &device);
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        for refusal in &refusals {
            let mut runs = 0;
            for n in (1..).step_by(refusal.step) {
                let Some(output) = refused(refusal, n, &log) else {
                    succeed(sfunnel().arg("detach"));
                    break;
                };
                runs += 1;
                judge(netlink, &device, &before, refusal, n, &output);
            }
            assert!((2..60).contains(&runs), "{}: {runs} runs", refusal.call);
        }
    });
}

fn judge(
    netlink: &mut Netlink,
    device: &Interface,
    before: &(Vec<Device>, usize, Qdisc),
    Refusal { call, error, .. }: &Refusal,
    n: usize,
    output: &Output,
) {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), talk(output));
    let about = format!("{call} {n}: {error}: {said}");
    for ours in ["internal error", "please report", "panicked", "error in rules"] {
        assert!(!said.contains(ours), "{about}");
    }
    let attached = said.contains("attached to scarce0 egress");
    match output.status.code() {
        Some(0) => assert!(attached, "{about}"),
        Some(1) => assert!(said.contains("error: "), "{about}"),
        _ => panic!("{}: {about}", output.status),
    }
    if attached {
        // It was there before the call that failed, and says so if something is missing.
        let status = talk_all(&succeed(sfunnel().arg("status")));
        assert!(!status.contains("BROKEN") && status.matches("scarce0 ").count() >= 2, "{about}{status}");
        assert!(output.status.success() || said.contains("the rules are attached, but"), "{about}");
        succeed(sfunnel().arg("detach"));
    }
    assert_eq!(&state(netlink, device), before, "{about}");
}

fn talk_all(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn calls_for_programs_and_maps_may_be_refused() {
    walk([refusal("bpf", "ENOMEM", 2), refusal("bpf", "EPERM", 7), refusal("bpf", "ENOSYS", 9)]);
}

#[test]
fn sockets_may_be_refused() {
    walk([
        refusal("socket", "EMFILE", 1),
        refusal("socket", "ENFILE", 3),
        refusal("bind", "ENOMEM", 2),
        refusal("connect", "EPERM", 2),
        refusal("getsockname", "ENOBUFS", 2),
        refusal("setsockopt", "ENOMEM", 5),
    ]);
}

#[test]
fn requests_may_be_refused() {
    walk([refusal("sendto", "ENOBUFS", 3), refusal("sendto", "EPERM", 17)]);
}

/// What was asked for has been done by then.
#[test]
fn answers_may_be_lost() {
    walk([refusal("recvfrom", "ENOMEM", 11)]);
}

#[test]
fn files_and_the_like_may_be_refused() {
    walk([
        refusal("openat", "ENFILE", 1),
        refusal("ioctl", "ENOMEM", 1),
        refusal("fcntl", "EMFILE", 3),
        refusal("getrandom", "ENOSYS", 1),
        refusal("prlimit64", "EPERM", 5),
        refusal("sched_getaffinity", "ENOSYS", 1),
    ]);
}
