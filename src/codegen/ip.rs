//! What differs between IPv4 and IPv6, in one place: sizes and fields, growing a header, summing addresses.
//!
//! The rest of `codegen` is given a [`Family`] and hands it on. Only IPv4 has options, fragments in its
//! fixed header, a checksum of its own, and UDP without a checksum.

use asm::{Insn, Reg, Reg::*};

use super::checksum::{in_packet_order, ones_complement_sum};
use super::emit::{Emit, Window};
use super::nat::new_word;
use crate::ir::{Family, Nat, Proto};
use crate::packet::{Field, ethernet, ipv4, ipv6};

impl Family {
    pub(super) const fn ethertype(self) -> u16 {
        match self {
            Family::V4 => ethernet::TYPE_IPV4,
            Family::V6 => ethernet::TYPE_IPV6,
        }
    }

    /// Bytes of the fixed header, after which `bpf_skb_adjust_room` opens and closes room.
    pub(crate) const fn header_len(self) -> i16 {
        match self {
            Family::V4 => ipv4::LEN,
            Family::V6 => ipv6::LEN,
        }
    }

    /// The shortest packet with an L4 header: what the prologue proves.
    pub(super) const fn shortest(self) -> i16 {
        match self {
            Family::V4 => ipv4::SHORTEST,
            Family::V6 => ipv6::SHORTEST,
        }
    }

    /// Packets of this length need not be asked about.
    pub(super) const fn least_mtu(self) -> u16 {
        match self {
            Family::V4 => ipv4::LEAST_MTU,
            Family::V6 => ipv6::LEAST_MTU,
        }
    }

    /// The most that the length field can say to be after the fixed header.
    pub(super) const fn longest_l4(self) -> u16 {
        match self {
            Family::V4 => u16::MAX - ipv4::LEN.unsigned_abs(),
            Family::V6 => u16::MAX,
        }
    }

    /// The number of the header that follows.
    pub(super) const fn protocol(self) -> Field {
        match self {
            Family::V4 => ipv4::PROTOCOL,
            Family::V6 => ipv6::NEXT_HEADER,
        }
    }

    /// Whether a checksum of 0 is an absent one in UDP (RFC 768), or an error (RFC 8200, section 8.1).
    pub(super) const fn may_lack_checksum(self, inner: Proto) -> bool {
        matches!((self, inner), (Family::V4, Proto::Udp))
    }

    /// Tells labels of the two families apart.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Family::V4 => "",
            Family::V6 => "ip6_",
        }
    }
}

impl Emit {
    /// Makes the IP header that of a packet `grow` bytes longer, with another protocol. Uses R1 and R2.
    pub(super) fn update_ip(&mut self, family: Family, ip: &Window, grow: i16, from: Proto, to: Proto) {
        let length = match family {
            Family::V4 => ipv4::LENGTH,
            Family::V6 => ipv6::LENGTH,
        };
        self.load(R1, ip, length);
        self.op(Insn::add32(R1, i32::from(grow)));
        self.store(ip, length, R1);
        self.store_const(ip, family.protocol(), u32::from(to.number()));
        if family == Family::V4 {
            self.update_ip_checksum(ip, grow, from, to);
        }
    }

    /// `dst = length of the IP packet`
    pub(super) fn load_l3_len(&mut self, family: Family, dst: Reg, ip: &Window) {
        match family {
            Family::V4 => self.load(dst, ip, ipv4::LENGTH),
            Family::V6 => {
                self.load(dst, ip, ipv6::LENGTH);
                self.op(Insn::add32(dst, i32::from(ipv6::LEN)));
            }
        }
    }

    /// Brings IPv4's checksum up to date with what changed (RFC 1624), so a damaged header stays damaged.
    ///
    /// The checksum is a complement, so what the header gains it loses. A borrow is carried around, as a carry is in
    /// a sum: with the lower half of the register alone stored, this is bit for bit `~(~checksum + change)`
    /// (equation 3) in half of the instructions, and needs no other byte order than the packet's.
    fn update_ip_checksum(&mut self, ip: &Window, grow: i16, from: Proto, to: Proto) {
        let growth = if grow < 0 { !grow.unsigned_abs() } else { grow.unsigned_abs() };
        let change = [growth, u16::from(to.number()), !u16::from(from.number())];
        self.load_raw(R1, ip, ipv4::CHECKSUM);
        let change = in_packet_order(ones_complement_sum(&change));
        self.op_note(Insn::sub32(R1, change), "change of length and protocol");
        self.op(Insn::mov32(R2, R1));
        self.op_note(Insn::rsh32(R2, 31_u32), "1 if that was less than nothing");
        self.op(Insn::sub32(R1, R2));
        self.store_raw(ip, ipv4::CHECKSUM, R1);
    }

    /// `sum = source + destination address`: 32 bits, ones' complement, in the packet's byte order. Uses R2.
    pub(super) fn sum_addresses(&mut self, family: Family, sum: Reg, ip: &Window) {
        self.sum_of_addresses(family, sum, ip, &Nat::default());
    }

    /// The same of the addresses that the packet will have.
    pub(super) fn sum_new_addresses(&mut self, family: Family, sum: Reg, ip: &Window) {
        let nat = self.variant.nat;
        self.sum_of_addresses(family, sum, ip, &nat);
    }

    fn sum_of_addresses(&mut self, family: Family, sum: Reg, ip: &Window, nat: &Nat) {
        let word = |e: &mut Self, reg: Reg, field: Field| match new_word(family, nat, field) {
            Some(word) => e.op_note(Insn::mov32(reg, word), "the new one"),
            None => e.load_raw(reg, ip, field),
        };
        match family {
            Family::V4 => {
                word(self, sum, ipv4::SADDR);
                word(self, R2, ipv4::DADDR);
                self.op(Insn::add64(sum, R2));
            }
            Family::V6 => {
                let [first, rest @ ..] = ipv6::SADDR;
                word(self, sum, first);
                for field in rest.into_iter().chain(ipv6::DADDR) {
                    word(self, R2, field);
                    self.op(Insn::add64(sum, R2));
                }
                // Eight words carry up to 7, and adding that may carry once more.
                self.op(Insn::mov64(R2, sum));
                self.op(Insn::rsh64(R2, 32));
                self.op(Insn::mov32(sum, sum));
                self.op(Insn::add64(sum, R2));
            }
        }
        self.op(Insn::mov64(R2, sum));
        self.op(Insn::rsh64(R2, 32));
        self.op_note(Insn::add32(sum, R2), "sum of the addresses");
    }
}
