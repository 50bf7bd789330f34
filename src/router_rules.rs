//! Rules as the system writes them that `bypass` is modelled on: a file for each rule, `key=value` lines.
//!
//! Input: files of a ConfigMap, by name, and what `kubectl get pods -A -o json` says. Output: the same as a ruleset of ours,
//! or what cannot be read. Never touches a file.
//!
//! ```text
//! type=cidr           from=SERVERS  to=CLIENTS  reverse=true|false      a connection's ends
//! type=podLabel       name=LABEL    value=VALUE                         one of its ends is such a pod's
//! type=containerLabel name=LABEL    value=VALUE                         or a container's in it
//! ```
//!
//! Labels come first: if there are any, a connection has to have an end with one of them. Then prefixes: if there are any,
//! it has to be between two of one rule. A packet does not say which end has opened the connection, so it is taken
//! whichever did: `reverse` makes no difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("rule `{rule}`: {why}")]
    Rule { rule: String, why: String },
    #[error("the list of pods: {0}")]
    Pods(String),
    #[error("there are rules with labels, and no list of pods to find them in: give it with `--pods`")]
    NoPods,
}

enum Rule {
    Cidr { server: String, client: String },
    Label { of_container: bool, name: String, value: String },
}

/// A ruleset without nodes.
pub fn ruleset(files: &BTreeMap<String, String>, pods: Option<&str>) -> Result<String, Error> {
    let (mut pairs, mut labels) = (Vec::new(), Vec::new());
    for (name, text) in files {
        match rule(text).map_err(|why| Error::Rule { rule: name.clone(), why })? {
            Rule::Cidr { server, client } => pairs.push((name, server, client)),
            Rule::Label { of_container, name: label, value } => labels.push((of_container, label, value)),
        }
    }
    let mut text = String::new();
    if pairs.is_empty() && labels.is_empty() {
        return Ok("tcp actions bypass\n".to_owned());
    }
    if !labels.is_empty() {
        let found = addresses(pods.ok_or(Error::NoPods)?, &labels)?;
        if found.is_empty() {
            return Ok("# no pod has one of the labels\ntcp actions accept\n".to_owned());
        }
        let set = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if pairs.is_empty() {
            return Ok(format!(
                "saddr {{ {set} }} tcp actions bypass\ndaddr {{ {set} }} tcp actions bypass\n"
            ));
        }
        // First match: neither end is such a pod's.
        text += &format!("saddr != {{ {set} }} daddr != {{ {set} }} tcp actions accept\n");
    }
    for (name, server, client) in pairs {
        text += &format!("saddr {client} daddr {server} tcp actions bypass   # {name}\n");
        if server != client {
            text += &format!("saddr {server} daddr {client} tcp actions bypass\n");
        }
    }
    Ok(text)
}

/// One file.
fn rule(text: &str) -> Result<Rule, String> {
    let mut values: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (key, value) = line.split_once('=').ok_or(format!("`{line}` is not `key=value`"))?;
        let value = value.trim();
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        if values.insert(key.trim(), bare).is_some() {
            return Err(format!("`{}` is there twice", key.trim()));
        }
    }
    let mut take = |key: &str| values.remove(key).filter(|value| !value.is_empty());
    let kind = take("type").ok_or("it has no `type`")?;
    let rule = match kind {
        "cidr" => {
            let mut prefix = |key: &str| -> Result<String, String> {
                let value = take(key).ok_or(format!("it has no `{key}`"))?;
                is_prefix(value)
                    .then(|| value.to_owned())
                    .ok_or(format!("`{value}` is no prefix of IPv4 addresses"))
            };
            let (server, client) = (prefix("from")?, prefix("to")?);
            match take("reverse").map(str::to_ascii_lowercase).as_deref() {
                None | Some("true" | "false") => Rule::Cidr { server, client },
                Some(other) => return Err(format!("`reverse` is `{other}`; it must be true or false")),
            }
        }
        "podLabel" | "containerLabel" => {
            let of_container = kind == "containerLabel";
            let name = take("name").ok_or("it has no `name`")?.to_owned();
            let value = take("value").ok_or("it has no `value`")?.to_owned();
            if of_container && name != CONTAINER_NAME {
                return Err(format!("a list of pods tells one label of containers only, `{CONTAINER_NAME}`"));
            }
            Rule::Label { of_container, name, value }
        }
        other => return Err(format!("`type` is `{other}`; it must be cidr, podLabel or containerLabel")),
    };
    match values.keys().next() {
        Some(more) => Err(format!("`{more}` means nothing for `type={kind}`")),
        None => Ok(rule),
    }
}

