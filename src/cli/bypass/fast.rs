//! `bypass --fast`: the programs of pods' veths, and what all programs share.
//!
//! Input: what is known of nodes and interfaces. Output: programs on both hooks of the veth of every pod, also of those that come
//! later, if somebody looks again. Refuses where packets past the stack would miss what they must not miss.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use asm::Program;

use super::known::Known;
use crate::cli::how::How;
use crate::cli::rules::Rules;
use crate::cli::{Console, Failure, point};
use crate::codegen::Fast;
use crate::field::Field;
use crate::net::detach::Whose;
use crate::net::links::Device;
use crate::net::overlay::Ends;
use crate::net::pods::{self, Pod};
use crate::net::{self, Attachment, Filter, Hook, Interface, Mark, Netlink, links, xfrm};
use crate::nodes::Nodes;
use crate::{elf, kernel, policy, rule_text};

/// The maps, and the programs that were made last. They last as long as the process: then the programs keep the maps.
pub(super) struct Made {
    flows: kernel::Flows,
    /// All programs that are attached share these maps, none those of an earlier process.
    pub(super) is_everywhere: bool,
    programs: Option<Programs>,
    /// Those whose interfaces have been given numbers.
    admitted: BTreeMap<u32, Admitted>,
    notes: Vec<String>,
}

struct Admitted {
    interface: Interface,
    /// Its programs.
    programs: Vec<u32>,
}

struct Programs {
    made_for: (Fast, Nodes, Ipv4Addr),
    ends: Ends,
    each: Vec<(Hook, String, kernel::Program)>,
}

/// Says why flows of this node cannot go past the stack.
pub(super) fn refuse(rules: &Rules, devices: &[Device], ends: &Ends) -> Result<(), Failure> {
    if let Some(why) = rules_that_miss_packets(rules) {
        return Err(Failure::Usage(format!("`--fast`: {why}")));
    }
    match pods::obstacle(devices, ends, xfrm::policies()?) {
        None => Ok(()),
        Some(why) => {
            let interface = "--fast".to_owned();
            Err(net::Error::Unfit { interface, why: format!("is not for this node: {why}") }.into())
        }
    }
}

/// Which rule would not be in force for packets past the stack, and why.
pub(super) fn rules_that_miss_packets(rules: &Rules) -> Option<String> {
    const TOLD_APART: [Field; 4] = [Field::SADDR, Field::DADDR, Field::SPORT, Field::DPORT];
    rules.ruleset.rules.iter().find_map(|rule| {
        let other = Field::all().find(|field| !TOLD_APART.contains(field) && rule.matches_on(*field));
        let why = match (other, rule.settings.iter().next()) {
            (Some(field), _) => {
                format!(
                    "matches on `{field}`, which may tell packets of one flow apart, and a flow is fast as a whole"
                )
            }
            (None, Some((field, _))) => {
                format!("sets `{field}`, which packets past the stack would not have")
            }
            (None, None) => return None,
        };
        Some(format!("`{}` {why}", rule_text::rule(rule)))
    })
}

/// The hooks of a pod's veth, and the names of what belongs there.
pub(super) fn names(known: &Known) -> Result<Vec<(Hook, String)>, Failure> {
    let compiled = policy::of_pods(known.ends.fast(), &known.nodes, known.own)?;
    Ok(compiled.iter().map(|(_, side, program)| (Hook::from(*side), name(program))).collect())
}

fn name(program: &Program) -> String {
    Mark { fast: true, ..Mark::new(&program.bytes(), 0) }.to_string()
}

/// Whether the kernel takes the programs of pods' veths. Nothing of it is left.
pub(super) fn try_to_load(known: &Known) -> Result<(), Failure> {
    const FEW: u32 = 16;
    Made::new(FEW)?.load(&(known.ends.fast(), known.nodes.clone(), known.own)).map(drop)
}

impl Made {
    pub(super) fn new(flows: u32) -> Result<Self, Failure> {
        Ok(Self {
            flows: kernel::Flows::create(flows)?,
            is_everywhere: false,
            programs: None,
            admitted: BTreeMap::new(),
            notes: Vec::new(),
        })
    }

    pub(super) fn descriptors(&self) -> [i32; 3] {
        self.flows.descriptors()
    }

