//! The command line: exit codes, which stream says what, and what needs no privilege. Attaches nothing.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const RULES: &str =
    "# funnel\nudp dport 4739 actions funnel tcp sport 540 dport 179\ntcp dport 80 actions drop\n";
const WRONG: &str = "udp dport 99999 actions drop\nudp actions dorp\n";

fn sfunnel(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(args).env_clear();
    command
}

/// Runs with `input` on standard input.
fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // A program that does not read its input may be gone already.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code, not a signal")
}

#[test]
fn check_says_what_it_found_on_stderr_only() {
    let good = run(sfunnel(&["check", "-"]), RULES);
    assert_eq!((code(&good), out(&good).as_str()), (0, ""));
    assert!(talk(&good).ends_with("<stdin>: 2 rules, no errors\n"), "{}", talk(&good));

    let wrong = run(sfunnel(&["check", "-"]), WRONG);
    assert_eq!((code(&wrong), out(&wrong).as_str()), (2, ""));
    for place in ["<stdin>:1:11", "<stdin>:2:13"] {
        assert!(talk(&wrong).contains(place), "{place}: {}", talk(&wrong));
    }
    assert!(!talk(&wrong).contains('\x1b'), "no colour into a pipe");
}

#[test]
fn rules_beyond_what_a_kernel_takes_are_the_users_to_change() {
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut rules = String::new();
    for _ in 0..62_000 {
        let mut address =
            || format!("{:x}:{:x}:{:x}:{:x}::1", next(65_536), next(65_536), next(65_536), next(65_536));
        let (saddr, daddr) = (address(), address());
        let (sport, dport) = (1 + next(65_535), 1 + next(65_535));
        rules += &format!("saddr {saddr} daddr {daddr} tcp sport {sport} dport {dport} drop\n");
    }
    let output = run(sfunnel(&["compile", "-", "--emit", "hex"]), &rules);
    assert_eq!(code(&output), 2, "{}", talk(&output));
    assert!(talk(&output).contains("and a kernel takes 1000000: use fewer rules"), "{}", talk(&output));
}

#[test]
fn warnings_are_errors_if_one_wants_them_to_be() {
    const ODD: &str = "tcp actions drop\ntcp dport 80 actions drop\n";
    for command in ["check", "compile"] {
        let told = run(sfunnel(&[command, "-"]), ODD);
        assert_eq!(code(&told), 0, "{}", talk(&told));
        let denied = run(sfunnel(&[command, "--deny", "warnings", "-"]), ODD);
        assert_eq!((code(&denied), out(&denied).as_str()), (2, ""));
        assert!(talk(&denied).contains("the rule is never reached"), "{}", talk(&denied));
        let fine = run(sfunnel(&[command, "--deny", "warnings", "-"]), RULES);
        assert_eq!(code(&fine), 0, "{}", talk(&fine));
    }
    let denied = run(sfunnel(&["attach", "--deny", "warnings", "-i", "none", "--ruleset", ODD]), "");
    assert_eq!(code(&denied), 2, "before it looks for interfaces: {}", talk(&denied));
    assert!(talk(&denied).ends_with("nothing was attached\n"), "{}", talk(&denied));
}

#[test]
fn only_check_asks_for_guards() {
    const OPEN: &str = "tcp sport 540 dport 179 actions unfunnel udp";
    const ADVICE: &str = "`unfunnel` without a guard";
    let told = run(sfunnel(&["check", "-"]), OPEN);
    assert_eq!(code(&told), 0, "{}", talk(&told));
    assert!(talk(&told).contains(ADVICE) && talk(&told).ends_with("1 rule, no errors\n"), "{}", talk(&told));
    let denied = run(sfunnel(&["check", "--deny", "warnings", "-"]), OPEN);
    assert_eq!(code(&denied), 2);
    assert!(talk(&denied).contains(ADVICE), "{}", talk(&denied));
    let closed = format!("{OPEN} dport 4739");
    let fine = run(sfunnel(&["check", "--deny", "warnings", "-"]), &closed);
    assert_eq!((code(&fine), talk(&fine).as_str()), (0, "<stdin>: 1 rule, no errors\n"));

    let compiled = run(sfunnel(&["compile", "--deny", "warnings", "-"]), OPEN);
    assert_eq!((code(&compiled), talk(&compiled).as_str()), (0, ""));
    let attach = ["attach", "--deny", "warnings", "--attempts", "1", "-i", "none", "--ruleset", OPEN];
    let mut container = sfunnel(&[]);
    container.envs([("SFUNNEL_RULESET", OPEN), ("IFACES", "none"), ("N_ATTEMPTS", "1")]);
    for command in [sfunnel(&attach), container] {
        let output = run(command, "");
        assert_eq!(code(&output), 1, "there is no such interface: {}", talk(&output));
        assert!(!talk(&output).contains("guard"), "{}", talk(&output));
    }
}

