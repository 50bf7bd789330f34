//! Probes: segments without data of our own making, in place of a copy of a pod's packet.
//!
//! ```text
//! +-------+-------+---------------+-------------------------------+
//! |   4   |   5   |       0       |              40               |  0
//! +-------+-------+---------------+-------------------------------+
//! |               0               |        do not fragment        |  4
//! +---------------+---------------+-------------------------------+
//! |       2       |       6       |            checksum           |  8
//! +---------------+---------------+-------------------------------+
//! |                 addresses of the flow, 8 bytes                | 12
//! +---------------------------------------------------------------+
//! |                       ports of the flow                       | 20
//! +---------------------------------------------------------------+
//! |                sequence number: ahead of the data             | 24
//! +---------------------------------------------------------------+
//! |                     acknowledgement number                    | 28
//! +-------+-------+---------------+-------------------------------+
//! |   5   |   0   |      ACK      |             65535             | 32
//! +-------+-------+---------------+-------------------------------+
//! |           checksum            |       0xfffe, or 0xfffd       | 36
//! +-------------------------------+-------------------------------+
//! ```
//!
//! The window is the widest that there is, and no data are in it: should one get by where it ought to end, it changes nothing at the
//! pod that it comes to. With its TTL it dies at the router after next.
//!
//! Conntrack counts an empty ACK with its sequence number, and refuses it if that is not before the last acknowledgement that it has
//! seen and the window announced with it (`tcp_in_window`, net/netfilter/nf_conntrack_proto_tcp.c).

use asm::{Cond, Helper, Insn, Label, Reg, Reg::*, Size};

use super::{
    ACKED, END, HEADERS, IN, KEY, LENGTH, MINE, OUT, PROBE, PROBE_FLAGS, PROBE_TRANSLATED, PROBE_URGENT,
    REVIVE, Way,
};
use crate::codegen::checksum::in_packet_order;
use crate::codegen::emit::{Emit, Window};
use crate::codegen::frame::{Len, Offset, Slot};
use crate::flow::{key, value};
use crate::packet::{Field, ethernet, ipv4, skb, tcp};

/// The words of the headers, 64 bits each.
const fn word(name: &'static str, offset: i16) -> Field {
    Field { name, offset, size: Size::D }
}

const FIRST: Field = word("version to fragment", 0);
const TTL_TO_SOURCE: Field = word("TTL to source", 8);
const DESTINATION_PORTS: Field = word("destination, ports", 16);
const NUMBERS: Field = word("sequence and acknowledgement", 24);
const REST: Field = word("flags to urgent pointer", 32);

const TTL: u32 = 2;
const LENGTH_OF_BOTH: u32 = 40;
const WIDEST: u32 = 0xffff;

/// Two 16-bit halves as they lie in memory.
fn in_memory(upper: u32, lower: u32) -> u64 {
    u64::from(in_packet_order(upper)) | u64::from(in_packet_order(lower)) << 16
}

/// Where the sequence number and the acknowledgement number of what is made are kept.
const SEQUENCE: Slot = MINE[0];
const ACKNOWLEDGED: Slot = MINE[1];

impl Emit {
    /// The packet becomes a probe of this way. `fail` if the kernel refuses. Uses R0 to R5.
    pub(super) fn make_probe(&mut self, way: &Way) {
        let [clamp, ready, more, fits] =
            ["clamp_sequence", "sequence_ready", "acknowledges_more", "acknowledgement_fits"]
                .map(|name| self.label(name));
        self.kept(R4, END, "end");
        self.load_flow(R1, way.back.probed);
        self.jump_if_note(Cond::eq32(R1, 0_u32), ready, "no window is open yet");
        self.widest(R3, way.scale, "unscaled_probe");
        self.op(Insn::mov32(R1, R3));
        self.op(Insn::rsh32(R1, 2_u32));
        self.op_note(Insn::add32(R4, R1), "a quarter of a window ahead");
        self.load_flow(R5, way.acked);
        self.op(Insn::add32(R5, R3));
        self.op_note(Insn::sub32(R5, 1), "the last in the window");
        self.op(Insn::mov32(R1, R5));
        self.jump_if_before(R1, R4, clamp, "beyond the window");
        self.goto(ready);
        self.bind(clamp);
        self.op(Insn::mov32(R4, R5));
        self.bind(ready);
        self.store_flow(way.ahead, R4);
        self.keep(SEQUENCE, R4, "sequence number");
        // No higher than what conntrack has seen of the other way.
        self.kept(R2, ACKED, "acknowledged");
        self.load_flow(R3, way.back.end);
        self.op(Insn::mov32(R1, R3));
        self.jump_if_before(R1, R2, more, "more than came out of netfilter");
        self.goto(fits);
        self.bind(more);
        self.op(Insn::mov32(R2, R3));
        self.bind(fits);
        self.keep(ACKNOWLEDGED, R2, "acknowledged");
        self.make_segment(way.name == OUT.name);
    }

