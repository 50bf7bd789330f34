//! Rules as files hold them: text, or where they are none.
//!
//! Input: a path. Output: a source with its name. Never looks at what the text says.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::Failure;
use crate::diag::{self, Diagnostic, Source, Span};

/// More rules than a kernel takes have fewer bytes.
const LONGEST: u64 = 64 << 20;

/// Refuses to write to a file that is also read: what is in it would be lost.
pub fn apart(input: Option<&Path>, output: Option<&Path>) -> Result<(), Failure> {
    let (Some(input), Some(output)) = (input, output) else { return Ok(()) };
    let known = |file: &Path| fs::metadata(file).ok().filter(fs::Metadata::is_file);
    match (known(input), known(output)) {
        // Whatever it is called: a path may lead over a link.
        (Some(a), Some(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()) => Err(Failure::Usage(format!(
            "{} is read, and would be overwritten: write to another file",
            input.display()
        ))),
        _ => Ok(()),
    }
}

/// A file's text, `-` for standard input.
pub fn file_source(file: &Path) -> Result<Source, Failure> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = Vec::new();
        ("<stdin>".to_owned(), io::stdin().read_to_end(&mut bytes).map(|_| bytes))
    } else {
        (file.display().to_string(), fs::read(file))
    };
    match bytes {
        Ok(bytes) => text(&name, bytes),
        Err(source) => Err(Failure::File { what: format!("cannot read {name}"), source }),
    }
}

/// What a file holds, if that can be rules: for those that are read again and again.
pub fn contents(file: &Path) -> io::Result<Vec<u8>> {
    // A pipe must not keep us waiting for who writes to it.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(io::Error::other("it is longer than 64 MiB"));
    }
    Ok(bytes)
}

/// The bytes as text, or where they are none.
pub fn text(name: &str, bytes: Vec<u8>) -> Result<Source, Failure> {
    let error = match String::from_utf8(bytes) {
        Ok(text) => return Ok(Source::new(name, text)),
        Err(error) => error,
    };
    let start = error.utf8_error().valid_up_to();
    let byte = error.as_bytes().get(start).copied().unwrap_or_default();
    let source = Source::new(name, String::from_utf8_lossy(error.as_bytes()));
    let span = Span { start, end: start + char::REPLACEMENT_CHARACTER.len_utf8() };
    let fault = Diagnostic::error("the rules are not UTF-8", span, format!("byte {byte:#04x}"))
        .help("save them as UTF-8; nothing beyond ASCII is needed outside of comments");
    let told = diag::render(&source, &[fault], false);
    Err(Failure::NotText(told.trim_start_matches("error: ").to_owned()))
}
