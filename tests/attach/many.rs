//! Many interfaces: what is listed in full, since that costs as much as there is, is listed as often as for few.

use std::os::fd::AsFd;

use sfunnel::codegen::Companion;
use sfunnel::ir::Side;
use sfunnel::net::companion::CompanionProgram;
use sfunnel::net::detach::Whose;
use sfunnel::net::gso::{self, HookSetup};
use sfunnel::net::{self, Attachment, Hook, Interface, Mark, health, links};
use sfunnel::policy::{Gso, Needs};

use super::support::*;

/// How often attaching, attaching again, looking, and detaching list everything.
fn listings(interfaces: usize) -> [usize; 4] {
    let (tell, hear) = std::sync::mpsc::channel();
    in_netns(move |netlink| {
        let names: Vec<String> = (0..interfaces).map(|n| format!("e{n}")).collect();
        let all: Vec<Interface> = names.iter().map(|name| device(netlink, name)).collect();
        let program = program(NEXT, 0);
        let back: Vec<CompanionProgram<'_>> = Companion::ALL
            .into_iter()
            .flat_map(|at| Hook::ALL.map(|hook| (at, hook)))
            .map(|(at, hook)| CompanionProgram {
                at,
                hook,
                program: program.as_fd(),
                name: "sfunnel/test".to_owned(),
            })
            .collect();
        let needs = [Side::Ingress, Side::Egress].map(|side| Needs {
            side,
            cut: true,
            finish: false,
            finish_all: false,
            funnels: true,
            merge: side == Side::Ingress,
        });
        let mut counts = Vec::new();
        let mut last = netlink.listings();
        let mut count = |now: usize| {
            counts.push(now - last);
            last = now;
        };
        for _ in 0..2 {
            let before = net::look(netlink, &all, &Hook::ALL).unwrap().all();
            let prepared = gso::prepare(netlink, Gso::Segment, &all, &needs, &before, &back, &[]).unwrap();
            assert_eq!(prepared.notes, [""; 0]);
            let attachment = |interface: &Interface, hook| {
                let HookSetup { gso, merging, finishing, .. } = prepared.of(interface, hook);
                let mark = Mark { gso, merging, finishing, ..Mark::new(b"x", 1) };
                Attachment::new(interface.clone(), hook, &program, mark.to_string())
            };
            let attachments = all.iter().flat_map(|i| Hook::ALL.map(|hook| attachment(i, hook))).collect();
            let done = net::plan(netlink, attachments).unwrap().apply(netlink).unwrap();
            assert_eq!(done.len(), 2 * interfaces);
            prepared.release_previous();
            assert_eq!(gso::remove_unused(netlink, &all).unwrap(), [""; 0]);
            count(netlink.listings());
        }
        let devices = links::devices(netlink).unwrap();
        assert_eq!(devices.len(), 1 + 2 * interfaces + 6 * interfaces);
        let filters = net::status(netlink, &all, &Hook::ALL).unwrap();
        assert_eq!(health::broken(netlink, &filters, &devices, &all).unwrap(), []);
        assert_eq!(health::left_behind(netlink, &devices).unwrap(), [""; 0]);
        count(netlink.listings());
        net::detach(netlink, &all, &Hook::ALL, Whose::Ours).unwrap();
        assert_eq!(gso::remove_unused(netlink, &all).unwrap().len(), 2 * interfaces);
        assert_eq!(links::list(netlink).unwrap().len(), 1 + 2 * interfaces);
        count(netlink.listings());
        tell.send(counts).unwrap();
    });
    let counts: Vec<usize> = hear.recv().unwrap_or_default();
    counts.try_into().unwrap_or_default()
}

#[test]
fn everything_is_listed_as_often_for_many_interfaces_as_for_few() {
    if !require_root() {
        return;
    }
    let [few, many] = [3, 12].map(listings);
    // Once it waits for devices to come up, looking now and then.
    assert!(many[0] < 60, "{many:?}");
    assert_eq!(few[1..], many[1..]);
}