fn is_prefix(text: &str) -> bool {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    address.parse::<std::net::Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok_and(|length| length <= 32)
}

/// The IPv4 addresses of the pods that have one of the labels, and are not the host's own.
fn addresses(pods: &str, labels: &[(bool, String, String)]) -> Result<BTreeSet<IpAddr>, Error> {
    let list: Value = serde_json::from_str(pods).map_err(|error| Error::Pods(error.to_string()))?;
    let items = list.get("items").and_then(Value::as_array);
    let items =
        items.ok_or(Error::Pods("has no `items`: is it from `kubectl get pods -A -o json`?".to_owned()))?;
    let is = |at: Option<&Value>, value: &String| at.and_then(Value::as_str) == Some(value);
    let has = |pod: &Value, (of_container, name, value): &(bool, String, String)| match (
        of_container,
        name.as_str(),
    ) {
        (false, name) => is(pod.pointer("/metadata/labels").and_then(|labels| labels.get(name)), value),
        (true, CONTAINER_NAME) => {
            let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
            containers.is_some_and(|all| all.iter().any(|one| is(one.get("name"), value)))
        }
        (true, _) => false,
    };
    let wanted = items.iter().filter(|pod| {
        let of_host = pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true);
        !of_host && labels.iter().any(|label| has(pod, label))
    });
    let address = |pod: &Value| pod.pointer("/status/podIP")?.as_str()?.parse::<IpAddr>().ok();
    Ok(wanted.filter_map(address).filter(IpAddr::is_ipv4).collect())
}

/// The label that Kubernetes gives to each container, and the only one that a list of pods tells.
const CONTAINER_NAME: &str = "io.kubernetes.container.name";

#[cfg(test)]
mod tests {
    use super::{Error, ruleset};
    use crate::diag::Source;

