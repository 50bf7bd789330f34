//! The pages, as a browser shows them: what lights up, what can be reached, what is said to a reader of screens, and that
//! nothing leaves them.
//!
//! Takes pages that the program has written, and Chromium. What a page lights is compared with `--emit json`. With
//! `SFUNNEL_PICTURES=1` it also takes the pictures of docs/page.md, which differ from one browser to the next.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod browser;
mod hostile;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use browser::{Browser, CHROMIUM};
use serde_json::Value;
use support::{Need, npm, require};

const RULES: &str = "\
# What leaves the client.
define COLLECTORS = { 192.0.2.10, 192.0.2.11 }

udp sport 123 dport 4739 actions accept
ip daddr $COLLECTORS udp dport 4739 actions funnel tcp sport 540 dport 179
tcp dport { 22, 80-90 } actions drop
tcp dport 80 actions accept                       # never reached
ip6 saddr 2001:db8::/32 tcp dport 443 actions drop
";

const CHAINS: &str = "\
chain ingress {
    tcp sport 179 dport 540 actions unfunnel udp sport 4739
    tcp dport 23 actions drop
}
chain egress {
    udp dport 4739 actions funnel tcp sport 540 dport 179
}
";

const SERVICE: &str = "service funnel tcp sport 540 dport 179 { udp dport 4739 }\n";

/// Files that go with the test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).expect("a file");
        self.path(name)
    }

    /// The page that the program writes to standard output.
    fn page(&self, name: &str, args: &[&str]) -> PathBuf {
        fs::write(self.path(name), sfunnel(&self.0, args)).expect("a file");
        self.path(name)
    }

    /// Of `rules.sf`.
    fn page_of(&self, rules: &str) -> PathBuf {
        self.write("rules.sf", rules);
        self.page("rules.html", &["compile", "rules.sf", "--emit", "html"])
    }
}

