//! The CNI plugin, called as runtimes call it: variables, and a network's configuration on standard input.

use std::process::{Command, Output};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use super::pod::{Pod, hear};
use super::support::*;

const CHAINS: &str = "chain ingress { tcp sport 540 dport 179 unfunnel udp dport 4739 }\n\
                      chain egress { udp sport 4739 funnel tcp sport 179 dport 540; tcp dport 25 drop }";
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

pub fn network(more: Value) -> Value {
    let mut network = json!({
        "cniVersion": "1.1.0", "name": "podnet", "type": "sfunnel",
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "eth0", "mac": "00:11:22:33:44:66", "sandbox": "/run/netns/blue" }],
            "ips": [{ "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 0 }],
            "dns": { "nameservers": ["10.1.0.1"] }, "x": 18_446_744_073_709_551_615_u64,
        },
    });
    for (key, value) in more.as_object().unwrap() {
        network[key] = value.clone();
    }
    network
}

pub fn plugin(command: &str, netns: &str) -> Command {
    let mut plugin = sfunnel();
    plugin.env("CNI_COMMAND", command).env("CNI_CONTAINERID", "0123").env("CNI_IFNAME", "eth0");
    plugin.env("CNI_PATH", "/opt/cni/bin").env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web");
    plugin.env("CNI_NETNS", netns);
    plugin
}

pub fn call(command: &str, pod: &Pod, network: &Value) -> Output {
    hear(&mut plugin(command, &pod.netns()), &network.to_string())
}

/// What standard output has, if anything.
fn answer(output: &Output) -> Value {
    if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout).unwrap() }
}

#[track_caller]
pub fn good(output: &Output) -> Value {
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), talk(output));
    answer(output)
}

/// The error's number, message and details.
#[track_caller]
fn bad(output: &Output) -> (u64, String, String) {
    assert_eq!(output.status.code(), Some(1), "{}", talk(output));
    let error = answer(output);
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    assert!(!text("cniVersion").is_empty());
    (error["code"].as_u64().unwrap(), text("msg"), text("details"))
}

#[test]
fn the_life_of_a_pod() {
    in_netns(|_| {
        let pod = Pod::start();
        let network = network(json!({ "ruleset": CHAINS.lines().collect::<Vec<_>>() }));
        assert_eq!(good(&call("ADD", &pod, &network)), network["prevResult"], "passed through as it came");
        assert_eq!(pod.rules("eth0"), [Some(1), Some(2)]);
        assert_eq!(good(&call("CHECK", &pod, &network)), Value::Null);
        assert_eq!(good(&call("DEL", &pod, &network)), Value::Null);
        assert_eq!(pod.rules("eth0"), [None, None]);
        let (code, message, _) = bad(&call("CHECK", &pod, &network));
        assert_eq!(code, 102);
        assert!(message.contains("eth0 ingress: nothing of sfunnel's is attached"), "{message}");
        assert_eq!(good(&call("DEL", &pod, &network)), Value::Null, "once more");
        let mut names = pod.interfaces();
        names.sort();
        assert_eq!(names, ["eth0", "eth0-peer", "lo"]);
        assert_eq!(good(&call("GC", &pod, &network)), Value::Null);
        assert_eq!(good(&call("STATUS", &pod, &network)), Value::Null);
    });
}

#[test]
fn check_finds_what_others_have_changed() {
    in_netns(|_| {
        let pod = Pod::start();
        let network = network(json!({ "ruleset": CHAINS }));
        good(&call("ADD", &pod, &network));
        let netns = pod.netns();
        succeed(sfunnel().args(["attach", "-i", "eth0", "--netns", &netns, "--ruleset", "tcp dport 1 drop"]));
        let (code, message, _) = bad(&call("CHECK", &pod, &network));
        assert_eq!(code, 102);
        assert!(message.contains("eth0 ingress: a program of 1 rule with the hash"), "{message}");
        assert!(!message.contains("egress"), "{message}");
    });
}

