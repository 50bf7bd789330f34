//! The program: arguments in, exit code out. The only file that knows the real streams.

use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use sfunnel::cli::{self, Console, Level, LogFormat};
use sfunnel::kernel;

fn main() -> ExitCode {
    // While there is no other thread.
    kernel::prepare();
    let env = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut talk = io::stderr().lock();
    let color = talk.is_terminal() && !no_color;
    let out_is_terminal = io::stdout().is_terminal();
    let (log, least) = (LogFormat::Text, Level::default());
    let (out, talk) = (&mut out, &mut talk);
    let mut console = Console { out, talk, env: &env, color, out_is_terminal, log, least };
    ExitCode::from(cli::run(env::args_os(), &mut console))
}