#[test]
fn compile_puts_data_on_stdout_only() {
    for (emit, word) in [
        ("asm", "exit"),
        ("hex", "95 00 00 00 00 00 00 00"),
        ("diagram", "dport 4739 -> rule 0"),
        ("tree", "dport 4739 -> rule 0"),
    ] {
        let output = run(sfunnel(&["compile", "-", "--emit", emit]), RULES);
        assert_eq!((code(&output), talk(&output).as_str()), (0, ""), "{emit}");
        assert!(out(&output).contains(word), "{emit}: {}", out(&output));
    }
    let elf = run(sfunnel(&["compile", "-", "--emit", "elf"]), RULES);
    assert!(elf.stdout.starts_with(b"\x7fELF"));
    let wrong = run(sfunnel(&["compile", "-"]), WRONG);
    assert_eq!((code(&wrong), out(&wrong).as_str()), (2, ""));
}

#[test]
fn compile_writes_to_a_file_and_for_either_link() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("listing");
    let path = file.to_str().unwrap();
    let output = run(sfunnel(&["compile", "-", "-o", path]), RULES);
    assert_eq!((code(&output), out(&output).as_str()), (0, ""));
    let ethernet = fs::read_to_string(&file).unwrap();
    assert_eq!(ethernet, out(&run(sfunnel(&["compile", "-"]), RULES)));
    let l3 = out(&run(sfunnel(&["compile", "-", "--link", "none"]), RULES));
    assert_ne!(ethernet, l3);

    let output = run(sfunnel(&["compile", "-", "-o", "/nonexistent/listing"]), RULES);
    assert_eq!(code(&output), 1);
    assert!(talk(&output).starts_with("error: cannot write /nonexistent/listing: "), "{}", talk(&output));
}

#[test]
fn compile_leaves_out_what_the_kernel_lacks() {
    let mut rules = "udp dport 4739 actions funnel tcp sport 540 dport 179\n".to_owned();
    for n in 0..10_000 {
        let _ = writeln!(rules, "ip tcp daddr 10.{}.{}.0/24 dport {} drop", n / 256, n % 256, 1 + n % 60_000);
    }
    let listing =
        |more: &[&str]| out(&run(sfunnel(&[&["compile", "-", "-d", "egress"], more].concat()), &rules));
    let has = |listing: &str| ["bpf_check_mtu", "gotol", "; island"].map(|word| listing.contains(word));
    assert_eq!(has(&listing(&[])), [true, true, false]);
    assert_eq!(has(&listing(&["--without", "check-mtu"])), [false, true, false]);
    assert_eq!(has(&listing(&["--without", "long-jumps"])), [true, false, true]);
    assert_eq!(has(&listing(&["--without", "check-mtu,long-jumps"])), [false, false, true]);
}

#[test]
fn a_closed_pipe_is_success() {
    let mut command = sfunnel(&["compile", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It waits for the rules, so nothing has been written when the reader goes away.
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(RULES.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), talk(&output).as_str()), (0, ""));
}

