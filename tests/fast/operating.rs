//! What operators ask of flows past the stack: which pods' they are, what is in the way, and does it stand as it should?

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::cluster::Cluster;
use super::nodes::{RULES, can_run, strict};
use super::support::{Need, require};

/// Exit code and what was said, on both streams.
fn said(output: &Output) -> (Option<i32>, String) {
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), out + &err)
}

fn run(cluster: &Cluster, command: &str, rules: &str, more: &[&str]) -> (Option<i32>, String) {
    let rules = cluster.rules(rules);
    let args = ["bypass", command, "--overlay-if", "vx0", "--host-if", "eth0", "--ruleset", &rules];
    said(&cluster.sfunnel(0, &[&args, more].concat()))
}

const SHAPER: &str = "dev pod1 root tbf rate 100mbit burst 32k latency 50ms";

#[test]
fn drift_is_also_that_of_pods() {
    if !can_run() || !require(&[Need::Tool("setpriv", "util-linux")]) {
        return;
    }
    let cluster = strict(2);
    let host = cluster.host(0);
    let check = |more: &[&str]| run(&cluster, "attach", RULES, &[&["--check"], more].concat());
    cluster.attach_all(RULES);
    assert_eq!(check(&[]), (Some(0), String::new()));
    let (code, said) = check(&["--fast"]);
    assert_eq!(code, Some(3), "{said}");
    for wanted in
        ["eth0 ingress: a program", "pod0: nothing of sfunnel's is attached to its ingress", "pod1: "]
    {
        assert!(said.contains(wanted), "{said}");
    }

    cluster.attach_all_fast(RULES);
    assert_eq!(check(&["--fast"]), (Some(0), String::new()));
    for flags in [&[][..], &["--receive-only"]] {
        let (code, said) = check(flags);
        let wanted = "pod0: its flows go past the stack, without `--fast`";
        assert!(code == Some(3) && said.contains(wanted), "{said}");
    }
    // Something comes that would not see what goes past it.
    host.tool("tc", &format!("qdisc add {SHAPER}"));
    let (code, said) = check(&["--fast"]);
    let wanted = "pod1: its flows go past the stack, and it has the qdisc `tbf`";
    assert!(code == Some(3) && said.contains(wanted) && said.contains("one hook is not"), "{said}");
    cluster.attach(0, RULES, &["--fast"]);
    assert_eq!(check(&["--fast"]), (Some(0), String::new()), "it is left alone");
    host.tool("tc", "qdisc del dev pod1 root");
    let (code, said) = check(&["--fast"]);
    assert!(code == Some(3) && said.contains("pod1: nothing of sfunnel's"), "{said}");
    cluster.attach(0, RULES, &["--fast"]);
    assert!(cluster.sfunnel(0, &["detach", "-i", "pod0"]).status.success());
    let (code, said) = check(&["--fast"]);
    assert!(code == Some(3) && said.contains("pod0: nothing of sfunnel's"), "{said}");
    cluster.attach(0, RULES, &["--fast"]);
    assert_eq!(check(&["--fast"]).0, Some(0));

    // One that does not come to its end: it may not ask the nodes, and has attached to one interface by then.
    let rules = cluster.rules(RULES);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all,+bpf,+net_admin", env!("CARGO_BIN_EXE_sfunnel"), "bypass", "attach"]);
    command.args(["--fast", "--overlay-if", "vx0", "--host-if", "eth0", "--ruleset", &rules]);
    let output = host.run(|| command.stdin(Stdio::null()).output()).expect("setpriv");
    assert!(!output.status.success(), "{output:?}");
    let (code, said) = check(&["--fast"]);
    let wanted = "pod0: its ingress remembers flows that eth0 ingress does not know";
    assert!(code == Some(3) && said.contains(wanted), "{said}");
}

