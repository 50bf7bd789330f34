//! The command line: what the words mean, and which exit code comes of it.
//!
//! Comes in: arguments and an environment. Goes out: data on `out`, talk on `talk`, an exit code.
//! Without a subcommand it is the container's entry point. Never prints by itself: `main` hands it the streams.

mod args;
mod attach;
mod bypass;
mod cni;
mod compile;
mod container;
mod counted;
mod detach;
mod diff;
mod doctor;
mod drift;
mod explain;
mod files;
mod follow;
mod generate;
mod how;
mod log;
mod mirror;
mod oci;
mod page;
mod pod;
mod point;
mod programs;
mod prometheus;
mod rules;
mod settings;
mod status;
mod watch;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;
use clap::error::ErrorKind;

pub use args::{Cli, Command, LogFormat};
pub use log::Level;

use crate::explain::capture;
use crate::{demo, kernel, net, paint, system};

/// The world outside, as much of it as a command may see.
pub struct Console<'a> {
    /// Data: listings, ELF, JSON.
    pub out: &'a mut dyn Write,
    /// Everything said to a person.
    pub talk: &'a mut dyn Write,
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub color: bool,
    pub out_is_terminal: bool,
    /// Of what is said on `talk`.
    pub log: LogFormat,
    /// What matters less is not said.
    pub least: Level,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("color", &self.color).finish_non_exhaustive()
    }
}

impl Console<'_> {
    /// A variable that is set and not empty: an orchestrator often sets what it does not mean.
    fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    /// From here on, what is said is said like this.
    fn log_in(&mut self, format: LogFormat) {
        self.log = format;
        self.color &= format == LogFormat::Text;
    }

    /// Says a line. Talk that nobody can hear is no reason to stop.
    fn say(&mut self, line: impl AsRef<str>) {
        self.say_about(&[], line);
    }

    /// The same, and what it is about, where that is asked for.
    fn say_about(&mut self, about: &[(&str, &str)], line: impl AsRef<str>) {
        let line = line.as_ref().trim_end_matches('\n');
        if Level::of(line) < self.least {
            return;
        }
        let _ = match self.log {
            LogFormat::Text => writeln!(self.talk, "{}", paint::printable(line)),
            LogFormat::Json => writeln!(self.talk, "{}", log::json(about, line)),
        };
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Diagnostics, already said.
    #[error("the rules are wrong")]
    Rules,
    #[error("{0}")]
    Usage(String),
    /// Rules that are no text, and where.
    #[error("{0}")]
    NotText(String),
    #[error(transparent)]
    Net(#[from] net::Error),
    #[error(transparent)]
    Load(#[from] kernel::LoadError),
    #[error(transparent)]
    Demo(#[from] demo::Error),
    /// What was called for a container cannot do its work there.
    #[error("{0}")]
    Container(String),
    /// What is attached is not what the rules compile to.
    #[error("{0}")]
    Drift(String),
    /// Two rulesets, as has been printed.
    #[error("the rulesets differ")]
    Different,
    /// What `doctor` has found.
    #[error("{0}")]
    Unfit(String),
    #[error("{file}: {error}")]
    Capture { file: String, error: capture::Error },
    #[error("{what}: {}", system::said(source))]
    File { what: String, source: io::Error },
    #[error(
        "the rules make a program of {slots} instructions, and a kernel takes {limit}: use fewer rules, or wider \
         prefixes and ranges in place of many narrow ones"
    )]
    TooLarge { slots: usize, limit: usize },
    /// Our own mistake in generating code.
    #[error("internal error, please report it with the ruleset: {0}")]
    Internal(String),
    #[error("internal error, please report it with the ruleset: cannot write the object: {0}")]
    Object(#[from] object::write::Error),
    #[error("cannot write: {}", system::said(.0))]
    Output(#[from] io::Error),
}

impl From<asm::Error> for Failure {
    fn from(error: asm::Error) -> Self {
        match error {
            asm::Error::TooLarge { slots, limit } => Failure::TooLarge { slots, limit },
            ours => Failure::Internal(ours.to_string()),
        }
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Failure::Rules | Failure::Usage(_) | Failure::NotText(_) | Failure::TooLarge { .. } => 2,
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Failure::Drift(_) => 3,
            _ => 1,
        }
    }
}

/// Runs one command line. Returns the exit code: 0 ok, 1 system, 2 rules or usage, 3 drift.
pub fn run(args: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, console),
    };
    // A runtime calls a plugin without arguments.
    if cli.command.is_none() && console.variable("CNI_COMMAND").is_some() {
        return cni::run(console);
    }
    let asks = match &cli.command {
        Some(Command::Diff(_)) => true,
        Some(Command::Compile(args)) => args.check.is_some(),
        _ => false,
    };
    let (result, in_container) = match cli.command {
        None => (container::run(console), true),
        Some(Command::Attach(args)) => (attach::attach(&args, console), false),
        Some(Command::Watch(args)) => (watch::run(&args, console), false),
        Some(Command::Detach(args)) => (detach::detach(&args, console), false),
        Some(Command::Bypass(args)) => (bypass::run(&args, console), false),
        Some(Command::Status(args)) => (status::run(&args, console), false),
        Some(Command::Check(args)) => (compile::check(&args, console), false),
        Some(Command::Compile(args)) => (compile::compile(&args, console), false),
        Some(Command::Explain(args)) => (explain::run(&args, console), false),
        Some(Command::Diff(args)) => (diff::run(&args, console), false),
        Some(Command::Mirror(args)) => (mirror::run(&args, console), false),
        Some(Command::Doctor(args)) => (doctor::run(&args, console), false),
        Some(Command::Completions(args)) => (generate::completions(&args, console), false),
        Some(Command::Man(args)) => (generate::man(&args, console), false),
        Some(Command::OciHook(args)) => (oci::run(&args, console), false),
        Some(Command::Demo) => (show(console), false),
    };
    let result = result.and_then(|()| console.out.flush().map_err(Failure::from));
    let Err(failure) = result else { return 0 };
    match failure.code() {
        0 => return 0,
        _ if matches!(failure, Failure::Rules | Failure::Different) => {}
        _ => console.say(format!("error: {failure}")),
    }
    // The original's entry point answers 1 to a bad variable, and keeps 2 for the rules.
    match failure.code() {
        2 if in_container && matches!(failure, Failure::Usage(_)) => 1,
        // Where 1 is an answer, it is no other failure.
        1 if asks && !matches!(failure, Failure::Different) => 2,
        code => code,
    }
}

/// `demo`: runs it, writes the report.
fn show(console: &mut Console<'_>) -> Result<(), Failure> {
    console.say("demo: in two network namespaces of its own, which vanish with it; touches nothing else");
    let report = demo::run()?;
    let color = console.out_is_terminal && console.variable("NO_COLOR").is_none();
    Ok(report.write(console.out, color)?)
}

fn usage(error: &clap::Error, console: &mut Console<'_>) -> u8 {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    let text = error.render();
    let text = if console.color { text.ansi().to_string() } else { text.to_string() };
    if asked_for {
        let _ = console.out.write_all(text.as_bytes());
        let _ = console.out.flush();
        0
    } else {
        console.say(text);
        2
    }
}