#[test]
fn usage_errors_exit_2_and_speak_on_stderr() {
    let cases: [&[&str]; 12] = [
        &["nonsense"],
        &["check"],
        &["compile", "-", "--emit", "gold"],
        &["attach", "-d", "sideways"],
        &["attach", "--rules", "a", "--ruleset", "b"],
        &["attach", "--ruleset", "tcp actions drop", "--attempts", "0"],
        &["attach", "--ruleset", "tcp actions drop", "--retry-delay", "soon"],
        &["attach", "--retry-delay"],
        &["attach", "-i", "", "--ruleset", "tcp actions drop"],
        &["attach", "-i", ",", "--ruleset", "tcp actions drop"],
        &["detach", "-i", ""],
        &["status", "-i", ","],
    ];
    for args in cases {
        let output = run(sfunnel(args), "");
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{args:?}: {}", talk(&output));
        assert!(talk(&output).contains("error: "), "{args:?}");
    }
}

#[test]
fn help_and_version_are_data() {
    let version = run(sfunnel(&["--version"]), "");
    assert_eq!(out(&version), format!("sfunnel {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(sfunnel(&["--help"]), "");
    assert_eq!((code(&help), talk(&help).as_str()), (0, ""));
    for word in ["attach", "detach", "status", "check", "compile", "SFUNNEL_RULESET", "Exit codes"] {
        assert!(out(&help).contains(word), "{word}");
    }
}

#[test]
fn every_flag_is_in_the_help_of_its_command() {
    use clap::CommandFactory;
    let place = ["--iface", "-i,", "--direction", "-d,", "--netns"];
    let expected: [(&str, &[&str]); 11] = [
        (
            "attach",
            &["--rules", "--ruleset", "--attempts", "--retry-delay", "--debug", "--deny", "--counters"],
        ),
        ("watch", &["<FILE>", "--detach-on-exit", "--log-format", "--counters"]),
        ("detach", &["--clean"]),
        ("status", &["--json", "--prometheus"]),
        ("check", &["<FILE>", "--deny"]),
        ("compile", &["<FILE>", "--emit", "--output", "--check", "--link", "--deny", "--without"]),
        (
            "explain",
            &["[FILE]", "--ruleset", "--direction", "-d,", "--packet", "--pcap", "--write", "--brief"],
        ),
        ("doctor", &["[FILE]", "--ruleset"]),
        ("completions", &["<SHELL>"]),
        ("man", &["[COMMAND]"]),
        ("mirror", &["[FILE]", "--ruleset", "--from", "--to", "--no-nat"]),
    ];
    let definition = sfunnel::cli::Cli::command();
    for (name, flags) in expected {
        let help = out(&run(sfunnel(&[name, "--help"]), ""));
        let everywhere: &[&str] =
            if ["attach", "watch", "detach", "status", "doctor"].contains(&name) { &place } else { &[] };
        for flag in flags.iter().chain(everywhere) {
            assert!(help.contains(flag), "{name} {flag}: {help}");
        }
        assert!(help.contains("Examples:"), "{name}");
        let command = definition.find_subcommand(name).expect("a subcommand");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} {} has no help", argument.get_id());
        }
    }
    // Each flag with a variable names it.
    let help = out(&run(sfunnel(&["attach", "--help"]), ""));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for variable in [
        "IFACES",
        "DIRECTION",
        "NETNS",
        "SFUNNEL_RULESET",
        "N_ATTEMPTS",
        "RETRY_DELAY",
        "DEBUG",
        "SFUNNEL_COUNTERS",
    ] {
        assert!(help.contains(&format!("[variable: {variable}]")), "{variable}: {help}");
    }
}

#[test]
fn the_container_keeps_the_originals_exit_codes() {
    let container = |variables: &[(&str, &str)]| {
        let mut command = sfunnel(&[]);
        command.envs(variables.iter().copied());
        run(command, "")
    };
    let good = ("SFUNNEL_RULESET", "tcp dport 80 actions drop");
    for wrong in [
        ("DIRECTION", "sideways"),
        ("CLEAN", "maybe"),
        ("DEBUG", "2"),
        ("N_ATTEMPTS", "no"),
        ("RETRY_DELAY", "x"),
    ] {
        let output = container(&[good, wrong]);
        assert_eq!((code(&output), out(&output).as_str()), (1, ""), "{wrong:?}");
        let error = format!("error: {} is `{}`; it must be ", wrong.0, wrong.1);
        assert!(talk(&output).contains(&error), "{}", talk(&output));
    }
    let output = container(&[("SFUNNEL_RULESET", WRONG)]);
    assert_eq!(code(&output), 2);
    assert!(talk(&output).contains("SFUNNEL_RULESET:1:11"), "{}", talk(&output));
    assert!(talk(&output).ends_with("nothing was attached\n"), "{}", talk(&output));
}