    /// The packet becomes an answer to itself: what it acknowledges is the sequence number, and the other way round. To
    /// conntrack, that is a flow that it has not seen the beginning of. Uses R0 to R5.
    pub(super) fn make_answer(&mut self, of: &Way) {
        self.kept(R1, ACKED, "acknowledged");
        self.keep(SEQUENCE, R1, "sequence number");
        self.kept(R1, END, "end");
        self.kept(R2, LENGTH, "length of the data");
        self.op(Insn::sub32(R1, R2));
        self.keep(ACKNOWLEDGED, R1, "acknowledged");
        self.make_segment(of.name == IN.name);
    }

    /// `outwards`: from the local pod to the remote one.
    fn make_segment(&mut self, outwards: bool) {
        let headers = HEADERS.window();
        let of_key = KEY.window();
        // R2: the source above the destination, R3: the ports, R4: both numbers.
        self.load_raw(R2, &of_key, key::ADDRESSES);
        self.load_raw(R1, &of_key, key::PORTS);
        self.op(Insn::mov32(R3, R1));
        if !outwards {
            self.op(Insn::rsh32(R3, 16_u32));
            self.op(Insn::lsh32(R1, 16_u32));
            self.op_note(Insn::or32(R3, R1), "the remote port first");
        }
        self.kept(R4, SEQUENCE, "sequence number");
        self.op(Insn::be32(R4));
        self.kept(R1, ACKNOWLEDGED, "acknowledged");
        self.op(Insn::be32(R1));
        self.op(Insn::lsh64(R1, 32));
        self.op(Insn::or64(R4, R1));
        self.store_raw(&headers, NUMBERS, R4);

        // R5: what both checksums have in common.
        self.op_note(Insn::mov32(R5, R2), "sum of the addresses");
        self.op(Insn::mov64(R1, R2));
        self.op(Insn::rsh64(R1, 32));
        self.op(Insn::add64(R5, R1));
        let [source, destination] = if outwards { [0, 32] } else { [32, 0] };

        let first =
            in_memory(u32::from(ipv4::PLAIN) << 8, LENGTH_OF_BOTH) | in_memory(0, ipv4::DONT_FRAGMENT) << 32;
        self.op(Insn::ld_imm64(R1, first));
        self.store_raw(&headers, FIRST, R1);
        let fixed = u32::from(ipv4::PLAIN) << 8;
        let of_ip = fixed + LENGTH_OF_BOTH + ipv4::DONT_FRAGMENT + (TTL << 8 | TCP);
        self.sum(R0, &[R5], of_ip);
        self.op(Insn::lsh64(R0, 16));
        self.op(Insn::or64(R0, i32::from(in_packet_order(TTL << 8 | TCP))));
        self.op(Insn::mov64(R1, R2));
        self.op(Insn::rsh64(R1, source));
        self.op(Insn::lsh64(R1, 32));
        self.op(Insn::or64(R0, R1));
        self.store_raw(&headers, TTL_TO_SOURCE, R0);

        self.op(Insn::mov64(R0, R2));
        self.op(Insn::rsh64(R0, destination));
        self.op(Insn::mov32(R0, R0));
        self.op(Insn::mov64(R1, R3));
        self.op(Insn::lsh64(R1, 32));
        self.op(Insn::or64(R0, R1));
        self.store_raw(&headers, DESTINATION_PORTS, R0);

        self.op(Insn::add64(R5, R3));
        self.op(Insn::mov32(R1, R4));
        self.op(Insn::add64(R5, R1));
        self.op(Insn::rsh64(R4, 32));
        let length = u32::from(tcp::LEN.unsigned_abs());
        let of_tcp = TCP + length + PROBE_FLAGS + WIDEST;
        let plain = self.label(if outwards { "probes_flow_out" } else { "probes_flow_in" });
        self.op(Insn::mov64(R2, i32::from(in_packet_order(PROBE_URGENT))));
        self.load_flow(R1, value::OTHER);
        self.jump_if_note(Cond::eq32(R1, 0_u32), plain, "not translated");
        self.op(Insn::mov64(R2, i32::from(in_packet_order(PROBE_TRANSLATED))));
        self.bind(plain);
        self.sum(R0, &[R5, R4, R2], of_tcp);
        self.op(Insn::lsh64(R0, 32));
        self.op(Insn::ld_imm64(R1, in_memory(PROBE_FLAGS, WIDEST)));
        self.op(Insn::or64(R0, R1));
        self.op(Insn::lsh64(R2, 48));
        self.op_note(Insn::or64(R0, R2), "urgent pointer");
        self.store_raw(&headers, REST, R0);

        let fail = self.fail();
        self.op_note(Insn::mov32(R2, i32::from(ethernet::LEN + HEADERS.len)), "all there is");
        self.op(Insn::mov32(R3, 0_u32));
        self.call(Helper::SkbChangeTail);
        self.jump_if(Cond::ne64(R0, 0), fail);
        // Also what a device has summed up of it (CHECKSUM_COMPLETE) is to be right.
        const RECOMPUTE_CSUM: u32 = 1;
        let at = Offset { bytes: ethernet::LEN, plus: None };
        self.store_bytes_with(at, HEADERS, Len::Const(HEADERS.len), RECOMPUTE_CSUM);
    }

