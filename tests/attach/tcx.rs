//! TCX: the programs that run before those on clsact, ours among those of others.
//!
//! Others attach by the same system call here, or by links, as aya does in `tests/tools.rs`.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use sfunnel::kernel::Program;
use sfunnel::kernel::bpf::{self, At};
use sfunnel::net::qdisc::Qdisc;
use sfunnel::net::{self, Attachment, Error, Filter, Hook, Interface, Mark, Netlink, Order, Point};

use super::confined::with_capabilities;
use super::support::*;

/// Drops all UDP; the other rule makes two rulesets differ.
const DROP_UDP: [&str; 2] =
    ["udp actions drop; tcp dport 1 actions drop", "udp actions drop; tcp dport 2 actions drop"];
/// TC_ACT_OK: the packet passes, and no other program sees it.
const OK: i32 = 0;

/// The same, on a kernel that has TCX. `false`: it has none.
pub fn in_netns_with_tcx(test: impl FnOnce(&mut Netlink, Interface) + Send + 'static) {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        match bpf::query(lo.number(), false) {
            Err(Errno::EINVAL) => {
                let said =
                    fail(sfunnel().args(["attach", "-i", "lo", "--hook", "tcx", "--ruleset", "tcp drop"]), 1);
                assert!(said.contains("the kernel has no TCX"), "{said}");
            }
            chain => {
                chain.expect("the programs on TCX");
                test(netlink, lo);
            }
        }
    });
}

/// Somebody else's program. It stays until the namespace goes.
fn theirs(interface: &Interface, hook: Hook, verdict: i32, at: At<'_>) -> Program {
    let program = program(verdict, 99);
    bpf::attach(interface.number(), hook == Hook::Egress, program.as_fd(), at, 0).expect("their program");
    program
}

pub fn chain(interface: &Interface, hook: Hook) -> Vec<u32> {
    bpf::query(interface.number(), hook == Hook::Egress).expect("the programs on TCX").programs
}

fn ours(netlink: &mut Netlink, interface: &Interface, hook: Hook) -> Vec<Filter> {
    net::status(netlink, std::slice::from_ref(interface), &[hook]).expect("ours")
}

fn attach(more: &[&str]) -> String {
    talk(&succeed(sfunnel().args(["attach", "-i", "lo", "--ruleset", DROP_UDP[0]]).args(more)))
}

fn sockets() -> (UdpSocket, UdpSocket) {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    (sender, receiver)
}

fn passes((sender, receiver): &(UdpSocket, UdpSocket)) -> bool {
    // Loopback delivers within `send`: what is not there afterwards has been dropped.
    sender.send(b"ping").unwrap();
    receiver.recv(&mut [0; 8]).is_ok()
}

#[test]
fn a_program_on_tcx_stays_is_known_by_its_note_and_goes_without_trace() {
    in_netns_with_tcx(|netlink, lo| {
        let pair = sockets();
        assert_eq!(attach(&["--hook", "tcx"]), "attached to lo ingress, on TCX\n");
        assert!(!passes(&pair));
        let found = ours(netlink, &lo, Hook::Ingress);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].point(), chain(&lo, Hook::Ingress)),
            (Point::Tcx, vec![found[0].program.unwrap()])
        );
        assert_eq!(Mark::read(found[0].name.as_deref().unwrap()).unwrap().rules, 2);
        assert!(filters(netlink, &lo, Hook::Ingress).iter().all(|filter| !filter.is_reached()));

        let output = succeed(sfunnel().args(["status", "--json"]));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json[0]["hook"], &json[0]["point"]), (&"ingress".into(), &"tcx".into()));
        assert_eq!((&json[0]["place"], &json[0]["rules"]), (&serde_json::json!([1, 1]), &2.into()));
        let output = succeed(sfunnel().args(["status"]));
        assert!(String::from_utf8_lossy(&output.stdout).contains(", TCX, 1 of 1\n"));
        let output = succeed(sfunnel().args(["doctor", "-i", "lo"]));
        assert!(String::from_utf8_lossy(&output.stdout).contains("is attached to TCX"));

        succeed(with_capabilities(",+net_admin").arg(binary()).arg("detach"));
        assert!(passes(&pair));
        assert_eq!((chain(&lo, Hook::Ingress), qdisc(netlink, &lo)), (vec![], Qdisc::Absent));
    });
}

