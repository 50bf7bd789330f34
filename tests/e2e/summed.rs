//! Packets that a device has summed up (`CHECKSUM_COMPLETE`), as many a network card does: whatever becomes of their
//! bytes, the sum has to follow. A tunnel makes such packets of short datagrams that have a checksum.

use std::net::UdpSocket;
use std::time::Duration;

use asm::{Assembler, Cond, Helper, Insn, Program, Reg, Reg::*, Size};
use aya::Ebpf;
use aya::programs::tc::{NlOptions, SchedClassifier, TcAttachOptions, TcAttachType};

use super::support::lab::{Ns, attach, link};
use super::support::require;
use super::support::world::NEEDS;

/// Eight bytes of payload.
const TEXTS: [&[u8; 8]; 3] = [b"datagram", &[0; 8], &[0xff; 8]];
/// What IP, UDP and those take.
const LENGTH: i32 = 20 + 8 + 8;
const LINK: i32 = 14;
const SHOT: i32 = 2;

/// Drops what has no sum, or another than its bytes.
fn judge() -> Program {
    const SKB: Reg = R6;
    const SUM: Reg = R7;
    let mut asm = Assembler::new();
    let [pass, drop] = ["pass", "drop"].map(|name| asm.label(name));
    let fold = |asm: &mut Assembler, reg: Reg| {
        for _ in 0..2 {
            asm.push(Insn::mov32(R2, reg));
            asm.push(Insn::rsh32(R2, 16_u32));
            asm.push(Insn::and32(reg, 0xffff_u32));
            asm.push(Insn::add32(reg, R2));
        }
    };
    let stack = |asm: &mut Assembler, reg: Reg| {
        asm.push(Insn::mov64(reg, R10));
        asm.push(Insn::add64(reg, -64));
    };
    let protocol = 16;
    asm.push(Insn::mov64(SKB, R1));
    asm.push(Insn::load(Size::W, R2, SKB, protocol));
    asm.jump_if(Cond::ne32(R2, u32::from(0x0800_u16.to_be())), pass);
    // skb->csum, if that is its sum.
    asm.push(Insn::mov32(R2, 0_u32));
    asm.push(Insn::call(Helper::CsumUpdate));
    asm.push(Insn::mov64(R2, R0));
    asm.push(Insn::rsh64(R2, 32));
    asm.jump_if(Cond::ne64(R2, 0), drop);
    asm.push(Insn::mov32(SUM, R0));
    fold(&mut asm, SUM);
    asm.push(Insn::mov64(R1, SKB));
    asm.push(Insn::mov32(R2, LINK));
    stack(&mut asm, R3);
    asm.push(Insn::mov32(R4, LENGTH));
    asm.push(Insn::call(Helper::SkbLoadBytes));
    asm.jump_if(Cond::ne64(R0, 0), drop);
    asm.push(Insn::mov32(R1, 0_u32));
    asm.push(Insn::mov32(R2, 0_u32));
    stack(&mut asm, R3);
    asm.push(Insn::mov32(R4, LENGTH));
    asm.push(Insn::mov32(R5, 0_u32));
    asm.push(Insn::call(Helper::CsumDiff));
    fold(&mut asm, R0);
    asm.jump_if(Cond::ne32(R0, SUM), drop);
    asm.bind(pass);
    asm.push(Insn::mov32(R0, -1));
    asm.push(Insn::exit());
    asm.bind(drop);
    asm.push(Insn::mov32(R0, SHOT));
    asm.push(Insn::exit());
    asm.finish().expect("a program")
}

/// A tunnel whose packets have checksums, finished on the way as between machines.
fn tunnel(near: (&Ns, &str, &str), remote: &str) {
    let (ns, underlay, address) = near;
    ns.tool("ethtool", &format!("-K {underlay} tx off"));
    let vxlan = format!("type vxlan id 5 remote {remote} dstport 4789 udpcsum dev {underlay}");
    ns.tool("ip", &format!("link add overlay {vxlan}"));
    ns.tool("ip", &format!("addr add {address} dev overlay"));
    ns.tool("ip", "link set overlay up");
}

#[test]
fn the_sum_of_a_packet_that_a_device_has_summed_up_is_that_of_its_bytes() {
    if !require(&NEEDS) {
        return;
    }
    let (sender, receiver) = (Ns::new("sender"), Ns::new("receiver"));
    link((&sender, "va", "10.1.0.1/24"), (&receiver, "vb", "10.1.0.2/24"));
    tunnel((&sender, "va", "10.8.0.1/24"), "10.1.0.2");
    tunnel((&receiver, "vb", "10.8.0.2/24"), "10.1.0.1");
    attach(&sender, "overlay", "egress", "udp dport 4739 actions funnel udp sport 540 dport 80");
    attach(&receiver, "overlay", "ingress", "udp sport 540 dport 80 actions unfunnel udp");

    let object = sfunnel::elf::wrap(&[("judge", &judge())]).expect("an object");
    let mut object = Ebpf::load(&object).expect("the object");
    let judge: &mut SchedClassifier =
        object.program_mut("judge").expect("it").try_into().expect("of its type");
    judge.load().expect("the program");
    let last = TcAttachOptions::Netlink(NlOptions { priority: 60_000, ..NlOptions::default() });
    receiver.run(|| judge.attach_with_options("overlay", TcAttachType::Ingress, last)).expect("attached");

    let sending = sender.run(|| UdpSocket::bind("10.8.0.1:0")).expect("bind");
    let receiving = receiver.run(|| UdpSocket::bind("10.8.0.2:4739")).expect("bind");
    receiving.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    for text in TEXTS {
        sending.send_to(text, "10.8.0.2:4739").expect("sent");
        let mut buffer = [0; 100];
        let (length, _) = receiving.recv_from(&mut buffer).expect("a datagram with its sum");
        assert_eq!(&buffer[..length], text);
    }
    assert_eq!(receiver.checksum_errors(), 0);
}
