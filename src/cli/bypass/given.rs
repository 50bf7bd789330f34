//! What the user wants of `bypass`: flags, variables and rules, whatever the other nodes do.
//!
//! Input: arguments and the environment. Output: settings that are checked, and rules as often as they are asked for:
//! files are read again each time. Never attaches anything.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::args::{BypassGiven, Defines, FLOWS, PeersArg};
use crate::cli::how::How;
use crate::cli::settings::{self, Direction, Target};
use crate::cli::{Console, Failure, files};
use crate::diag::Source;
use crate::kernel::flows::USUAL;
use crate::net::links::Device;
use crate::net::overlay::Ends;
use crate::net::{self, Netlink};
use crate::syntax::ast::ActionKind;
use crate::{router_rules, syntax};

pub(super) struct Given {
    pub(super) target: Target,
    /// `None`: it is found.
    overlay: Option<String>,
    host: Option<String>,
    pub(super) port: u16,
    pub(super) receive_only: bool,
    /// Flows go past the stack: how many are remembered.
    pub(super) fast: Option<u32>,
    peers: Option<PeersArg>,
    pub(super) how: How,
    origin: Origin,
    defines: Defines,
}

/// Where rules are from.
enum Origin {
    /// They stay as they are.
    Text(Source),
    File(PathBuf),
    Router {
        folder: PathBuf,
        pods: Option<PathBuf>,
    },
}

impl Given {
    pub(super) fn read(args: &BypassGiven, console: &Console<'_>) -> Result<Self, Failure> {
        let overlay = interface(args.overlay_if.as_deref(), "--overlay-if", "OVERLAY_IF", console)?;
        let host = interface(args.host_if.as_deref(), "--host-if", "HOST_IF", console)?;
        let shared = args.attach();
        let names = overlay.iter().chain(&host).cloned().collect();
        let target = Target {
            interfaces: (overlay.is_some() && host.is_some()).then_some(names),
            said: None,
            ..Target::read(&shared.place, Direction::Both, console)?
        };
        let origin = match &args.router_rules {
            Some(folder) => Origin::Router { folder: folder.clone(), pods: args.pods.clone() },
            None => {
                let source = settings::source(&shared, console)?;
                match &args.rules {
                    Some(file) if file != Path::new("-") => Origin::File(file.clone()),
                    None if source.name == settings::RULESET_FILE => Origin::File(source.name.into()),
                    _ => Origin::Text(source),
                }
            }
        };
        let given = Self {
            target,
            overlay,
            host,
            port: port(args.port, console)?,
            receive_only: args.receive_only,
            fast: flows(args, console)?,
            peers: args.peers,
            how: How::read(&shared, console)?,
            origin,
            defines: args.defines.clone(),
        };
        given.source()?;
        Ok(given)
    }

    /// The rules as they are now.
    pub(super) fn source(&self) -> Result<Source, Failure> {
        match &self.origin {
            Origin::Text(source) => Ok(source.clone()),
            Origin::File(path) => {
                let bytes = contents(path)?;
                if bytes.trim_ascii().is_empty() {
                    return Err(unreadable(path)(io::Error::other("it is empty")));
                }
                files::text(&path.display().to_string(), bytes)
            }
            Origin::Router { folder, pods } => from_router_rules(folder, pods.as_deref()),
        }
    }

    pub(super) fn defined(&self, source: Source) -> Source {
        settings::defined(source, &self.defines)
    }

    /// Whether the kernel is to be asked which nodes there are.
    pub(super) fn asks_kernel(&self, source: &Source) -> bool {
        match self.peers {
            None => false,
            Some(PeersArg::Kernel) => true,
            Some(PeersArg::Auto) => syntax::recover(source).0.nodes.is_empty(),
        }
    }

    /// Both interfaces.
    pub(super) fn ends(&self, netlink: &mut Netlink, devices: &[Device]) -> net::Result<Ends> {
        Ends::choose(netlink, devices, self.overlay.as_deref(), self.host.as_deref())
    }
}

