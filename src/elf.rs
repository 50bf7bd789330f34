//! Programs to one relocatable ELF object, the form in which aya takes them.
//!
//! Takes names and programs, gives bytes that `aya`, `bpftool` and `tc` can load and `llvm-objdump`
//! can read. One section `classifier`, a symbol of exact size for each program, a `license` section
//! (without one aya says GPL). Never touches the kernel or a file.

mod lines;

use asm::Program;
use object::write::{Error, Object, StandardSegment, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

/// The section name by which aya knows a tc program (`tc` and others are spellings it does not take).
const SECTION: &[u8] = b"classifier";
/// What `license_is_gpl_compatible` (include/linux/license.h) accepts for our two licences.
const LICENSE: &[u8] = b"Dual BSD/GPL\0";
/// Size of an instruction slot, `struct bpf_insn`.
const SLOT: u64 = 8;

pub use lines::{Line, rules};

/// An object with these programs. A name is 1 to 15 of `[A-Za-z0-9_.]` (`bpf_obj_name_cpy`).
///
/// # Errors
///
/// The object is larger than the format can say; anything else is a bug of this module.
pub fn wrap(programs: &[(&str, &Program)]) -> Result<Vec<u8>, Error> {
    object(programs, None)
}

/// The same, with the rules that instructions were made for beside them, as lines of that file: for debuggers, and
/// for the verifier's log. Without, if they are too many.
///
/// # Errors
///
/// As for [`wrap`].
pub fn wrap_with_rules(
    programs: &[(&str, &Program)],
    file: &str,
    rules: &[Line<'_>],
) -> Result<Vec<u8>, Error> {
    object(programs, Some((file, rules)))
}

fn object(programs: &[(&str, &Program)], beside: Option<(&str, &[Line<'_>])>) -> Result<Vec<u8>, Error> {
    let endian = if cfg!(target_endian = "little") { Endianness::Little } else { Endianness::Big };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endian);

    let segment = object.segment_name(StandardSegment::Data).to_vec();
    let license = object.add_section(segment, b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, LICENSE, 1);

    let segment = object.segment_name(StandardSegment::Text).to_vec();
    let text = object.add_section(segment, SECTION.to_vec(), SectionKind::Text);
    let mut placed = Vec::new();
    for (name, program) in programs {
        let bytes = program.bytes();
        let value = object.append_section_data(text, &bytes, SLOT);
        placed.push((*name, value, *program));
        object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value,
            size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
    }

    if let Some((btf, ext)) = beside.and_then(|(file, rules)| lines::sections(&placed, file, rules)) {
        for (name, data) in [(".BTF", btf), (".BTF.ext", ext)] {
            let section = object.add_section(Vec::new(), name.into(), SectionKind::Other);
            object.append_section_data(section, &data, 4);
        }
    }
    object.write()
}
