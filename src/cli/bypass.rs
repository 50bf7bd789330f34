//! `bypass attach`: rules on the overlay's interface, and what undoes them on the host's.
//!
//! Input: the names of both, and one text for all nodes. Output: programs on both, the one that receives first, or
//! on neither. What is received follows from the nodes: nobody writes it.

use super::args::{self, Strict};
use super::attach;
use super::how::How;
use super::rules::{Lists, Rules};
use super::settings::{self, Direction, Target};
use super::{Console, Failure, point};
use crate::codegen;
use crate::diag::Source;
use crate::ir::{Action, Side};
use crate::kernel;
use crate::net::gso::Aside;
use crate::net::overlay::Ends;
use crate::net::{self, Hook, links};
use crate::nodes::Nodes;
use crate::policy;
use crate::rule_text;

pub fn run(args: &args::Bypass, console: &mut Console<'_>) -> Result<(), Failure> {
    match &args.command {
        args::BypassCommand::Attach(args) => attach(args, console),
    }
}

fn attach(args: &args::BypassAttach, console: &mut Console<'_>) -> Result<(), Failure> {
    let overlay = interface(args.overlay_if.as_deref(), "--overlay-if", "OVERLAY_IF", console)?;
    let host = interface(args.host_if.as_deref(), "--host-if", "HOST_IF", console)?;
    let shared = args.attach();
    let how = How::read(&shared, console)?;
    let target = Target {
        interfaces: Some(vec![overlay, host]),
        said: None,
        ..Target::read(&shared.place, Direction::Both, console)?
    };
    let source = settings::defined(settings::source(&shared, console)?, &args.defines);
    let said = |_: &Failure| "nothing was attached";
    let lists = attach::lists(how, source, console).inspect_err(|failure| console.say(said(failure)))?;
    let (rules, nodes) = bypassing(&lists)?;
    let receiving = receiving(&nodes, how, console)?;

    let mut netlink = attach::open(&target)?;
    let _turn = attach::turn(&target, &mut netlink, console)?;
    let devices = links::devices(&mut netlink)?;
    let [overlay, host] = [0, 1].map(|at| target.interfaces.as_ref().map_or("", |names| names[at].as_str()));
    let ends = Ends::find(&devices, overlay, host)?;
    ends.notes().iter().for_each(|note| console.say(note));
    let standing = net::status(&mut netlink, &[ends.host.clone(), ends.overlay.clone()], &Hook::ALL)?;
    let features = kernel::features();
    let of = |side, rules: &Rules| {
        policy::bypass(ends.onward(side), policy::target(features, side, &rules.ruleset, None))
    };
    let mut wanted = vec![(
        &receiving,
        vec![(&ends.host, Hook::Ingress, of(Side::Ingress, &receiving), Aside::default())],
    )];
    if !args.receive_only {
        wanted.push((rules, vec![(&ends.overlay, Hook::Egress, of(Side::Egress, rules), Aside::default())]));
    }
    for attached in attach::attach_lists(wanted, &standing, how, &mut netlink, console)? {
        console.say(point::said(&attached));
    }
    Ok(())
}

fn interface(
    flag: Option<&str>,
    name: &str,
    variable: &str,
    console: &Console<'_>,
) -> Result<String, Failure> {
    let given = flag.map(str::to_owned).or_else(|| console.variable(variable));
    given.filter(|name| !name.trim().is_empty()).ok_or_else(|| {
        Failure::Usage(format!("which interface? Say it with {name}, or in the variable {variable}"))
    })
}

/// Rules that bypass, where one interface is named.
pub(super) fn refuse(lists: &Lists) -> Result<(), Failure> {
    match lists.each().any(|(_, rules)| codegen::bypasses(&rules.ruleset)) {
        false => Ok(()),
        true => Err(Failure::Usage(
            "these rules are for two interfaces, an overlay's and the host's: attach them with `sfunnel bypass attach`"
                .to_owned(),
        )),
    }
}

/// The one list of rules for the overlay's interface, and the nodes that it is about.
fn bypassing(lists: &Lists) -> Result<(&Rules, Nodes), Failure> {
    let Some(rules) = lists.of(Side::Egress).filter(|_| lists.sides().is_none()) else {
        return Err(Failure::Usage(
            "rules to bypass an overlay are for packets that leave by it: write them without chains"
                .to_owned(),
        ));
    };
    let mut nodes = None;
    for rule in &rules.ruleset.rules {
        match &rule.action {
            Action::Bypass { nodes: all } => nodes = Some(all.clone()),
            Action::Accept | Action::Drop => {}
            other => {
                return Err(Failure::Usage(format!(
                    "`{}` does not go with `bypass`: rules for packets that leave by an overlay say `bypass`, `accept` \
                     or `drop`; what is received follows from the nodes",
                    rule_text::action(other)
                )));
            }
        }
    }
    let none =
        || Failure::Usage("no rule says `bypass`: there is nothing to take past the overlay".to_owned());
    nodes.map(|nodes| (rules, nodes)).ok_or_else(none)
}

/// The rules for what arrives from other nodes.
fn receiving(nodes: &Nodes, how: How, console: &mut Console<'_>) -> Result<Rules, Failure> {
    let source = Source::new("what is received", rule_text::receiving(nodes));
    let mut lists = Lists::read(source, Strict::default(), console)
        .map_err(|_| Failure::Internal("the rules for what is received".to_owned()))?;
    how.count(&mut lists);
    let mut all = lists.all();
    let internal = || Failure::Internal("no rules for what is received".to_owned());
    all.pop().map(|(_, rules)| rules).ok_or_else(internal)
}
