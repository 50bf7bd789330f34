//! Devices without a link header: a tun device, whose other side this test is.
//!
//! What the kernel sends is read from a file descriptor and looked at; what is written arrives. A veth has a link
//! header and a tun has none, so a packet that goes to the pair gets one and loses it on the way back.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use nix::libc;

use super::support::lab::{Capture, DEADLINE, Ns, link};
use super::support::model::{self, Link};
use super::support::packet::Packet;
use super::support::rules::Rule;
use super::support::world::{NEEDS, funneled};
use super::support::{Need, flows, require};
use super::{attach, interfaces};

const IFF_VNET_HDR: u16 = 0x4000;

/// `tun0` in a namespace, with this address, up.
fn tun(ns: &Ns, address: &str, flags: u16) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    let file = ns.run(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
        let mut request = [0; 40]; // struct ifreq
        request[..4].copy_from_slice(b"tun0");
        request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI | flags).to_ne_bytes());
        // SAFETY: nix has no safe way to say this; the request is as long as the kernel reads and writes.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(made, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        file
    });
    ns.tool("ip", &format!("addr add {address} dev tun0"));
    ns.tool("ip", "link set tun0 up");
    file
}

const WORLD: [Need; 5] = [NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], Need::Tool("tcpdump", "tcpdump")];

/// What the model makes of a packet that a device without a link header carries.
fn l3(rules: &str, packet: &[u8]) -> Vec<u8> {
    let rules = Rule::parse_all(rules).expect("rules");
    // There, the kernel knows what the packet is; here, a link header tells the model.
    let frame = [&[0; 12][..], &[8, 0], packet].concat();
    let mut outcome = model::run(&rules, &frame, 0, Link::Ethernet);
    assert_ne!(outcome.frame, frame, "no rule changed it");
    outcome.frame.split_off(14)
}

#[test]
fn a_tun_device_sends_funneled_packets_and_unfunnels_those_it_reads() {
    if !require(&NEEDS) {
        return;
    }
    for outer in ["tcp", "udp"] {
        let host = Ns::new("host");
        let mut wire = tun(&host, "10.9.0.1/24", 0);
        let funnel = format!("udp dport 4739 actions funnel {outer} sport 540 dport 179");
        let unfunnel = format!("{outer} sport 540 dport 179 actions unfunnel udp");
        attach(&host, "tun0", "egress", &funnel);
        attach(&host, "tun0", "ingress", &unfunnel);

        let socket = host.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4739))).expect("bind");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.send_to(b"there", "10.9.0.2:4739").expect("send");
        let mut buffer = vec![0; 65_536];
        let length = wire.read(&mut buffer).expect("a packet");
        let sent = buffer[..length].to_vec();
        assert_eq!((sent[0], sent[9]), (0x45, if outer == "tcp" { 6 } else { 17 }), "{sent:02x?}");
        assert_eq!(sent[20..24], [2, 28, 0, 179], "540 > 179");
        let plain = l3(&format!("ip {unfunnel}"), &sent);
        assert_eq!(&plain[28..], b"there");

        let words = "ip 10.9.0.2 > 10.9.0.1 udp 4739 > 4739 len 1000";
        let packet = Packet::parse(words).expect("words").frame()[14..].to_vec();
        let packet = l3(&format!("ip {funnel}"), &packet);
        assert_eq!(wire.write(&packet).expect("a write"), packet.len());
        let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
        assert_eq!((length, from), (1000, SocketAddr::from(([10, 9, 0, 2], 4739))));
        assert_eq!(host.checksum_errors(), 0);
    }
}

/// What becomes of packets on the way.
#[derive(Clone, Copy)]
enum Wire {
    Good,
    /// One in a hundred is lost, another one is overtaken by five.
    Bad,
}

/// Carries packets from one tun device to another until one for port 9 comes. How many were funneled; others must not be.
fn carry(wire: Wire, mut from: File, mut to: File, outer: u8) -> usize {
    let mut buffer = vec![0; 65_536];
    let mut late = None;
    let mut count = 0;
    loop {
        let length = from.read(&mut buffer).expect("a packet");
        let packet = &buffer[..length];
        if packet[22..24] == [0, 9] {
            return count;
        }
        let ports = [&packet[20..22], &packet[22..24]];
        assert!(packet[9] == outer && ports.contains(&&[2, 28][..]), "not funneled: {:02x?}", &packet[..40]);
        assert!(length <= 1500, "{length} bytes");
        count += 1;
        // Whoever reads slowly loses packets, as on any wire.
        match (wire, count % 100) {
            (Wire::Bad, 33) => {}
            (Wire::Bad, 66) => late = Some(packet.to_vec()),
            _ => drop(to.write(packet)),
        }
        if count % 100 == 71 {
            late.take().map(|packet| to.write(&packet));
        }
    }
}

