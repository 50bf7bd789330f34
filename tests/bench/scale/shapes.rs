//! Rulesets of many shapes and sizes, as text.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::support::{arb, rules, testdata};

/// What is measured, by name.
pub fn all() -> Result<Vec<(String, String)>> {
    let mut shapes = Vec::new();
    for count in [1, 16, 256, 1_000, 4_096, 16_384, 65_536] {
        shapes.push((format!("uniform {count}"), uniform(count, false)));
        shapes.push((format!("uniform ip6 {count}"), uniform(count, true)));
    }
    for count in [16, 256, 4_096, 65_536] {
        shapes.push((format!("prefixes {count}"), prefixes(count, false)));
        shapes.push((format!("prefixes ip6 {count}"), prefixes(count, true)));
    }
    shapes.push(("many 65536".to_owned(), rules::text(&arb::many(65_536))));
    shapes.push(("many6 65536".to_owned(), rules::text(&arb::many6(65_536))));
    for (rules, values) in
        [(1, 100), (1, 300), (1, 1_000), (3, 60), (3, 300), (10, 300), (30, 30), (100, 300)]
    {
        shapes.push((format!("sets {rules} x 4 x {values}"), sets(rules, values, false)));
    }
    for (rules, values) in [(1, 50), (1, 300), (10, 300)] {
        shapes.push((format!("sets ip6 {rules} x 4 x {values}"), sets(rules, values, true)));
    }
    for (count, values, pool) in [(30, 30, 200), (10, 300, 1_000), (30, 300, 1_000)] {
        shapes.push((format!("pool {count} x 4 x {values}"), self::pool(count, values, pool)));
    }
    shapes.push(("services 200 x 3".to_owned(), services(200, 3)));
    for count in [100, 1_000] {
        shapes.push((format!("wide {count}"), wide(count)));
    }
    for size in [1_000, 10_000] {
        for name in ["acl1", "acl3", "fw1", "fw2", "ipc1"] {
            shapes.push((format!("{name} {size}"), classbench(name, size)?));
        }
    }
    Ok(shapes)
}

/// One of each kind, small enough for a test.
pub fn small() -> Result<Vec<(String, String)>> {
    let some = |text: String| text.lines().take(150).map(|line| format!("{line}\n")).collect::<String>();
    Ok(vec![
        ("uniform 1".to_owned(), uniform(1, false)),
        ("uniform 64".to_owned(), uniform(64, false)),
        ("uniform ip6 64".to_owned(), uniform(64, true)),
        ("prefixes 32".to_owned(), prefixes(32, false)),
        ("prefixes ip6 32".to_owned(), prefixes(32, true)),
        ("sets 2 x 4 x 20".to_owned(), sets(2, 20, false)),
        ("sets ip6 2 x 4 x 10".to_owned(), sets(2, 10, true)),
        ("pool 5 x 4 x 10".to_owned(), pool(5, 10, 50)),
        ("wide 20".to_owned(), wide(20)),
        ("acl3 1000".to_owned(), some(classbench("acl3", 1_000)?)),
        ("fw1 1000".to_owned(), some(classbench("fw1", 1_000)?)),
    ])
}

fn verdict(i: usize) -> &'static str {
    if i.is_multiple_of(2) { "drop" } else { "accept" }
}

/// One address and one port each, of both protocols.
fn uniform(count: usize, six: bool) -> String {
    let mut text = String::new();
    for i in 0..count {
        let n = u32::try_from(i).unwrap_or(0).wrapping_mul(2_654_435_761);
        let address = match six {
            true => Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n) << 16 | 1).to_string(),
            false => Ipv4Addr::from(n).to_string(),
        };
        let proto = if i % 2 == 0 { "tcp" } else { "udp" };
        let _ =
            writeln!(text, "daddr {address} {proto} dport {} {}", 1 + (i * 7919) % 65_000, verdict(i / 2));
    }
    text
}

fn prefixes(count: usize, six: bool) -> String {
    let mut text = String::new();
    for i in 0..count {
        let n = u32::try_from(i).unwrap_or(0).wrapping_mul(2_654_435_761);
        let length = 8 + (i * 7) % 25;
        let prefix = match six {
            true => {
                format!("{}/{}", Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n) << 64), 32 + 2 * length)
            }
            false => format!("{}/{length}", Ipv4Addr::from(n)),
        };
        let _ = writeln!(text, "daddr {prefix} tcp dport {} {}", 1 + i % 1000, verdict(i));
    }
    text
}