fn sfunnel(folder: &tempfile::TempDir, args: &[&str]) -> Vec<u8> {
    let output =
        Command::new(env!("CARGO_BIN_EXE_sfunnel")).args(args).current_dir(folder).output().expect("it runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn numbers(value: &Value) -> BTreeSet<u64> {
    value.as_array().expect("a list").iter().map(|number| number.as_u64().expect("a number")).collect()
}

/// The slots that are lit.
const LIT: &str = "[...document.querySelectorAll('.insn.lit')].map((e) => Number(e.dataset.slot))";
const LIT_RULES: &str =
    "[...document.querySelectorAll('button.rule.item.lit')].map((e) => Number(e.dataset.rule))";

#[test]
fn pointing_at_a_rule_lights_exactly_its_instructions() {
    if !require(&[CHROMIUM]) {
        return;
    }
    let folder = Folder::new();
    let page = folder.page_of(RULES);
    let json = sfunnel(&folder.0, &["compile", "rules.sf", "--emit", "json"]);
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let instructions = json["instructions"].as_array().expect("a list");
    let mut browser = Browser::start();
    browser.open(&page, "");
    for rule in 0..5_u64 {
        let own: BTreeSet<u64> = instructions
            .iter()
            .filter(|instruction| instruction["rule"] == rule)
            .map(|instruction| instruction["slot"].as_u64().expect("a slot"))
            .collect();
        // Rule 3 is never reached.
        assert_eq!(own.is_empty(), rule == 3, "{rule}");
        browser.point_at(&format!("#rule-{rule}"));
        assert_eq!(numbers(&browser.eval(LIT)), own, "{rule}");
        assert_eq!(numbers(&browser.eval(LIT_RULES)), BTreeSet::from([rule]));
        if let Some(slot) = own.first() {
            browser.eval(&format!("unfold('listing', {slot})"));
            browser.point_at(&format!("#insn-{slot}"));
            assert_eq!(numbers(&browser.eval(LIT_RULES)), BTreeSet::from([rule]), "of instruction {slot}");
        }
        // Of the boxes, those of this rule and no other; of the tests, all on a way to it.
        browser.point_at(&format!("#rule-{rule}"));
        let leaves = browser.eval(
            "[...document.querySelectorAll('.shape.rule.lit')].map((e) => e.getAttribute('aria-label'))",
        );
        let leaves = leaves.as_array().expect("a list");
        assert!(
            leaves
                .iter()
                .all(|name| name.as_str().is_some_and(|name| name.starts_with(&format!("rule {rule}:")))),
            "{leaves:?}"
        );
        assert_eq!(leaves.is_empty(), rule == 3);
    }
    // A warning lights both of its rules.
    browser.point_at(".remark");
    assert_eq!(numbers(&browser.eval(LIT_RULES)), BTreeSet::from([2, 3]));
    assert_eq!(browser.faults(), Vec::<String>::new());
}

#[test]
fn an_instruction_shows_the_bits_that_it_looks_at() {
    if !require(&[CHROMIUM]) {
        return;
    }
    let folder = Folder::new();
    let page = folder.page_of(RULES);
    let listing =
        String::from_utf8(sfunnel(&folder.0, &["compile", "rules.sf", "--emit", "hex"])).expect("text");
    let slot = |note: &str| {
        let line = listing.lines().find(|line| line.contains(note)).expect(note);
        line.split_whitespace().next().and_then(|slot| slot.parse::<usize>().ok()).expect("a slot")
    };
    let mut browser = Browser::start();
    browser.open(&page, "");
    for (note, class, names) in [
        ("; ip.protocol", "reads", &["protocol"][..]),
        ("; dport == 4739", "compares", &["destination port"]),
        ("; ether.type", "reads", &["type"]),
        ("tcp.sequence = 0xcafebabe", "writes", &["sequence number"]),
        ("; sport, dport", "reads", &["source port", "destination port"]),
    ] {
        let slot = slot(note);
        browser.eval(&format!("unfold('listing', {slot})"));
        browser.point_at(&format!("#insn-{slot}"));
        let found = browser.eval(&format!(
            "[...document.querySelectorAll('#header .cell.{class} .name')].map((e) => e.textContent)"
        ));
        assert_eq!(found, serde_json::json!(names), "{note}");
    }
}

#[test]
fn the_keyboard_alone_reaches_everything() {
    if !require(&[CHROMIUM]) {
        return;
    }
    let folder = Folder::new();
    let page = folder.page_of(RULES);
    let mut browser = Browser::start();
    browser.open(&page, "");
    const ITEM: &str = "document.activeElement.matches('.item')";
    const PANE: &str = "document.activeElement.closest('.pane')?.id ?? ''";
    // Whether it is the first time that it has the focus.
    const NEW: &str =
        "!document.activeElement.dataset.reached && !!(document.activeElement.dataset.reached = 'yes')";
    let (mut reached, mut panes) = (0, Vec::new());
    for _ in 0..60 {
        browser.key("Tab");
        let pane = browser.eval(PANE).as_str().expect("a name").to_owned();
        if pane.is_empty() {
            break;
        }
        if browser.eval(ITEM) == true && !panes.contains(&pane) {
            panes.push(pane);
            browser.key("Home");
            while browser.eval(NEW) == true {
                reached += 1;
                browser.key("ArrowDown");
            }
        }
    }
    assert_eq!(panes, ["rules", "diagram", "listing"]);
    let items =
        browser.eval("[...document.querySelectorAll('.item')].filter((e) => e.checkVisibility()).length");
    assert_eq!(items, reached);
    // What is kept is in the address, and goes with Escape.
    browser.eval("document.querySelector('#rule-2').focus()");
    browser.key("Enter");
    assert_eq!(browser.eval("location.hash"), "#rule-2");
    assert_eq!(numbers(&browser.eval(LIT_RULES)), BTreeSet::from([2]));
    browser.key("Escape");
    assert_eq!(browser.eval("location.hash"), "");
}

#[test]
fn links_lead_to_rules_and_instructions() {
    if !require(&[CHROMIUM]) {
        return;
    }
    let folder = Folder::new();
    let page = folder.page_of(CHAINS);
    let mut browser = Browser::start();
    browser.open(&page, "#rule-1");
    assert_eq!(numbers(&browser.eval(LIT_RULES)), BTreeSet::from([1]));
    browser.open(&page, "#1:insn-40");
    assert_eq!(
        browser.eval("[...document.querySelectorAll('.insn.at')].map((e) => e.id)"),
        serde_json::json!(["insn-40"])
    );
    assert_eq!(browser.eval("document.querySelector('#lists [aria-pressed=true]').textContent"), "egress");
    for nonsense in ["#rule-99999", "#insn-99999999999999999999", "#9:rule-0", "#<script>"] {
        browser.open(&page, nonsense);
        assert_eq!(browser.faults(), Vec::<String>::new(), "{nonsense}");
    }
    // Both hooks of both ends.
    folder.write("service.sf", SERVICE);
    let page = folder.page("service.html", &["compile", "service.sf", "--emit", "html"]);
    browser.open(&page, "");
    let names = browser.eval("[...document.querySelectorAll('#lists button')].map((e) => e.textContent)");
    assert_eq!(
        names,
        serde_json::json!(["client, ingress", "client, egress", "pod, ingress", "pod, egress"])
    );
}

/// Every page that there is: its name, and the file.
fn pages(folder: &Folder) -> Vec<(&'static str, PathBuf)> {
    let rules = folder.page_of(RULES);
    folder.write("chains.sf", CHAINS);
    let chains = folder.page("chains.html", &["compile", "chains.sf", "--emit", "html"]);
    let packet = ["explain", "rules.sf", "--html", "-d", "egress"];
    let one = ["--packet", "udp 10.0.0.1:5000 > 192.0.2.10:4739 len 100"];
    let two = ["--packet", "tcp 10.0.0.1:5000 > 10.0.0.2:80 syn"];
    let life = folder.page("packet.html", &[&packet[..], &one].concat());
    let packets = folder.page("packets.html", &[&packet[..], &one, &two].concat());
    let status = folder.path("status.html");
    fs::write(&status, status_of(folder)).expect("a file");
    vec![("rules", rules), ("chains", chains), ("packet", life), ("packets", packets), ("status", status)]
}

/// The page of two programs in a network namespace of its own. One counts, and has seen three datagrams.
fn status_of(folder: &Folder) -> Vec<u8> {
    let script = "ip link add eth0 type veth peer name eth1
        ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up; ip link set eth1 up
        ip neigh add 192.0.2.10 lladdr 02:00:00:00:00:02 dev eth0
        $SFUNNEL attach -i eth0 -d egress --rules rules.sf --counters
        $SFUNNEL attach -i eth1 --ruleset 'tcp dport 23 actions drop'
        for datagram in 1 2 3; do echo $datagram | socat - UDP-SENDTO:192.0.2.10:4739; done
        $SFUNNEL status --html";
    let output = Command::new("unshare")
        .args(["-n", "sh", "-ec", script])
        .env("SFUNNEL", env!("CARGO_BIN_EXE_sfunnel"))
        .current_dir(&folder.0)
        .output()
        .expect("unshare");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn what_is_attached_is_shown_with_its_counters() {
    if !require(&[CHROMIUM, Need::Root, Need::Tool("socat", "socat"), Need::Tool("unshare", "util-linux")]) {
        return;
    }
    let folder = Folder::new();
    folder.write("rules.sf", RULES);
    let page = folder.path("status.html");
    fs::write(&page, status_of(&folder)).expect("a file");
    let mut browser = Browser::start();
    browser.open(&page, "");
    let show = |name: &str| {
        format!(
            "[...document.querySelectorAll('#lists button')].find((e) => e.textContent === '{name}').click()"
        )
    };
    browser.eval(&show("eth0 egress"));
    let counts = browser.eval("[...document.querySelectorAll('.count')].map((e) => e.textContent)");
    let counts: Vec<&str> = counts.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(counts.len(), 5, "{counts:?}");
    assert!(counts[1].starts_with("3 packets, "), "{counts:?}");
    let warm = browser
        .eval("[...document.querySelectorAll('.shape.rule.warm')].map((e) => e.getAttribute('aria-label'))");
    assert_eq!(warm, serde_json::json!(["rule 1: funnel tcp sport 540 dpor…"]));
    // The other does not count, but has its text with it.
    browser.eval(&show("eth1 ingress"));
    let facts = browser.eval("document.querySelector('#rules dl').textContent");
    assert!(facts.as_str().is_some_and(|facts| facts.contains("rules1")), "{facts}");
    assert_eq!(browser.eval("document.querySelectorAll('#diagram .shape.rule').length"), 1);
    assert_eq!(browser.eval("document.querySelectorAll('.count').length"), 0);
    assert_eq!(browser.faults(), Vec::<String>::new());
}

#[test]
fn a_checker_of_accessibility_finds_nothing_and_nothing_leaves_the_page() {
    if !require(&[CHROMIUM, Need::Root, Need::Npm("axe-core", "4.14.1")]) {
        return;
    }
    let axe = fs::read_to_string(npm("axe-core").join("axe.min.js")).expect("axe-core");
    let folder = Folder::new();
    let pictures = std::env::var_os("SFUNNEL_PICTURES").is_some();
    let (mut browser, mut faults) = (Browser::start(), Vec::new());
    for (name, page) in pages(&folder) {
        for scheme in ["light", "dark"] {
            browser.open(&page, "");
            browser.prefer(scheme);
            browser.eval("document.querySelector('.rule.item')?.click()");
            if name.starts_with("packet") {
                browser.eval("keep({ kind: 'packet', id: 0 })");
            }
            if pictures && (scheme == "light" || name == "rules") {
                let file =
                    format!("docs/pictures/page-{name}{}.png", if scheme == "dark" { "-dark" } else { "" });
                browser.screenshot(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
            }
            assert_eq!(browser.faults(), Vec::<String>::new(), "{name}, {scheme}");
            browser.eval(&format!("{axe}; 1"));
            let found = browser.eval(
                "axe.run().then((all) => all.violations.filter((v) => v.impact !== 'minor').map((v) => [v.id, v.impact, \
                 v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + n.failureSummary)]))",
            );
            if found != serde_json::json!([]) {
                faults.push(format!("{name}, {scheme}: {found:#}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_packets_life_says_what_changed_and_which_instruction_decides() {
    if !require(&[CHROMIUM, Need::Root]) {
        return;
    }
    let folder = Folder::new();
    folder.write("rules.sf", RULES);
    let args = [
        "explain",
        "rules.sf",
        "--html",
        "-d",
        "egress",
        "--packet",
        "udp 10.0.0.1:5000 > 192.0.2.10:4739 len 100",
    ];
    let page =
        folder.page("life.html", &[&args[..], &["--packet", "tcp 10.0.0.1:5000 > 10.0.0.2:85 syn"]].concat());
    let mut browser = Browser::start();
    browser.open(&page, "");
    let text = |browser: &mut Browser, what: &str| {
        browser
            .eval(&format!("document.querySelector('{what}').textContent"))
            .as_str()
            .expect("text")
            .to_owned()
    };
    let verdict = text(&mut browser, ".verdict");
    assert!(
        verdict.starts_with("rule 1 takes it: funnel tcp sport 540 dport 179; decided by instruction "),
        "{verdict}"
    );
    assert!(verdict.ends_with("It is passed on, changed."), "{verdict}");
    let changes = text(&mut browser, ".changes");
    for part in ["IPv4, total length128148", "IPv4, protocol17 UDP6 TCP", "TCP, checksum", "UDP, checksum"] {
        assert!(changes.contains(part), "{part}: {changes}");
    }
    let refused = text(&mut browser, ".refused ul");
    assert!(refused.contains("rule 0: sport 5000, wants 123"), "{refused}");
    assert_eq!(text(&mut browser, ".pushed h3"), "TCP, 20 bytes: pushed");
    // The other one, by the table.
    browser.eval("document.querySelector('#packet-2').click()");
    let verdict = text(&mut browser, ".verdict");
    assert!(verdict.starts_with("rule 2 takes it: drop; decided by instruction "), "{verdict}");
    assert!(verdict.ends_with("It is dropped."), "{verdict}");
    assert_eq!(browser.eval("location.hash"), "#packet-2");
    // What decides compares the port, and is on the way.
    let decides = browser.eval("document.querySelector('.insn.at .note').textContent");
    assert!(decides.as_str().is_some_and(|note| note.starts_with("dport ")), "{decides}");
    assert_eq!(browser.faults(), Vec::<String>::new());
}

#[test]
fn a_packets_way_is_that_of_the_packet_and_can_be_seen() {
    if !require(&[CHROMIUM, Need::Root]) {
        return;
    }
    let folder = Folder::new();
    let mut browser = Browser::start();
    let mut open = |rules: &str, packet: &str| {
        folder.write("rules.sf", rules);
        let page = folder.page("life.html", &["explain", "rules.sf", "--html", "--packet", packet]);
        browser.open(&page, "");
        let shown = "[...document.querySelectorAll('.verdict, #way')].map((e) => e.textContent)";
        let texts = browser.eval(shown);
        let text = |at: usize| texts[at].as_str().expect("text").to_owned();
        // The end of the way is lit, and inside of what the drawing shows.
        let seen = browser.eval(
            "[...document.querySelectorAll('.shape.lit:not(.test)')].map((e) => { \
             const inner = e.getBoundingClientRect(), outer = e.closest('.drawing').getBoundingClientRect(); \
             return inner.left >= outer.left && inner.right <= outer.right; })",
        );
        (text(0), text(1), seen)
    };
    let not = "udp dport 53 length 513-65535 actions drop\nip saddr 198.51.100.0/24 udp dport != 5060 actions drop\n";
    // Both ways to one rule, and each packet's own.
    for (len, answer) in [(0, "length is another"), (600, "length 513-65535")] {
        let (verdict, way, _) = open(not, &format!("udp 198.51.100.9:4000 > 10.0.0.2:5500 len {len}"));
        assert!(verdict.starts_with("rule 1 takes it: drop"), "{verdict}");
        assert!(way.starts_with("The way of the packetip udp → ") && way.contains(answer), "{way}");
    }
    // What the instruction finds, not what it looks for.
    let other = "udp dport != 5060 actions drop";
    let (verdict, ..) = open(other, "udp 198.51.100.9:4000 > 10.0.0.2:5500");
    assert!(verdict.contains(" (dport == 5060: no). It is dropped"), "{verdict}");
    let (verdict, ..) = open(other, "udp 198.51.100.9:4000 > 10.0.0.2:5060");
    assert!(verdict.contains(" (dport == 5060: yes). It is passed"), "{verdict}");
    // Wider than its pane.
    let wide = "ip saddr 10.0.0.0/8 daddr 192.0.2.0/24 udp sport 1-1000 dport 5000-6000 ttl 1-64 length 48-200 dscp 0 drop";
    let (verdict, _, seen) = open(wide, "udp 10.0.0.1:5 > 192.0.2.1:5001 len 50");
    assert!(verdict.starts_with("rule 0 takes it"), "{verdict}");
    assert_eq!(seen, serde_json::json!([true]));
}
