//! A system that has no descriptors left: every failure is the system's, says what to do, and leaves nothing.

use std::fs;
use std::process::{Command, Output};

use sfunnel::net::{Hook, links};

use super::support::*;

const RULES: &str = "udp dport 4739 actions funnel tcp sport 540 dport 179 counter";

/// Runs the binary with so many descriptors, its three streams among them (`prlimit`, Debian package util-linux).
fn with_descriptors(limit: u32, arguments: &[&str]) -> Output {
    let mut command = cleared(Command::new("prlimit"));
    command.arg(format!("--nofile={limit}")).arg(binary()).args(arguments);
    command.output().expect("prlimit runs")
}

/// What was said, if it did not work; then as the system's error, not ours.
fn complaint(limit: u32, arguments: &[&str]) -> Option<String> {
    let output = with_descriptors(limit, arguments);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), talk(&output));
    for ours in ["internal error", "please report", "panicked"] {
        assert!(!said.contains(ours), "{limit} descriptors, {arguments:?}: {said}");
    }
    assert!(output.status.code().is_some(), "{limit} descriptors, {arguments:?}: {}", output.status);
    if output.status.success() {
        return None;
    }
    assert_eq!(output.status.code(), Some(1), "{limit} descriptors, {arguments:?}: {said}");
    assert!(
        said.contains("Too many open files") || said.contains("EMFILE"),
        "{limit} descriptors, {arguments:?}: {said}"
    );
    assert!(said.contains("`ulimit -n"), "{limit} descriptors, {arguments:?}: {said}");
    Some(said)
}

#[test]
fn too_few_descriptors_are_the_systems_error_and_leave_nothing() {
    in_netns(|netlink| {
        let device = device(netlink, "scarce0");
        let devices = links::list(netlink).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules");
        fs::write(&file, RULES).unwrap();
        let mut failed = [0; 5];
        for limit in 3..=20 {
            let attach = ["attach", "-i", "scarce0", "-d", "both", "--ruleset", RULES];
            if complaint(limit, &attach).is_some() {
                failed[0] += 1;
                for hook in Hook::ALL {
                    assert!(filters(netlink, &device, hook).is_empty(), "{limit} descriptors");
                }
                assert_eq!(links::list(netlink).unwrap(), devices, "{limit} descriptors");
                succeed(sfunnel().args(attach));
            }
            failed[1] += u32::from(complaint(limit, &["status"]).is_some());
            if complaint(limit, &["detach"]).is_some() {
                failed[2] += 1;
                succeed(sfunnel().arg("detach"));
            }
            for hook in Hook::ALL {
                assert!(filters(netlink, &device, hook).is_empty(), "{limit} descriptors");
            }
            failed[3] += u32::from(complaint(limit, &["doctor"]).is_some());
            let compile = ["compile", file.to_str().unwrap()];
            failed[4] += u32::from(complaint(limit, &compile).is_some());
        }
        // Few enough to fail, many enough to work, for each.
        assert!(failed.iter().all(|times| (1..18).contains(times)), "{failed:?}");
    });
}