    /// `dst = checksum of the words in registers, up to 34 bits each, and of a constant`. Uses R1.
    fn sum(&mut self, dst: Reg, words: &[Reg], constant: u32) {
        let constant = (constant >> 16) + (constant & 0xffff);
        self.op_note(Insn::mov32(dst, u32::from(in_packet_order(constant))), "all that is constant");
        for word in words {
            self.op(Insn::add64(dst, *word));
        }
        for _ in 0..2 {
            self.op(Insn::mov64(R1, dst));
            self.op(Insn::rsh64(R1, 32));
            self.op(Insn::mov32(dst, dst));
            self.op(Insn::add64(dst, R1));
        }
        self.fold(dst, R1);
        self.fold(dst, R1);
        self.op(Insn::xor32(dst, 0xffff_u32));
    }

    /// The copy of a packet goes to `probe`, or to `answer`; what is not one falls through. The mark is taken away. Uses R1 and R2.
    pub(super) fn if_copy(&mut self, probe: Label, answer: Label) {
        self.load_skb(R1, skb::TC_INDEX);
        self.op(Insn::mov32(R2, 0_u32));
        for (what, label, other) in [(PROBE, probe, "not_to_probe"), (REVIVE, answer, "not_to_answer")] {
            let other = self.label(other);
            self.jump_if(Cond::ne32(R1, what), other);
            self.store_skb(skb::TC_INDEX, R2);
            self.goto(label);
            self.bind(other);
        }
    }

    /// `at = the flow's link addresses, in this order`, in the packet's link header. Uses R1.
    pub(super) fn write_macs(&mut self, header: &Window, destination: [Field; 3], source: [Field; 3]) {
        for (at, field) in (0..).step_by(2).zip(destination.into_iter().chain(source)) {
            self.load_flow(R1, field);
            self.store_raw(header, Field { name: "ether.dst, ether.src", offset: at, size: Size::H }, R1);
        }
    }
}

/// The number of TCP.
const TCP: u32 = 6;
