//! What operators ask: does it stand as it should, which nodes are bypassed, and does it follow files?

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::{Cluster, NEEDS};
use super::support::lab::DEADLINE;
use super::support::require;
use super::{RULES, attached_rules};

/// Exit code and what was said, on both streams.
fn run(cluster: &Cluster, node: usize, args: &[&str]) -> (Option<i32>, String) {
    let output = cluster.sfunnel(node, args);
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), out + &err)
}

fn with<'a>(command: &'a str, rules: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let all = ["bypass", command, "--overlay-if", "auto", "--host-if", "auto", "--ruleset", rules];
    [&all[..], more].concat()
}

#[test]
fn drift_is_what_attaching_would_change() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(3, 1);
    let rules = cluster.rules(RULES);
    let check = |rules: &str, more: &[&str]| {
        run(&cluster, 0, &[&with("attach", rules, &["--check"])[..], more].concat())
    };
    let (code, said) = check(&rules, &[]);
    assert!(code == Some(3) && said.contains("eth0 ingress: nothing of sfunnel's is attached"), "{said}");
    // Nobody receives, so nothing is to be sent.
    assert!(!said.contains("vx0"), "{said}");

    cluster.attach(1, RULES, &["--receive-only"]);
    cluster.attach(0, RULES, &[]);
    let before = cluster.status(0);
    assert_eq!(check(&rules, &[]), (Some(0), String::new()));
    // Another node receives now, which a look at this one's programs does not say.
    cluster.attach(2, RULES, &["--receive-only"]);
    let (code, said) = check(&rules, &[]);
    assert!(
        code == Some(3) && said.contains("vx0 egress: it sends to 1 of 2 nodes, and 2 of 2 receive"),
        "{said}"
    );
    assert_eq!(check(&rules, &["--receive-only"]).0, Some(0));
    // Other rules: the same nodes.
    let other = cluster.rules("tcp dport 7000 actions bypass\n");
    let (code, said) = check(&other, &[]);
    assert!(code == Some(3) && said.contains("vx0 egress"), "{said}");
    let (code, said) = check(&rules, &["--counters"]);
    assert!(code == Some(3) && said.contains("2 hooks are not"), "{said}");
    // Nobody receives any more.
    for node in [1, 2] {
        assert!(cluster.sfunnel(node, &["detach"]).status.success());
    }
    let (code, said) = check(&rules, &[]);
    assert!(
        code == Some(3) && said.contains("vx0 egress: it sends past the overlay, and no other node receives"),
        "{said}"
    );
    assert_eq!(cluster.status(0), before, "nothing was changed");
    let (code, said) = check("tcp actions bypass", &[]);
    assert!(code == Some(2) && said.contains("between which nodes?"), "{said}");
}

/// What `attach` has changed on an interface goes with its program, whoever replaces that.
#[test]
fn what_an_earlier_attach_has_limited_or_made_is_put_back() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let host = cluster.host(0);
    let funnel = cluster.rules("udp dport 5000 actions funnel tcp sport 540 dport 179\n");
    let link = || host.tool("ip", "-d link show dev vx0");
    let before = link();
    for gso in ["limit", "segment"] {
        let args = ["attach", "-i", "vx0", "-d", "egress", "--gso", gso, "--ruleset", &funnel];
        let (code, said) = run(&cluster, 0, &args);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(link().contains("gso_max_segs 1 "), gso == "limit", "{}", link());
        assert_eq!(host.tool("ip", "link").contains("sf"), gso == "segment", "{}", host.tool("ip", "link"));
        cluster.attach(1, RULES, &["--receive-only"]);
        cluster.attach(0, RULES, &[]);
        assert_eq!(link(), before, "--gso {gso}");
        assert!(!host.tool("ip", "link").contains("sf"), "{}", host.tool("ip", "link"));
        assert!(cluster.sfunnel(0, &["detach"]).status.success());
    }
}

