//! docs/tools.md and the examples in `--help` are run: what a command prints is what the page says.
//!
//! A block marked `sh` is run by a shell, in a directory of its own with a few files; the `text` block right behind it
//! is what standard output and error say together. Examples in `--help` have to end well. What needs
//! privileges to run is listed here, not found out by trying.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory;
use pretty_assertions::assert_eq;
use support::{Need, require};

/// What the examples take for granted.
const RULES: &str = "udp dport 4739 actions funnel tcp sport 540 dport 179\n";

/// A directory with the files that examples name, and the program in the `PATH`.
struct Shell {
    directory: tempfile::TempDir,
}

impl Shell {
    fn new() -> Shell {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("rules.sf"), RULES).expect("a file");
        Shell { directory }
    }

    fn run(&self, script: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_sfunnel")).parent().expect("a directory");
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", program.display()))
            .output()
            .expect("a shell")
    }
}

fn page() -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tools.md");
    fs::read_to_string(path).expect("docs/tools.md")
}

/// Each `sh` block with the `text` block right behind it, if there is one.
fn examples(page: &str) -> Vec<(&str, Option<&str>)> {
    let pieces: Vec<&str> = page.split("```").collect();
    let mut found = Vec::new();
    for at in (1..pieces.len()).step_by(2) {
        let Some(script) = pieces[at].strip_prefix("sh\n") else { continue };
        let next = pieces.get(at + 2).filter(|_| pieces[at + 1].trim().is_empty());
        found.push((script, next.and_then(|next| next.strip_prefix("text\n"))));
    }
    found
}

#[test]
fn the_page_shows_what_its_commands_print() {
    if !require(&[Need::Root]) {
        return;
    }
    let shell = Shell::new();
    let page = page();
    let mut compared = 0;
    for (script, expected) in examples(&page) {
        // Together, as in a terminal.
        let output = shell.run(&format!("exec 2>&1\n{script}"));
        let said = String::from_utf8(output.stdout).expect("text");
        match expected {
            Some(expected) => {
                assert_eq!(said, expected, "{script}");
                compared += 1;
            }
            None => assert!(output.status.success(), "{script}{said}"),
        }
    }
    assert!(compared >= 3, "the examples have gone: {compared}");
}

/// Lines below `Examples:` that start with the program's name.
fn help_examples(command: &clap::Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = text.lines().skip_while(|line| !line.starts_with("Examples:")).skip(1);
    lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn examples_in_the_help_of_tools_end_well() {
    if !require(&[Need::Root]) {
        return;
    }
    let shell = Shell::new();
    let cli = sfunnel::cli::Cli::command();
    for tool in ["mirror"] {
        let command = cli.find_subcommand(tool).expect("a subcommand");
        let examples = help_examples(command);
        assert!(!examples.is_empty(), "{tool}");
        for example in examples {
            let output = shell.run(&example);
            assert!(output.status.success(), "{example}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
