//! Values out of the crate's JSON. Each has to be there, and to be what it should: a test fails where it is not.

use std::net::IpAddr;

use serde_json::Value;
use sfunnel::hops::{Hop, Hops};
use sfunnel::ir::{End, Proto};
use sfunnel::matches::Ports;
use sfunnel::nodes::{Node, Nodes};

pub fn member<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or_else(|| panic!("no `{name}` in {value}"))
}

pub fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    member(value, name).as_str().unwrap_or_else(|| panic!("`{name}` is not a string in {value}"))
}

pub fn number<T: TryFrom<u64>>(value: &Value) -> T {
    let number = value.as_u64().and_then(|number| T::try_from(number).ok());
    number.unwrap_or_else(|| panic!("not a number of this size: {value}"))
}

pub fn proto(value: &Value) -> Proto {
    let name = text(value, "protocol");
    *Proto::ALL.iter().find(|proto| proto.to_string() == name).expect("a protocol")
}

pub fn end(value: &Value) -> End {
    match text(value, "end") {
        "sport" => End::Sport,
        "dport" => End::Dport,
        other => panic!("neither end: {other}"),
    }
}

/// Each `[first, last]` of a set.
pub fn ranges(value: &Value) -> impl Iterator<Item = [&Value; 2]> {
    value.as_array().expect("a set").iter().map(|range| match range.as_array().map(Vec::as_slice) {
        Some([first, last]) => [first, last],
        _ => panic!("not a range: {range}"),
    })
}

pub fn ports(value: &Value) -> Ports {
    ranges(value).map(|[first, last]| number(first)..=number(last)).collect()
}

pub fn nodes(value: &Value) -> Nodes {
    let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("an IPv4 address");
    let node = |value: &Value| match member(value, "pods").as_array().map(Vec::as_slice) {
        Some([first, last]) => {
            Node { host: address(member(value, "host")), first: address(first), last: address(last) }
        }
        _ => panic!("not a range: {value}"),
    };
    Nodes::new(&value.as_array().expect("nodes").iter().map(node).collect::<Vec<_>>()).expect("no fault")
}

pub fn hops(value: &Value) -> Hops {
    let address = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("an address");
    let hop = |value: &Value| match member(value, "pods").as_array().map(Vec::as_slice) {
        Some([first, last]) => {
            Hop { host: address(member(value, "host")), first: address(first), last: address(last) }
        }
        _ => panic!("not a range: {value}"),
    };
    Hops::new(&value.as_array().expect("hops").iter().map(hop).collect::<Vec<_>>()).expect("no clash")
}

/// An address or a number.
pub fn element(value: &Value) -> u128 {
    match value.as_str() {
        Some(address) => super::rules::bits(address.parse::<IpAddr>().expect("an address")),
        None => number::<u64>(value).into(),
    }
}