/// Whether some rule says so, as far as they can be read.
pub(super) fn bypasses(source: &Source) -> bool {
    let (ast, faults) = syntax::recover(source);
    let mut actions = ast.rules.iter().flat_map(|rule| &rule.actions);
    // What is wrong with the others is said where they are read with their nodes.
    !faults.is_empty() || actions.any(|action| action.kind.is_bypass())
}

/// Whether all that do say `direct`.
pub(super) fn only_direct(source: &Source) -> bool {
    let (ast, _) = syntax::recover(source);
    let actions = ast.rules.iter().flat_map(|rule| &rule.actions);
    let mut bypasses = actions.filter(|action| action.kind.is_bypass()).peekable();
    bypasses.peek().is_some()
        && bypasses.all(|action| matches!(action.kind, ActionKind::Bypass { direct: true }))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let what = format!("cannot read {}", path.display());
    move |source| Failure::File { what, source }
}

/// What a file holds, if that can be rules or pods.
fn contents(path: &Path) -> Result<Vec<u8>, Failure> {
    files::contents(path).map_err(unreadable(path))
}

fn text(path: &Path) -> Result<String, Failure> {
    let not_text = |_| Failure::NotText(format!("{} is not UTF-8", path.display()));
    String::from_utf8(contents(path)?).map_err(not_text)
}

/// The rules of a folder, as a ConfigMap is mounted: hidden names are its own.
fn from_router_rules(folder: &Path, pods: Option<&Path>) -> Result<Source, Failure> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || !path.is_file() {
            continue;
        }
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(Failure::Usage(format!("{}: not a name of a rule", path.display())));
        }
        files.insert(name, text(&path)?);
    }
    let pods = pods.map(text).transpose()?;
    let rules =
        router_rules::ruleset(&files, pods.as_deref()).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Source::new(folder.display().to_string(), rules))
}

/// A name; `auto` is none.
fn interface(
    flag: Option<&str>,
    name: &str,
    variable: &str,
    console: &Console<'_>,
) -> Result<Option<String>, Failure> {
    let given = flag.map(str::to_owned).or_else(|| console.variable(variable));
    let given = given.filter(|name| !name.trim().is_empty()).ok_or_else(|| {
        Failure::Usage(format!(
            "which interface? Say it with {name}, or in the variable {variable}; `auto` finds it"
        ))
    })?;
    Ok((given != "auto").then_some(given))
}

/// How many flows are to be remembered, if they are to go past the stack. A node that only receives has none.
fn flows(args: &BypassGiven, console: &Console<'_>) -> Result<Option<u32>, Failure> {
    let fast = args.fast || settings::truth("ROUTER_FAST", console)?;
    let number = match (args.flows, console.variable("ROUTER_FLOWS")) {
        (Some(number), _) => number,
        (None, None) => USUAL,
        (None, Some(text)) => {
            let number = text.trim().parse().ok().filter(|number| FLOWS.contains(number));
            number.ok_or_else(|| {
                let (least, most) = FLOWS.into_inner();
                Failure::Usage(format!("ROUTER_FLOWS is `{text}`; it must be a number, {least} to {most}"))
            })?
        }
    };
    Ok((fast && !args.receive_only).then_some(number))
}

/// Where nodes answer probes.
fn port(flag: Option<u16>, console: &Console<'_>) -> Result<u16, Failure> {
    const DEFAULT: u16 = 1234;
    let (None, Some(text)) = (flag, console.variable("ROUTER_PORT")) else {
        return Ok(flag.unwrap_or(DEFAULT));
    };
    let port = text.trim().parse().ok().filter(|port| *port != 0);
    port.ok_or_else(|| Failure::Usage(format!("ROUTER_PORT is `{text}`; it must be a port, 1 to 65535")))
}