#[test]
fn status_says_which_nodes_are_bypassed_and_why_others_are_not() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(4, 1);
    let rules = cluster.rules(RULES);
    let status = || {
        let (code, said) = run(&cluster, 0, &with("status", &rules, &[]));
        assert_eq!(code, Some(0), "{said}");
        said
    };
    let said = status();
    assert!(said.contains("eth0 ingress: does not receive what these rules say"), "{said}");
    assert!(said.contains("vx0 egress: 0 of 3 nodes bypassed"), "{said}");
    for node in [1, 2] {
        cluster.attach(node, RULES, &["--receive-only"]);
    }
    cluster.attach(0, RULES, &[]);
    let said = status();
    for line in [
        "eth0 ingress: receives\n",
        "vx0 egress: 2 of 3 nodes bypassed\n",
        "  192.168.77.1 this node\n",
        "  192.168.77.2 bypassed\n",
        "  192.168.77.3 bypassed\n",
        "  192.168.77.4 on the overlay: no program there takes what is sent past it",
    ] {
        assert!(said.contains(line), "{line}{said}");
    }
    // One stops receiving, one starts: what is attached is for those before.
    assert!(cluster.sfunnel(2, &["detach"]).status.success());
    let said = status();
    assert!(said.contains("  192.168.77.3 LOST: it is sent past the overlay, and no program"), "{said}");
    assert!(said.contains("  192.168.77.2 bypassed\n"), "{said}");
    cluster.attach(2, RULES, &["--receive-only"]);
    cluster.attach(3, RULES, &["--receive-only"]);
    let (_, said) = run(&cluster, 0, &with("status", &rules, &["--json"]));
    let json: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&json["receives"], &json["overlay_interface"]), (&Value::Bool(true), &Value::from("vx0")));
    let states: Vec<&str> = json["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|node| node["state"].as_str().expect("a word"))
        .collect();
    assert_eq!(states, ["own", "bypassed", "bypassed", "overlay"]);
    let why = json["nodes"][3]["why"].as_str().expect("a reason");
    assert!(why.starts_with("it receives, but nothing is sent to it"), "{why}");
    // With other rules, nobody can tell.
    let other = cluster.rules("tcp dport 7001 actions bypass\n");
    let (_, said) = run(&cluster, 0, &with("status", &other, &[]));
    assert!(said.contains("192.168.77.2 not known: what is attached was made from other rules"), "{said}");
}

/// The kernel's nodes: one whose host nobody knows is said as well.
#[test]
fn status_says_what_the_kernel_does_not_know() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(3, 1);
    cluster.host(0).tool("ip", "neigh del 10.244.3.0 dev vx0");
    let (code, said) = run(&cluster, 0, &with("status", RULES, &["--peers", "auto"]));
    assert!(code == Some(0) && said.contains("0 of 1 nodes bypassed"), "{said}");
    assert!(
        said.contains("  10.244.3.0/24 by 10.244.3.0 on the overlay: the kernel does not know its host"),
        "{said}"
    );
}

#[test]
fn watch_follows_files_and_keeps_what_is_attached_while_they_are_wrong() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let [rules, log] = ["rules.sf", "log"].map(|name| folder.path().join(name));
    // As an editor does, and a ConfigMap: another file in its place.
    let write = |text: &str| {
        let new = folder.path().join("new");
        fs::write(&new, text).expect("a file");
        fs::rename(&new, &rules).expect("another name");
    };
    write(&cluster.rules(RULES));
    let _second = cluster.watch(1, &cluster.rules(RULES), &[]);
    let _first = cluster.watch_files(0, &["--rules", rules.to_str().expect("a path")], &log);
    cluster.wait_for_status(0, |status| status.contains("2 rules, 1 of 1 peers"));
    let status = cluster.status(0);
    let standing = attached_rules(&status);

    let mut said = 0;
    for (wrong, why) in [
        (cluster.rules("tcp dport 7000 actions bypas\n"), "is wrong; the rules that are attached stay"),
        (cluster.rules("tcp dport 7000 actions accept\n"), "no rule says `bypass`"),
        (String::new(), "it is empty; the rules that are attached stay"),
    ] {
        write(&wrong);
        wait_for_log(&log, why, said);
        said = fs::read_to_string(&log).expect("a log").len();
        assert_eq!(attached_rules(&cluster.status(0)), standing, "{why}");
    }
    fs::remove_file(&rules).expect("a file");
    wait_for_log(&log, "No such file", said);
    // Meanwhile nodes are followed.
    assert!(cluster.sfunnel(1, &["detach", "-i", "eth0"]).status.success());
    cluster.wait_for_status(1, |status| status.contains("eth0 ingress"));
    cluster.wait_for_status(0, |status| attached_rules(status) == standing);

    write(
        &cluster.rules("tcp dport 7000 actions bypass\ntcp sport 7000 actions bypass\ntcp actions accept\n"),
    );
    cluster.wait_for_status(0, |status| status.contains("3 rules, 1 of 1 peers"));
}