#[test]
fn status_says_whose_flows_go_past_the_stack() {
    if !can_run() {
        return;
    }
    let cluster = strict(2);
    cluster.host(0).tool("tc", &format!("qdisc add {SHAPER}"));
    let status = |more: &[&str]| {
        let (code, said) = run(&cluster, "status", RULES, more);
        assert_eq!(code, Some(0), "{said}");
        said
    };
    cluster.attach_all(RULES);
    assert!(!status(&[]).contains("pod0"));
    assert!(
        status(&["--fast"]).contains(
            "pod0: flows not as these rules make it: nothing of sfunnel's is attached to its ingress\n"
        ),
        "{}",
        status(&["--fast"])
    );
    cluster.attach_all_fast(RULES);
    let said = status(&["--fast"]);
    for line in [
        "eth0 ingress: receives\n",
        "vx0 egress: 1 of 1 nodes bypassed\n",
        "pod0: flows past the stack\n",
        "pod1: flows through the stack: it has the qdisc `tbf`",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
    let json: Value = serde_json::from_str(&status(&["--fast", "--json"])).expect("JSON");
    let states: Vec<_> = json["pods"].as_array().expect("a list").iter().map(|pod| &pod["state"]).collect();
    assert_eq!(states, ["fast", "long-way"]);
}

#[test]
fn doctor_says_what_flows_past_the_stack_would_miss() {
    if !can_run() {
        return;
    }
    let cluster = strict(2);
    let host = cluster.host(0);
    cluster.attach(1, RULES, &["--receive-only"]);
    let before = cluster.status(0);
    let doctor = |rules: &str, more: &[&str]| {
        let (code, said) = run(&cluster, "doctor", rules, more);
        let lines: Vec<_> =
            said.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        (code, lines)
    };
    let (code, lines) = doctor(RULES, &["--fast"]);
    assert_eq!(code, Some(0), "{lines:?}");
    for line in ["ok fast the kernel takes its programs", "ok fast flows of 2 pods can go past the stack"] {
        assert!(lines.iter().any(|known| known == line), "{line}\n{lines:?}");
    }
    let (_, lines) = doctor(RULES, &[]);
    assert!(!lines.iter().any(|line| line.contains(" fast ")), "{lines:?}");

    // Of one pod.
    host.tool("tc", &format!("qdisc add {SHAPER}"));
    let (code, lines) = doctor(RULES, &["--fast"]);
    let wanted = "note pod1 its flows stay on the way through the stack: it has the qdisc `tbf`";
    assert!(code == Some(0) && lines.iter().any(|line| line.starts_with(wanted)), "{lines:?}");
    assert!(lines.iter().any(|line| line == "ok fast flows of one pod can go past the stack"), "{lines:?}");

    // Of the node, and of the rules: all of it is said, and whatever else there is.
    host.sysctl("netfilter/nf_conntrack_tcp_loose", "0");
    let (code, lines) = doctor("tcp dport 7000 dscp 46 actions bypass\n", &["--fast"]);
    assert_eq!(code, Some(1), "{lines:?}");
    for wanted in [
        "BAD fast nf_conntrack_tcp_loose is 0",
        "BAD fast `ip dscp 46 tcp dport 7000 actions bypass` matches on `dscp`",
        "ok 192.168.77.2 it receives",
    ] {
        assert!(lines.iter().any(|line| line.starts_with(wanted)), "{wanted}\n{lines:?}");
    }
    assert_eq!(doctor(RULES, &[]).0, Some(0), "it is nothing to what goes through the stack");
    host.sysctl("netfilter/nf_conntrack_tcp_loose", "1");

    // What encrypts, and what would have to.
    host.tool("ip", "link add tun9 type veth peer name tun8");
    host.tool("ip", "link del vx0");
    host.tool("ip", "link add vx0 mtu 1450 type vxlan id 42 dev tun9 dstport 4789");
    host.tool("ip", "link set vx0 up");
    let (code, lines) = doctor(RULES, &["--fast"]);
    let wanted = "BAD fast vx0 sends by tun9, not by eth0";
    assert!(code == Some(1) && lines.iter().any(|line| line.starts_with(wanted)), "{lines:?}");
    assert_eq!(cluster.status(0), before, "nothing was changed");
}