#[test]
fn version_says_which_it_speaks() {
    for (asked, answered) in [("1.0.0", "1.0.0"), ("0.4.0", "0.4.0"), ("9.0.0", "1.1.0")] {
        let output = hear(&mut plugin("VERSION", "dummy"), &json!({ "cniVersion": asked }).to_string());
        let said = good(&output);
        assert_eq!(said["cniVersion"], answered);
        assert!(said["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));
    }
}

#[test]
fn a_pods_annotations_go_before_its_networks_rules() {
    in_netns(|_| {
        let pod = Pod::start();
        let with = |annotations: Value| {
            let runtime = json!({ ANNOTATIONS: annotations });
            let capabilities = json!({ ANNOTATIONS: true });
            network(json!({ "ruleset": CHAINS, "runtimeConfig": runtime, "capabilities": capabilities }))
        };
        good(&call("ADD", &pod, &with(json!({ "sfunnel/ruleset": "udp drop", "kubernetes.io/x": "y" }))));
        assert_eq!(pod.rules("eth0"), [Some(1), None]);
        good(&call("DEL", &pod, &with(json!({ "sfunnel/unknown": "1" }))));
        assert_eq!(pod.rules("eth0"), [None, None], "whatever the annotations say");
        good(&call("ADD", &pod, &with(json!({ "sfunnel/interface": "net1" }))));
        assert_eq!(pod.rules("eth0"), [None, None], "meant for the interface of another network");
        let (code, message, _) = bad(&call("ADD", &pod, &with(json!({ "sfunnel/rules": "udp drop" }))));
        assert_eq!(code, 7);
        assert!(message.contains("annotation sfunnel/rules is unknown"), "{message}");
    });
}

#[test]
fn rules_that_are_wrong_refuse_the_pod_and_say_the_line() {
    in_netns(|_| {
        let pod = Pod::start();
        let wrong = json!({ "ruleset": ["tcp dport 25 drop", "tcp dport 80 dorp"] });
        let (code, message, details) = bad(&call("ADD", &pod, &network(wrong.clone())));
        assert_eq!((code, message.as_str()), (100, "sfunnel: the rules are wrong"));
        assert!(details.contains("ruleset of network podnet:2:14"), "{details}");
        let (code, _, details) = bad(&call("STATUS", &pod, &network(wrong.clone())));
        assert_eq!(code, 50);
        assert!(details.contains("ruleset of network podnet:2:14"), "{details}");
        good(&call("DEL", &pod, &network(wrong.clone())));
        assert_eq!(pod.interfaces().len(), 3);

        let mut open = network(wrong);
        open["onError"] = json!("proceed");
        let output = call("ADD", &pod, &open);
        assert_eq!(good(&output), open["prevResult"]);
        assert!(talk(&output).contains("ruleset of network podnet:2:14"), "{}", talk(&output));
        assert!(talk(&output).ends_with("the pod starts without sfunnel\n"), "{}", talk(&output));
        assert_eq!(pod.rules("eth0"), [None, None]);
    });
}

#[test]
fn a_configuration_that_is_wrong_is_refused() {
    in_netns(|_| {
        let pod = Pod::start();
        let cases = [
            (json!({ "rulset": "tcp drop" }), 2, "`rulset` is not known"),
            (json!({ "ruleset": "tcp drop", "rulesFile": "/none" }), 7, "both there"),
            (json!({ "rulesFile": "/none" }), 5, "/none"),
            (json!({ "ruleset": "tcp drop", "direction": "up" }), 7, "ingress, egress or both"),
            (json!({ "ruleset": "tcp drop", "onError": "maybe" }), 6, "refuse or proceed"),
            (json!({ "ruleset": "tcp drop", "counters": "yes" }), 6, "boolean"),
            (json!({ "ruleset": 4711 }), 6, "the network's configuration"),
            (json!({ "ruleset": "tcp drop", "prevResult": null }), 7, "in a list of plugins"),
            (json!({ "cniVersion": "0.2.0" }), 1, "cniVersion is `0.2.0`"),
            (json!({ "cniVersion": "2.0.0" }), 1, "cniVersion is `2.0.0`"),
        ];
        for (more, code, said) in cases {
            let (got, message, _) = bad(&call("ADD", &pod, &network(more.clone())));
            assert_eq!(got, code, "{more}: {message}");
            assert!(message.contains(said), "{more}: {message}");
        }
        for nonsense in ["", "{", "[]", "null"] {
            assert_eq!(bad(&hear(&mut plugin("ADD", &pod.netns()), nonsense)).0, 6, "{nonsense}");
        }
        assert_eq!(pod.rules("eth0"), [None, None]);
    });
}

#[test]
fn variables_that_are_wrong_are_refused() {
    in_netns(|netlink| {
        let pod = Pod::start();
        let network = network(json!({ "ruleset": "tcp drop" })).to_string();
        assert_eq!(bad(&hear(plugin("ADD", &pod.netns()).env_remove("CNI_NETNS"), &network)).0, 4);
        assert_eq!(bad(&hear(plugin("ADD", &pod.netns()).env_remove("CNI_IFNAME"), &network)).0, 4);
        assert_eq!(bad(&hear(&mut plugin("ADD", "blue"), &network)).0, 4);
        assert_eq!(bad(&hear(&mut plugin("MAKE", &pod.netns()), &network)).0, 4);
        // The namespace that the plugin itself is in.
        for command in ["ADD", "DEL"] {
            let (code, message, _) = bad(&hear(&mut plugin(command, "/proc/self/ns/net"), &network));
            assert_eq!(code, 4);
            assert!(message.contains("not a container's"), "{message}");
        }
        device(netlink, "eth0");
        let (code, message, _) = bad(&hear(plugin("ADD", &pod.netns()).env("CNI_IFNAME", "net1"), &network));
        assert_eq!(code, 11, "{message}");
        assert!(message.contains("no interface named net1"), "{message}");
    });
}

#[test]
fn a_namespace_that_is_gone_cannot_be_added_to_and_need_not_be_left() {
    in_netns(|_| {
        let pod = Pod::start();
        let netns = pod.netns();
        let network = network(json!({ "ruleset": "tcp drop" })).to_string();
        drop(pod);
        let unmounted = tempfile::NamedTempFile::new().unwrap();
        for gone in [netns.as_str(), unmounted.path().to_str().unwrap()] {
            let (code, message, _) = bad(&hear(&mut plugin("ADD", gone), &network));
            assert_eq!(code, 3, "{message}");
            assert_eq!(good(&hear(&mut plugin("DEL", gone), &network)), Value::Null);
        }
        assert_eq!(good(&hear(plugin("DEL", "").env("CNI_NETNS", ""), &network)), Value::Null);
    });
}

#[test]
fn killed_at_any_moment_it_can_be_deleted_and_added_again() {
    const ROUNDS: u32 = 30;
    in_netns(|_| {
        let pod = Pod::start();
        let network = network(json!({ "ruleset": CHAINS }));
        let start = Instant::now();
        good(&call("ADD", &pod, &network));
        let span = start.elapsed();
        good(&call("DEL", &pod, &network));
        let mut before = pod.interfaces();
        before.sort();
        for round in 0..ROUNDS {
            let mut plugin = plugin("ADD", &pod.netns());
            let mut child = plugin.spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), network.to_string().as_bytes())
                .unwrap();
            thread::sleep(span * round / ROUNDS);
            child.kill().unwrap();
            child.wait().unwrap();
            good(&call("DEL", &pod, &network));
            let mut after = pod.interfaces();
            after.sort();
            assert_eq!((after, pod.rules("eth0")), (before.clone(), [None, None]), "round {round}");
        }
        good(&call("ADD", &pod, &network));
        assert_eq!(pod.rules("eth0"), [Some(1), Some(2)]);
    });
}