#[test]
fn watch_follows_the_list_of_pods() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(2, 1);
    let folder = tempfile::tempdir().expect("a folder");
    let [pods, log] = [".pods", ".log"].map(|name| folder.path().join(name));
    fs::write(folder.path().join("web"), "type=podLabel\nname=app\nvalue=web\n").expect("a file");
    let list = |app: &str| {
        let new = folder.path().join(".new");
        let pod = format!(
            r#"{{"metadata":{{"labels":{{"app":"{app}"}}}},"spec":{{}},"status":{{"podIP":"10.244.2.2"}}}}"#
        );
        fs::write(&new, format!(r#"{{"items":[{pod}]}}"#)).expect("a file");
        fs::rename(&new, &pods).expect("another name");
    };
    list("web");
    let _second = cluster.watch(1, &cluster.rules(RULES), &[]);
    let [rules, listed] = [folder.path(), &pods].map(|path| path.to_str().expect("a path"));
    let _first =
        cluster.watch_files(0, &["--peers", "kernel", "--router-rules", rules, "--pods", listed], &log);
    cluster.wait_for_status(0, |status| status.contains("2 rules, 1 of 1 peers"));
    // What is no list changes nothing.
    let standing = cluster.status(0);
    fs::write(&pods, "{").expect("a file");
    wait_for_log(&log, "the list of pods: EOF", 0);
    wait_for_log(&log, "the rules that are attached stay", 0);
    assert_eq!(attached_rules(&cluster.status(0)), attached_rules(&standing));
    // The last pod with the label has gone: another may have its address, and is not to be taken for it.
    list("db");
    cluster.wait_for_status(0, |status| !status.contains("vx0 egress"));
    assert!(fs::read_to_string(&log).expect("a log").contains("no rule says `bypass`"));
    let args = ["bypass", "status", "--overlay-if", "vx0", "--host-if", "eth0", "--peers", "kernel"];
    let (_, said) = run(&cluster, 0, &[&args[..], &["--router-rules", rules, "--pods", listed]].concat());
    assert!(
        said.contains("eth0 ingress: receives") && said.contains("on the overlay: no rule says"),
        "{said}"
    );
    list("web");
    cluster.wait_for_status(0, |status| status.contains("2 rules, 1 of 1 peers"));
    // A rule more, for the same label.
    fs::write(folder.path().join("cidr"), "type=cidr\nfrom=10.244.0.0/16\nto=10.244.0.0/16\n")
        .expect("a file");
    cluster.wait_for_status(0, |status| {
        !attached_rules(status).is_empty() && attached_rules(status) != attached_rules(&standing)
    });
}

/// What was said after so many bytes.
fn wait_for_log(log: &Path, wanted: &str, after: usize) {
    let start = Instant::now();
    let said = || fs::read_to_string(log).unwrap_or_default();
    while !said().get(after..).unwrap_or_default().contains(wanted) {
        assert!(start.elapsed() < DEADLINE, "`{wanted}`: {}", said());
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn doctor_says_what_is_in_the_way() {
    if !require(&NEEDS) {
        return;
    }
    let cluster = Cluster::new(3, 1);
    let rules = cluster.rules(RULES);
    let args = ["bypass", "doctor", "--overlay-if", "auto", "--host-if", "eth0", "--ruleset", &rules];
    let doctor = || run(&cluster, 0, &args);
    cluster.attach(1, RULES, &["--receive-only"]);
    let (code, said) = doctor();
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "ok bypass the kernel takes its programs",
        "ok vx0 vxlan, which sends by eth0",
        "note vx0 MTU 1450; eth0 would take 50 bytes more of what is bypassed",
        "ok vx0 rp_filter is strict; the routes to pods of 2 prefixes lead by it",
        "ok 192.168.77.2 it receives, and the way to it and back keeps the urgent pointer",
        "note 192.168.77.3 stays on the overlay: no program there takes what is sent past it, or something on the way \
         clears the urgent pointer",
    ] {
        assert!(lines.iter().any(|known| known == line), "{line}\n{said}");
    }
    assert!(!said.contains("IPsec"), "{said}");

    let host = cluster.host(0);
    let bad = |change: &dyn Fn(), back: &dyn Fn(), text: &str| {
        change();
        let (code, said) = doctor();
        assert!(code == Some(1) && said.contains(text), "{text}\n{said}");
        back();
    };
    let ip = |args: &'static str| move || drop(host.tool("ip", args));
    bad(
        &ip("link set eth0 mtu 1400"),
        &ip("link set eth0 mtu 1500"),
        "MTU 1450, and eth0 has 1400: what is longer would be lost past the overlay",
    );
    bad(
        &ip("route replace 10.244.3.0/24 via 192.168.77.3"),
        &ip("route replace 10.244.3.0/24 via 10.244.3.0 dev vx0 onlink"),
        "the route to it leads elsewhere, and rp_filter is strict: what comes from there is dropped",
    );
    bad(
        &|| host.sysctl("ipv4/ip_forward", "0"),
        &|| host.sysctl("ipv4/ip_forward", "1"),
        "net.ipv4.ip_forward is 0",
    );
    // The overlay goes through something else, which may encrypt.
    host.tool("ip", "link add tun9 type veth peer name tun8");
    bad(
        &|| {
            host.tool("ip", "link del vx0");
            host.tool("ip", "link add vx0 mtu 1450 type vxlan id 42 dev tun9 dstport 4789");
            host.tool("ip", "link set vx0 up");
        },
        &|| (),
        "vxlan, which sends by tun9, and not by eth0",
    );
}
