//! A network namespace per test, interfaces in it, and tc seen through messages of our own making.
//!
//! Independent of `sfunnel::net` where it judges: filters and qdiscs are made and counted here by hand.

#[path = "../support/bpf_object.rs"]
mod bpf_object;

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};
use rtnetlink::{LinkUnspec, LinkVeth};
use sfunnel::kernel::{self, Program};
use sfunnel::net::{Filter, Hook, Interface, Netlink, filter, links, qdisc};

pub use self::bpf_object::elf;

/// `false`: the test cannot run here, and has said so. With SFUNNEL_REQUIRE_KERNEL=1 that is a failure.
pub fn require_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert_ne!(std::env::var("SFUNNEL_REQUIRE_KERNEL").as_deref(), Ok("1"), "this test needs root");
    eprintln!("skipped: this test needs root (network namespaces, CAP_BPF, CAP_NET_ADMIN)");
    false
}

/// Runs a test in a network namespace of its own, with `lo` up. Threads and processes it starts are in it too.
pub fn in_netns(test: impl FnOnce(&mut Netlink) + Send + 'static) {
    if !require_root() {
        return;
    }
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let mut netlink = Netlink::open().expect("a netlink socket");
        up(&mut netlink, "lo");
        test(&mut netlink);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn interface(netlink: &mut Netlink, name: &str) -> Interface {
    links::find(netlink, &[name.to_owned()]).expect("the interface").remove(0)
}

/// One end of a veth pair (every kernel with containers has veth; dummy is often missing). The other is `NAME-peer`.
pub fn device(netlink: &mut Netlink, name: &str) -> Interface {
    let message = RouteNetlinkMessage::NewLink(LinkVeth::new(name, &format!("{name}-peer")).build());
    netlink.request(message, NLM_F_CREATE | NLM_F_EXCL).expect("a veth pair");
    interface(netlink, name)
}

pub fn up(netlink: &mut Netlink, name: &str) {
    let index = interface(netlink, name).index.unsigned_abs();
    let message = RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).up().build());
    netlink.request(message, 0).expect("the interface up");
}

pub fn delete(netlink: &mut Netlink, interface: &Interface) {
    let message = LinkUnspec::new_with_index(interface.index.unsigned_abs()).build();
    netlink.request(RouteNetlinkMessage::DelLink(message), 0).expect("the interface gone");
}

/// A program that returns `verdict`; `salt` makes it differ from another one.
pub fn program(verdict: i32, salt: i32) -> Program {
    let mov = |reg: u8, value: i32| {
        let [a, b, c, d] = value.to_le_bytes();
        [0xb7, reg, 0, 0, a, b, c, d]
    };
    let code = [mov(1, salt), mov(0, verdict), [0x95, 0, 0, 0, 0, 0, 0, 0]].concat();
    kernel::load(&elf(&[("test", &code)]), &["test"]).expect("the program loads").remove(0)
}

/// TC_ACT_UNSPEC: the hook's next program decides.
pub const NEXT: i32 = -1;

/// Somebody else's filter: any name, priority and handle.
pub fn foreign(
    netlink: &mut Netlink,
    interface: &Interface,
    hook: Hook,
    name: &str,
    priority: u16,
    program: &Program,
) {
    let options = [
        TcFilterBpfOption::ProgFd(program.as_fd().as_raw_fd().unsigned_abs()),
        TcFilterBpfOption::ProgName(name.to_owned()),
        TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
    ];
    let header = TcHeader {
        index: interface.index,
        handle: 1.into(),
        parent: TcHandle { major: 0xffff, minor: if hook == Hook::Ingress { 0xfff2 } else { 0xfff3 } },
        info: u32::from(priority) << 16 | u32::from(3u16.to_be()),
        ..TcHeader::default()
    };
    let attributes = vec![
        TcAttribute::Kind("bpf".to_owned()),
        TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()),
    ];
    let message = RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(header, attributes));
    netlink.request(message, NLM_F_CREATE | NLM_F_EXCL).expect("somebody else's filter");
}

/// The name of the filters that the original program leaves.
pub const ORIGINAL: &str = "tc_sfunnel.o:[funnel]";

pub fn add_qdisc(netlink: &mut Netlink, interface: &Interface, kind: &str) {
    add_qdisc_with(netlink, interface, kind, Vec::new());
}

/// clsact whose ingress filters are those of a block that other interfaces may share.
pub fn add_shared_clsact(netlink: &mut Netlink, interface: &Interface, block: u32) {
    const TCA_INGRESS_BLOCK: u16 = 13;
    let block = DefaultNla::new(TCA_INGRESS_BLOCK, block.to_ne_bytes().to_vec());
    add_qdisc_with(netlink, interface, "clsact", vec![TcAttribute::Other(block)]);
}

fn add_qdisc_with(netlink: &mut Netlink, interface: &Interface, kind: &str, more: Vec<TcAttribute>) {
    let handle = TcHandle { major: 0xffff, minor: 0 };
    let header =
        TcHeader { index: interface.index, handle, parent: TcHandle::INGRESS, ..TcHeader::default() };
    let mut attributes = vec![TcAttribute::Kind(kind.to_owned())];
    attributes.extend(more);
    let message = TcMessage::from_parts(header, attributes);
    netlink
        .request(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
        .expect("a qdisc");
}

/// A tun device. `false`: this machine cannot make one, and the test has said so.
pub fn tun(name: &str) -> bool {
    match Command::new("ip").args(["tuntap", "add", "mode", "tun", "name", name]).status() {
        Ok(status) if status.success() => return true,
        Ok(_) => eprintln!("skipped: no tun device (/dev/net/tun)"),
        Err(_) => eprintln!("skipped: no `ip`; install the Debian package iproute2"),
    }
    assert_ne!(std::env::var("SFUNNEL_REQUIRE_KERNEL").as_deref(), Ok("1"), "a tun device is required");
    false
}

/// Everything on a hook, ours or not.
pub fn filters(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Vec<Filter> {
    let qdisc = qdisc(netlink, interface);
    filter::list(netlink, interface, hook, qdisc).expect("the filters")
}

pub fn names(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Vec<String> {
    filters(netlink, interface, hook).into_iter().map(|filter| filter.name.unwrap_or_default()).collect()
}

pub fn qdisc(netlink: &mut Netlink, interface: &Interface) -> qdisc::Qdisc {
    qdisc::all(netlink).expect("the qdiscs").get(&interface.index).copied().unwrap_or_default()
}

/// The binary, without any of its variables set.
pub fn sfunnel() -> Command {
    cleared(Command::new(binary()))
}

pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_sfunnel"))
}

pub fn cleared(mut command: Command) -> Command {
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub fn talk(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to the end and insists on success.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, talk(&output));
    output
}

/// Runs to the end and insists on this exit code.
pub fn fail(command: &mut Command, code: i32) -> String {
    let output = command.output().expect("the command starts");
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", talk(&output));
    talk(&output)
}