    const PODS: &str = r#"{ "items": [
        { "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "web" }] }, "status": { "podIP": "10.233.64.7" } },
        { "metadata": { "labels": { "app": "b" } }, "spec": { "containers": [{ "name": "db" }] }, "status": { "podIP": "10.233.65.7" } },
        { "metadata": { "labels": { "app": "a" } }, "spec": { "hostNetwork": true }, "status": { "podIP": "192.0.2.1" } },
        { "metadata": { "labels": { "app": "a" } }, "spec": {}, "status": { "phase": "Pending" } },
        { "metadata": { "labels": { "app": "a" } }, "spec": {}, "status": { "podIP": "2001:db8::1" } } ] }"#;

    fn rules(files: &[&str]) -> Result<String, Error> {
        let named = files.iter().enumerate().map(|(at, text)| (format!("r{at}"), (*text).to_owned()));
        ruleset(&named.collect(), Some(PODS))
    }

    /// Whether a packet between these is bypassed.
    fn bypassed(files: &[&str], saddr: &str, daddr: &str) -> bool {
        use crate::field::Field;
        use crate::ir::{Action, Family, Proto};
        let node = "node 192.0.2.1 10.233.64.0/24\nnode 192.0.2.2 10.233.65.0/24\n";
        let text = node.to_owned() + &rules(files).unwrap();
        let ruleset = crate::read(&Source::new("test", text.as_str()))
            .unwrap_or_else(|e| panic!("{text}\n{e:#?}"))
            .ruleset;
        let bits = |text: &str| u128::from(text.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
        let key = crate::matches::Key::new(Family::V4, Proto::Tcp)
            .with(Field::SADDR, bits(saddr))
            .with(Field::DADDR, bits(daddr))
            .with_ports(1, 2);
        let first = ruleset.rules.iter().find(|rule| rule.matches(&key));
        first.is_some_and(|rule| matches!(rule.action, Action::Bypass { .. }))
    }

    #[test]
    fn the_example_of_the_original_is_read_quoted_and_bare() {
        let quoted = "type=cidr\nfrom=\"10.233.64.0/18\"\nto=\"10.233.64.0/18\"\n";
        let bare = "type=cidr\nfrom=10.233.64.0/18\nto=10.233.64.0/18";
        let label = "type=podLabel\nname=app\nvalue=a";
        for cidr in [quoted, bare] {
            assert!(bypassed(&[cidr, label], "10.233.64.7", "10.233.65.7"));
            assert!(bypassed(&[cidr, label], "10.233.65.7", "10.233.64.7"));
            assert!(!bypassed(&[cidr, label], "10.233.65.7", "10.233.65.8"), "neither end has the label");
            assert!(!bypassed(&[cidr, label], "10.233.64.7", "10.1.2.3"), "beyond the prefix");
        }
    }

    /// There, octets are compared by `&` and what is left of the prefix from the second on.
    #[test]
    fn original_defect_a_prefix_matches_addresses_outside_of_it() {
        let rule = "type=cidr\nfrom=10.233.64.0/18\nto=10.233.64.0/18";
        assert!(!bypassed(&[rule], "10.233.192.7", "10.233.64.7"));
        assert!(bypassed(&[rule], "10.233.127.7", "10.233.64.7"));
    }

    #[test]
    fn original_defect_a_single_address_never_matches() {
        let rule = "type=cidr\nfrom=10.233.64.7/32\nto=10.233.65.7/32";
        assert!(bypassed(&[rule], "10.233.65.7", "10.233.64.7"));
        assert!(!bypassed(&[rule], "10.233.65.8", "10.233.64.7"));
    }

    /// There, any text is true. Here it is read; packets are taken whichever end has opened their connection.
    #[test]
    fn original_defect_reverse_is_never_read() {
        let rule =
            |reverse: &str| format!("type=cidr\nfrom=10.233.64.0/24\nto=10.233.65.0/24\nreverse={reverse}");
        for right in ["true", "false", "True"] {
            assert!(bypassed(&[&rule(right)], "10.233.65.7", "10.233.64.7"));
            assert!(bypassed(&[&rule(right)], "10.233.64.7", "10.233.65.7"));
        }
        let wrong = rules(&[&rule("perhaps")]).unwrap_err().to_string();
        assert_eq!(wrong, "rule `r0`: `reverse` is `perhaps`; it must be true or false");
    }

    /// There, an undefined name is used.
    #[test]
    fn original_defect_container_labels_raise_an_error() {
        let rule = "type=containerLabel\nname=io.kubernetes.container.name\nvalue=web";
        assert!(bypassed(&[rule], "10.233.64.7", "10.233.65.7"));
        assert!(!bypassed(&[rule], "10.233.65.7", "10.233.65.8"));
        let other = rules(&["type=containerLabel\nname=app\nvalue=b"]).unwrap_err().to_string();
        assert!(other.contains("`io.kubernetes.container.name`"), "{other}");
    }

    /// There, pods are looked for in two directories of cgroup v1: those with guaranteed resources are in neither.
    #[test]
    fn original_defect_labels_see_some_pods_only() {
        let label = "type=podLabel\nname=app\nvalue=a";
        assert_eq!(
            rules(&[label]).unwrap(),
            "saddr { 10.233.64.7 } tcp actions bypass\ndaddr { 10.233.64.7 } tcp actions bypass\n"
        );
        let nobody = "type=podLabel\nname=app\nvalue=nobody";
        assert!(!bypassed_without(nobody), "no such pod: nothing is selected");
    }

    fn bypassed_without(label: &str) -> bool {
        rules(&[label]).unwrap().contains("bypass")
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for (text, why) in [
            ("from=10.0.0.0/8", "it has no `type`"),
            ("type=cidr\nfrom=10.0.0.0/8", "it has no `to`"),
            ("type=cidr\nfrom=10.0.0.0/33\nto=10.0.0.0/8", "`10.0.0.0/33` is no prefix of IPv4 addresses"),
            ("type=cidr\nfrom=::/0\nto=10.0.0.0/8", "`::/0` is no prefix of IPv4 addresses"),
            ("type=nodeLabel", "`type` is `nodeLabel`; it must be cidr, podLabel or containerLabel"),
            ("type=podLabel\nname=a", "it has no `value`"),
            ("type=podLabel\nname=a\nvalue=b\nto=c", "`to` means nothing for `type=podLabel`"),
            ("type", "`type` is not `key=value`"),
            ("type=cidr\ntype=cidr", "`type` is there twice"),
        ] {
            assert_eq!(
                rules(&[text]).unwrap_err(),
                Error::Rule { rule: "r0".to_owned(), why: why.to_owned() }
            );
        }
        let label = [("r".to_owned(), "type=podLabel\nname=a\nvalue=b".to_owned())].into();
        assert_eq!(ruleset(&label, None), Err(Error::NoPods));
        assert!(ruleset(&label, Some("{}")).is_err() && ruleset(&label, Some("")).is_err());
        assert_eq!(rules(&[]).unwrap(), "tcp actions bypass\n");
    }
}