#[test]
fn no_ruleset_at_all_is_exit_1() {
    if Path::new("/etc/sfunnel/ruleset").exists() {
        let required = std::env::var("SFUNNEL_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
        assert!(!required, "this test needs a machine without /etc/sfunnel/ruleset");
        eprintln!("skipped: this machine has /etc/sfunnel/ruleset");
        return;
    }
    let mut command = sfunnel(&[]);
    command.env("SFUNNEL_RULESET", "");
    let output = run(command, "");
    assert_eq!(code(&output), 1);
    assert!(talk(&output).contains("error: no ruleset: SFUNNEL_RULESET is empty"), "{}", talk(&output));
    let output = run(sfunnel(&[]), "");
    assert!(talk(&output).contains("error: no ruleset: SFUNNEL_RULESET is not set"), "{}", talk(&output));
}

#[test]
fn a_comment_does_not_swallow_the_lines_behind_it() {
    // The original joins the variable's lines into one, and exits 0 with no rule left.
    let mut command = sfunnel(&[]);
    command.env("SFUNNEL_RULESET", "# a comment\ntcp dport 80 actions nonsense\n");
    let output = run(command, "");
    assert_eq!(code(&output), 2);
    assert!(talk(&output).contains("SFUNNEL_RULESET:2"), "{}", talk(&output));
}

#[test]
fn explain_without_privileges_explains_the_rules_alone() {
    let directory = tempfile::tempdir().unwrap();
    let packet = "udp 10.0.0.1:5000 > 10.0.0.2:4739 len 100";
    let args = ["explain", "-", "--packet", packet];
    let output = run(as_nobody(directory.path(), &args), RULES);
    assert_eq!(code(&output), 0, "{}", talk(&output));
    assert!(talk(&output).starts_with("not run in the kernel"), "{}", talk(&output));
    for part in ["rule 0: matches", "  would funnel tcp sport 540 dport 179\n", "  UDP, 8 bytes\n"] {
        assert!(out(&output).contains(part), "{part}: {}", out(&output));
    }
    // What the kernel did not make cannot be written.
    let output = run(as_nobody(directory.path(), &[&args[..], &["-w", "/tmp/x"]].concat()), RULES);
    assert_eq!((code(&output), out(&output).as_str()), (1, ""), "{}", talk(&output));
}

#[test]
fn explain_refuses_words_and_files_that_it_cannot_read() {
    let output = run(sfunnel(&["explain", "-", "--packet", "udp 10.0.0.1 > 10.0.0.2:53"]), RULES);
    assert_eq!((code(&output), out(&output).as_str()), (2, ""));
    assert!(talk(&output).contains("`10.0.0.1` is not a value for `source`"), "{}", talk(&output));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "no capture").unwrap();
    let output = run(sfunnel(&["explain", "-", "--pcap", file.path().to_str().unwrap()]), RULES);
    assert_eq!((code(&output), out(&output).as_str()), (1, ""));
    assert!(talk(&output).contains("neither pcap nor pcapng"), "{}", talk(&output));
}

#[test]
fn explain_names_both_ways_to_give_it_packets() {
    let output = run(sfunnel(&["explain", "-"]), RULES);
    assert_eq!(code(&output), 2);
    assert!(talk(&output).contains("<--packet <WORDS>|--pcap <FILE>>"), "{}", talk(&output));
    let both = ["explain", "-", "--pcap", "x", "--packet", "udp 10.0.0.1:1 > 10.0.0.2:53"];
    assert_eq!(code(&run(sfunnel(&both), RULES)), 2);
}

