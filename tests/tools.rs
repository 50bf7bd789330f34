//! docs/tools.md, docs/golden-tests.md and the examples in `--help` are run: what a command prints is what the page says.
//!
//! A block marked `sh` is run by a shell, in a directory of its own with a few files; the `text` block right behind it
//! is what standard output and error say together. Examples in `--help` have to end well. What needs
//! privileges to run is listed here, not found out by trying.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory;
use pretty_assertions::assert_eq;
use support::{Need, require};

/// What the examples take for granted.
const RULES: &str = "udp dport 4739 actions funnel tcp sport 540 dport 179\n";

/// A directory with the files that examples name, and the program in the `PATH`.
struct Shell {
    directory: tempfile::TempDir,
}

impl Shell {
    fn new() -> Shell {
        let directory = tempfile::tempdir().expect("a directory");
        for file in ["rules.sf", "old.sf", "new.sf"] {
            fs::write(directory.path().join(file), RULES).expect("a file");
        }
        let shell = Shell { directory };
        let made = shell.run(
            "sfunnel explain --ruleset 'tcp accept' -w in.pcap --packet 'udp 10.0.0.1:5000 > 10.0.0.2:4739 len 100' \
             --packet 'udp 10.0.0.1:5000 > 10.0.0.2:53 len 20'",
        );
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        shell
    }

    fn run(&self, script: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_sfunnel")).parent().expect("a directory");
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", program.display()))
            .output()
            .expect("a shell")
    }
}

impl Shell {
    /// The same in a network namespace with an Ethernet interface `eth0`, both gone with the shell.
    fn run_apart(&self, script: &str) -> Output {
        fs::write(self.directory.path().join("script"), script).expect("a file");
        self.run("exec unshare -n sh -ec 'ip link add eth0 mtu 1500 type veth peer name eth1; . ./script'")
    }
}

/// What [`Shell::run_apart`] takes.
fn require_namespaces() -> bool {
    require(&[Need::Root, Need::Tool("ip", "iproute2"), Need::Tool("unshare", "util-linux")])
}

fn page(name: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(path).expect(name)
}

/// Each `sh` block with the `text` block right behind it, if there is one.
fn examples(page: &str) -> Vec<(&str, Option<&str>)> {
    let pieces: Vec<&str> = page.split("```").collect();
    let mut found = Vec::new();
    for at in (1..pieces.len()).step_by(2) {
        let Some(script) = pieces[at].strip_prefix("sh\n") else { continue };
        let next = pieces.get(at + 2).filter(|_| pieces[at + 1].trim().is_empty());
        found.push((script, next.and_then(|next| next.strip_prefix("text\n"))));
    }
    found
}

#[test]
fn the_page_of_tools_shows_what_its_commands_print() {
    shows_what_its_commands_print("tools.md", 3);
}

#[test]
fn the_page_of_golden_tests_shows_what_its_commands_print() {
    shows_what_its_commands_print("golden-tests.md", 1);
}

fn shows_what_its_commands_print(name: &str, least: usize) {
    if !require_namespaces() {
        return;
    }
    let shell = Shell::new();
    let page = page(name);
    let mut compared = 0;
    for (script, expected) in examples(&page) {
        // Together, as in a terminal.
        let output = shell.run_apart(&format!("exec 2>&1\n{script}"));
        let said = String::from_utf8(output.stdout).expect("text");
        match expected {
            Some(expected) => {
                assert_eq!(said, expected, "{script}");
                compared += 1;
            }
            None => assert!(output.status.success(), "{script}{said}"),
        }
    }
    assert!(compared >= least, "the examples have gone: {compared}");
}