#[test]
fn a_program_that_ends_the_hook_hides_clsact_and_auto_goes_before_it() {
    in_netns_with_tcx(|netlink, lo| {
        let pair = sockets();
        let other = theirs(&lo, Hook::Ingress, OK, At::Last);
        let said = attach(&["--hook", "clsact"]);
        assert!(
            said.contains(&format!(
                "lo ingress: hidden by what runs on TCX, in front of clsact (test ({}))",
                other.id
            )),
            "{said}"
        );
        assert!(passes(&pair), "it is hidden");
        let output = sfunnel().args(["doctor", "-i", "lo"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            found.contains(&format!(
                "BAD   lo ingress  test ({}) (TCX) in front: sfunnel, on clsact, is hidden",
                other.id
            )),
            "{found}"
        );

        let said = attach(&[]);
        assert!(said.starts_with("attached to lo ingress, on TCX, in place of program "), "{said}");
        assert!(said.ends_with(" on clsact\n"), "{said}");
        assert!(!passes(&pair));
        let [mine] = &ours(netlink, &lo, Hook::Ingress)[..] else { panic!("one of ours") };
        assert_eq!(chain(&lo, Hook::Ingress), [mine.program.unwrap(), other.id]);
        let output = succeed(sfunnel().args(["doctor", "-i", "lo"]));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("in front"));
        // A hook on which nobody else is.
        assert_eq!(attach(&["-d", "egress"]), "attached to lo egress\n");
        // Without CAP_SYS_ADMIN the other program has no name.
        let mut command = with_capabilities(",+bpf,+net_admin");
        command.arg(binary()).args(["attach", "-i", "lo", "--hook", "clsact", "--ruleset", DROP_UDP[0]]);
        let said = talk(&succeed(&mut command));
        assert!(said.contains(&format!("(program {})", other.id)), "{said}");
        assert_eq!(chain(&lo, Hook::Ingress), [other.id]);
        succeed(sfunnel().arg("detach"));
        assert_eq!(chain(&lo, Hook::Ingress), [other.id], "theirs is left alone");
    });
}

#[test]
fn an_order_is_kept_until_another_is_asked_for() {
    in_netns_with_tcx(|netlink, lo| {
        let [a, b] = [At::Last, At::Last].map(|at| theirs(&lo, Hook::Egress, NEXT, at).id);
        let mut last = 0;
        for capabilities in [",+bpf,+net_admin", ",+bpf,+net_admin,+sys_admin"] {
            for (order, place) in [
                (&["before", &b.to_string()][..], 1),
                (&[], 1),
                (&["first"], 0),
                (&[], 0),
                (&["last"], 2),
                (&[], 2),
                (&[&format!("after {a}")], 1),
                (&["first"], 0),
            ] {
                let mut command = with_capabilities(capabilities);
                command.arg(binary()).args(["attach", "-i", "lo", "-d", "egress", "--ruleset", DROP_UDP[0]]);
                if !order.is_empty() {
                    command.arg("--order").args(order);
                }
                succeed(&mut command);
                let [mine] = &ours(netlink, &lo, Hook::Egress)[..] else { panic!("one of ours") };
                let id = mine.program.unwrap();
                assert_ne!(id, last);
                last = id;
                let mut expected = vec![a, b];
                expected.insert(place, id);
                assert_eq!(chain(&lo, Hook::Egress), expected, "{order:?}");
                assert_eq!(filters(netlink, &lo, Hook::Egress).len(), 1, "one note");
            }
        }
        let mut command = sfunnel();
        command.args([
            "attach",
            "-i",
            "lo",
            "-d",
            "egress",
            "--ruleset",
            DROP_UDP[0],
            "--order",
            "after",
            "7777777",
        ]);
        let said = fail(&mut command, 1);
        assert!(
            said.contains(&format!("no program 7777777 on TCX of lo egress; there are: {last}, {a}, {b}")),
            "{said}"
        );
        assert_eq!(chain(&lo, Hook::Egress), [last, a, b]);
    });
}

/// Sends until told to stop; says how many went out.
fn flood(sender: UdpSocket, stop: &Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    let stop = stop.clone();
    thread::spawn(move || {
        let sent = AtomicU64::new(0);
        while !stop.load(Ordering::Relaxed) {
            sent.fetch_add(u64::from(sender.send(b"flood").is_ok()), Ordering::Relaxed);
        }
        sent.into_inner()
    })
}

