//! The byte table: every constructor and every form of opcode, bytes beside listing text.
//!
//! The bytes are those of a little-endian host, written down from the kernel's headers and checked
//! against what LLVM's assembler makes of the same text, where it knows the instruction.
#![cfg(target_endian = "little")]

use Reg::*;
use asm::{Assembler, Cond, Helper, Insn, Program, Reg, Size};
use pretty_assertions::assert_eq;

#[rustfmt::skip]
fn instructions() -> Vec<(Insn, &'static str, &'static str)> {
    vec![
        // Arithmetic, each operation in both widths, from a register and an immediate.
        (Insn::mov32(R1, R2), "bc 21 00 00 00 00 00 00", "w1 = w2"),
        (Insn::mov32(R9, 16u8), "b4 09 00 00 10 00 00 00", "w9 = 16"),
        (Insn::mov64(R1, R2), "bf 21 00 00 00 00 00 00", "r1 = r2"),
        (Insn::mov64(R10, 16u8), "b7 0a 00 00 10 00 00 00", "r10 = 16"),
        (Insn::add32(R1, R2), "0c 21 00 00 00 00 00 00", "w1 += w2"),
        (Insn::add32(R9, 16u8), "04 09 00 00 10 00 00 00", "w9 += 16"),
        (Insn::add64(R1, R2), "0f 21 00 00 00 00 00 00", "r1 += r2"),
        (Insn::add64(R10, 16u8), "07 0a 00 00 10 00 00 00", "r10 += 16"),
        (Insn::sub32(R1, R2), "1c 21 00 00 00 00 00 00", "w1 -= w2"),
        (Insn::sub32(R9, 16u8), "14 09 00 00 10 00 00 00", "w9 -= 16"),
        (Insn::sub64(R1, R2), "1f 21 00 00 00 00 00 00", "r1 -= r2"),
        (Insn::sub64(R10, 16u8), "17 0a 00 00 10 00 00 00", "r10 -= 16"),
        (Insn::mul32(R1, R2), "2c 21 00 00 00 00 00 00", "w1 *= w2"),
        (Insn::mul32(R9, 16u8), "24 09 00 00 10 00 00 00", "w9 *= 16"),
        (Insn::mul64(R1, R2), "2f 21 00 00 00 00 00 00", "r1 *= r2"),
        (Insn::mul64(R10, 16u8), "27 0a 00 00 10 00 00 00", "r10 *= 16"),
        (Insn::and32(R1, R2), "5c 21 00 00 00 00 00 00", "w1 &= w2"),
        (Insn::and32(R9, 16u8), "54 09 00 00 10 00 00 00", "w9 &= 16"),
        (Insn::and64(R1, R2), "5f 21 00 00 00 00 00 00", "r1 &= r2"),
        (Insn::and64(R10, 16u8), "57 0a 00 00 10 00 00 00", "r10 &= 16"),
        (Insn::or32(R1, R2), "4c 21 00 00 00 00 00 00", "w1 |= w2"),
        (Insn::or32(R9, 16u8), "44 09 00 00 10 00 00 00", "w9 |= 16"),
        (Insn::or64(R1, R2), "4f 21 00 00 00 00 00 00", "r1 |= r2"),
        (Insn::or64(R10, 16u8), "47 0a 00 00 10 00 00 00", "r10 |= 16"),
        (Insn::xor32(R1, R2), "ac 21 00 00 00 00 00 00", "w1 ^= w2"),
        (Insn::xor32(R9, 16u8), "a4 09 00 00 10 00 00 00", "w9 ^= 16"),
        (Insn::xor64(R1, R2), "af 21 00 00 00 00 00 00", "r1 ^= r2"),
        (Insn::xor64(R10, 16u8), "a7 0a 00 00 10 00 00 00", "r10 ^= 16"),
        (Insn::lsh32(R1, R2), "6c 21 00 00 00 00 00 00", "w1 <<= w2"),
        (Insn::lsh32(R9, 16u8), "64 09 00 00 10 00 00 00", "w9 <<= 16"),
        (Insn::lsh64(R1, R2), "6f 21 00 00 00 00 00 00", "r1 <<= r2"),
        (Insn::lsh64(R10, 16u8), "67 0a 00 00 10 00 00 00", "r10 <<= 16"),
        (Insn::rsh32(R1, R2), "7c 21 00 00 00 00 00 00", "w1 >>= w2"),
        (Insn::rsh32(R9, 16u8), "74 09 00 00 10 00 00 00", "w9 >>= 16"),
        (Insn::rsh64(R1, R2), "7f 21 00 00 00 00 00 00", "r1 >>= r2"),
        (Insn::rsh64(R10, 16u8), "77 0a 00 00 10 00 00 00", "r10 >>= 16"),
        // Immediates: 32-bit operations take the bits, 64-bit ones extend the sign.
        (Insn::mov32(R0, -1), "b4 00 00 00 ff ff ff ff", "w0 = -1"),
        (Insn::mov32(R0, u32::MAX), "b4 00 00 00 ff ff ff ff", "w0 = -1"),
        (Insn::mov32(R2, 65_535u16), "b4 02 00 00 ff ff 00 00", "w2 = 65535"),
        (Insn::mov32(R2, 65_536u32), "b4 02 00 00 00 00 01 00", "w2 = 0x10000"),
        (Insn::mov32(R2, 0xc0a8_0001u32), "b4 02 00 00 01 00 a8 c0", "w2 = 0xc0a80001"),
        (Insn::and32(R2, 0xffff_0000u32), "54 02 00 00 00 00 ff ff", "w2 &= 0xffff0000"),
        (Insn::mov64(R3, -8), "b7 03 00 00 f8 ff ff ff", "r3 = -8"),
        (Insn::mov64(R3, 4739u16), "b7 03 00 00 83 12 00 00", "r3 = 4739"),
        (Insn::and64(R3, -65_536), "57 03 00 00 00 00 ff ff", "r3 &= -0x10000"),
        (Insn::mov64(R3, i32::MIN), "b7 03 00 00 00 00 00 80", "r3 = -0x80000000"),
        (Insn::mov64(R3, i32::MAX), "b7 03 00 00 ff ff ff 7f", "r3 = 0x7fffffff"),
        (Insn::mov64(R3, -4096), "b7 03 00 00 00 f0 ff ff", "r3 = -4096"),
        (Insn::mov64(R3, -4097), "b7 03 00 00 ff ef ff ff", "r3 = -0x1001"),
        // Byte order. Always to big endian: the same instruction swaps on little-endian hosts and only cuts on big-endian ones.
        (Insn::be16(R2), "dc 02 00 00 10 00 00 00", "w2 = be16 w2"),
        (Insn::be32(R3), "dc 03 00 00 20 00 00 00", "w3 = be32 w3"),
        (Insn::be64(R4), "dc 04 00 00 40 00 00 00", "r4 = be64 r4"),
        // 64-bit immediates take two slots.
        (Insn::ld_imm64(R1, 0x1122_3344_5566_7788), "18 01 00 00 88 77 66 55 00 00 00 00 44 33 22 11", "r1 = 0x1122334455667788 ll"),
        (Insn::ld_imm64(R1, u64::MAX), "18 01 00 00 ff ff ff ff 00 00 00 00 ff ff ff ff", "r1 = 0xffffffffffffffff ll"),
        (Insn::ld_imm64(R1, 0xffff_ffff), "18 01 00 00 ff ff ff ff 00 00 00 00 00 00 00 00", "r1 = 0xffffffff ll"),
        (Insn::ld_map(R1, 1), "18 11 00 00 01 00 00 00 00 00 00 00 00 00 00 00", "r1 = map[1]"),
        (Insn::ld_map_value(R7, 3, 8), "18 27 00 00 03 00 00 00 00 00 00 00 08 00 00 00", "r7 = map[fd:3][0]+8"),
        (Insn::ld_map_value(R7, 0x7fff_ffff, u32::MAX), "18 27 00 00 ff ff ff 7f 00 00 00 00 ff ff ff ff", "r7 = map[fd:2147483647][0]+4294967295"),
        // Memory, each size, both signs of the offset.
        (Insn::load(Size::B, R7, R2, 12), "71 27 0c 00 00 00 00 00", "r7 = *(u8 *)(r2 + 12)"),
        (Insn::load(Size::B, R7, R10, -16), "71 a7 f0 ff 00 00 00 00", "r7 = *(u8 *)(r10 - 16)"),
        (Insn::store(Size::B, R10, -16, R3), "73 3a f0 ff 00 00 00 00", "*(u8 *)(r10 - 16) = w3"),
        (Insn::store(Size::B, R8, 2, R0), "73 08 02 00 00 00 00 00", "*(u8 *)(r8 + 2) = w0"),
        (Insn::store_imm(Size::B, R10, -16, 80), "72 0a f0 ff 50 00 00 00", "*(u8 *)(r10 - 16) = 80"),
        (Insn::store_imm(Size::B, R10, -16, -1), "72 0a f0 ff ff ff ff ff", "*(u8 *)(r10 - 16) = -1"),
        (Insn::load(Size::H, R7, R2, 12), "69 27 0c 00 00 00 00 00", "r7 = *(u16 *)(r2 + 12)"),
        (Insn::load(Size::H, R7, R10, -16), "69 a7 f0 ff 00 00 00 00", "r7 = *(u16 *)(r10 - 16)"),
        (Insn::store(Size::H, R10, -16, R3), "6b 3a f0 ff 00 00 00 00", "*(u16 *)(r10 - 16) = w3"),
        (Insn::store(Size::H, R8, 2, R0), "6b 08 02 00 00 00 00 00", "*(u16 *)(r8 + 2) = w0"),
        (Insn::store_imm(Size::H, R10, -16, 80), "6a 0a f0 ff 50 00 00 00", "*(u16 *)(r10 - 16) = 80"),
        (Insn::store_imm(Size::H, R10, -16, -1), "6a 0a f0 ff ff ff ff ff", "*(u16 *)(r10 - 16) = -1"),
        (Insn::load(Size::W, R7, R2, 12), "61 27 0c 00 00 00 00 00", "r7 = *(u32 *)(r2 + 12)"),
        (Insn::load(Size::W, R7, R10, -16), "61 a7 f0 ff 00 00 00 00", "r7 = *(u32 *)(r10 - 16)"),
        (Insn::store(Size::W, R10, -16, R3), "63 3a f0 ff 00 00 00 00", "*(u32 *)(r10 - 16) = w3"),
        (Insn::store(Size::W, R8, 2, R0), "63 08 02 00 00 00 00 00", "*(u32 *)(r8 + 2) = w0"),
        (Insn::store_imm(Size::W, R10, -16, 80), "62 0a f0 ff 50 00 00 00", "*(u32 *)(r10 - 16) = 80"),
        (Insn::store_imm(Size::W, R10, -16, -1), "62 0a f0 ff ff ff ff ff", "*(u32 *)(r10 - 16) = -1"),
        (Insn::load(Size::D, R7, R2, 12), "79 27 0c 00 00 00 00 00", "r7 = *(u64 *)(r2 + 12)"),
        (Insn::load(Size::D, R7, R10, -16), "79 a7 f0 ff 00 00 00 00", "r7 = *(u64 *)(r10 - 16)"),
        (Insn::store(Size::D, R10, -16, R3), "7b 3a f0 ff 00 00 00 00", "*(u64 *)(r10 - 16) = r3"),
        (Insn::store(Size::D, R8, 2, R0), "7b 08 02 00 00 00 00 00", "*(u64 *)(r8 + 2) = r0"),
        (Insn::store_imm(Size::D, R10, -16, 80), "7a 0a f0 ff 50 00 00 00", "*(u64 *)(r10 - 16) = 80"),
        (Insn::store_imm(Size::D, R10, -16, -1), "7a 0a f0 ff ff ff ff ff", "*(u64 *)(r10 - 16) = -1"),
        (Insn::load(Size::B, R0, R1, i16::MAX), "71 10 ff 7f 00 00 00 00", "r0 = *(u8 *)(r1 + 32767)"),
        (Insn::load(Size::B, R0, R1, i16::MIN), "71 10 00 80 00 00 00 00", "r0 = *(u8 *)(r1 - 32768)"),
        (Insn::load(Size::W, R0, R1, 0), "61 10 00 00 00 00 00 00", "r0 = *(u32 *)(r1 + 0)"),
        (Insn::atomic_add(Size::W, R7, 8, R0), "c3 07 08 00 00 00 00 00", "lock *(u32 *)(r7 + 8) += w0"),
        (Insn::atomic_add(Size::D, R7, -8, R0), "db 07 f8 ff 00 00 00 00", "lock *(u64 *)(r7 - 8) += r0"),
        // Calls, by the kernel's numbers.
        (Insn::call(Helper::MapLookupElem), "85 00 00 00 01 00 00 00", "call bpf_map_lookup_elem#1"),
        (Insn::call(Helper::SkbStoreBytes), "85 00 00 00 09 00 00 00", "call bpf_skb_store_bytes#9"),
        (Insn::call(Helper::L4CsumReplace), "85 00 00 00 0b 00 00 00", "call bpf_l4_csum_replace#11"),
        (Insn::call(Helper::CloneRedirect), "85 00 00 00 0d 00 00 00", "call bpf_clone_redirect#13"),
        (Insn::call(Helper::Redirect), "85 00 00 00 17 00 00 00", "call bpf_redirect#23"),
        (Insn::call(Helper::SkbLoadBytes), "85 00 00 00 1a 00 00 00", "call bpf_skb_load_bytes#26"),
        (Insn::call(Helper::CsumDiff), "85 00 00 00 1c 00 00 00", "call bpf_csum_diff#28"),
        (Insn::call(Helper::SkbChangeTail), "85 00 00 00 26 00 00 00", "call bpf_skb_change_tail#38"),
        (Insn::call(Helper::SkbPullData), "85 00 00 00 27 00 00 00", "call bpf_skb_pull_data#39"),
        (Insn::call(Helper::SetHashInvalid), "85 00 00 00 29 00 00 00", "call bpf_set_hash_invalid#41"),
        (Insn::call(Helper::SkbChangeHead), "85 00 00 00 2b 00 00 00", "call bpf_skb_change_head#43"),
        (Insn::call(Helper::SkbAdjustRoom), "85 00 00 00 32 00 00 00", "call bpf_skb_adjust_room#50"),
        (Insn::call(Helper::FibLookup), "85 00 00 00 45 00 00 00", "call bpf_fib_lookup#69"),
        (Insn::call(Helper::SkbLoadBytesRelative), "85 00 00 00 44 00 00 00", "call bpf_skb_load_bytes_relative#68"),
        (Insn::call(Helper::RedirectNeigh), "85 00 00 00 98 00 00 00", "call bpf_redirect_neigh#152"),
        (Insn::call(Helper::CheckMtu), "85 00 00 00 a3 00 00 00", "call bpf_check_mtu#163"),
        (Insn::exit(), "95 00 00 00 00 00 00 00", "exit"),
    ]
}

