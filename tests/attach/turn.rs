//! The turn: one at a time, taken by those who may attach and by nobody else, and gone with its process.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::pipe2;
use rtnetlink::sys::protocols::NETLINK_FIB_LOOKUP;
use rtnetlink::sys::{Socket, SocketAddr as NetlinkAddr};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sfunnel::net::turn::{self, Turn};
use sfunnel::net::{self, Hook};

use super::support::*;

const RULES: &str = "udp actions drop";
const AT_ONCE: Duration = Duration::ZERO;

fn take() -> net::Result<Turn> {
    Turn::wait(Duration::from_secs(60), |_| ())
}

/// An `attach` that has the turn and is held up in the middle: nobody reads what it says.
fn stuck() -> (Child, File) {
    let (unread, full) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).expect("a pipe");
    let mut filling = File::from(full.try_clone().expect("a descriptor"));
    while filling.write(&[b'.'; 4096]).is_ok() {}
    while filling.write(b".").is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).expect("a blocking pipe");
    let mut command = sfunnel();
    let child = command.args(["attach", "-i", "lo", "--ruleset", RULES]).stderr(full).spawn().unwrap();
    drop(command);
    while turn::holders().expect("a list") != [child.id()] {
        thread::sleep(Duration::from_millis(2));
    }
    (child, File::from(unread))
}

#[test]
fn nobody_who_may_not_attach_makes_it_wait() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        // What anybody may hold: names, and netlink sockets in no group.
        let _name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(b"sfunnel/turn").unwrap()).unwrap();
        let mut socket = Socket::new(NETLINK_FIB_LOOKUP).unwrap();
        socket.bind(&NetlinkAddr::new(0, 0)).unwrap();
        assert!(turn::holders().unwrap().is_empty());
        let output = succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", RULES]));
        assert_eq!(talk(&output), "attached to lo ingress\n");
        assert_eq!(filters(netlink, &lo, Hook::Ingress).len(), 1);
    });
}

#[test]
fn only_who_may_attach_can_take_it() {
    in_netns(|_| {
        // Of this thread only.
        let mut left = capabilities(None).unwrap();
        left.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, left).unwrap();
        let refused = Turn::wait(AT_ONCE, |_| ()).unwrap_err();
        assert!(refused.is_not_permitted(), "{refused}");
        assert!(refused.to_string().contains("nothing was changed"), "{refused}");
        assert!(turn::holders().unwrap().is_empty());
    });
}

#[test]
fn never_do_two_have_it() {
    in_netns(|_| {
        static AT_WORK: AtomicU32 = AtomicU32::new(0);
        let rounds = || {
            for _ in 0..50 {
                let _turn = take().expect("a turn");
                assert_eq!(AT_WORK.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                thread::yield_now();
                AT_WORK.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let all: Vec<_> = (0..6).map(|_| thread::spawn(rounds)).collect();
        all.into_iter().for_each(|one| one.join().expect("alone each time"));
        assert!(turn::holders().unwrap().is_empty());
    });
}

#[test]
fn each_namespace_has_turns_of_its_own() {
    in_netns(|_| {
        let _turn = take().unwrap();
        assert_eq!(turn::holders().unwrap().len(), 1);
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        assert!(turn::holders().unwrap().is_empty());
        Turn::wait(AT_ONCE, |_| ()).expect("the one of this namespace");
    });
}

#[test]
fn it_goes_with_its_process_when_that_is_killed() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let (mut holder, _unread) = stuck();
        let said = Turn::wait(AT_ONCE, |_| ()).unwrap_err().to_string();
        assert!(said.contains(&format!("(process {})", holder.id())), "{said}");
        let mut command = sfunnel();
        let mut next = command.args(["attach", "-i", "lo", "--ruleset", RULES]).spawn().unwrap();
        // It says whom it waits for.
        let mut lines = BufReader::new(next.stderr.take().unwrap()).lines();
        let said = lines.next().unwrap().unwrap();
        assert!(said.starts_with("waiting: another sfunnel is at work"), "{said}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        let said = lines.next().unwrap().unwrap();
        assert!(said.starts_with("attached to lo ingress"), "{said}");
        assert!(next.wait().unwrap().success());
        assert_eq!(filters(netlink, &lo, Hook::Ingress).len(), 1);
        assert!(turn::holders().unwrap().is_empty());
    });
}

#[test]
fn who_does_not_get_it_changes_nothing_and_says_so() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", RULES]));
        let before = filters(netlink, &lo, Hook::Ingress);
        let _turn = take().unwrap();
        let commands = [&["attach", "-i", "lo", "--ruleset", "tcp actions drop"][..], &["detach"]];
        let children = commands.map(|args| sfunnel().args(args).spawn().unwrap());
        for child in children {
            let output = child.wait_with_output().unwrap();
            let said = talk(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("error: nothing was changed: another sfunnel is at work"), "{said}");
            assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
            assert!(said.contains("try again"), "{said}");
        }
        assert_eq!(filters(netlink, &lo, Hook::Ingress), before);
    });
}