    /// Attaches to the veths of pods that are there now, for these nodes.
    pub(super) fn follow(
        &mut self,
        known: &Known,
        netlink: &mut Netlink,
        how: How,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let made_for = (known.ends.fast(), known.nodes.clone(), known.own);
        if self.programs.as_ref().is_none_or(|programs| programs.made_for != made_for) {
            let each = self.load(&made_for)?;
            self.programs = Some(Programs { made_for, ends: known.ends.clone(), each });
        }
        self.look_again(netlink, how, console)
    }

    fn load(
        &self,
        (fast, nodes, own): &(Fast, Nodes, Ipv4Addr),
    ) -> Result<Vec<(Hook, String, kernel::Program)>, Failure> {
        let compiled = policy::of_pods(*fast, nodes, *own)?;
        let mapped = compiled.each_ref().map(|(name, _, program)| {
            (*name, crate::cli::programs::with_maps(program, [0; 2], self.descriptors()))
        });
        let named = mapped.each_ref().map(|(name, program)| (*name, program));
        let loaded = kernel::load(&elf::wrap(&named)?, &named.map(|(name, _)| name))?;
        let each = compiled
            .iter()
            .zip(loaded)
            .map(|((_, side, program), loaded)| (Hook::from(*side), name(program), loaded));
        Ok(each.collect())
    }

    /// The same as the last time, for the pods that are there now.
    pub(super) fn look_again(
        &mut self,
        netlink: &mut Netlink,
        how: How,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let Some(programs) = &self.programs else { return Ok(()) };
        let devices = links::devices(netlink)?;
        let pods = pods::find(netlink, &devices, &programs.ends)?;
        let there = |known: &Admitted| pods.iter().any(|pod| pod.interface == known.interface);
        let gone: Vec<u32> =
            self.admitted.values().filter(|a| !there(a)).map(|a| a.interface.number()).collect();
        for interface in gone {
            self.admitted.remove(&interface);
            self.flows.forget(interface)?;
        }
        let mut notes = Vec::new();
        for Pod { interface, ours, obstacle } in pods {
            if let Some(why) = obstacle {
                notes.push(format!("warning: {}: its flows stay on the long way: it {why}", interface.name));
                detach(netlink, &interface, &ours)?;
                if self.admitted.remove(&interface.number()).is_some() {
                    self.flows.forget(interface.number())?;
                }
                continue;
            }
            // One that has come with the number and the name of another has none of its programs.
            let ids: Vec<u32> = programs.each.iter().map(|(_, _, program)| program.id).collect();
            let stand = |id: &u32| ours.iter().any(|filter| filter.program == Some(*id));
            let admitted = self.admitted.get(&interface.number());
            if admitted.is_some_and(|admitted| admitted.programs == ids) && ids.iter().all(stand) {
                continue;
            }
            if ours.is_empty() || admitted.is_none() {
                self.flows.admit(interface.number())?;
            }
            let mut attachments = Vec::new();
            for (hook, name, program) in &programs.each {
                let mut attachment = Attachment::new(interface.clone(), *hook, program, name.clone());
                how.where_to.choose(netlink, &mut attachment, console)?;
                attachments.push(attachment);
            }
            match net::plan(netlink, attachments).and_then(|plan| plan.apply(netlink)) {
                Ok(done) => done.iter().for_each(|attached| console.say(point::said(attached))),
                Err(_) if !links::list(netlink)?.contains(&interface) => continue,
                Err(error) => return Err(error.into()),
            }
            self.admitted.insert(interface.number(), Admitted { interface, programs: ids });
        }
        notes.iter().filter(|note| !self.notes.contains(note)).for_each(|note| console.say(note));
        self.notes = notes;
        Ok(())
    }
}

/// Takes our programs for flows away, and nothing else.
fn detach(netlink: &mut Netlink, interface: &Interface, ours: &[Filter]) -> Result<(), Failure> {
    let hooks: Vec<Hook> = ours.iter().map(|filter| filter.hook).collect();
    net::detach(netlink, std::slice::from_ref(interface), &hooks, Whose::Ours)?;
    Ok(())
}

/// No flow goes past the stack any more.
pub(super) fn leave(netlink: &mut Netlink, ends: &Ends) -> Result<(), Failure> {
    let devices = links::devices(netlink)?;
    for Pod { interface, ours, .. } in pods::find(netlink, &devices, ends)? {
        detach(netlink, &interface, &ours)?;
    }
    Ok(())
}