/// Each with a distance of one.
#[rustfmt::skip]
fn conditions() -> Vec<(Cond, &'static str, &'static str)> {
    vec![
        (Cond::eq32(R2, R3), "1e 32 01 00 00 00 00 00", "if w2 == w3 goto pass"),
        (Cond::eq32(R2, 4739u16), "16 02 01 00 83 12 00 00", "if w2 == 4739 goto pass"),
        (Cond::eq64(R2, R3), "1d 32 01 00 00 00 00 00", "if r2 == r3 goto pass"),
        (Cond::eq64(R2, 4739u16), "15 02 01 00 83 12 00 00", "if r2 == 4739 goto pass"),
        (Cond::ne32(R2, R3), "5e 32 01 00 00 00 00 00", "if w2 != w3 goto pass"),
        (Cond::ne32(R2, 4739u16), "56 02 01 00 83 12 00 00", "if w2 != 4739 goto pass"),
        (Cond::ne64(R2, R3), "5d 32 01 00 00 00 00 00", "if r2 != r3 goto pass"),
        (Cond::ne64(R2, 4739u16), "55 02 01 00 83 12 00 00", "if r2 != 4739 goto pass"),
        (Cond::gt32(R2, R3), "2e 32 01 00 00 00 00 00", "if w2 > w3 goto pass"),
        (Cond::gt32(R2, 4739u16), "26 02 01 00 83 12 00 00", "if w2 > 4739 goto pass"),
        (Cond::gt64(R2, R3), "2d 32 01 00 00 00 00 00", "if r2 > r3 goto pass"),
        (Cond::gt64(R2, 4739u16), "25 02 01 00 83 12 00 00", "if r2 > 4739 goto pass"),
        (Cond::ge32(R2, R3), "3e 32 01 00 00 00 00 00", "if w2 >= w3 goto pass"),
        (Cond::ge32(R2, 4739u16), "36 02 01 00 83 12 00 00", "if w2 >= 4739 goto pass"),
        (Cond::ge64(R2, R3), "3d 32 01 00 00 00 00 00", "if r2 >= r3 goto pass"),
        (Cond::ge64(R2, 4739u16), "35 02 01 00 83 12 00 00", "if r2 >= 4739 goto pass"),
        (Cond::lt32(R2, R3), "ae 32 01 00 00 00 00 00", "if w2 < w3 goto pass"),
        (Cond::lt32(R2, 4739u16), "a6 02 01 00 83 12 00 00", "if w2 < 4739 goto pass"),
        (Cond::lt64(R2, R3), "ad 32 01 00 00 00 00 00", "if r2 < r3 goto pass"),
        (Cond::lt64(R2, 4739u16), "a5 02 01 00 83 12 00 00", "if r2 < 4739 goto pass"),
        (Cond::le32(R2, R3), "be 32 01 00 00 00 00 00", "if w2 <= w3 goto pass"),
        (Cond::le32(R2, 4739u16), "b6 02 01 00 83 12 00 00", "if w2 <= 4739 goto pass"),
        (Cond::le64(R2, R3), "bd 32 01 00 00 00 00 00", "if r2 <= r3 goto pass"),
        (Cond::le64(R2, 4739u16), "b5 02 01 00 83 12 00 00", "if r2 <= 4739 goto pass"),
        (Cond::set32(R2, R3), "4e 32 01 00 00 00 00 00", "if w2 & w3 goto pass"),
        (Cond::set32(R2, 4739u16), "46 02 01 00 83 12 00 00", "if w2 & 0x1283 goto pass"),
        (Cond::set64(R2, R3), "4d 32 01 00 00 00 00 00", "if r2 & r3 goto pass"),
        (Cond::set64(R2, 4739u16), "45 02 01 00 83 12 00 00", "if r2 & 0x1283 goto pass"),
        (Cond::eq32(R2, 0xffff_ffffu32), "16 02 01 00 ff ff ff ff", "if w2 == 0xffffffff goto pass"),
        (Cond::eq32(R2, -1), "16 02 01 00 ff ff ff ff", "if w2 == 0xffffffff goto pass"),
        (Cond::eq32(R2, 0xc0a8_0001u32), "16 02 01 00 01 00 a8 c0", "if w2 == 0xc0a80001 goto pass"),
        (Cond::eq64(R2, -1), "15 02 01 00 ff ff ff ff", "if r2 == -1 goto pass"),
        (Cond::ne64(R2, i32::MIN), "55 02 01 00 00 00 00 80", "if r2 != -0x80000000 goto pass"),
        (Cond::set64(R2, -8), "45 02 01 00 f8 ff ff ff", "if r2 & -8 goto pass"),
    ]
}