#[test]
fn nothing_writes_over_what_it_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("a"), RULES).unwrap();
    fs::hard_link(path("a"), path("b")).unwrap();
    let packet = "udp 10.0.0.1:5000 > 10.0.0.2:4739";
    for args in [
        &["explain", "-", "--pcap", &path("a"), "-w", &path("a")][..],
        &["explain", "-", "--pcap", &path("a"), "-w", &path("b")],
        &["explain", &path("a"), "--packet", packet, "-w", &path("a")],
        &["compile", &path("a"), "-o", &path("b")],
    ] {
        let output = run(sfunnel(args), RULES);
        assert_eq!((code(&output), out(&output).as_str()), (2, ""), "{args:?}");
        let said = format!("{} is read, and would be overwritten", path("a"));
        assert!(talk(&output).contains(&said), "{}", talk(&output));
        assert_eq!(fs::read_to_string(path("a")).unwrap(), RULES);
    }
}

#[test]
fn the_word_help_works_as_the_flag_does() {
    for (words, flag) in [(&["help"][..], &["--help"][..]), (&["help", "explain"], &["explain", "--help"])] {
        let output = run(sfunnel(words), "");
        assert_eq!((code(&output), talk(&output).as_str()), (0, ""));
        assert_eq!(out(&output), out(&run(sfunnel(flag), "")), "{words:?}");
    }
}

/// Whoever copies an example must be able to paste it: nothing wraps where a terminal has 80 columns.
#[test]
fn no_help_text_wraps_in_an_example() {
    use clap::CommandFactory;
    let cli = sfunnel::cli::Cli::command();
    let names = cli.get_subcommands().map(|command| Some(command.get_name()));
    for name in names.chain([None]) {
        let command = name.map_or(&cli, |name| cli.find_subcommand(name).expect("a subcommand"));
        let written = command.get_after_help().expect("examples").to_string();
        assert!(written.starts_with("Examples:\n"), "{name:?}");
        let too_long = written.lines().find(|line| line.chars().count() > 80);
        assert_eq!(too_long, None, "{name:?}");
        let args: Vec<&str> = name.into_iter().chain(["--help"]).collect();
        let mut sfunnel = sfunnel(&args);
        sfunnel.env("COLUMNS", "80");
        let help = out(&run(sfunnel, ""));
        assert!(help.ends_with(&format!("{written}\n")), "{name:?}: {help}");
    }
}

