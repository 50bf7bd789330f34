//! The annotated listing: what a reader of a golden file sees.

use asm::{Assembler, Cond, Insn, Reg, Size};
use pretty_assertions::assert_eq;

fn rule(n: u32) -> Option<String> {
    (n < 10).then(|| format!("rule {n}"))
}

#[test]
fn labels_stand_left_instructions_are_indented_and_notes_line_up() {
    let mut asm = Assembler::new();
    let (entry, pass) = (asm.label("entry"), asm.label("pass"));
    asm.section("r6 skb  r7 ip");
    asm.bind(entry);
    asm.note("skb");
    asm.push(Insn::mov64(Reg::R6, Reg::R1));
    asm.origin(Some(0));
    asm.note("udp.dport");
    asm.push(Insn::load(Size::H, Reg::R2, Reg::R8, 2));
    asm.push(Insn::be16(Reg::R2));
    asm.jump_if(Cond::ne32(Reg::R2, 4739u16), pass);
    asm.note("two slots");
    asm.note("one line");
    asm.push(Insn::ld_imm64(Reg::R3, 0x1122_3344_5566_7788));
    asm.note("behind a long instruction");
    asm.push(Insn::ld_map_value(Reg::R3, i32::MAX, u32::MAX));
    asm.origin(Some(10));
    asm.bind(pass);
    asm.push(Insn::mov32(Reg::R0, -1));
    asm.origin(None);
    asm.push(Insn::exit());
    assert_eq!(
        asm.finish().unwrap().listing(&rule),
        "\
; r6 skb  r7 ip
entry:
    r6 = r1                               ; skb
; rule 0
    r2 = *(u16 *)(r8 + 2)                 ; udp.dport
    w2 = be16 w2
    if w2 != 4739 goto pass
    r3 = 0x1122334455667788 ll            ; two slots, one line
    r3 = map[fd:2147483647][0]+4294967295 ; behind a long instruction
pass:
    w0 = -1
    exit
"
    );
}

#[test]
fn hex_adds_slot_numbers_and_bytes_and_keeps_the_rest() {
    let mut asm = Assembler::new();
    let pass = asm.label("pass");
    asm.origin(Some(3));
    asm.note("here");
    asm.push(Insn::ld_imm64(Reg::R1, 1));
    asm.jump_if(Cond::eq64(Reg::R1, Reg::R2), pass);
    asm.push(Insn::mov32(Reg::R0, 2));
    asm.bind(pass);
    asm.push(Insn::exit());
    assert_eq!(
        asm.finish().unwrap().hex(&rule),
        "\
; rule 3
     0  18 01 00 00 01 00 00 00  r1 = 0x1 ll                           ; here
     1  00 00 00 00 00 00 00 00
     2  1d 21 01 00 00 00 00 00  if r1 == r2 goto pass
     3  b4 00 00 00 02 00 00 00  w0 = 2
pass:
     4  95 00 00 00 00 00 00 00  exit
"
    );
}

#[test]
fn names_used_twice_are_numbered_and_given_numbers_are_kept() {
    let mut asm = Assembler::new();
    let names = ["miss", "miss", "pass", "miss", "miss.2"];
    let labels = names.map(|name| asm.label(name));
    asm.label("miss"); // Never bound, so in nobody's way.
    for label in labels {
        asm.jump_if(Cond::eq32(Reg::R1, 1), label);
    }
    for label in labels {
        asm.push(Insn::mov32(Reg::R0, 1));
        asm.bind(label);
    }
    asm.push(Insn::exit());
    assert_eq!(
        asm.finish().unwrap().listing(&rule),
        "    \
    if w1 == 1 goto miss
    if w1 == 1 goto miss.3
    if w1 == 1 goto pass
    if w1 == 1 goto miss.4
    if w1 == 1 goto miss.2
    w0 = 1
miss:
    w0 = 1
miss.3:
    w0 = 1
pass:
    w0 = 1
miss.4:
    w0 = 1
miss.2:
    exit
"
    );
}

#[test]
fn a_title_is_printed_again_when_its_origin_comes_back() {
    let mut asm = Assembler::new();
    for origin in [Some(1), Some(1), Some(2), None, Some(2)] {
        asm.origin(origin);
        asm.push(Insn::mov32(Reg::R0, 0));
    }
    asm.push(Insn::exit());
    let listing = asm.finish().unwrap().listing(&rule);
    let titles = listing.lines().filter(|line| line.starts_with(';'));
    assert_eq!(titles.collect::<Vec<_>>(), ["; rule 1", "; rule 2", "; rule 2"]);
}

#[test]
fn comments_of_several_lines_stay_comments() {
    let mut asm = Assembler::new();
    asm.section("one\ntwo");
    asm.push(Insn::exit());
    let listing = asm.finish().unwrap().listing(&rule);
    assert_eq!(listing, "; one\n; two\n    exit\n");
}