fn sets(count: usize, values: usize, six: bool) -> String {
    let mut text = String::new();
    for i in 0..count {
        let list = |of: &dyn Fn(usize) -> String| {
            (0..values).map(|v| of(i * values + v)).collect::<Vec<_>>().join(", ")
        };
        let address = |base: u32, step: usize| {
            move |v: usize| {
                let n = base + u32::try_from(v * step).unwrap_or(0);
                if six {
                    Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n)).to_string()
                } else {
                    Ipv4Addr::from(n).to_string()
                }
            }
        };
        let port = |base: usize| move |v: usize| (1 + (base + 3 * v) % 65_000).to_string();
        let _ = writeln!(
            text,
            "saddr {{ {} }} daddr {{ {} }} tcp sport {{ {} }} dport {{ {} }} {}",
            list(&address(0x0a00_0000, 5)),
            list(&address(0xc0a8_0000, 7)),
            list(&port(1000)),
            list(&port(20_000)),
            verdict(i)
        );
    }
    text
}

/// Sets of one pool: they overlap everywhere.
fn pool(count: usize, values: usize, pool: usize) -> String {
    let mut text = String::new();
    let mut seed = 1_u64;
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap_or(0) % below
    };
    for i in 0..count {
        let mut list = |base: usize, is_port: bool| {
            let mut all: Vec<usize> = (0..values).map(|_| base + 3 * draw(pool)).collect();
            all.sort_unstable();
            all.dedup();
            let show = |v: &usize| match is_port {
                true => v.to_string(),
                false => Ipv4Addr::from(u32::try_from(*v).unwrap_or(0)).to_string(),
            };
            all.iter().map(show).collect::<Vec<_>>().join(", ")
        };
        let (a, b, c, d) =
            (list(0x0a00_0000, false), list(0xc0a8_0000, false), list(1000, true), list(20_000, true));
        let _ = writeln!(
            text,
            "saddr {{ {a} }} daddr {{ {b} }} tcp sport {{ {c} }} dport {{ {d} }} {}",
            verdict(i)
        );
    }
    text
}

fn services(count: usize, ports: usize) -> String {
    let mut text = String::new();
    for i in 0..count * ports {
        let address = Ipv4Addr::from(0x0a60_0000 + u32::try_from(i / ports).unwrap_or(0) * 11);
        let port = [80, 443, 8080][i % ports];
        let _ = writeln!(
            text,
            "daddr {address} tcp dport {port} funnel tcp sport {} dport 179",
            10_000 + i % 600
        );
    }
    text
}

/// Each rule open in some field, and wide in the others.
fn wide(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let a = 7919 * i % 60_000 + 1;
        let range = |n: usize| format!("{}-{}", n % 30_000 + 1, n % 30_000 + 20_000);
        let net = |n: usize| format!("{}.0.0.0-{}.255.255.255", n % 120, n % 120 + 100);
        let _ = writeln!(
            text,
            "saddr {} daddr {} tcp sport {} dport {} {}",
            net(a),
            net(a / 7),
            range(a),
            range(a * 13),
            verdict(i)
        );
    }
    text
}

/// A set of ClassBench's generator. A filter for every protocol is two rules.
fn classbench(name: &str, size: usize) -> Result<String> {
    let path = testdata(&format!("classbench/{name}_{size}.txt"));
    let lines = match size {
        1_000 => fs::read_to_string(&path)?,
        _ => {
            let packed = path.with_extension("txt.xz");
            let output = Command::new("xz")
                .args(["-dc"])
                .arg(&packed)
                .output()
                .context("xz (Debian package xz-utils)")?;
            ensure!(output.status.success(), "{}: cannot unpack", packed.display());
            String::from_utf8(output.stdout)?
        }
    };
    let mut text = String::new();
    for (i, line) in lines.lines().enumerate() {
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [from, to, sports, dports, protocol, ..] = fields.as_slice() else { continue };
        let address = |word: &str, prefix: &str| match prefix.ends_with("/0") {
            true => String::new(),
            false => format!("{word} {prefix} "),
        };
        let ports = |word: &str, range: &str| -> Result<String> {
            let (first, last) = range.split_once(':').context("a range of ports")?;
            let (first, last): (u16, u16) = (first.trim().parse()?, last.trim().parse()?);
            Ok(match (first, last) {
                (0, u16::MAX) => String::new(),
                (first, last) => format!("{word} {}-{} ", first.max(1), last.max(1)),
            })
        };
        let protos: &[&str] = match *protocol {
            "0x06/0xFF" => &["tcp"],
            "0x11/0xFF" => &["udp"],
            "0x00/0x00" => &["tcp", "udp"],
            _ => &[],
        };
        for proto in protos {
            let (saddr, daddr) = (address("saddr", from.trim_start_matches('@')), address("daddr", to));
            let (sport, dport) = (ports("sport", sports)?, ports("dport", dports)?);
            let _ = writeln!(text, "ip {saddr}{daddr}{proto} {sport}{dport}{}", verdict(i));
        }
    }
    Ok(text)
}
