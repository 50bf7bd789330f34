//! `status --prometheus`, read by Prometheus' own parser: the numbers, and that no name and no rule breaks out of its
//! label.

use std::net::UdpSocket;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::confined::with_capabilities;
use super::pod::hear;
use super::support::*;

/// Every sample that the parser of prometheus-client finds, as name, labels and value, and of each metric its type.
const PARSER: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
families = list(parse(sys.stdin.read()))
samples = [[s.name, s.labels, s.value] for family in families for s in family.samples]
json.dump({'types': {f.name: f.type for f in families}, 'samples': samples}, sys.stdout)
";

/// `false`: the parser is not here, and the test has said so.
fn parser() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import prometheus_client"]).stdin(Stdio::null()).stderr(Stdio::null());
    if python.status().is_ok_and(|status| status.success()) {
        return true;
    }
    assert_ne!(
        std::env::var("SFUNNEL_REQUIRE_KERNEL").as_deref(),
        Ok("1"),
        "this test needs Prometheus' parser: pip install prometheus-client"
    );
    eprintln!("skipped: no prometheus_client (pip install prometheus-client)");
    false
}

fn metrics(text: &[u8]) -> Value {
    let mut python = Command::new("python3");
    python.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = hear(&mut python, std::str::from_utf8(text).expect("text"));
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(text), talk(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The values of one name, with those labels that matter.
fn values(metrics: &Value, name: &str, labels: &[&str]) -> Vec<Value> {
    let samples = metrics["samples"].as_array().expect("samples").iter();
    let found = samples.filter(|sample| sample[0] == name);
    found
        .map(|sample| {
            let mut row: Vec<Value> = labels.iter().map(|label| sample[1][label].clone()).collect();
            row.push(json!(sample[2].as_f64()));
            Value::Array(row)
        })
        .collect()
}

const RULES: &str = "udp dport 4739 actions counter drop; udp dport 4740 actions drop; \
                     udp dport 4741 actions unfunnel tcp counter";

#[test]
fn a_parser_of_prometheus_finds_every_number() {
    if !parser() {
        return;
    }
    in_netns(|netlink| {
        let nothing = metrics(&succeed(sfunnel().args(["status", "--prometheus"])).stdout);
        assert_eq!(values(&nothing, "sfunnel_hooks", &[]), [json!([0.0])]);
        assert_eq!(nothing["types"]["sfunnel_rule_packets"], "counter");

        // The kernel allows all but blanks, `/` and `:` in a name.
        let strange = "a\"b\\c}\u{1b}";
        device(netlink, strange);
        succeed(sfunnel().args(["attach", "-i", "lo", "-i", strange, "--ruleset", RULES]));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in [4739, 4739, 4739, 4741] {
            socket.send_to(b"ping", ("127.0.0.1", port)).unwrap();
        }
        let found = metrics(&succeed(sfunnel().args(["status", "--prometheus"])).stdout);
        assert_eq!(values(&found, "sfunnel_hooks", &[]), [json!([2.0])]);
        let shown = "a\"b\\c}\u{fffd}";
        assert_eq!(
            values(&found, "sfunnel_rules", &["interface", "hook", "point"]),
            [json!(["lo", "ingress", "clsact", 3.0]), json!([shown, "ingress", "clsact", 3.0])]
        );
        let of_lo = |name: &str, labels: &[&str]| {
            let all = values(&found, name, &[&["interface"], labels].concat());
            all.into_iter().filter(|row| row[0] == "lo").collect::<Vec<_>>()
        };
        assert_eq!(
            of_lo("sfunnel_rule_packets_total", &["rule", "text"]),
            [
                json!(["lo", "0", "udp dport 4739 actions counter drop", 3.0]),
                json!(["lo", "2", "udp dport 4741 actions counter unfunnel tcp", 0.0]),
            ]
        );
        // 4 bytes of payload, and headers of 14 + 20 + 8.
        assert_eq!(
            of_lo("sfunnel_rule_bytes_total", &["rule"]),
            [json!(["lo", "0", 138.0]), json!(["lo", "2", 0.0])]
        );
        let reason = ["rule", "reason"];
        assert_eq!(
            of_lo("sfunnel_rule_exception_packets_total", &reason),
            [json!(["lo", "2", "not-funneled", 1.0])]
        );
        assert_eq!(
            of_lo("sfunnel_rule_exception_bytes_total", &reason),
            [json!(["lo", "2", "not-funneled", 46.0])]
        );
        assert_eq!(of_lo("sfunnel_counters_readable", &[]), [json!(["lo", 1.0])]);
    });
}

#[test]
fn numbers_that_cannot_be_read_are_no_zeros() {
    if !parser() {
        return;
    }
    in_netns(|_| {
        succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", RULES]));
        let mut command = with_capabilities(",+bpf,+net_admin");
        let output = succeed(command.arg(binary()).args(["status", "--prometheus"]));
        assert_eq!(talk(&output), "reading counters needs CAP_SYS_ADMIN\n");
        let found = metrics(&output.stdout);
        assert_eq!(values(&found, "sfunnel_counters_readable", &["interface"]), [json!(["lo", 0.0])]);
        assert_eq!(values(&found, "sfunnel_rule_packets_total", &[]), Vec::<Value>::new());
    });
}

/// What a pair that was removed does to the metric: it is the one to be alarmed by.
#[test]
fn a_pair_that_is_gone_is_not_healthy() {
    if !parser() {
        return;
    }
    in_netns(|netlink| {
        let eth = device(netlink, "eth");
        up(netlink, "eth");
        succeed(sfunnel().args([
            "attach",
            "-i",
            "eth",
            "-d",
            "egress",
            "--ruleset",
            "udp dport 9 funnel tcp sport 1 dport 2",
        ]));
        let healthy = || {
            let found = metrics(&succeed(sfunnel().args(["status", "--prometheus"])).stdout);
            values(&found, "sfunnel_pair_healthy", &["interface", "pair"])
        };
        assert_eq!(healthy(), [json!(["eth", "segmentation", 1.0])]);
        let end = interface(netlink, &format!("sfe{}-eth", eth.index));
        delete(netlink, &end);
        assert_eq!(healthy(), [json!(["eth", "segmentation", 0.0])]);
    });
}
