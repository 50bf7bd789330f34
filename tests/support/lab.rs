//! A lab of network namespaces: veth links, the real binary, captures.
//!
//! In: who is connected to whom. Out: namespaces without names, each held open by a file descriptor:
//! they, and all that is in them, go when the [`Ns`] is dropped or the test dies. Never touches the
//! namespace it was started in; no packet leaves the machine. Waits with deadlines, never sleeps.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take. Only failures ever wait this long.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Where a program is, looking also where root's programs are.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).chain(usual).collect();
    dirs.into_iter().map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// A network namespace without a name.
#[derive(Debug)]
pub struct Ns {
    pub name: &'static str,
    file: File,
}

impl Ns {
    /// A new one, with its loopback up and IPv6 off (its neighbour chatter would be in captures).
    pub fn new(name: &'static str) -> Ns {
        // A thread of its own: unshare must not move the caller.
        let made = thread::scope(|scope| {
            let make = || {
                unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
                File::open("/proc/thread-self/ns/net").expect("a namespace file")
            };
            scope.spawn(make).join().expect("a new namespace")
        });
        let ns = Ns { name, file: made };
        ns.sysctl("ipv6/conf/all/disable_ipv6", "1");
        ns.sysctl("ipv6/conf/default/disable_ipv6", "1");
        ns.tool("ip", "link set lo up");
        ns
    }

    /// The same with IPv6 on, whose addresses are usable as soon as [`Ns::settle`] returns.
    pub fn with_ipv6(name: &'static str) -> Ns {
        let ns = Ns::new(name);
        for of in ["all", "default"] {
            ns.sysctl(&format!("ipv6/conf/{of}/accept_dad"), "0");
            ns.sysctl(&format!("ipv6/conf/{of}/disable_ipv6"), "0");
        }
        ns
    }

    /// Waits until no IPv6 address is tentative: the kernel looks at new ones when it has time to.
    pub fn settle(&self) {
        let start = Instant::now();
        while !self.tool("ip", "-6 addr show tentative").trim().is_empty() {
            assert!(start.elapsed() < DEADLINE, "{}: addresses stay tentative", self.name);
            thread::yield_now();
        }
    }

    /// A path to it that works for other processes, as long as this one lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Runs `work` on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        };
        let result = thread::scope(|scope| scope.spawn(inside).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a program inside; its arguments stand between spaces. Gives its output.
    pub fn tool(&self, tool: &str, args: &str) -> String {
        let path = find_tool(tool).unwrap_or_else(|| panic!("no `{tool}`"));
        let mut command = Command::new(path);
        command.args(args.split_whitespace()).stdin(Stdio::null());
        let output = self.run(|| command.output()).expect("a process");
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "in {}: {tool} {args}: {out}{err}", self.name);
        out
    }

    /// Runs `nft` on a script.
    pub fn nft(&self, script: &str) {
        let mut command = Command::new(find_tool("nft").expect("nft"));
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.run(|| command.spawn()).expect("nft");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("a script");
        let output = child.wait_with_output().expect("nft's end");
        assert!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| fs::write(&path, value)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// A counter of `/proc/net/snmp`, such as `Udp`, `InCsumErrors`, or of `/proc/net/netstat`.
    pub fn snmp(&self, proto: &str, field: &str) -> u64 {
        let files = ["snmp", "netstat"].map(|file| format!("/proc/thread-self/net/{file}"));
        let text = self.run(|| files.map(|file| fs::read_to_string(file).expect("counters"))).concat();
        let mut lines = text.lines().filter(|line| line.split(':').next() == Some(proto));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        let (_, value) = pairs.find(|(name, _)| *name == field).expect("such a counter");
        value.parse().expect("a number")
    }

    /// Checksum errors that this namespace's stack has seen.
    pub fn checksum_errors(&self) -> u64 {
        let six = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp6")).expect("snmp6");
        let mut counters = six.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let (_, udp6) = counters.find(|(name, _)| *name == "Udp6InCsumErrors").expect("such a counter");
        // TCP counts both versions in one.
        self.snmp("Udp", "InCsumErrors")
            + self.snmp("Tcp", "InCsumErrors")
            + udp6.trim().parse::<u64>().expect("a number")
    }

    /// A program that runs inside until it is told to stop.
    pub fn spawn(&self, command: &mut Command) -> Child {
        self.run(|| command.spawn()).expect("a process")
    }
}

/// A veth link between two namespaces; addresses as `10.1.0.1/24`. Offloads stay as they are by default.
pub fn link(a: (&Ns, &str, &str), b: (&Ns, &str, &str)) {
    let ((ns_a, if_a, addr_a), (ns_b, if_b, addr_b)) = (a, b);
    let peer = ns_b.path();
    let peer = peer.display();
    ns_a.tool("ip", &format!("link add {if_a} type veth peer name {if_b} netns {peer}"));
    for (ns, iface, addr) in [(ns_a, if_a, addr_a), (ns_b, if_b, addr_b)] {
        ns.tool("ip", &format!("addr add {addr} dev {iface}"));
        ns.tool("ip", &format!("link set {iface} up"));
    }
}

/// Attaches rules with the real binary, from outside the namespace; it has exited when this returns.
pub fn attach(ns: &Ns, iface: &str, direction: &str, rules: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_sfunnel"))
        .args(["attach", "-i", iface, "-d", direction, "--ruleset", rules, "--netns"])
        .arg(ns.path())
        .stdin(Stdio::null())
        .output()
        .expect("sfunnel");
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sfunnel attach, in {}: {err}", ns.name);
}

/// A capture of all packets at one interface, as they arrive from or leave to the wire.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Capture {
    /// Starts tcpdump and returns once it listens.
    pub fn start(ns: &Ns, iface: &str) -> Capture {
        Capture::start_of(ns, iface, "ip or ip6")
    }

