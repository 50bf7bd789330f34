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
    let mut cli = Cli::command();
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
    let mut page = Vec::new();
    Man::new(command).section("8").render(&mut page)?;
    Ok(console.out.write_all(&page)?)
}
