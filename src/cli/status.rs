//! `status`: what the kernel says is attached.

use serde::Serialize;

use super::attach::{interfaces, open};
use super::settings::{Direction, Target};
use super::{Console, Failure, args};
use crate::net::{self, Filter, Hook, Mark};

/// One filter of ours, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    interface: &'a str,
    ifindex: i32,
    hook: Hook,
    name: &'a str,
    version: Option<String>,
    hash: Option<String>,
    rules: Option<usize>,
    program: Option<u32>,
    tag: Option<&'a str>,
    priority: u16,
    handle: u32,
}

impl<'a> Entry<'a> {
    fn new(filter: &'a Filter) -> Self {
        let name = filter.name.as_deref().unwrap_or_default();
        let mark = Mark::read(name);
        Self {
            interface: &filter.interface.name,
            ifindex: filter.interface.index,
            hook: filter.hook,
            name,
            version: mark.as_ref().map(|mark| mark.version.clone()),
            hash: mark.as_ref().map(|mark| mark.hash.clone()),
            rules: mark.map(|mark| mark.rules),
            program: filter.program,
            tag: filter.tag.as_deref(),
            priority: filter.priority,
            handle: filter.handle,
        }
    }
}

pub fn run(args: &args::Status, console: &mut Console<'_>) -> Result<(), Failure> {
    let target = Target::read(&args.place, Direction::Both, console)?;
    let mut netlink = open(&target)?;
    let interfaces = interfaces(&target, &mut netlink)?;
    let filters = net::status(&mut netlink, &interfaces, target.direction.hooks())?;
    let entries: Vec<Entry<'_>> = filters.iter().map(Entry::new).collect();
    if args.json {
        serde_json::to_writer_pretty(&mut *console.out, &entries)
            .map_err(|error| Failure::Output(error.into()))?;
        writeln!(console.out)?;
        return Ok(());
    }
    for Entry { interface, hook, name, program, tag, priority, handle, .. } in &entries {
        let program = program.map_or("?".to_owned(), |id| id.to_string());
        let tag = tag.unwrap_or("?");
        writeln!(
            console.out,
            "{interface} {hook}: {name}, program {program} tag {tag}, priority {priority} handle {handle:#x}"
        )?;
    }
    if entries.is_empty() {
        console.say("nothing of sfunnel's is attached there");
    }
    Ok(())
}
