//! Rules beside instructions: BTF with line information, as compilers write it for lines of C.
//!
//! Takes programs with their places in a section, and the rules as they were written. Gives the sections `.BTF` and
//! `.BTF.ext`. The kernel keeps both, prints them in the verifier's log, and hands them to `bpftool prog dump xlated
//! linum` and the like; the rules are read back from what it has kept. Nothing depends on them: a kernel that does not
//! take them takes the program without.

use aya_obj::btf::{Btf, BtfParam, BtfType, Func, FuncLinkage, FuncProto, Int, IntEncoding, Ptr};

use super::{SECTION, SLOT};

/// A rule, and the line that it is on.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub text: &'a str,
    pub number: usize,
}

/// What there is beside no rule: the way to the rules, and what several of them share.
const SHARED: &str = "(shared)";
/// A rule may hold sets of thousands of addresses.
const LONGEST: usize = 200;
/// The kernel takes 16 MiB (BTF_MAX_SIZE).
const MOST: usize = 8 << 20;
/// `struct btf_ext_header`, `struct bpf_func_info`, `struct bpf_line_info`
const HEADER: u32 = 24;
const FUNC_RECORD: u32 = 8;
const LINE_RECORD: u32 = 16;
const MAGIC: u16 = 0xeb9f;

/// `.BTF` and `.BTF.ext` for programs with their offsets; `None`: more than a kernel takes.
pub(super) fn sections(
    programs: &[(&str, u64, &asm::Program)],
    file: &str,
    rules: &[Line<'_>],
) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut btf = Btf::new();
    let int = btf.add_string("int");
    let int = btf.add_type(BtfType::Int(Int::new(int, 4, IntEncoding::Signed, 0)));
    let pointer = btf.add_type(BtfType::Ptr(Ptr::new(0, 0)));
    let context = BtfParam { name_offset: btf.add_string("ctx"), btf_type: pointer };
    let prototype = btf.add_type(BtfType::FuncProto(FuncProto::new(vec![context], int)));
    let section = btf.add_string(&String::from_utf8_lossy(SECTION));
    let shared = btf.add_string(SHARED);
    // In their order, and also those that no instruction is for: see `rules`.
    let mut size = 0;
    let mut rule = |line: &Line<'_>| {
        let text = printable(line.text);
        size += text.len();
        (btf.add_string(&text), line.number)
    };
    let rules: Vec<(u32, usize)> = rules.iter().map(&mut rule).collect();
    let file = btf.add_string(&printable(file));

    let (mut functions, mut lines) = (Vec::new(), Vec::new());
    for (name, offset, program) in programs {
        // An identifier of C, which dots are not part of in older kernels.
        let name = btf.add_string(&name.replace('.', "_"));
        let function = btf.add_type(BtfType::Func(Func::new(name, prototype, FuncLinkage::Static)));
        let place = u32::try_from(*offset).ok()?;
        functions.push([place, function]);
        let bytes = program.bytes();
        let mut last = None;
        for (slot, instruction) in bytes.chunks(8).enumerate() {
            let origin = program.origin_at(slot);
            // The second half of a wide instruction is none.
            if last == Some(origin) || (slot > 0 && instruction.first() == Some(&0)) {
                continue;
            }
            last = Some(origin);
            let rule = origin.and_then(|rule| rules.get(usize::try_from(rule).ok()?));
            let (text, number) = match rule {
                None => (shared, 0),
                Some((text, line)) => (*text, u32::try_from(*line).ok()?),
            };
            let at = place.checked_add(u32::try_from(slot).ok()?.checked_mul(u32::try_from(SLOT).ok()?)?)?;
            // Line in the upper 22 bits, column in the lower ten.
            lines.push([at, file, text, number.checked_mul(1 << 10).unwrap_or(0)]);
        }
    }
    if size + lines.len() * 16 > MOST {
        return None;
    }
    let number = |length: usize| u32::try_from(length).ok();
    let function_bytes = 4 + 8 + number(functions.len())?.checked_mul(FUNC_RECORD)?;
    let line_bytes = 4 + 8 + number(lines.len())?.checked_mul(LINE_RECORD)?;
    let mut ext = Vec::new();
    ext.extend(MAGIC.to_ne_bytes());
    ext.extend([1, 0]); // version, flags
    let mut words = vec![HEADER, 0, function_bytes, function_bytes, line_bytes];
    words.extend([FUNC_RECORD, section, number(functions.len())?]);
    words.extend(functions.into_iter().flatten());
    words.extend([LINE_RECORD, section, number(lines.len())?]);
    words.extend(lines.into_iter().flatten());
    ext.extend(words.into_iter().flat_map(u32::to_ne_bytes));
    Some((btf.to_bytes(), ext))
}

/// The first `count` rules of the program that the kernel has kept this `.BTF` of. `None`: it is not one of ours.
pub fn rules(btf: &[u8], count: usize) -> Option<Vec<String>> {
    // `struct btf_header`: magic, version, flags, and then lengths and offsets, the latter from the end of the header.
    let word = |at: usize| {
        let bytes = btf.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_ne_bytes(bytes)).ok()
    };
    let begin = word(4)?.checked_add(word(16)?)?;
    let strings = btf.get(begin..begin.checked_add(word(20)?)?)?;
    let mut strings = strings.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    strings.find(|string| string == SHARED)?;
    let rules: Vec<String> = strings.take(count).map(|rule| rule.into_owned()).collect();
    (rules.len() == count).then_some(rules)
}

/// On one line, without what a terminal would obey, and not too long.
fn printable(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean = words.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    let mut short: String = clean.clone().take(LONGEST).collect();
    if clean.count() > LONGEST {
        short.push_str("...");
    }
    short
}
