//! `oci-hook`, called as runtimes call it: the state of a container on standard input.

use std::process::Output;

use serde_json::{Value, json};

use super::pod::{Pod, hear};
use super::support::*;

const CHAINS: &str = "chain ingress { tcp sport 540 dport 179 unfunnel udp dport 4739 }\n\
                      chain egress { udp sport 4739 funnel tcp sport 179 dport 540; tcp dport 25 drop }";

fn state(pod: &Pod, annotations: Value) -> Value {
    json!({
        "ociVersion": "1.0.2", "id": "a-pod", "status": "creating", "pid": pod.pid(), "bundle": "/none",
        "annotations": annotations,
    })
}

fn call(args: &[&str], state: &Value) -> Output {
    hear(sfunnel().arg("oci-hook").args(args), &state.to_string())
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn the_rules_of_an_annotation_are_attached_in_the_container() {
    in_netns(|_| {
        let pod = Pod::start();
        let output = call(&[], &state(&pod, json!({ "sfunnel/ruleset": CHAINS, "io.podman.other": "1" })));
        assert_eq!(code(&output), Some(0), "{}", talk(&output));
        assert!(output.stdout.is_empty());
        assert_eq!(pod.rules("eth0"), [Some(1), Some(2)]);
        assert_eq!(pod.rules("lo"), [None, None]);
        // Another container of the same pod.
        let output = call(&[], &state(&pod, json!({ "sfunnel/ruleset": CHAINS })));
        assert_eq!((code(&output), pod.rules("eth0")), (Some(0), [Some(1), Some(2)]));
    });
}

#[test]
fn annotations_say_where_and_how() {
    in_netns(|_| {
        let pod = Pod::start();
        let service = "service funnel tcp sport 540 dport 179 { udp dport 4739 }";
        let wishes = json!({
            "sfunnel/ruleset": service, "sfunnel/end": "pod", "sfunnel/interface": "eth0, lo",
            "sfunnel/gso": "off", "sfunnel/counters": "yes",
        });
        let output = call(&[], &state(&pod, wishes));
        assert_eq!(code(&output), Some(0), "{}", talk(&output));
        for name in ["eth0", "lo"] {
            assert!(pod.rules(name).iter().all(Option::is_some), "{name}: {}", talk(&output));
        }
        assert_eq!(pod.interfaces().len(), 3, "no pairs: {:?}", pod.interfaces());
        let wishes = json!({ "sfunnel/ruleset": "tcp dport 25 drop", "sfunnel/direction": "egress" });
        assert_eq!(code(&call(&["-i", "eth0-peer"], &state(&pod, wishes))), Some(0));
        assert_eq!(pod.rules("eth0-peer"), [None, Some(1)]);
    });
}

#[test]
fn a_file_has_the_rules_of_containers_without_any() {
    in_netns(|_| {
        let pod = Pod::start();
        let output = call(&[], &state(&pod, json!({ "somebody/else": "1" })));
        assert_eq!((code(&output), talk(&output).as_str()), (Some(0), ""));
        assert_eq!(pod.rules("eth0"), [None, None]);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules.sf");
        std::fs::write(&file, "define SMTP = 25\ntcp dport $SMTP drop").unwrap();
        let args = ["--rules", file.to_str().unwrap()];
        assert_eq!(code(&call(&args, &state(&pod, json!({})))), Some(0));
        assert_eq!(pod.rules("eth0"), [Some(1), None]);
        assert_eq!(code(&call(&args, &state(&pod, json!({ "sfunnel/ruleset": CHAINS })))), Some(0));
        assert_eq!(pod.rules("eth0"), [Some(1), Some(2)], "the container's own go first");
    });
}

#[test]
fn rules_that_are_wrong_refuse_the_container_and_say_the_line() {
    in_netns(|_| {
        let pod = Pod::start();
        let wrong = state(&pod, json!({ "sfunnel/ruleset": "tcp dport 25 drop\ntcp dport 80 dorp" }));
        let output = call(&[], &wrong);
        assert_eq!(code(&output), Some(2));
        assert!(talk(&output).contains("annotation sfunnel/ruleset:2:14"), "{}", talk(&output));
        let output = call(&["--on-error", "proceed"], &wrong);
        assert_eq!(code(&output), Some(0));
        assert!(talk(&output).contains("annotation sfunnel/ruleset:2:14"), "{}", talk(&output));
        assert!(talk(&output).ends_with("the container starts without sfunnel\n"), "{}", talk(&output));
        for (name, value) in [("rulesets", CHAINS), ("end", "middle"), ("counters", "2"), ("interface", " ")]
        {
            let wishes = json!({ "sfunnel/ruleset": "tcp drop", format!("sfunnel/{name}"): value });
            let output = call(&[], &state(&pod, wishes));
            assert_eq!(code(&output), Some(2), "{name}: {}", talk(&output));
            assert!(talk(&output).contains(&format!("annotation sfunnel/{name}")), "{}", talk(&output));
        }
        assert_eq!(pod.rules("eth0"), [None, None]);
        assert_eq!(pod.interfaces().len(), 3);
    });
}

#[test]
fn what_is_not_a_container_of_its_own_is_refused() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let pod = Pod::start();
        let rules = json!({ "sfunnel/ruleset": "tcp drop", "sfunnel/interface": "lo" });
        // The host's network: the namespace is our own.
        let mut own = state(&pod, rules.clone());
        own["pid"] = json!("PID");
        // `$$` is the shell that the hook runs in, and is where the hook is.
        let said = hear(
            cleared(std::process::Command::new("sh"))
                .arg("-c")
                .arg("sed s/PID/$$/ | exec \"$0\" oci-hook")
                .arg(binary()),
            &own.to_string().replace("\"PID\"", "PID"),
        );
        assert_eq!(code(&said), Some(1), "{}", talk(&said));
        assert!(talk(&said).contains("not a container's"), "{}", talk(&said));
        assert!(names(netlink, &lo, sfunnel::net::Hook::Ingress).is_empty());

        let mut ended = state(&pod, rules.clone());
        ended["pid"] = json!(0);
        ended["status"] = json!("stopped");
        let output = call(&[], &ended);
        assert_eq!(code(&output), Some(1));
        assert!(talk(&output).contains("this hook is for the stage createRuntime"), "{}", talk(&output));

        let gone = state(&pod, rules);
        drop(pod);
        let output = call(&[], &gone);
        assert_eq!(code(&output), Some(1));
        assert!(talk(&output).contains("cannot enter network namespace"), "{}", talk(&output));
        for nonsense in ["", "{", "[]", "{\"pid\": -1}", "{\"pid\": \"4711\"}"] {
            let output = hear(sfunnel().arg("oci-hook"), nonsense);
            assert_eq!(code(&output), Some(1), "{nonsense}");
            assert!(talk(&output).contains("not the state of an OCI container"), "{}", talk(&output));
        }
    });
}

/// `DIRECTION`, `DEBUG` and the like mean something else to a runtime.
#[test]
fn a_runtimes_environment_is_not_heard() {
    in_netns(|_| {
        let pod = Pod::start();
        let state = state(&pod, json!({ "sfunnel/ruleset": "tcp drop" }));
        let mut hook = sfunnel();
        hook.arg("oci-hook").env("DEBUG", "everything").env("DIRECTION", "up").env("IFACES", "lo");
        let output = hear(&mut hook, &state.to_string());
        assert_eq!(code(&output), Some(0), "{}", talk(&output));
        assert_eq!(pod.rules("eth0"), [Some(1), None]);
    });
}
