//! `sfunnel demo`, the real binary: it needs root and no set-up, and leaves nothing behind however it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The names of the programs that the demo loads.
const PROGRAMS: [&str; 6] =
    ["client_egress", "server_ingress", "server_egress", "client_ingress", "tap_plain", "tap_delivered"];

/// One demo at a time, or what one leaves could not be told from what another still uses. And nothing is
/// started while a binary is being copied, or the copy could not run ("text file busy").
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: not root, and said so; with SFUNNEL_REQUIRE_KERNEL=1 that is a failure.
fn require_root() -> Option<MutexGuard<'static, ()>> {
    if nix::unistd::geteuid().is_root() {
        return Some(alone());
    }
    let required = std::env::var("SFUNNEL_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
    assert!(!required, "SFUNNEL_REQUIRE_KERNEL=1, but: not root");
    let name = thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: not root");
    None
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.arg("demo").env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Everything that a demo might leave: interfaces, named namespaces, programs.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    interfaces: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    programs: BTreeSet<(u32, String)>,
}

impl Traces {
    fn now() -> Self {
        let names = |directory: &str| {
            let entries = fs::read_dir(directory).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
        };
        let programs = loaded_programs()
            // A program may go between being counted and being looked at.
            .filter_map(|info| info.ok())
            .map(|info| (info.id(), info.name_as_str().unwrap_or_default().to_owned()))
            .filter(|(_, name)| PROGRAMS.contains(&name.as_str()))
            .collect();
        Self { interfaces: names("/sys/class/net"), namespaces: names("/var/run/netns"), programs }
    }

    /// The kernel takes a namespace down some time after its last user has gone.
    fn assert_nothing_new(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = Self::now();
            let left = !now.interfaces.is_subset(&self.interfaces)
                || !now.namespaces.is_subset(&self.namespaces)
                || !now.programs.is_subset(&self.programs);
            if !left {
                return;
            }
            assert!(Instant::now() < deadline, "before: {self:?}\nafter: {now:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn all_flows_arrive_and_nothing_is_left_behind() {
    let Some(_alone) = require_root() else { return };
    let before = Traces::now();
    let output = demo().output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    before.assert_nothing_new();

    let report = out(&output);
    for word in [
        "udp 4739 in tcp 179",
        "tcp 8080 in tcp 80",
        "tcp 8443 in udp 443",
        "udp dport 4739 actions funnel tcp sport 540 dport 179",
        "+ 0xcafebabe",
        "02 1c 00 b3 ca fe ba be",
        "InCsumErrors client: tcp 0, udp 0; server: tcp 0, udp 0",
        "Everything arrived as it was sent.",
    ] {
        assert!(report.contains(word), "{word}: {report}");
    }
    assert_eq!(talk(&output).lines().count(), 1, "{}", talk(&output));
}

#[test]
fn the_report_fits_100_columns_and_has_no_colours_in_a_pipe() {
    let Some(_alone) = require_root() else { return };
    let report = out(&demo().output().unwrap());
    assert!(report.lines().count() > 50, "{report}");
    for line in report.lines() {
        assert!(line.chars().count() <= 100, "{line}");
        assert_eq!(line, line.trim_end());
        assert!(line.chars().all(|character| !character.is_control()), "{line:?}");
    }
}

/// The middle column: what funnel has done to each field of the first datagram.
#[test]
fn the_table_shows_which_fields_change_and_that_they_change_back() {
    let Some(_alone) = require_root() else { return };
    let report = out(&demo().output().unwrap());
    let (_, table) = report.split_once("The life of a packet").unwrap();
    let (table, _) = table.split_once("The 20 bytes pushed").unwrap();
    let marked = |mark: char| -> Vec<&str> {
        let rows = table.lines().filter(|line| line.starts_with("    "));
        rows.filter(|line| line.chars().nth(36) == Some(mark)).map(|line| line[4..22].trim()).collect()
    };
    assert_eq!(marked('*'), ["total length", "protocol", "header checksum", "checksum"], "{table}");
    assert_eq!(marked('+').len(), 9, "{table}");
    for line in table.lines().filter(|line| line.chars().nth(36) == Some('*')) {
        assert_eq!(line[24..36].trim(), line[52..64].trim(), "delivered as sent: {line}");
    }
}

/// A demo that SIGINT ends. Whoever runs the tests may ignore that signal (a shell does for what it runs in the
/// background), and processes inherit it. The demo itself leaves it so, as any program that was started like this should.
fn interruptible() -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(env!("CARGO_BIN_EXE_sfunnel")).arg("demo");
    command.env_clear().env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a demo, and ends it by a signal at a moment between its first word and its end.
fn interrupt(signal: Signal) {
    let Some(_alone) = require_root() else { return };
    let before = Traces::now();
    let mut killed = 0;
    for round in 0u64..12 {
        let mut child: Child = interruptible().spawn().unwrap();
        let mut talk = BufReader::new(child.stderr.take().unwrap());
        talk.read_line(&mut String::new()).unwrap();
        thread::sleep(Duration::from_millis(round * 8));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() || status.signal() == Some(signal as i32), "{status}");
        killed += usize::from(!status.success());
    }
    assert!(killed > 0, "no demo was caught alive");
    before.assert_nothing_new();
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    interrupt(Signal::SIGINT);
}

#[test]
fn kill_9_leaves_nothing_behind() {
    interrupt(Signal::SIGKILL);
}

#[test]
fn a_closed_pipe_is_success() {
    let Some(_alone) = require_root() else { return };
    let mut child = demo().spawn().unwrap();
    // The report is written at the end: nobody reads it by then.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    assert!(!talk(&output).contains("error"), "{}", talk(&output));
}

#[test]
fn it_works_beside_another_one() {
    let Some(_alone) = require_root() else { return };
    let children: Vec<Child> = (0..3).map(|_| demo().spawn().unwrap()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", talk(&output));
    }
}

/// As nobody (`setpriv`, Debian package util-linux) when the test itself is root.
#[test]
fn without_privilege_it_says_what_to_do() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("sfunnel");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_sfunnel"), &binary).unwrap();
    let output = unprivileged(&binary).arg("demo").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", talk(&output));
    assert!(output.stdout.is_empty());
    let said = talk(&output);
    assert!(said.contains("error: the demo cannot make a network namespace"), "{said}");
    assert!(said.contains("run it as root (sudo)"), "{said}");
}

fn unprivileged(binary: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(binary);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg("--bounding-set=-all").arg(binary).env_clear().env("PATH", "/usr/bin:/bin");
    command
}

#[test]
fn its_help_says_what_it_needs() {
    let _alone = alone();
    let output = demo().arg("--help").output().unwrap();
    let help = out(&output);
    assert_eq!(output.status.code(), Some(0));
    for word in ["needs root", "Examples:", "leaves nothing behind"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