/// The bytes of a program but for its last slots.
fn hex_without(program: &Program, last: usize) -> String {
    let bytes = program.bytes();
    let bytes = bytes[..bytes.len() - last * 8].iter();
    bytes.map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_instruction_has_the_bytes_of_the_kernel_and_the_text_of_the_listing() {
    for (insn, bytes, text) in instructions() {
        let mut asm = Assembler::new();
        asm.push(insn);
        // A program ends with an exit.
        let last = usize::from(insn != Insn::exit());
        if last == 1 {
            asm.push(Insn::exit());
        }
        let program = asm.finish().unwrap();
        assert_eq!(hex_without(&program, last), bytes, "{text}");
        assert_eq!(program.text_at(0).unwrap(), text);
        assert_eq!(insn.to_string(), text);
        assert_eq!(program.slots() - last, (bytes.len() + 1) / 24, "{text}");
    }
}

#[test]
fn every_conditional_jump_has_the_bytes_of_the_kernel_and_the_text_of_the_listing() {
    for (cond, bytes, text) in conditions() {
        let mut asm = Assembler::new();
        let pass = asm.label("pass");
        asm.jump_if(cond, pass);
        asm.push(Insn::mov32(R0, 0));
        asm.bind(pass);
        asm.push(Insn::exit());
        let program = asm.finish().unwrap();
        assert_eq!(hex_without(&program, 2), bytes, "{text}");
        assert_eq!(program.text_at(0).unwrap(), text);
    }
}

#[test]
fn jumps_back_have_negative_distances() {
    let mut asm = Assembler::new();
    let (head, out) = (asm.label("head"), asm.label("out"));
    asm.bind(head);
    asm.jump_if(Cond::eq32(R1, 0), out);
    asm.jump_if(Cond::ne32(R1, 7), head);
    asm.goto(head);
    asm.bind(out);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    assert_eq!(
        program.hex(&|_| None),
        "\
head:
     0  16 01 02 00 00 00 00 00  if w1 == 0 goto out
     1  56 01 fe ff 07 00 00 00  if w1 != 7 goto head
     2  05 00 fd ff 00 00 00 00  goto head
out:
     3  95 00 00 00 00 00 00 00  exit
"
    );
}

#[test]
fn all_registers_have_their_numbers_on_both_sides() {
    let regs = [R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10];
    for (d, dst) in regs.into_iter().enumerate() {
        for (s, src) in regs.into_iter().enumerate() {
            let mut asm = Assembler::new();
            asm.push(Insn::mov64(dst, src));
            asm.push(Insn::exit());
            let program = asm.finish().unwrap();
            let bytes = format!("bf {s:x}{d:x} 00 00 00 00 00 00");
            assert_eq!(hex_without(&program, 1), bytes);
            assert_eq!(program.text_at(0).unwrap(), format!("r{d} = r{s}"));
        }
    }
}

#[test]
#[should_panic(expected = "no atomic operation on H")]
fn there_is_no_atomic_addition_of_two_bytes() {
    Insn::atomic_add(Size::H, R7, 0, R0);
}
