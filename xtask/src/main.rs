//! The project's chores, as `cargo xtask COMMAND`. Little more than the standard library, so that it is built in
//! seconds.

mod apt;
mod arch;
mod bench;
mod cross;
mod dist;
mod kernels;
mod package;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::{env, fs};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  ci              all checks: format, lints, conventions, tests. What lands has passed it
  bless [FILTER]  rewrites the goldens in testdata/, and says which changed
  docs            makes the pictures in docs/pictures/ anew: drawings by the program, pages by Chromium (root,
                  `pngquant`)
  kernel [FILTER] the tests that need root, failing instead of skipping what cannot run
  kernels [--target ARCH] [SUITE]  the same programs in other kernels (Debian's, from 5.10 on, under QEMU)
  tidy            conventions that no other tool checks
  dist [--target ARCH]  the static binary (for aarch64 or x86_64; this machine's by default) and its size; manual pages
                  and completions for packages
  pages BINARY    the latter, by that binary
  bench [NAME]    what the programs cost (root): cost, scale, throughput, funnel, bypass, or all;
                  writes docs/performance/ and docs/performance.md. `page` makes the page anew
";

/// The lines of `--test` for what needs a kernel.
const KERNEL_TESTS: [&str; 13] = [
    "kernel",
    "vectors",
    "traps",
    "attach",
    "e2e",
    "gso",
    "bypass",
    "demo",
    "mirror",
    "tools",
    "examples",
    "packaging",
    "page",
];

/// Programs that some tests use, and the packages they come in: of Debian, and of PyPI.
const TOOLS: [(&str, &str); 23] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("setpriv", "util-linux"),
    ("socat", "socat"),
    ("conntrack", "conntrack"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("iperf3", "iperf3"),
    ("strace", "strace"),
    ("kubectl", "kubernetes-client"),
    ("systemd-analyze", "systemd"),
    ("bpftool", "bpftool"),
    ("chromium", "chromium"),
    ("iptables-restore", "iptables"),
    ("ipvsadm", "ipvsadm"),
    ("haproxy", "haproxy"),
    ("bird", "bird2"),
    ("softflowd", "softflowd"),
    ("nfacctd", "pmacct"),
    ("python3", "python3"),
];
const PYTHON_TOOLS: [(&str, &str); 1] = [("kubernetes-validate", "kubernetes-validate")];

/// Of npm, and its version.
const NODE_TOOL: (&str, &str) = ("target/node/node_modules/axe-core", "axe-core@4.14.1");

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    env::set_current_dir(root()?)?;
    match args {
        ["ci"] => ci(),
        ["bless", filter @ ..] => bless(filter),
        ["docs"] => docs(),
        ["kernel", filter @ ..] => kernel(filter),
        ["kernels", "--target", arch, suites @ ..] => kernels::run(Some(arch), suites),
        ["kernels", suites @ ..] => kernels::run(None, suites),
        ["tidy"] => tidy::check(),
        ["dist"] => dist::run(None),
        ["dist", "--target", arch] => dist::run(Some(arch)),
        ["pages", binary] => package::pages(Path::new(binary), Path::new("target/package")),
        ["bench", names @ ..] => bench::run(names),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown command `{}`\n\n{HELP}", args.join(" ")),
    }
}

fn ci() -> Result<()> {
    let strict = env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
    say_what_is_missing(strict)?;
    exec(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::check()?;
    exec(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut tests = cargo();
    tests.args(["test", "--locked", "--workspace"]);
    if strict {
        tests.env("SFUNNEL_REQUIRE_KERNEL", "1");
    }
    exec(&mut tests)
}

/// Tests skip what they cannot run and say so, except in CI, where that fails.
fn say_what_is_missing(strict: bool) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let missing = |(tool, package): &(&str, &'static str)| {
        (!folders.iter().any(|folder| folder.join(tool).exists())).then_some(*package)
    };
    let mut commands = Vec::new();
    for (installer, tools) in [("apt-get install", &TOOLS[..]), ("pip install", &PYTHON_TOOLS[..])] {
        let packages: Vec<&str> = tools.iter().filter_map(missing).collect();
        if !packages.is_empty() {
            commands.push(format!("{installer} {}", packages.join(" ")));
        }
    }
    if !Path::new(NODE_TOOL.0).is_dir() {
        commands.push(format!("npm install --prefix target/node {}", NODE_TOOL.1));
    }
    if commands.is_empty() {
        return Ok(());
    }
    let commands = commands.join("; ");
    if strict {
        bail!("the tests need more packages: {commands}");
    }
    eprintln!("note: some tests will be skipped without: {commands}");
    Ok(())
}

fn bless(filter: &[&str]) -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--locked", "--test", "golden", "--test", "language", "--"]).args(filter);
    exec(tests.env("BLESS", "1"))?;
    exec(Command::new("git").args(["diff", "--stat", "--", "testdata"]))
}

fn docs() -> Result<()> {
    for rules in find(Path::new("docs/pictures"), &|path| path.extension().is_some_and(|kind| kind == "sf"))?
    {
        let picture = rules.with_extension("svg");
        let mut draw = cargo();
        draw.args(["run", "--quiet", "--locked", "--", "compile", "--emit", "svg", "-o"]);
        exec(draw.arg(picture).arg(rules))?;
    }
    let mut tests = cargo();
    tests.args(["test", "--locked", "--test", "page", "--", "a_checker_of_accessibility"]);
    exec(tests.env("SFUNNEL_PICTURES", "1").env("SFUNNEL_REQUIRE_KERNEL", "1"))?;
    // A page has few colours.
    let pages = find(Path::new("docs/pictures"), &|path| path.extension().is_some_and(|kind| kind == "png"))?;
    exec(Command::new("pngquant").args(["--force", "--ext", ".png", "48"]).args(pages))
}

fn kernel(filter: &[&str]) -> Result<()> {
    let mut tests = cargo();
    tests.args(["test", "--locked"]);
    for test in KERNEL_TESTS {
        tests.args(["--test", test]);
    }
    exec(tests.arg("--").args(filter).env("SFUNNEL_REQUIRE_KERNEL", "1"))
}

fn root() -> Result<PathBuf> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(xtask.parent().context("xtask has no parent folder")?.to_owned())
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// All that a program printed, if it succeeded.
fn text(output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok([&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned()).concat())
}

fn which(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(tool)).find(|path| path.exists())
}

/// Files below a folder.
fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(find(&entry.path(), wanted)?);
        } else if wanted(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn exec(command: &mut Command) -> Result<()> {
    eprintln!("> {command:?}");
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_that_a_test_needs_is_named() {
        let tests = root().expect("a folder").join("tests");
        let page = fs::read_to_string(tests.with_file_name("docs").join("testing.md")).expect("a page");
        let files = find(&tests, &|path| path.extension().is_some_and(|kind| kind == "rs")).expect("files");
        let texts: Vec<String> = files.iter().map(|file| fs::read_to_string(file).expect("a file")).collect();
        let needs = texts.iter().flat_map(|text| text.split("Need::Tool(\"").skip(1));
        let packages: Vec<&str> = needs.filter_map(|need| need.split('"').nth(2)).collect();
        assert!(packages.contains(&"iproute2"), "{packages:?}");
        for package in packages {
            assert!(TOOLS.iter().any(|(_, known)| *known == package), "`TOOLS` lacks {package}");
            assert!(page.contains(&format!("`{package}`")), "docs/testing.md lacks `{package}`");
        }
    }
}
