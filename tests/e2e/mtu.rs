//! What does not fit once it is funneled: the sender learns it, from its own machine and from a router.
//!
//! Sockets that must not be fragmented, on links of 1500 and 9000 bytes: the longest packet that fits
//! arrives, one byte more is answered, and the socket knows the MTU from then on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::libc;

use sfunnel::codegen::{self, Features, Link, Options};
use sfunnel::diag::Source;
use sfunnel::ir::Side;
use sfunnel::net::{self, Attachment, Hook, Netlink, links};
use sfunnel::{diagram, elf, kernel, policy};

use super::support::lab::{DEADLINE, Ns, attach};
use super::support::packet::{Packet, hex};
use super::support::rules::Rule;
use super::support::testrun::{Loader, SkBuff};
use super::support::world::{NEEDS, Way, World};
use super::support::{engine, flows, model, require};

/// IP and UDP headers in front of a datagram.
fn headers(world: &World) -> usize {
    if world.ip == "ip" { 28 } else { 48 }
}

fn any(world: &World, port: u16) -> SocketAddr {
    let unspecified =
        if world.ip == "ip" { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(unspecified, port)
}

/// A connected socket that never fragments (`IP_PMTUDISC_DO`).
fn unfragmented(world: &World) -> UdpSocket {
    world.client.run(|| {
        let socket = UdpSocket::bind(any(world, 0)).expect("bind");
        let (level, option) = match world.ip {
            "ip" => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            _ => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        let value: libc::c_int = libc::IP_PMTUDISC_DO;
        // SAFETY: nix has no safe way to set this option; it is given with its own size.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<libc::c_int>().try_into().expect("four"),
            )
        };
        assert_eq!(set, 0, "IP_MTU_DISCOVER: {}", std::io::Error::last_os_error());
        socket.connect(world.to(4739)).expect("connect");
        socket
    })
}

fn mtu_of(socket: &UdpSocket, world: &World) -> usize {
    let (level, option) = match world.ip {
        "ip" => (libc::IPPROTO_IP, libc::IP_MTU),
        _ => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut size: libc::socklen_t = size_of::<libc::c_int>().try_into().expect("four");
    // SAFETY: nix has no safe way to get this option over IPv6; it has room of its own size.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut size)
    };
    assert_eq!(got, 0, "IP_MTU: {}", std::io::Error::last_os_error());
    usize::try_from(value).expect("a size")
}

/// Sends datagrams of this length until the socket says that they are too long.
fn learns(socket: &UdpSocket, length: usize) -> bool {
    let start = Instant::now();
    while start.elapsed() < DEADLINE / 3 {
        match socket.send(&vec![7; length]) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return true,
            Err(error) => panic!("{error}"),
            Ok(_) => {}
        }
    }
    false
}

/// The longest that fits arrives, one byte more is answered with the MTU less what is pushed; what fits that arrives.
fn the_sender_learns(world: &World, mtu: usize, outer: &str, what: &str) {
    let pushed = if outer == "tcp" { 20 } else { 8 };
    let server = world.server.run(|| UdpSocket::bind(any(world, 4739))).expect("bind");
    server.set_read_timeout(Some(DEADLINE / 3)).expect("a timeout");
    let socket = unfragmented(world);
    let mut buffer = vec![0; 65_536];
    let longest = mtu - pushed - headers(world);
    for length in [500, longest] {
        socket.send(&vec![1; length]).expect("what fits");
        assert_eq!(server.recv(&mut buffer).ok(), Some(length), "{what}: {length} bytes");
    }
    assert_eq!(mtu_of(&socket, world), mtu, "{what}: before");
    assert!(learns(&socket, longest + 1), "{what}: nobody told");
    assert_eq!(mtu_of(&socket, world), mtu - pushed, "{what}: after");
    // One answer a packet: the error of a second one may be waiting.
    let _ = socket.take_error();
    socket.send(&vec![2; longest]).expect("what fits");
    let length = server.recv(&mut buffer);
    assert_eq!(length.ok(), Some(longest), "{what}: what was too long arrived all the same");
}

type MakeWorld = fn(Way) -> World;