/// Lines below `Examples:` that start with the program's name.
fn help_examples(command: &clap::Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let text = text.replace("\\\n", " ");
    let lines = text.lines().skip_while(|line| !line.starts_with("Examples:")).skip(1);
    lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn examples_in_the_help_of_tools_end_well() {
    if !require_namespaces() {
        return;
    }
    let shell = Shell::new();
    let cli = sfunnel::cli::Cli::command();
    let generates = ["completions", "man"];
    for tool in ["diff", "mirror", "explain", "doctor"].into_iter().chain(generates) {
        let command = cli.find_subcommand(tool).expect("a subcommand");
        let examples = help_examples(command);
        assert!(!examples.is_empty(), "{tool}");
        for example in examples {
            // What goes to a file is for the user's system, not for the one that tests.
            let example = if generates.contains(&tool) { before_file(&example) } else { &example };
            let output = shell.run_apart(example);
            assert!(output.status.success(), "{example}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

fn before_file(example: &str) -> &str {
    example.split(['>', '|']).next().unwrap_or_default()
}

#[test]
fn bash_completes_commands_and_flags() {
    let shell = Shell::new();
    let complete = |words: &str, last: usize| {
        let script = format!(
            "bash -c '. <(sfunnel completions bash); COMP_WORDS=({words}); COMP_CWORD={last}; \
             _sfunnel sfunnel \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last}-1]}}\"; echo ${{COMPREPLY[*]}}'"
        );
        String::from_utf8(shell.run(&script).stdout).expect("text")
    };
    assert_eq!(complete("sfunnel mir", 1), "mirror\n");
    assert_eq!(complete("sfunnel mirror --no", 2), "--no-nat\n");
    assert!(complete("sfunnel mirror --to \"\"", 3).contains("pod-ingress"));
}

#[test]
fn manual_pages_name_every_command_and_flag() {
    let shell = Shell::new();
    let page = |command: &str| {
        let output = shell.run(&format!("sfunnel man {command}"));
        assert!(output.status.success(), "{command}");
        // In roff, a minus is `\\-`.
        String::from_utf8(output.stdout).expect("text").replace("\\-", "-")
    };
    let cli = sfunnel::cli::Cli::command();
    let whole = page("");
    for command in cli.get_subcommands() {
        let name = command.get_name();
        assert!(whole.contains(&format!("sfunnel-{name}(8)")), "{name}");
        let own = page(name);
        assert!(own.contains(&format!(".TH sfunnel-{name} 8")), "{name}");
        for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(own.contains(&format!("--{flag}")), "{name} --{flag}");
        }
    }
    let output = shell.run("sfunnel man nonsense");
    assert_eq!(output.status.code(), Some(2));
}

/// Exit code, and what is said on standard output.
fn doctor(shell: &Shell, before: &str) -> (Option<i32>, String) {
    let output = shell.run_apart(&format!("{before}\nsfunnel doctor -i eth0"));
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn doctor_finds_what_is_in_the_way() {
    if !require_namespaces() || !require(&[Need::Tool("tc", "iproute2")]) {
        return;
    }
    let shell = Shell::new();
    for (before, code, words) in [
        ("true", 0, "ok    eth0       Ethernet, MTU 1500\n"),
        ("tc qdisc add dev eth0 ingress", 1, "BAD   eth0       the legacy `ingress` qdisc"),
        (
            "sfunnel compile rules.sf --emit elf -o rules.o; tc qdisc add dev eth0 clsact\n\
             tc filter add dev eth0 egress prio 95 bpf da obj rules.o sec classifier",
            1,
            "BAD   eth0 egress  a filter of somebody else at sfunnel's priority, 95: bpf rules.o:[classifier]",
        ),
        (
            "sfunnel compile rules.sf --emit elf -o rules.o; tc qdisc add dev eth0 clsact\n\
             tc filter add dev eth0 ingress prio 7 bpf da obj rules.o sec classifier",
            0,
            "note  eth0 ingress  a filter in front, at priority 7: bpf rules.o:[classifier]",
        ),
        ("sfunnel attach -i eth0 --rules rules.sf --gso off", 0, "ok    eth0 ingress  sfunnel"),
    ] {
        let (found, said) = doctor(&shell, before);
        // Columns are as wide as they have to be.
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeeze(&said).contains(&squeeze(words)), "{before}: {said}");
        assert_eq!(found, Some(code), "{before}: {said}");
    }
}

#[test]
fn doctor_without_privileges_says_what_is_missing() {
    if !require(&[Need::Root, Need::Tool("setpriv", "util-linux")]) {
        return;
    }
    let output = Shell::new()
        .run("exec setpriv --bounding-set=-all --inh-caps=-all --reuid=0 --keep-groups sfunnel doctor -i lo");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(said.starts_with("BAD   funnel"), "{said}");
    assert!(said.contains("CAP_BPF and CAP_NET_ADMIN missing"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

/// A program on the hook that runs before tc's, put there as newer loaders do.
#[test]
fn doctor_sees_programs_on_the_hook_in_front() {
    if !require_namespaces() {
        return;
    }
    let work = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
        let compiled =
            support::engine::compile("tcp accept", sfunnel::codegen::Link::Ethernet).expect("a program");
        let loader = &mut support::testrun::Loader::default();
        let mut loaded = loader.load(&compiled.elf, support::engine::PROGRAM).expect("loaded");
        let program = loaded.program_mut().expect("a program");
        if let Err(error) = program.attach("lo", aya::programs::TcAttachType::Ingress) {
            // Before 6.6 there is no such hook; aya then takes tc's, which there is no qdisc for here.
            assert!(!has_tcx(), "{error}");
            return;
        }
        let output = Shell::new().run("sfunnel doctor -i lo");
        let said = String::from_utf8(output.stdout).expect("text");
        // It has our name, and no note. Those with other names: tests/attach/tcx.rs.
        let known =
            format!("{} is attached to TCX, but its note on clsact is gone", support::engine::PROGRAM);
        assert!(said.contains(&known), "{said}");
    };
    std::thread::spawn(work).join().expect("the thread ends well");
}

/// Linux 6.6 or later.
fn has_tcx() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-']).filter_map(|part| part.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(6))
}

/// Both hooks are shown where nobody has said which.
#[test]
fn explain_shows_every_hook_that_the_rules_are_for() {
    if !require(&[Need::Root]) {
        return;
    }
    let shell = Shell::new();
    let service = "service { udp dport 4739 actions funnel tcp sport 540 dport 179 }";
    let chains = "chain ingress { udp dport 53 drop }; chain egress { udp dport 4739 drop }";
    let packet = "udp 10.0.0.1:5000 > 10.0.0.2:4739";
    for (rules, options, ingress, egress) in [
        (service, "--end client", "no rule matches; passed on unchanged", "rule 0; passed on, changed"),
        (
            service,
            "--end pod",
            "no rule matches; passed on unchanged",
            "no rule matches; passed on unchanged",
        ),
        (chains, "", "no rule matches; passed on unchanged", "rule 0; dropped"),
    ] {
        let output =
            shell.run(&format!("sfunnel explain --brief {options} --ruleset '{rules}' --packet '{packet}'"));
        let said = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<&str> = said.lines().collect();
        let [first, one, "", second, other] = lines[..] else { panic!("{said}") };
        assert_eq!([first, second], ["ingress:", "egress:"]);
        assert!(one.ends_with(ingress) && other.ends_with(egress), "{said}");
    }
    let output = shell.run(&format!("sfunnel explain -w out.pcap --ruleset '{chains}' --packet '{packet}'"));
    assert_eq!(output.status.code(), Some(2), "a file for two hooks");
}

const MANY: &str = "ip daddr 10.0.0.0/8 tcp dport 80 actions drop\n\
    ip saddr != 192.0.2.1 udp dport 4739 actions funnel tcp sport 540 dport 179\n\
    tcp dport 80 actions unalias { 8080, 8081, 8443 }\n\
    ip udp dport 540 actions counter unfunnel udp dport 4739 dnat 10.0.0.5:53 mark set 7\n";

/// What another tool sees, without any of our types.
fn json() -> serde_json::Value {
    let shell = Shell::new();
    fs::write(shell.directory.path().join("many.sf"), MANY).expect("a file");
    let output = shell.run("sfunnel compile many.sf --emit json --gso off");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn rules_are_in_the_json_as_sets() {
    let json = json();
    assert_eq!(json["version"], 3);
    assert_eq!((&json["source"], &json["link"]), (&"many.sf".into(), &"ethernet".into()));
    let rules = json["rules"].as_array().expect("rules");
    assert_eq!(rules.len(), 4);
    assert_eq!(rules[0]["ip"]["daddr"], serde_json::json!([["10.0.0.0", "10.255.255.255"]]));
    assert_eq!(
        rules[1]["ip"]["saddr"],
        serde_json::json!([["0.0.0.0", "192.0.2.0"], ["192.0.2.2", "255.255.255.255"]])
    );
    let funnel =
        serde_json::json!({ "kind": "funnel", "protocol": "tcp", "sport": 540, "dport": 179, "flags": 2 });
    assert_eq!((&rules[1]["action"], &rules[1]["line"]), (&funnel, &2.into()));
    assert_eq!(rules[2]["action"]["ports"], serde_json::json!([[8080, 8081], [8443, 8443]]));
    assert_eq!(rules[2]["ip"]["sport"], serde_json::json!([[0, 65535]]));
    assert_eq!(rules[3]["action"]["dport"], serde_json::json!([[4739, 4739]]));
    assert_eq!(rules[3]["nat"], serde_json::json!({ "dnat": { "address": "10.0.0.5", "port": 53 } }));
    assert_eq!((&rules[3]["mark"], &rules[3]["counter"]), (&7.into(), &true.into()));
    assert_eq!((&rules[2]["mark"], &rules[2]["counter"]), (&serde_json::Value::Null, &false.into()));
}

/// Also where names from the command line stand in front.
#[test]
fn lines_in_the_json_are_those_of_the_file() {
    let shell = Shell::new();
    fs::write(shell.directory.path().join("named.sf"), "# first\ntcp dport $WEB drop\n").expect("a file");
    let output = shell.run("sfunnel compile named.sf --define WEB=80 --emit json");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["rules"][0]["line"], 2);
}

#[test]
fn the_diagram_in_the_json_can_be_walked() {
    let json = json();
    let nodes = &json["diagram"]["nodes"];
    let walk = |proto: &str, daddr: &str, dport: u64| {
        let roots = json["diagram"]["roots"].as_array().expect("roots");
        let root =
            roots.iter().find(|root| root["family"] == "ip" && root["protocol"] == proto).expect("a root");
        let mut at = root["node"].clone();
        loop {
            let node = &nodes[usize::try_from(at.as_u64().expect("a number")).expect("small")];
            let value = match node["field"].as_str() {
                Some("daddr") => {
                    u64::from(daddr.parse::<std::net::Ipv4Addr>().expect("an address").to_bits())
                }
                Some("dport") => dport,
                _ => 0,
            };
            let number = |last: &serde_json::Value| match last.as_str() {
                Some(address) => address.parse::<std::net::Ipv4Addr>().expect("an address").to_bits().into(),
                None => last.as_u64().expect("a number"),
            };
            let is_there = |arm: &&serde_json::Value| value <= number(&arm["last"]);
            at = match node["kind"].as_str().expect("a kind") {
                "test" => {
                    node["arms"].as_array().expect("arms").iter().find(is_there).expect("an arm")["node"]
                        .clone()
                }
                "rule" => return node["rule"].as_u64(),
                "miss" => return None,
                other => panic!("{other} in a diagram"),
            };
        }
    };
    assert_eq!(walk("tcp", "10.1.2.3", 80), Some(0));
    assert_eq!(walk("tcp", "11.1.2.3", 80), Some(2));
    assert_eq!(walk("tcp", "11.1.2.3", 81), None);
    assert_eq!(walk("udp", "0.0.0.0", 4739), Some(1));
}

#[test]
fn instructions_in_the_json_are_those_of_the_program() {
    let json = json();
    let instructions = json["instructions"].as_array().expect("instructions");
    let source = sfunnel::diag::Source::new("test", MANY);
    let ruleset = sfunnel::read(&source).expect("rules").ruleset;
    let diagram = sfunnel::diagram::build(&ruleset);
    let program = sfunnel::codegen::compile(
        &ruleset,
        &diagram,
        sfunnel::codegen::Options::pass_gso(sfunnel::codegen::Link::Ethernet),
    )
    .expect("a program");
    let bytes: Vec<&str> = instructions.iter().map(|i| i["bytes"].as_str().expect("bytes")).collect();
    let expected: Vec<String> = program.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bytes.join(" "), expected.join(" "));
    assert!(instructions.iter().any(|instruction| instruction["rule"] == 1), "no instruction is a rule's");
    let last = instructions.last().expect("an instruction");
    assert_eq!((&last["text"], &last["slot"]), (&"exit".into(), &(program.slots() - 1).into()));
}