fn replacements_let_nothing_through(
    rounds: usize,
    start: fn() -> Command,
    more: fn(usize) -> &'static [&'static str],
) {
    in_netns_with_tcx(move |netlink, lo| {
        let (sender, receiver) = sockets();
        attach(&["--hook", "tcx"]);
        let stop = Arc::new(AtomicBool::new(false));
        let flood = flood(sender, &stop);
        for round in 0..rounds {
            let mut command = start();
            command.args(["attach", "-i", "lo", "--ruleset", DROP_UDP[(round + 1) % 2]]);
            succeed(command.args(more(round)));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(flood.join().unwrap() > 1000);
        assert!(receiver.recv(&mut [0; 8]).is_err(), "a packet got through");
        assert_eq!(ours(netlink, &lo, Hook::Ingress).len(), 1);
    });
}

#[test]
fn a_thousand_replacements_on_tcx_let_no_packet_through() {
    replacements_let_nothing_through(1000, sfunnel, |_| &["--hook", "tcx"]);
}

#[test]
fn nor_do_those_with_two_capabilities() {
    let start = || {
        let mut command = with_capabilities(",+bpf,+net_admin");
        command.arg(binary());
        command
    };
    replacements_let_nothing_through(300, start, |_| &["--hook", "tcx"]);
}

#[test]
fn nor_does_moving_between_clsact_and_tcx() {
    let hooks = |round: usize| -> &'static [&'static str] {
        if round.is_multiple_of(2) { &["--hook", "clsact"] } else { &["--hook", "tcx"] }
    };
    replacements_let_nothing_through(200, sfunnel, hooks);
}

#[test]
fn killed_at_any_moment_it_leaves_one_and_the_next_run_tidies_up() {
    const ROUNDS: u32 = 100;
    in_netns_with_tcx(|netlink, lo| {
        let start = Instant::now();
        attach(&["--hook", "tcx"]);
        let span = start.elapsed();
        for round in 0..ROUNDS {
            let hook = ["tcx", "clsact", "tcx"][usize::try_from(round % 3).unwrap()];
            let mut command = if round % 2 == 0 {
                with_capabilities(",+bpf,+net_admin")
            } else {
                cleared(Command::new("env"))
            };
            command.arg(binary()).args(["attach", "-i", "lo", "--ruleset", DROP_UDP[1], "--hook", hook]);
            let mut child = command.spawn().unwrap();
            thread::sleep(span * round / ROUNDS + Duration::from_micros(u64::from(round) * 50));
            child.kill().unwrap();
            child.wait().unwrap();
            let found = ours(netlink, &lo, Hook::Ingress);
            assert!(!found.is_empty(), "round {round}: none");
            // Each program on TCX has its note.
            let on_tcx = found.iter().filter(|filter| filter.is_note()).count();
            assert_eq!(on_tcx, chain(&lo, Hook::Ingress).len(), "round {round}");
        }
        attach(&["--hook", "tcx"]);
        assert_eq!(ours(netlink, &lo, Hook::Ingress).len(), 1);
        assert_eq!(filters(netlink, &lo, Hook::Ingress).len(), 1, "no note is left over");
        succeed(sfunnel().arg("detach"));
        assert_eq!((chain(&lo, Hook::Ingress), qdisc(netlink, &lo)), (vec![], Qdisc::Absent));
    });
}