#[test]
fn help_names_every_variable_and_the_side_that_is_meant_by_default() {
    let flat = |args: &[&str]| out(&run(sfunnel(args), "")).split_whitespace().collect::<Vec<_>>().join(" ");
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/container.md")).unwrap();
    let (_, table) = page.split_once("| variable | default | meaning |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let cells = table.lines().filter_map(|line| line.split('|').nth(1));
    let variables: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(variables.contains(&"SFUNNEL_COUNTERS") && variables.len() >= 12, "{variables:?}");
    let help = flat(&["--help"]);
    for variable in variables {
        let words = help.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        assert!(words.into_iter().any(|word| word == variable), "{variable}: {help}");
    }
    for (command, default) in
        [("attach", "ingress"), ("detach", "both"), ("status", "both"), ("doctor", "both")]
    {
        let help = flat(&[command, "--help"]);
        assert!(help.contains(&format!("[variable: DIRECTION] [default: {default}]")), "{command}: {help}");
        assert_eq!(help.contains("chains"), command == "attach", "{help}");
    }
}

#[test]
fn manual_pages_keep_the_lines_of_examples_and_say_the_version() {
    for name in [None, Some("attach"), Some("explain")] {
        let args: Vec<&str> = ["man"].into_iter().chain(name).collect();
        let page = out(&run(sfunnel(&args), ""));
        let version = format!("\"sfunnel {}\"", env!("CARGO_PKG_VERSION"));
        assert!(page.lines().any(|line| line.starts_with(".TH ") && line.contains(&version)), "{page}");
        assert!(!page.contains("EXTRA") && !page.contains("sfunnel\\-help"), "{page}");
        let (_, examples) = page.split_once("\n.SH EXAMPLES\n.nf\n").expect("examples as they are written");
        let (examples, _) = examples.split_once("\n.fi\n").expect("an end");
        assert!(examples.lines().all(|line| !line.starts_with('.')), "{examples}");
        let command = name.map_or("sfunnel check rules.sf".to_owned(), |name| format!("sfunnel {name} "));
        assert!(examples.contains(&command), "{examples}");
    }
}

#[test]
fn an_unreadable_file_is_a_system_error() {
    for command in ["check", "compile"] {
        let output = run(sfunnel(&[command, "/nonexistent/rules.sf"]), "");
        assert_eq!(code(&output), 1, "{command}");
        assert!(talk(&output).starts_with("error: cannot read /nonexistent/rules.sf: "), "{}", talk(&output));
    }
}

/// The binary and the rules where anyone may read them, and a command that runs it as nobody
/// (`setpriv`, Debian package util-linux) when the test itself is root.
fn as_nobody(directory: &Path, args: &[&str]) -> Command {
    let binary: PathBuf = directory.join("sfunnel");
    if !binary.exists() {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        // By another process: while a file is open for writing here, what other tests start has it open, too, and
        // nobody can run it ("text file busy").
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_sfunnel")).arg(&binary).status().unwrap();
        assert!(copied.success());
    }
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ]);
        command.arg(binary);
        command
    } else {
        Command::new(binary)
    };
    command.args(args).env_clear().env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn check_and_compile_need_no_privilege_and_attach_says_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let good = run(as_nobody(directory.path(), &["check", "-"]), RULES);
    assert_eq!(code(&good), 0, "{}", talk(&good));
    let elf = run(as_nobody(directory.path(), &["compile", "-", "--emit", "elf"]), RULES);
    assert_eq!(code(&elf), 0, "{}", talk(&elf));

    let attach = run(as_nobody(directory.path(), &["attach", "-i", "lo", "--ruleset", RULES]), "");
    assert_eq!(code(&attach), 1);
    assert!(talk(&attach).contains("CAP_BPF and CAP_NET_ADMIN missing"), "{}", talk(&attach));
    let status = run(as_nobody(directory.path(), &["status", "-i", "lo"]), "");
    assert_eq!(code(&status), 0, "looking needs no privilege: {}", talk(&status));
}

#[test]
fn names_of_the_command_line_are_those_of_the_rules() {
    for command in ["check", "compile", "mirror"] {
        let rules = "udp dport $PORT actions funnel tcp sport 540 dport 179\n";
        let output = run(sfunnel(&[command, "-", "--define", "PORT=4739"]), rules);
        assert_eq!(code(&output), 0, "{command}: {}", talk(&output));
        let output = run(sfunnel(&[command, "-", "--define", "PORT=10.0.0.1"]), rules);
        assert_eq!(code(&output), 2, "{command}");
        assert!(talk(&output).contains("::: --define:1:1"), "{}", talk(&output));
    }
}

#[test]
fn rules_that_are_not_text_are_a_rule_error_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.sf");
    fs::write(&file, b"tcp dport 80 drop\n# caf\xe9\ntcp dport 81 dorp\n").unwrap();
    for command in ["check", "compile", "attach --rules"] {
        let args: Vec<&str> = command.split(' ').chain([file.to_str().unwrap()]).collect();
        let output = run(sfunnel(&args), "");
        assert_eq!(code(&output), 2, "{command}");
        let said = talk(&output);
        assert!(said.starts_with("error: the rules are not UTF-8\n"), "{said}");
        assert!(said.contains("rules.sf:2:6\n") && said.contains("^ byte 0xe9"), "{said}");
    }
}

