//! `completions` and `man`: what clap knows about the command line, for shells and for `man`.

use clap::CommandFactory;
use clap_mangen::Man;

use super::args::{Completions, Manual};
use super::{Cli, Console, Failure};

const NAME: &str = "sfunnel";

pub fn completions(args: &Completions, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    Ok(console.out.write_all(&script)?)
}

pub fn man(args: &Manual, console: &mut Console<'_>) -> Result<(), Failure> {
    // There is no page about `help`.
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build(); // gives commands their full names
    let command = match &args.command {
        None => cli,
        Some(name) => {
            let found = cli.find_subcommand(name).cloned();
            let known: Vec<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
            found.ok_or_else(|| {
                Failure::Usage(format!("there is no command `{name}`; there are: {}", known.join(", ")))
            })?
        }
    };
    let more = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let has_commands = command.has_subcommands();
    let man = Man::new(command).section("8").source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_commands {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend(sections(&more).into_bytes());
    Ok(console.out.write_all(&page)?)
}

/// What stands below the options in `--help`, as sections of a page: clap would fill the lines of examples.
fn sections(text: &str) -> String {
    let mut roff = String::new();
    let mut as_written = false;
    for (at, paragraph) in text.split("\n\n").enumerate() {
        let paragraph = match paragraph.strip_prefix("Examples:\n") {
            Some(examples) => {
                roff += ".SH EXAMPLES\n";
                examples
            }
            None => {
                roff += if at == 1 { ".SH NOTES\n" } else { ".PP\n" };
                paragraph
            }
        };
        for line in paragraph.lines() {
            // Indented: lines of their own.
            if line.starts_with("  ") != as_written {
                as_written = !as_written;
                roff += if as_written { ".nf\n" } else { ".fi\n" };
            }
            roff += &escaped(line.strip_prefix("  ").unwrap_or(line));
            roff.push('\n');
        }
        if std::mem::take(&mut as_written) {
            roff += ".fi\n";
        }
    }
    roff
}

/// As text that roff shows letter by letter: minus signs, quotes and backslashes can be pasted into a shell.
fn escaped(line: &str) -> String {
    let mut text = String::new();
    // In front, these two begin a request.
    if line.starts_with(['.', '\'']) {
        text += "\\&";
    }
    for character in line.chars() {
        match character {
            '\\' => text += "\\e",
            '-' => text += "\\-",
            '\'' => text += "\\(aq",
            '`' => text += "\\(ga",
            '~' => text += "\\(ti",
            '^' => text += "\\(ha",
            other => text.push(other),
        }
    }
    text
}