#[test]
fn a_failure_part_way_puts_back_programs_notes_and_places() {
    in_netns_with_tcx(|netlink, _| {
        let [on_tcx, on_clsact, bare] = ["ontcx", "onclsact", "bare"].map(|name| device(netlink, name));
        let (old, new) = (program(NEXT, 1), program(NEXT, 2));
        fn attachment<'a>(interface: &Interface, program: &'a Program, point: Point) -> Attachment<'a> {
            let name = format!("sfunnel {}", program.id);
            Attachment { point, ..Attachment::new(interface.clone(), Hook::Ingress, program, name) }
        }
        let before = vec![attachment(&on_tcx, &old, Point::Tcx), attachment(&on_clsact, &old, Point::Clsact)];
        net::plan(netlink, before).unwrap().apply(netlink).unwrap();
        let other = theirs(&on_tcx, Hook::Ingress, NEXT, At::First).id;
        for (point, name) in [(Point::Tcx, "doomed"), (Point::Clsact, "doomed-too")] {
            let doomed = device(netlink, name);
            let wanted = [&on_tcx, &on_clsact, &bare, &doomed].map(|one| attachment(one, &new, point));
            let plan = net::plan(netlink, wanted.to_vec()).unwrap();
            delete(netlink, &doomed);
            let error = plan.apply(netlink).unwrap_err();
            assert!(matches!(&error, Error::PartWay { standing, .. } if standing.is_empty()), "{error}");
            assert!(error.is_missing_interface());
            for (interface, place) in [(&on_tcx, Point::Tcx), (&on_clsact, Point::Clsact)] {
                let [mine] = &ours(netlink, interface, Hook::Ingress)[..] else { panic!("one of ours") };
                assert_eq!((mine.program, mine.point()), (Some(old.id), place));
                assert_eq!(filters(netlink, interface, Hook::Ingress).len(), 1);
            }
            assert!(chain(&on_tcx, Hook::Ingress).contains(&other));
            assert_eq!((chain(&bare, Hook::Ingress), qdisc(netlink, &bare)), (vec![], Qdisc::Absent));
        }
    });
}

#[test]
fn a_note_that_was_lost_with_clsact_is_missed_and_made_again() {
    in_netns_with_tcx(|netlink, lo| {
        attach(&["--hook", "tcx"]);
        succeed(Command::new("tc").args(["qdisc", "del", "dev", "lo", "clsact"]));
        let said = String::from_utf8(succeed(sfunnel().arg("status")).stdout).unwrap();
        assert!(said.contains("its note is lost"), "{said}");
        assert_eq!(sfunnel().args(["doctor", "-i", "lo"]).output().unwrap().status.code(), Some(1));
        attach(&["--hook", "tcx", "--order", "first"]);
        let [mine] = &ours(netlink, &lo, Hook::Ingress)[..] else { panic!("one of ours") };
        assert!(mine.is_note());
        succeed(Command::new("tc").args(["qdisc", "del", "dev", "lo", "clsact"]));
        succeed(sfunnel().arg("detach"));
        assert!(chain(&lo, Hook::Ingress).is_empty());
    });
}

#[test]
fn a_check_knows_where_it_would_be_attached() {
    in_netns_with_tcx(|_, lo| {
        let check = |more: &[&str], code: i32| {
            let mut command = sfunnel();
            command.args(["attach", "--check", "-i", "lo", "--ruleset", DROP_UDP[0]]).args(more);
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{more:?}: {}", talk(&output));
            talk(&output)
        };
        attach(&["--hook", "tcx"]);
        check(&["--hook", "tcx"], 0);
        check(&["--hook", "tcx", "--order", "first"], 0);
        for hook in ["clsact", "auto"] {
            let said = check(&["--hook", hook], 3);
            assert!(said.contains("attached to TCX, and would be attached to clsact"), "{said}");
        }
        theirs(&lo, Hook::Ingress, NEXT, At::Last);
        check(&[], 0);
        let said = check(&["--order", "last"], 3);
        assert!(said.contains("on TCX, it is not last"), "{said}");
    });
}

#[test]
fn only_what_can_be_said_of_a_place_is_taken_for_one() {
    in_netns(|_| {
        let attach = |args: &[&str], code| {
            fail(sfunnel().args(["attach", "-i", "lo", "--ruleset", DROP_UDP[0]]).args(args), code)
        };
        let said = attach(&["--order", "middle"], 2);
        assert!(said.contains("--order is `middle`; it must be first, last"), "{said}");
        let said = attach(&["--hook", "clsact", "--order", "last"], 2);
        assert!(said.contains("--order is about TCX"), "{said}");
        let said = fail(sfunnel().env("SFUNNEL_RULESET", DROP_UDP[0]).env("SFUNNEL_HOOK", "xdp"), 1);
        assert!(said.contains("SFUNNEL_HOOK is `xdp`; it must be clsact, tcx or auto"), "{said}");
        let said = talk(&succeed(
            sfunnel().env("SFUNNEL_RULESET", DROP_UDP[0]).env("IFACES", "lo").env("SFUNNEL_ORDER", "last"),
        ));
        assert!(said.contains("no programs of others on TCX"), "{said}");
    });
    assert_eq!(Order::Before(12).to_string(), "before 12");
}
