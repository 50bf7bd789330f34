//! packaging/: the systemd unit is valid and as closed as docs say, and what it starts works with what it leaves.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use clap::Parser;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sfunnel::cli::Cli;
use support::lab::{DEADLINE, Ns, find_tool};
use support::{Need, require};

const SYSTEMD: Need = Need::Tool("systemd-analyze", "systemd");
/// Ten times the exposure that docs/operating.md names.
const EXPOSURE: u32 = 13;

fn unit() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/sfunnel@.service");
    fs::read_to_string(file).expect("the unit")
}

/// The values of a key, in the order in which they are written.
fn values(key: &str) -> Vec<String> {
    let unit = unit();
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == key).map(|(_, value)| value.to_owned()).collect()
}

fn analyze(args: &[&str]) -> Output {
    let mut command = Command::new(find_tool("systemd-analyze").expect("systemd-analyze"));
    command.args(args).args(["--no-pager"]).stdin(Stdio::null()).output().expect("systemd-analyze")
}

/// The unit in a directory of its own, with a program that is there.
fn copy(directory: &Path) -> PathBuf {
    let unit = unit().replace("/usr/sbin/sfunnel", env!("CARGO_BIN_EXE_sfunnel"));
    let unit: Vec<&str> = unit.lines().filter(|line| !line.starts_with("Documentation=man:")).collect();
    let file = directory.join("sfunnel@.service");
    fs::write(&file, unit.join("\n")).expect("a file");
    file
}

#[test]
fn the_unit_is_valid_and_as_closed_as_it_is_said_to_be() {
    if !require(&[SYSTEMD]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = copy(directory.path());
    let file = file.to_str().expect("a path");
    let output = analyze(&["verify", file]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("sfunnel"), "{said}");
    let output = analyze(&["security", "--offline=true", &format!("--threshold={EXPOSURE}"), file]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let docs = fs::read_to_string(docs).expect("the page");
    let figure = format!("{}.{}", EXPOSURE / 10, EXPOSURE % 10);
    assert!(said.contains(&format!("for sfunnel@i.service: {figure} ")), "{said}");
    assert!(
        docs.contains(&format!("exposure {figure}")),
        "docs/operating.md says another figure than {figure}"
    );
}

/// What the package is made of is there, but for what is built first.
#[test]
fn the_assets_of_the_package_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    let (_, metadata) = cargo.split_once("[package.metadata.deb]").expect("metadata");
    let (metadata, _) = metadata.split_once("\n[").expect("the next table");
    let assets = metadata.lines().filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next());
    let assets: Vec<&str> = assets.filter(|asset| !asset.starts_with("target/")).collect();
    assert!(assets.contains(&"packaging/sfunnel@.service"), "{assets:?}");
    for asset in assets {
        let there = match asset.split_once("/*") {
            Some((directory, _)) => root.join(directory).is_dir(),
            None => root.join(asset).is_file(),
        };
        assert!(there, "{asset}");
    }
}

/// Not root, two capabilities, a file of rules that anybody may read: attaches, says that it is ready, reads again when
/// told to as `ExecReload` does, and takes everything away at the end.
#[test]
fn what_the_unit_starts_works_without_root() {
    if !require(&[Need::Root, Need::Tool("setpriv", "util-linux"), Need::Tool("ip", "iproute2")]) {
        return;
    }
    let directory = tempfile::tempdir_in(std::env::temp_dir()).expect("a directory");
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("a mode");
    let rules = directory.path().join("eth0.rules");
    fs::write(
        &rules,
        "chain egress { udp dport 9 funnel tcp sport 1 dport 2 }; chain ingress { tcp dport 23 drop }",
    )
    .expect("a file");
    // Whoever is not root cannot get at the build directory of every machine.
    let program = directory.path().join("sfunnel");
    fs::copy(env!("CARGO_BIN_EXE_sfunnel"), &program).expect("a copy");

    let start = values("ExecStart").remove(0).replace("%I", "eth0");
    let words: Vec<&str> = start.split_whitespace().collect();
    assert!(Cli::try_parse_from(&words).is_ok(), "{start}");
    assert_eq!(words[..3], ["/usr/sbin/sfunnel", "watch", "/etc/sfunnel/eth0.rules"]);
    assert_eq!(values("CapabilityBoundingSet"), values("AmbientCapabilities"));
    let capabilities =
        values("AmbientCapabilities").remove(0).to_lowercase().replace("cap_", "+").replace(' ', ",");

    let socket = directory.path().join("notify");
    let notified = UnixDatagram::bind(&socket).expect("a socket");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("a mode");
    notified.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let hears = |wanted: &str| {
        let mut bytes = [0; 4096];
        let length = notified.recv(&mut bytes).expect("a word");
        assert!(String::from_utf8_lossy(&bytes[..length]).contains(wanted), "{wanted}");
    };

    let ns = Ns::new("host");
    ns.tool("ip", "link add eth0 type veth peer name far");
    let links = || ns.tool("ip", "-o link show").lines().count();
    let before = links();
    let mut command = Command::new(find_tool("setpriv").expect("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    for set in ["inh-caps", "ambient-caps", "bounding-set"] {
        command.arg(format!("--{set}=-all,{capabilities}"));
    }
    command.arg(&program).arg("watch").arg(&rules).args(&words[3..]);
    command.env_clear().env("NOTIFY_SOCKET", &socket).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut process = ns.spawn(&mut command);
    hears("READY=1");
    let shown = || ns.tool(env!("CARGO_BIN_EXE_sfunnel"), "status");
    assert_eq!(shown().matches("eth0 ingress: sfunnel/").count(), 1, "{}", shown());
    let signal = |signal| {
        kill(Pid::from_raw(i32::try_from(process.id()).expect("a number")), signal).expect("a signal")
    };
    assert_eq!(values("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    let old = shown();
    signal(Signal::SIGHUP);
    let start = std::time::Instant::now();
    while shown() == old {
        assert!(start.elapsed() < DEADLINE, "nothing was attached anew");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Systemd's way to end a service.
    signal(Signal::SIGTERM);
    hears("STOPPING=1");
    assert!(process.wait().expect("its end").success());
    assert_eq!((shown().as_str(), links()), ("", before));
}