fn outers_and_worlds() -> [(&'static str, MakeWorld); 4] {
    [("tcp", World::new), ("udp", World::new), ("tcp", World::six), ("udp", World::six)]
}

fn unfunnel_at_the_server(world: &World, outer: &str) {
    attach(&world.server, "vs", "ingress", &format!("{outer} dport 179 sport 540 actions unfunnel udp"));
}

fn rule(outer: &str) -> String {
    format!("udp dport 4739 actions funnel {outer} dport 179 sport 540")
}

#[test]
fn upstream_trap_over_the_mtu_a_local_udp_sender_learns_it() {
    if !require(&NEEDS) {
        return;
    }
    for (outer, make) in outers_and_worlds() {
        for mtu in [1500, 9000] {
            for offload in ["on", "off"] {
                let world = make(Way::Direct);
                for (ns, iface) in [(&world.client, "vc"), (&world.server, "vs")] {
                    ns.tool("ip", &format!("link set {iface} mtu {mtu}"));
                    ns.tool("ethtool", &format!("-K {iface} tx {offload}"));
                }
                attach(&world.client, "vc", "egress", &rule(outer));
                unfunnel_at_the_server(&world, outer);
                the_sender_learns(&world, mtu, outer, &format!("{} {outer}, {mtu}, tx {offload}", world.ip));
                world.no_checksum_errors();
            }
        }
    }
}

/// What `attach` loads on egress where there is no `bpf_check_mtu`.
fn attach_with_the_mtu_in_it(ns: &Ns, iface: &str, mtu: u32, rules: &str) {
    let ruleset = sfunnel::read(&Source::new("rules", rules)).expect("rules").ruleset;
    let old = Features { check_mtu: false, ..kernel::features() };
    let target = policy::target(old, Side::Egress, &ruleset, Some(mtu));
    let options = Options::pass_gso(Link::Ethernet).on(target);
    let program = codegen::compile(&ruleset, &diagram::build(&ruleset), options).expect("a program");
    assert!(!program.listing(&|_| None).contains("bpf_check_mtu"));
    let object = elf::wrap(&[("old", &program)]).expect("an object");
    ns.run(|| {
        let loaded = kernel::load(&object, &["old"]).expect("a program in the kernel");
        let mut netlink = Netlink::open().expect("a socket");
        let interface =
            links::find(&mut netlink, &[iface.to_owned()]).expect("interfaces").pop().expect("one");
        let attachment = Attachment::new(interface, Hook::Egress, &loaded[0], "old".to_owned());
        net::plan(&mut netlink, vec![attachment]).expect("a plan").apply(&mut netlink).expect("attached");
    });
}

#[test]
fn a_local_udp_sender_learns_the_mtu_that_the_program_holds() {
    if !require(&NEEDS) {
        return;
    }
    for (outer, make) in outers_and_worlds() {
        for mtu in [1400, 9000] {
            let world = make(Way::Direct);
            for (ns, iface) in [(&world.client, "vc"), (&world.server, "vs")] {
                ns.tool("ip", &format!("link set {iface} mtu {mtu}"));
            }
            attach_with_the_mtu_in_it(&world.client, "vc", mtu, &rule(outer));
            unfunnel_at_the_server(&world, outer);
            let what = format!("{} {outer}, {mtu}", world.ip);
            the_sender_learns(&world, usize::try_from(mtu).expect("small"), outer, &what);
            world.no_checksum_errors();
        }
    }
}

/// The router funnels at the interface by which packets leave, or by which they come in; behind it the server's
/// link is the narrow one.
#[test]
fn a_sender_behind_a_router_learns_the_mtu() {
    if !require(&NEEDS) {
        return;
    }
    for (outer, make) in outers_and_worlds() {
        // Where the router rewrites addresses, its ingress hook does not know the way that packets will take.
        let places = [
            ("rs", "egress", Way::Routed),
            ("rs", "egress", Way::Finished),
            ("rs", "egress", Way::Nat),
            ("rc", "ingress", Way::Routed),
            ("rc", "ingress", Way::Finished),
        ];
        // Without `bpf_check_mtu`, nobody tells the sender of what arrives there (docs/container.md).
        let told = |place: &(&str, &str, Way)| place.1 == "egress" || kernel::features().check_mtu;
        for (iface, hook, way) in places.into_iter().filter(told) {
            let world = make(way);
            attach(world.router.as_ref().expect("a router"), iface, hook, &rule(outer));
            unfunnel_at_the_server(&world, outer);
            the_sender_learns(&world, 1500, outer, &format!("{} {outer}, {iface} {hook}, {way:?}", world.ip));
        }
    }
}

/// Only one direction is funneled, so nobody lowers the MSS of the other end, which says how long segments may be.
#[test]
fn a_tcp_sender_learns_the_mtu() {
    if !require(&NEEDS) {
        return;
    }
    for (outer, make) in outers_and_worlds() {
        for way in [Way::Direct, Way::Routed] {
            let world = make(way);
            let rules = format!("tcp dport 8080 actions funnel {outer} dport 80 sport 540");
            attach(&world.client, "vc", "egress", &rules);
            let rules = format!("{outer} dport 80 sport 540 actions unfunnel tcp");
            attach(&world.server, "vs", "ingress", &rules);
            let bytes = 1 << 20;
            let arrived = flows::bulk(&world.client, &world.server, world.to(8080), bytes);
            assert_eq!(arrived, bytes, "{outer}, {way:?}");
        }
    }
}

/// Verdicts, and the answer byte for byte.
#[test]
fn the_answer_is_what_a_router_would_say() {
    if !require(&NEEDS) {
        return;
    }
    const REDIRECT: i32 = 7;
    const SHOT: i32 = 2;
    const PASS: i32 = -1;
    for (outer, pushed) in [("tcp", 20), ("udp", 8)] {
        let text = format!(
            "udp dport 4739 actions funnel {outer} dport 179 sport 540\n\
             tcp dport 8080 actions funnel {outer} dport 180 sport 540"
        );
        let rules = Rule::parse_all(&text).expect("rules");
        let (_, loaded) = engine::load(&mut Loader::default(), &rules, Link::Ethernet).expect("a program");
        let ns = Ns::new("narrow");
        ns.tool("ip", "link add narrow type veth peer name other");
        for (mtu, told) in [(1500, 1500 - pushed), (3000, 3000 - pushed), (580, 576)] {
            ns.tool("ip", &format!("link set narrow mtu {mtu}"));
            let context = ns.run(|| {
                let interface = nix::net::if_::if_nametoindex("narrow").expect("it");
                SkBuff { interface, ..SkBuff::default() }
            });
            let run = |words: &str, extra: usize, context| {
                let header = 20 + if words.contains("options 3") { 12 } else { 0 };
                let header = header + if words.contains("tcp") { 20 } else { 8 };
                let payload = usize::from(mtu - pushed) - header + extra;
                let words = format!("ip 10.1.2.3 > 192.0.2.1 {words} len {payload}");
                let frame = Packet::parse(&words).expect("words").frame();
                let (verdict, after) = ns.run(|| loaded.run(&frame, context)).expect("a run");
                (frame, verdict, after, words)
            };
            for l4 in
                ["udp 9 > 4739", "tcp 9 > 8080", "udp 9 > 4739 nosum", "tcp 9 > 8080 flags 2 opts 020405b4"]
            {
                for ip in ["df", "df options 3", "df tos 184 pad 3"] {
                    if mtu == 580 && l4.contains("opts") || ip.contains("options") && l4.contains("opts") {
                        continue;
                    }
                    let fits = run(&format!("{ip} {l4}").replace(" opts 020405b4", ""), 0, context);
                    let expected = model::run(&rules, &fits.0, 0, model::Link::Ethernet).frame;
                    assert_eq!((fits.1, hex(&fits.2)), (PASS, hex(&expected)), "{}", fits.3);
                    let (frame, verdict, after, words) = run(&format!("{ip} {l4}"), 1, context);
                    let answer = model::too_long(&frame, told);
                    assert_eq!((verdict, hex(&after)), (REDIRECT, hex(&answer)), "{words}");
                }
                // May be fragmented, which is not for us to do.
                let (_, verdict, ..) = run(l4, 1, context);
                assert_eq!(verdict, SHOT, "{l4}");
                // Not for us to look at: segments that are not cut yet, and fragments.
                let segments = SkBuff { gso_size: 500, ..context };
                for (words, context) in [(l4.to_owned(), segments), (format!("mf {l4}"), context)] {
                    let (frame, verdict, after, words) = run(&words, 300, context);
                    assert_eq!((verdict, hex(&after)), (PASS, hex(&frame)), "{words}");
                }
            }
            for to in ["224.0.0.5", "255.255.255.255"] {
                let words = format!("ip 10.1.2.3 > {to} df udp 9 > 4739 len {mtu}");
                let frame = Packet::parse(&words).expect("words").frame();
                let (verdict, _) = ns.run(|| loaded.run(&frame, context)).expect("a run");
                assert_eq!(verdict, SHOT, "{words}");
            }
        }
    }
}