#[test]
fn diff_shows_packets_with_another_fate_and_says_so_by_its_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let old = file("old.sf", "saddr 10.0.0.0/8 udp dport 53 drop\ntcp dport 80 accept\n");
    let new = file("new.sf", "udp dport 53 saddr 10.0.0.0/9 drop\nudp dport 53 accept\n");
    let output = run(sfunnel(&["diff", &old, &new]), "");
    let expected = "ip saddr 10.128.0.0/9 udp dport 53: was rule 0 (drop), now rule 1 (accept)\n";
    assert_eq!((code(&output), out(&output).as_str()), (1, expected), "{}", talk(&output));

    let same = file("same.sf", "define DNS = 53\nsaddr { 10.0.0.0/9, 10.128.0.0/9 } udp dport $DNS drop\n");
    let output = run(sfunnel(&["diff", &old, &same]), "");
    assert_eq!((code(&output), out(&output).as_str()), (0, ""), "{}", talk(&output));

    let both = file("both.sf", "udp dport 53 drop\n");
    let output = run(sfunnel(&["diff", &new, &both]), "");
    let expected = "ip saddr != 10.0.0.0/9 udp dport 53: was rule 1 (accept), now rule 0 (drop)\n\
                    ip6 udp dport 53: was rule 1 (accept), now rule 0 (drop)\n";
    assert_eq!((code(&output), out(&output).as_str()), (1, expected), "{}", talk(&output));

    let chains = file("chains.sf", "chain egress { udp dport 53 drop }\n");
    let output = run(sfunnel(&["diff", &both, &chains]), "");
    let expected = "ingress: udp dport 53: was rule 0 (drop), now no rule (passed)\n";
    assert_eq!((code(&output), out(&output).as_str()), (1, expected), "{}", talk(&output));

    let wrong = file("wrong.sf", "udp dport 0 drop\n");
    assert_eq!(code(&run(sfunnel(&["diff", &old, &wrong]), "")), 2);
    assert_eq!(code(&run(sfunnel(&["diff", &old, "no such file"]), "")), 2);
}

#[test]
fn a_stored_listing_is_what_the_rules_compile_to_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for form in ["asm", "hex"] {
        let stored = path(form);
        let stored = stored.as_str();
        let made = run(sfunnel(&["compile", "-", "--emit", form, "-o", stored]), RULES);
        assert_eq!(code(&made), 0, "{}", talk(&made));
        let check = ["compile", "-", "--emit", form, "--check", stored];
        let same = run(sfunnel(&check), RULES);
        assert_eq!((code(&same), out(&same).as_str(), talk(&same).as_str()), (0, "", ""), "{form}");

        let other = run(sfunnel(&check), &RULES.replace("dport 80", "dport 81"));
        assert_eq!(code(&other), 1, "{form}");
        let expected = "rule 1: tcp dport 81 actions drop\n  was: rule 1: tcp dport 80 actions drop\n  - ";
        assert!(out(&other).starts_with(expected), "{}", out(&other));
        assert!(talk(&other).contains(&format!("`-o {stored}` in place of `--check {stored}`")));

        // Another program of the same rules.
        let other = run(sfunnel(&[&check[..], &["-d", "egress"]].concat()), RULES);
        assert_eq!(code(&other), 1, "{form}");
    }
}

#[test]
fn what_cannot_be_compared_is_no_difference() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (asm, bytes, missing) = (path("asm"), path("bytes"), path("missing"));
    fs::write(&bytes, [0xff]).expect("a file");
    assert_eq!(code(&run(sfunnel(&["compile", "-", "-o", &asm]), RULES)), 0);
    for (args, said) in [
        (&["compile", "-", "--check", &missing][..], "cannot read"),
        (&["compile", "-", "--check", &bytes], "it is not text"),
        (&["compile", "-", "--emit", "hex", "--check", &asm], "line 1 is not one that `--emit hex` writes"),
        (&["compile", "-", "--emit", "elf", "--check", &asm], "`--emit asm` or `--emit hex`"),
        (&["compile", "-", "--emit", "diagram", "--check", &asm], "`--emit asm` or `--emit hex`"),
        (&["compile", &missing, "--check", &asm], "cannot read"),
        (&["compile", "-", "--check", &asm, "-o", &asm], "cannot be used with"),
        (&["diff", "-", &missing], "cannot read"),
    ] {
        let output = run(sfunnel(args), RULES);
        assert_eq!(code(&output), 2, "{args:?}: {}", talk(&output));
        assert!(talk(&output).contains(said), "{args:?}: {}", talk(&output));
        assert_eq!(out(&output), "", "{args:?}");
    }
    assert_eq!(code(&run(sfunnel(&["compile", "-", "--check", &asm]), WRONG)), 2);
}
