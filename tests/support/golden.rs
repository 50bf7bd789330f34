//! The files of `testdata/golden/`: their sections, and what the first of them asks for.
//!
//! In: text. Out: sections, options, programs. Compares nothing.

use std::path::{Path, PathBuf};
use std::{fs, io};

use asm::Program;
use sfunnel::codegen::{self, GsoPackets, Link, Mtu, Options, Segmenter, Target};
use sfunnel::ir::Side;

/// All of them, in order.
pub fn files() -> io::Result<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    let mut files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// What the first section's head says of the interface.
pub fn options(head: &str) -> Option<Options> {
    let plain = Options::pass_gso(Link::Ethernet);
    match head {
        "rules" => Some(plain),
        "rules, segmented on egress" => {
            Some(Options { gso: GsoPackets::Segment(Side::Egress, Segmenter::Pair), ..plain })
        }
        "rules, segmented on ingress" => {
            Some(Options { gso: GsoPackets::Segment(Side::Ingress, Segmenter::Pair), ..plain })
        }
        "rules, cut on egress" => {
            Some(Options { gso: GsoPackets::Segment(Side::Egress, Segmenter::Macvlan), ..plain })
        }
        "rules, finished on egress" => {
            Some(Options { gso: GsoPackets::Segment(Side::Egress, Segmenter::Pair), finish: true, ..plain })
        }
        "rules, for the oldest kernels" => {
            Some(plain.on(Target { long_jumps: false, nested_tags: false, mtu: Mtu::Is(1500) }))
        }
        "rules, merged on ingress" => Some(Options { merge: true, ..plain }),
        _ => None,
    }
}

/// The program for a device beside an interface.
pub fn device(name: &str) -> Option<Result<Program, asm::Error>> {
    Some(match name {
        "crossed, from egress" => codegen::compile_crossed(Side::Egress),
        "crossed, from ingress" => codegen::compile_crossed(Side::Ingress),
        "cut, from egress" => codegen::compile_cut(Side::Egress),
        "cut, from ingress" => codegen::compile_cut(Side::Ingress),
        "merged" => codegen::compile_merged(),
        _ => return None,
    })
}

/// The prose, then names and texts: `-- name --` on a line of its own begins a section.
pub fn sections(text: &str) -> (&str, Vec<(&str, &str)>) {
    let mut heads = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if let Some(name) = line.trim_end().strip_prefix("-- ").and_then(|l| l.strip_suffix(" --")) {
            heads.push((at, at + line.len(), name));
        }
        at += line.len();
    }
    let prose = &text[..heads.first().map_or(text.len(), |head| head.0)];
    let ends = heads.iter().skip(1).map(|head| head.0).chain([text.len()]);
    let sections = heads.iter().zip(ends).map(|((_, start, name), end)| (*name, &text[*start..end]));
    (prose, sections.collect())
}
