//! `oci-hook`: called by a container runtime between making a container and starting its first process.
//!
//! Input: the container's state as the OCI runtime specification has it, on standard input. Output: rules
//! attached in its network namespace, or an exit code that keeps the runtime from starting it. What is attached goes
//! with the namespace, so there is nothing to do when a container ends.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use super::args::{Attach, OciHook, OnError, Treatment};
use super::pod::{Wishes, deaf, is_apart};
use super::{Console, Failure, files};

/// Of the state, what matters here.
#[derive(Debug, Deserialize)]
struct State {
    #[serde(default)]
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub fn run(args: &OciHook, console: &mut Console<'_>) -> Result<(), Failure> {
    let color = console.color;
    match deaf(color, console.talk, |console| hook(args, console)) {
        Err(failure) if args.on_error == OnError::Proceed => {
            if !matches!(failure, Failure::Rules) {
                console.say(format!("warning: {failure}"));
            }
            console.say("`--on-error proceed`: the container starts without sfunnel");
            Ok(())
        }
        result => result,
    }
}

fn hook(args: &OciHook, console: &mut Console<'_>) -> Result<(), Failure> {
    let state = read(io::stdin().lock()).map_err(|error| {
        Failure::Container(format!("standard input is not the state of an OCI container: {error}"))
    })?;
    let State { id, status, pid, annotations } = state;
    let mut wishes = Wishes {
        attach: Attach {
            treatment: Treatment {
                end: args.end,
                gso: args.gso,
                finish_checksums: args.finish_checksums,
                counters: args.counters,
                ..Treatment::default()
            },
            defines: args.defines.clone(),
            ..Attach::default()
        },
        ..Wishes::default()
    };
    if let Some(file) = &args.rules {
        wishes.source = Some(files::file_source(file)?);
    }
    wishes.hear(&annotations)?;
    if wishes.source.is_none() {
        return Ok(());
    }
    if pid == 0 {
        return Err(Failure::Container(format!(
            "container {id} has no process (its status is `{status}`): this hook is for the stage createRuntime"
        )));
    }
    let netns = format!("/proc/{pid}/ns/net");
    is_apart(&netns)?;
    let interfaces = match (&wishes.interfaces, args.iface.as_slice()) {
        (Some(said), _) => said.clone(),
        (None, []) => vec!["eth0".to_owned()],
        (None, given) => given.to_vec(),
    };
    wishes.attach(interfaces, &netns, console)
}

/// An object and nothing else: serde would take a list for a struct, too.
fn read(from: impl io::Read) -> serde_json::Result<State> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_reader(from)?;
    serde_json::from_value(object.into())
}
