//! Rules, diagram, instructions and packets as one HTML file that needs nothing else.
//!
//! Takes what other stages have found, gives text. The page holds data, compressed, and one script that draws what is
//! looked at; a content security policy forbids everything else, the network first. What users have written is never
//! part of the markup: it is in the data, and the script makes text of it. Never runs, attaches or decides anything.

pub mod attached;
mod headers;
mod life;
mod list;
mod listing;
mod remark;
mod touch;
mod way;

use data_encoding::BASE64;
use maud::{DOCTYPE, PreEscaped, html};
use serde::Serialize;
use sha2::{Digest, Sha256};

use self::headers::Layout;
pub use self::life::{Life, Packet};
pub use self::list::List;
use self::remark::{Offsets, Remark};
pub use self::way::{Way, Ways};
use crate::diag::{Diagnostic, Source};

const STYLE: &str = include_str!("page/page.css");
/// One script after the other: they share their names.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/data.js"),
    include_str!("page/draw.js"),
    include_str!("page/rules.js"),
    include_str!("page/diagram.js"),
    include_str!("page/listing.js"),
    include_str!("page/packet.js"),
    include_str!("page/point.js"),
    include_str!("page/start.js"),
);

/// In the order in which Tab leads through them. That of packets stays hidden where there are none.
const PANES: [(&str, &str); 5] = [
    ("packets", "Packets"),
    ("rules", "Rules"),
    ("diagram", "Decision diagram"),
    ("listing", "Instructions"),
    ("header", "Headers"),
];

/// All that a page shows.
#[derive(Debug, Serialize)]
pub struct Page<'a> {
    sfunnel: &'static str,
    title: String,
    /// Of all pieces, a line end between them.
    text: &'a str,
    pieces: Vec<Piece<'a>>,
    remarks: Vec<Remark<'a>>,
    lists: Vec<List<'a>>,
    headers: Vec<Layout>,
    packets: Vec<Packet>,
    /// How many packets there are: not all may be shown.
    captured: usize,
    notes: Vec<String>,
}

/// A part of the text, by its place in it.
#[derive(Debug, Serialize)]
struct Piece<'a> {
    name: &'a str,
    start: usize,
    end: usize,
}

impl<'a> Page<'a> {
    /// Rules and what is odd about them; their lists are added.
    pub fn new(source: &'a Source, remarks: &'a [Diagnostic]) -> Self {
        let offsets = Offsets::new(&source.text);
        let piece = |piece: &'a crate::diag::Piece| Piece {
            name: &piece.name,
            start: offsets.of(piece.span.start),
            end: offsets.of(piece.span.end),
        };
        Self {
            sfunnel: env!("CARGO_PKG_VERSION"),
            title: source.name.clone(),
            text: &source.text,
            pieces: source.pieces().iter().map(piece).collect(),
            remarks: remarks.iter().map(|remark| Remark::new(remark, &offsets)).collect(),
            lists: Vec::new(),
            headers: headers::all(),
            packets: Vec::new(),
            captured: 0,
            notes: Vec::new(),
        }
    }

    /// Packets, each with a life for each list: the first of so many.
    pub fn show(&mut self, packets: Vec<Packet>, captured: usize) {
        (self.packets, self.captured) = (packets, captured);
    }

    pub fn push(&mut self, list: List<'a>) {
        self.lists.push(list);
    }

    /// What is to be said besides.
    pub fn note(&mut self, notes: Vec<String>) {
        self.notes = notes;
    }

    /// The file.
    pub fn html(&self) -> serde_json::Result<String> {
        let data = BASE64.encode(&miniz_oxide::deflate::compress_to_vec(&serde_json::to_vec(self)?, 8));
        let hash = |text: &str| format!("'sha256-{}'", BASE64.encode(&Sha256::digest(text)));
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; img-src data:; base-uri 'none'; form-action 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · sfunnel" }
                    // Browsers ask for one otherwise.
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header #top {
                        p.brand { "sfunnel" }
                        h1 { bdi { (self.title) } }
                        p #summary {}
                        div #lists {}
                        ul #notes hidden {}
                    }
                    noscript { p { "The script inside this file draws the page, and the browser does not run it." } }
                    main #page {
                        @for (id, title) in PANES {
                            section #(id) .pane hidden[id == "packets"] aria-labelledby={ (id) "-title" } {
                                h2 #{ (id) "-title" } { (title) }
                                div.body {}
                            }
                        }
                    }
                    footer {
                        p #said role="status" {}
                        p.keys {
                            kbd { "Tab" } " next pane  " kbd { "↑" } kbd { "↓" } " move  " kbd { "Enter" } " keep  "
                            kbd { "Esc" } " let go"
                        }
                    }
                    script #data type="application/octet-stream" { (data) }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        Ok(page.into_string() + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::{SCRIPT, STYLE};

    #[test]
    fn neither_script_nor_style_ends_before_its_end() {
        for text in [SCRIPT, STYLE] {
            assert!(!text.contains("</") && !text.contains("<!--"), "what ends or hides an element");
        }
    }
}