fn tcp_between_tun_devices(wire: Wire) {
    if !require(&NEEDS) {
        return;
    }
    for (outer, number) in [("tcp", 6), ("udp", 17)] {
        let (client, server) = (Ns::new("client"), Ns::new("server"));
        let wires = [tun(&client, "10.9.0.1/24", 0), tun(&server, "10.9.0.2/24", 0)];
        attach(
            &client,
            "tun0",
            "egress",
            &format!("tcp dport 8080 actions funnel {outer} sport 540 dport 80"),
        );
        attach(&server, "tun0", "ingress", &format!("{outer} sport 540 dport 80 actions unfunnel tcp"));
        attach(
            &server,
            "tun0",
            "egress",
            &format!("tcp sport 8080 actions funnel {outer} sport 80 dport 540"),
        );
        attach(&client, "tun0", "ingress", &format!("{outer} sport 80 dport 540 actions unfunnel tcp"));
        let again = wires.each_ref().map(|wire| wire.try_clone().expect("a descriptor"));
        let ([a, b], [a_again, b_again]) = (wires, again);
        let bytes = 4 << 20;
        let (there, back) = thread::scope(|scope| {
            let there = scope.spawn(|| carry(wire, a, b_again, number));
            let back = scope.spawn(|| carry(wire, b, a_again, number));
            let to = SocketAddr::from(([10, 9, 0, 2], 8080));
            let arrived = flows::bulk(&client, &server, to, bytes);
            for (ns, far) in [(&client, "10.9.0.2:9"), (&server, "10.9.0.1:9")] {
                let stop = ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("bind");
                stop.send_to(b"stop", far).expect("send");
            }
            assert_eq!(arrived, bytes, "{outer}");
            (there.join().expect("the wire"), back.join().expect("the wire"))
        });
        assert!(there >= bytes / 1500 && back > 0, "{there} there, {back} back");
        assert_eq!(client.checksum_errors() + server.checksum_errors(), 0, "{outer}");
    }
}

#[test]
fn tcp_at_full_size_runs_between_tun_devices() {
    tcp_between_tun_devices(Wire::Good);
}

#[test]
fn tcp_comes_through_unchanged_where_packets_are_lost_and_overtake_each_other() {
    tcp_between_tun_devices(Wire::Bad);
}

/// A virtual machine's packet says how long its segments are, and not how many. The kernel counts them on the first
/// pass through the pair and cuts them on the second.
#[test]
fn a_small_packet_of_unknown_many_segments_is_cut_as_well() {
    if !require(&WORLD) {
        return;
    }
    let (host, far) = (Ns::new("host"), Ns::new("far"));
    link((&host, "eth0", "10.1.0.1/24"), (&far, "eth0", "10.1.0.2/24"));
    let mut machine = tun(&host, "10.9.0.1/24", IFF_VNET_HDR);
    host.sysctl("ipv4/ip_forward", "1");
    attach(&host, "eth0", "egress", "tcp dport 8080 actions funnel udp sport 540 dport 80");
    let capture = Capture::start(&far, "eth0");
    let words = "ip 10.9.0.2 > 10.1.0.2 tcp 25000 > 8080 len 250";
    let packet = Packet::parse(words).expect("words").frame()[14..].to_vec();
    // struct virtio_net_hdr: checksum to be finished; TCP over IPv4; headers of 40; segments of 100; sum from 20, put at 16.
    let header = [[1_u8, 1].as_slice(), &[40_u16, 100, 20, 16].map(u16::to_ne_bytes).concat()].concat();
    assert_eq!(machine.write(&[header, packet].concat()).expect("a write"), 300);
    let frames = capture.stop(3, funneled).frames;
    let lengths: Vec<usize> = frames.iter().filter(|frame| funneled(frame)).map(Vec::len).collect();
    assert_eq!(lengths, [14 + 48 + 100, 14 + 48 + 100, 14 + 48 + 50]);
    assert_eq!(interfaces(&host).len(), 6);
}