#[test]
fn what_stands_before_a_jump_left_out_moves_to_the_next_instruction() {
    let mut asm = Assembler::new();
    let next = asm.label("next");
    asm.push(Insn::mov32(Reg::R0, 0));
    asm.section("leaf");
    asm.origin(Some(1));
    asm.note("gone with its jump");
    asm.goto(next);
    asm.bind(next);
    asm.push(Insn::exit());
    let listing = asm.finish().unwrap().listing(&rule);
    assert_eq!(listing, "    w0 = 0\n; leaf\n; rule 1\nnext:\n    exit\n");
}

#[test]
fn a_lengthened_jump_shows_its_parts_and_its_note_once() {
    let mut asm = Assembler::new();
    let far = asm.label("far");
    asm.note("why");
    asm.jump_if(Cond::eq32(Reg::R1, 1), far);
    asm.note("mask");
    asm.jump_if(Cond::set64(Reg::R1, 4), far);
    for _ in 0..32_768 {
        asm.push(Insn::mov64(Reg::R0, 0));
    }
    asm.bind(far);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    let listing = program.listing(&|_| None);
    assert_eq!(
        listing.lines().take(6).collect::<Vec<_>>(),
        [
            "    if w1 != 1 goto +1                    ; why",
            "    gotol far",
            "    if r1 & 0x4 goto +1                   ; mask",
            "    goto +1",
            "    gotol far",
            "    r0 = 0",
        ]
    );
    assert_eq!(program.text_at(1).as_deref(), Some("gotol far ; why"));
}

#[test]
fn a_slot_leads_to_its_text_and_origin() {
    let mut asm = Assembler::new();
    asm.origin(Some(7));
    asm.note("wide");
    asm.push(Insn::ld_imm64(Reg::R1, 0x10));
    asm.origin(None);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    let texts = [0, 1, 2, 3].map(|slot| program.text_at(slot));
    let wide = Some("r1 = 0x10 ll ; wide".to_string());
    assert_eq!(texts, [wide.clone(), wide, Some("exit".into()), None]);
    let origins = [0, 1, 2, 3].map(|slot| program.origin_at(slot));
    assert_eq!(origins, [Some(7), Some(7), None, None]);
}

#[test]
fn lines_say_what_the_listing_says_and_jumps_are_followed() {
    let mut asm = Assembler::new();
    let pass = asm.label("pass");
    asm.note("udp.dport");
    asm.push(Insn::load(Size::H, Reg::R2, Reg::R8, 2));
    asm.place(Some(7));
    asm.origin(Some(1));
    asm.note("dport == 4739");
    asm.jump_if(Cond::ne32(Reg::R2, 4739u16), pass);
    asm.push(Insn::store_imm(Size::H, Reg::R8, 2, 1));
    asm.place(None);
    asm.push(Insn::ld_imm64(Reg::R3, 1));
    asm.place(Some(8));
    asm.place(Some(9));
    asm.jump_if(Cond::eq64(Reg::R3, Reg::R2), pass);
    asm.push(Insn::mov32(Reg::R0, 2));
    asm.bind(pass);
    asm.push(Insn::exit());
    let program = asm.finish().unwrap();
    let lines: Vec<String> = program
        .lines()
        .map(|line| {
            let labels = line.labels.join(",");
            let place = program.place_at(line.slot);
            format!("{labels}|{}|{}|{:?}|{:?}|{:?}", line.slot, line.text, line.note, line.origin, place)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "|0|r2 = *(u16 *)(r8 + 2)|Some(\"udp.dport\")|None|None",
            "|1|if w2 != 4739 goto pass|Some(\"dport == 4739\")|Some(1)|Some(7)",
            "|2|*(u16 *)(r8 + 2) = 1|None|Some(1)|Some(7)",
            "|3|r3 = 0x1 ll|None|Some(1)|None",
            "|5|if r3 == r2 goto pass|None|Some(1)|Some(9)",
            "|6|w0 = 2|None|Some(1)|Some(9)",
            "pass|7|exit|None|Some(1)|Some(9)",
        ]
    );
    assert_eq!((program.next(1, 4739), program.next(1, 80)), (Some(2), Some(7)));
    assert_eq!((program.next(0, 0), program.next(3, 0), program.next(7, 0)), (Some(1), Some(5), None));
    assert_eq!(program.next(5, 1), None, "it compares two registers");
    assert_eq!((program.loads_at(0), program.stores_at(0)), (true, false));
    assert_eq!((program.loads_at(2), program.stores_at(2)), (false, true));
    assert_eq!((program.note_at(1), program.note_at(2)), (Some("dport == 4739"), None));
}
