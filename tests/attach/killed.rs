//! Runtimes kill what takes them too long: the CNI plugin and the OCI hook, at each request to the kernel.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::cni::{call, good, network, plugin};
use super::interrupted::strace_is_here;
use super::pod::{Pod, hear};
use super::support::*;

const CHAINS: &str = "chain ingress { tcp sport 540 dport 179 unfunnel udp dport 4739 }\n\
                      chain egress { udp sport 4739 funnel tcp sport 179 dport 540 }";

/// All that changes interfaces and filters is a message to the kernel.
const CALL: &str = "sendto";

fn strace(options: &[&str], command: &Command, input: &Value) -> Output {
    let mut strace = cleared(Command::new("strace"));
    strace.args(["-f", "-qq", "-e", &format!("trace={CALL}")]).args(options).arg("--");
    strace.arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    hear(&mut strace, &input.to_string())
}

/// How many messages a run sends, which succeeds.
fn messages(command: &Command, input: &Value) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trace");
    let output = strace(&["-e", "signal=none", "-o", file.to_str().unwrap()], command, input);
    assert!(output.status.success(), "{}", talk(&output));
    fs::read_to_string(&file).unwrap().lines().filter(|line| line.contains(&format!("{CALL}("))).count()
}

/// Kills a run when it is about to send message number `at`.
#[track_caller]
fn kill(command: &Command, input: &Value, at: usize) {
    let output = strace(&["-e", &format!("inject={CALL}:signal=KILL:when={at}")], command, input);
    assert_eq!(output.status.signal(), Some(9), "message {at}: {}", talk(&output));
}

#[test]
fn a_plugin_killed_at_any_message_is_cleaned_up_by_del() {
    if !strace_is_here() {
        return;
    }
    in_netns(|_| {
        let pod = Pod::start();
        let sorted = || {
            let mut names = pod.interfaces();
            names.sort();
            (names, pod.rules("eth0"))
        };
        let clean = sorted();
        let network = network(json!({ "ruleset": CHAINS }));
        let [add, del] = ["ADD", "DEL"].map(|command| plugin(command, &pod.netns()));
        let adding = messages(&add, &network);
        let added = sorted();
        assert_eq!(added.1, [Some(1), Some(1)]);
        let deleting = messages(&del, &network);
        assert!(adding > 10 && deleting > 3, "{adding} and {deleting} messages");
        for at in 1..=adding {
            kill(&add, &network, at);
            good(&call("DEL", &pod, &network));
            assert_eq!(sorted(), clean, "ADD killed at {at} of {adding}, then DEL");
        }
        for at in 1..=deleting {
            good(&call("ADD", &pod, &network));
            kill(&del, &network, at);
            good(&call("DEL", &pod, &network));
            assert_eq!(sorted(), clean, "DEL killed at {at} of {deleting}, then DEL");
        }
        // Or the runtime tries again at once.
        for at in (1..=adding).step_by(3) {
            kill(&add, &network, at);
            good(&call("ADD", &pod, &network));
            assert_eq!(sorted(), added, "ADD killed at {at} of {adding}, then ADD");
            good(&call("CHECK", &pod, &network));
        }
        good(&call("DEL", &pod, &network));
        assert_eq!(sorted(), clean);
    });
}

/// A hook has no DEL: what it leaves goes with the namespace, and the next one finishes it.
#[test]
fn a_hook_killed_at_any_message_is_made_good_by_the_next() {
    if !strace_is_here() {
        return;
    }
    in_netns(|netlink| {
        let outside = sfunnel::net::links::devices(netlink).unwrap().len();
        let pod = Pod::start();
        let state = json!({
            "ociVersion": "1.0.2", "id": "a-pod", "status": "creating", "pid": pod.pid(), "bundle": "/none",
            "annotations": { "sfunnel/ruleset": CHAINS },
        });
        let mut hook = sfunnel();
        hook.arg("oci-hook");
        let all = messages(&hook, &state);
        assert!(all > 10, "{all} messages");
        let whole = pod.interfaces().len();
        for at in 1..=all {
            let fresh = Pod::start();
            let mut state = state.clone();
            state["pid"] = json!(fresh.pid());
            kill(&hook, &state, at);
            let output = hear(sfunnel().arg("oci-hook"), &state.to_string());
            assert!(output.status.success(), "{at} of {all}: {}", talk(&output));
            assert_eq!(fresh.rules("eth0"), [Some(1), Some(1)], "{at} of {all}");
            assert_eq!(fresh.interfaces().len(), whole, "{at} of {all}: {:?}", fresh.interfaces());
        }
        assert_eq!(sfunnel::net::links::devices(netlink).unwrap().len(), outside, "nothing out here");
    });
}

/// GC names the pods that are still there. All that the plugin makes goes with the namespaces of those that are not.
#[test]
fn gc_leaves_pods_as_they_are() {
    in_netns(|_| {
        let pod = Pod::start();
        let mut network = network(json!({ "ruleset": CHAINS }));
        good(&call("ADD", &pod, &network));
        let before = pod.interfaces().len();
        network.as_object_mut().unwrap().remove("prevResult");
        for valid in [json!([]), json!([{ "containerID": "0123", "ifname": "eth0" }])] {
            network["cni.dev/valid-attachments"] = valid;
            let mut gc = sfunnel();
            gc.env("CNI_COMMAND", "GC").env("CNI_PATH", "/opt/cni/bin");
            assert_eq!(good(&hear(&mut gc, &network.to_string())), Value::Null);
            assert_eq!((pod.rules("eth0"), pod.interfaces().len()), ([Some(1), Some(1)], before));
        }
    });
}
