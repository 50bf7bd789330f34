//! The plain way, to compare with: every rule a row of compares, one after the other.
//!
//! Made by the same assembler. Reads packets without options, and nothing but what the rules match on; a rule's action
//! is its verdict. Fields are loaded anew for each compare, or the verifier would look at every rule once for each way
//! to it.

use anyhow::{Context, Result, bail, ensure};
use asm::{Assembler, Cond, Insn, Label, Program, Reg, Reg::*, Size};
use sfunnel::field::Field;
use sfunnel::ir::{Action, Family, Proto, Ruleset};
use sfunnel::matches::Set;

const DATA: i16 = 76;
const DATA_END: i16 = 80;
/// The IP header.
const IP: Reg = R7;
const KEY: Reg = R2;
/// The program has to stay below what a kernel takes.
const MOST: usize = 1_000_000;

pub fn program(ruleset: &Ruleset) -> Result<Program> {
    let mut a = Assembler::new();
    let pass = a.label("pass");
    a.push(Insn::load(Size::W, R2, R1, DATA));
    a.push(Insn::load(Size::W, R3, R1, DATA_END));
    a.push(Insn::mov64(IP, R2));
    a.push(Insn::add64(IP, 14_i32));
    for (family, header, ether) in [(Family::V4, 20, 0x0800_u32), (Family::V6, 40, 0x86dd)] {
        let other = a.label("other_family");
        a.push(Insn::mov64(R4, R2));
        a.push(Insn::add64(R4, 14 + i32::from(header) + 4));
        a.jump_if(Cond::gt64(R4, R3), pass);
        a.push(Insn::load(Size::H, R5, IP, -2));
        a.jump_if(Cond::ne32(R5, u32::from(u16::try_from(ether)?.to_be())), other);
        for rule in &ruleset.rules {
            let Some(matches) = rule.of(family) else { continue };
            let next = a.label("next");
            let at = if family == Family::V4 { 9 } else { 6 };
            a.push(Insn::load(Size::B, KEY, IP, at));
            a.jump_if(Cond::ne32(KEY, if rule.proto == Proto::Tcp { 6_u32 } else { 17 }), next);
            for (field, set) in matches.sets() {
                one_of(&mut a, field, family, header, set, next)?;
            }
            a.push(Insn::mov32(R0, if rule.action == Action::Drop { 2 } else { -1 }));
            a.push(Insn::exit());
            a.bind(next);
            ensure!(a.position() < MOST, "more than {MOST} instructions");
        }
        a.goto(pass);
        a.bind(other);
    }
    a.bind(pass);
    a.push(Insn::mov32(R0, -1));
    a.push(Insn::exit());
    a.finish().context("the assembler")
}

/// Goes on if the field is in the set.
fn one_of(a: &mut Assembler, field: Field, family: Family, header: i16, set: &Set, no: Label) -> Result<()> {
    let (yes, count) = (a.label("yes"), set.ranges_len());
    for (at, range) in set.ranges().enumerate() {
        let next = if at + 1 == count { no } else { a.label("value") };
        in_range(a, field, family, header, (*range.start(), *range.end()), next)?;
        if at + 1 < count {
            a.goto(yes);
            a.bind(next);
        }
    }
    a.bind(yes);
    Ok(())
}

/// Goes on if the field is in the range: word by word, as long as both ends are the same.
fn in_range(
    a: &mut Assembler,
    field: Field,
    family: Family,
    header: i16,
    (first, last): (u128, u128),
    no: Label,
) -> Result<()> {
    let (offset, bytes) = place(field, family, header)?;
    let (size, width) = if bytes == 2 { (Size::H, 2) } else { (Size::W, 4) };
    for at in (0..bytes).step_by(width) {
        let shift = 8 * (bytes - at - width);
        let mask = (1_u128 << (8 * width)) - 1;
        let word = |value: u128| u32::try_from(value >> shift & mask);
        let (low, high) = (word(first)?, word(last)?);
        a.push(Insn::load(size, KEY, IP, offset + i16::try_from(at)?));
        if low == high {
            // Turned round here, not for each packet.
            let wire = if width == 2 { u32::from(u16::try_from(low)?.to_be()) } else { low.to_be() };
            a.jump_if(Cond::ne32(KEY, wire), no);
            continue;
        }
        a.push(if width == 2 { Insn::be16(KEY) } else { Insn::be32(KEY) });
        if low > 0 {
            a.jump_if(Cond::lt32(KEY, low), no);
        }
        if u128::from(high) < mask {
            a.jump_if(Cond::gt32(KEY, high), no);
        }
        let rest = (1_u128 << shift) - 1;
        ensure!(first & rest == 0 && last & rest == rest, "a range of IPv6 addresses that is no prefix");
        return Ok(());
    }
    Ok(())
}

fn place(field: Field, family: Family, header: i16) -> Result<(i16, usize)> {
    Ok(match (field, family) {
        (Field::SADDR, Family::V4) => (12, 4),
        (Field::DADDR, Family::V4) => (16, 4),
        (Field::SADDR, Family::V6) => (8, 16),
        (Field::DADDR, Family::V6) => (24, 16),
        (Field::SPORT, _) => (header, 2),
        (Field::DPORT, _) => (header + 2, 2),
        _ => bail!("no place for {field}"),
    })
}
