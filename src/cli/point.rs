//! `--hook` and `--order`: clsact or TCX, and where there.
//!
//! Comes in: flags, variables, and what is on the hooks. Goes out: a place for each attachment, and what the user should
//! know of it. Never changes a hook.

use clap::ValueEnum;

use super::args::{HookArg, Treatment};
use super::{Console, Failure};
use crate::net::tcx::{self, Wanted};
use crate::net::{Attached, Attachment, Filter, Netlink, Order, Point, filter};

/// What the user wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct WhereTo {
    hook: HookArg,
    order: Option<Order>,
}

impl WhereTo {
    pub(super) fn read(args: &Treatment, console: &Console<'_>) -> Result<Self, Failure> {
        let hook = match (args.hook, console.variable("SFUNNEL_HOOK")) {
            (Some(hook), _) => hook,
            (None, None) => HookArg::Auto,
            (None, Some(text)) => HookArg::from_str(&text, true).map_err(|_| {
                Failure::Usage(format!("SFUNNEL_HOOK is `{text}`; it must be clsact, tcx or auto"))
            })?,
        };
        let (said_by, text) = match (&args.order[..], console.variable("SFUNNEL_ORDER")) {
            ([], None) => return Ok(Self { hook, order: None }),
            ([], Some(text)) => ("SFUNNEL_ORDER", text),
            (words, _) => ("--order", words.join(" ")),
        };
        let order = order(&text).ok_or_else(|| {
            Failure::Usage(format!(
                "{said_by} is `{text}`; it must be first, last, `before ID` or `after ID`, with the number of a program on TCX"
            ))
        })?;
        if hook == HookArg::Clsact {
            return Err(Failure::Usage(format!(
                "{said_by} is about TCX; on clsact, sfunnel is at priority {}",
                filter::PRIORITY
            )));
        }
        Ok(Self { hook, order: Some(order) })
    }

    /// Decides where an attachment goes.
    pub(super) fn choose(
        self,
        netlink: &mut Netlink,
        attachment: &mut Attachment<'_>,
        console: &mut Console<'_>,
    ) -> Result<(), Failure> {
        let Attachment { interface, hook, .. } = &*attachment;
        let filters = filter::on_clsact(netlink, interface, *hook)?;
        let standing = tcx::look(interface, *hook, &filters)?;
        let others = standing.as_ref().map(|standing| standing.others()).unwrap_or_default();
        let place = format!("{} {hook}", interface.name);
        match self.hook {
            HookArg::Tcx => {}
            HookArg::Auto if !others.is_empty() => {}
            HookArg::Auto => {
                if self.order.is_some() {
                    console.say(format!(
                        "{place}: no programs of others on TCX, so it is attached to clsact, where --order has no meaning"
                    ));
                }
                return Ok(());
            }
            HookArg::Clsact => {
                if !others.is_empty() {
                    let names = tcx::describe(&others);
                    console.say(format!(
                        "{place}: hidden by what runs on TCX, in front of clsact ({names}): packets that it decides on \
                         (TC_ACT_OK is enough) do not meet the rules; use `--hook tcx`"
                    ));
                }
                return Ok(());
            }
        }
        tcx::check(standing.as_ref(), Wanted { interface, hook: *hook, order: self.order })?;
        attachment.point = Point::Tcx;
        attachment.order = self.order;
        Ok(())
    }
}

impl WhereTo {
    /// What is not so of a place where a program of ours is.
    pub(super) fn misses(self, netlink: &mut Netlink, ours: &Filter) -> Result<Option<String>, Failure> {
        let filters = filter::on_clsact(netlink, &ours.interface, ours.hook)?;
        let standing = tcx::look(&ours.interface, ours.hook, &filters)?;
        let alone = standing.as_ref().is_none_or(|standing| standing.others().is_empty());
        let wanted = match self.hook {
            HookArg::Tcx => Point::Tcx,
            HookArg::Auto if !alone => Point::Tcx,
            HookArg::Auto | HookArg::Clsact => Point::Clsact,
        };
        let point = ours.point();
        if point != wanted {
            return Ok(Some(format!("it is attached to {point}, and would be attached to {wanted}")));
        }
        let elsewhere = |order: &Order| {
            let (Some(standing), Some(program)) = (&standing, ours.program) else { return false };
            wanted == Point::Tcx && !order.holds(standing.programs(), program)
        };
        Ok(self.order.filter(elsewhere).map(|order| format!("on TCX, it is not {order}")))
    }
}

fn order(text: &str) -> Option<Order> {
    let text = text.to_ascii_lowercase();
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        ["first"] => Some(Order::First),
        ["last"] => Some(Order::Last),
        ["before", id] => id.parse().ok().map(Order::Before),
        ["after", id] => id.parse().ok().map(Order::After),
        _ => None,
    }
}

/// What was done on a hook, in words.
pub(super) fn said(attached: &Attached) -> String {
    let Attached { interface, hook, point, replaced, moved_from } = attached;
    let mut said = format!("attached to {interface} {hook}");
    if *point == Point::Tcx {
        said += ", on TCX";
    }
    if let Some(id) = replaced {
        said += &format!(", in place of program {id}");
    }
    if let Some(from) = moved_from {
        said += &format!(" on {from}");
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_place_among_others() {
        assert_eq!(order("first"), Some(Order::First));
        assert_eq!(order("LAST"), Some(Order::Last));
        assert_eq!(order(" before  12 "), Some(Order::Before(12)));
        assert_eq!(order("after 7"), Some(Order::After(7)));
        for wrong in ["", "before", "after x", "before -1", "first 3", "middle", "before 1 2", "4294967296"] {
            assert_eq!(order(wrong), None, "{wrong}");
        }
    }
}