    /// The same of what a filter in tcpdump's words lets through.
    pub fn start_of(ns: &Ns, iface: &str, filter: &str) -> Capture {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("capture.pcap");
        let mut command = Command::new(find_tool("tcpdump").expect("tcpdump"));
        // The ring has a slot of the snapshot length for each frame: 512 here, 8 by default.
        command.args(["-i", iface, "-U", "--immediate-mode", "-s", "16384", "-B", "8192", "-w"]).arg(&file);
        // -Z: stay root, the directory is ours alone.
        command.args(["-Z", "root", filter]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = ns.spawn(&mut command);
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let listening = lines.any(|line| line.is_ok_and(|line| line.contains("listening on")));
        assert!(listening, "tcpdump does not listen on {iface}");
        // Keep its pipe open and empty: it writes a summary at the end.
        thread::spawn(move || lines.count());
        Capture { child, file, _directory: directory }
    }

    /// Waits for `count` frames that satisfy `wanted`, stops, and gives all frames.
    pub fn stop(mut self, count: usize, wanted: impl Fn(&[u8]) -> bool) -> Finished {
        let start = Instant::now();
        let enough = || frames(&self.file).iter().filter(|frame| wanted(frame)).count() >= count;
        while !enough() && start.elapsed() < DEADLINE {
            thread::yield_now();
        }
        self.end();
        let frames = frames(&self.file);
        let seen = frames.iter().filter(|frame| wanted(frame)).count();
        assert!(seen >= count, "{seen} of {count} packets in the capture of {}", frames.len());
        Finished { frames, capture: self }
    }

    fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was captured; the file lives as long as this.
#[derive(Debug)]
pub struct Finished {
    pub frames: Vec<Vec<u8>>,
    capture: Capture,
}

impl Finished {
    /// Wireshark's dissector: those of the packets whose IP, TCP or UDP checksum it calls bad.
    pub fn bad_checksums(&self, of: &str) -> Vec<String> {
        let bad = ["ip", "tcp", "udp"].map(|p| format!("{p}.checksum.status==\"Bad\"")).join(" || ");
        self.tshark(&format!("({of}) && ({bad})"))
    }

    /// How many TCP and UDP packets it knows and found to be right.
    pub fn dissected(&self, of: &str) -> usize {
        let good = ["tcp", "udp"].map(|p| format!("{p}.checksum.status==\"Good\"")).join(" || ");
        self.tshark(&format!("({of}) && ({good})")).len()
    }

    fn tshark(&self, filter: &str) -> Vec<String> {
        let mut command = Command::new(find_tool("tshark").expect("tshark"));
        command.arg("-r").arg(&self.capture.file).args(["-n", "-Y", filter]);
        for proto in ["ip", "tcp", "udp"] {
            command.arg("-o").arg(format!("{proto}.check_checksum:TRUE"));
        }
        let output = command.stdin(Stdio::null()).output().expect("tshark");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tshark: {err}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

/// The frames of a pcap file that may still be growing. tcpdump writes it in host order, with
/// microseconds: anything else is not ours.
fn frames(file: &Path) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(file) {
        file.read_to_end(&mut bytes).expect("a readable file");
    }
    let mut rest = bytes.get(24..).unwrap_or(&[]);
    let mut frames = Vec::new();
    while let Some(length) = rest.get(8..12) {
        let length = u32::from_ne_bytes(length.try_into().expect("four")) as usize;
        let Some(frame) = rest.get(16..16 + length) else { break };
        frames.push(frame.to_vec());
        rest = &rest[16 + length..];
    }
    frames
}
