//! `sfunnel::net` and `sfunnel::kernel` by themselves, with programs of three instructions.

use sfunnel::kernel::{self, LoadError, Program};
use sfunnel::net::detach::Whose;
use sfunnel::net::qdisc::Qdisc;
use sfunnel::net::{self, Attachment, Error, Hook, Interface, Link, Mark, filter, links};

use super::support::*;

fn attachment<'a>(interface: &Interface, hook: Hook, program: &'a Program, name: &str) -> Attachment<'a> {
    Attachment::new(interface.clone(), hook, program, name.to_owned())
}

#[test]
fn attaching_again_replaces_and_says_what() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let (old, new) = (program(NEXT, 1), program(NEXT, 2));
        let mark = Mark::new(b"x", 2).to_string();
        let first = net::plan(netlink, vec![attachment(&lo, Hook::Egress, &old, &mark)]).unwrap();
        assert_eq!(first.apply(netlink).unwrap()[0].replaced, None);
        let second = net::plan(netlink, vec![attachment(&lo, Hook::Egress, &new, &mark)]).unwrap();
        assert_eq!(second.apply(netlink).unwrap()[0].replaced, Some(old.id));

        let standing = filters(netlink, &lo, Hook::Egress);
        assert_eq!(standing.len(), 1);
        assert_eq!(standing[0].program, Some(new.id));
        assert_eq!(standing[0].name.as_deref(), Some(mark.as_str()));
        assert_eq!((standing[0].priority, standing[0].handle), (filter::PRIORITY, filter::HANDLE));
        assert!(filters(netlink, &lo, Hook::Ingress).is_empty());
    });
}

#[test]
fn a_failure_part_way_restores_filters_and_qdiscs() {
    in_netns(|netlink| {
        let (ours, bare, doomed) =
            (device(netlink, "ours"), device(netlink, "bare"), device(netlink, "doomed"));
        let (old, new) = (program(NEXT, 1), program(NEXT, 2));
        for interface in [&ours, &doomed] {
            net::plan(netlink, vec![attachment(interface, Hook::Ingress, &old, "sfunnel old")])
                .unwrap()
                .apply(netlink)
                .unwrap();
        }
        let wanted = [&ours, &bare, &doomed]
            .map(|interface| attachment(interface, Hook::Ingress, &new, "sfunnel new"));
        let plan = net::plan(netlink, wanted.to_vec()).unwrap();
        delete(netlink, &doomed);
        let error = plan.apply(netlink).unwrap_err();

        assert!(matches!(&error, Error::PartWay { standing, .. } if standing.is_empty()), "{error}");
        assert!(error.is_missing_interface());
        assert!(error.to_string().ends_with("everything is as it was before"), "{error}");
        let standing = filters(netlink, &ours, Hook::Ingress);
        assert_eq!(standing.len(), 1);
        assert_eq!((standing[0].program, standing[0].name.as_deref()), (Some(old.id), Some("sfunnel old")));
        assert_eq!(qdisc(netlink, &bare), Qdisc::Absent);
    });
}

#[test]
fn a_legacy_ingress_qdisc_is_refused_and_left_alone() {
    in_netns(|netlink| {
        let (clean, legacy) = (device(netlink, "clean"), device(netlink, "legacy"));
        add_qdisc(netlink, &legacy, "ingress");
        let new = program(NEXT, 1);
        for hook in Hook::ALL {
            let wanted =
                vec![attachment(&clean, hook, &new, "sfunnel"), attachment(&legacy, hook, &new, "sfunnel")];
            let error = net::plan(netlink, wanted).unwrap_err();
            assert!(error.to_string().contains("tc qdisc del dev legacy ingress"), "{error}");
        }
        assert_eq!(qdisc(netlink, &legacy), Qdisc::Legacy);
        assert!(filters(netlink, &legacy, Hook::Ingress).is_empty());
        assert_eq!(qdisc(netlink, &clean), Qdisc::Absent);
    });
}

#[test]
fn a_shared_block_is_refused_before_anything_is_changed() {
    in_netns(|netlink| {
        let (clean, shared) = (device(netlink, "clean"), device(netlink, "shared"));
        add_shared_clsact(netlink, &shared, 22);
        let new = program(NEXT, 1);
        let wanted = |hook| {
            vec![attachment(&clean, hook, &new, "sfunnel"), attachment(&shared, hook, &new, "sfunnel")]
        };
        let error = net::plan(netlink, wanted(Hook::Ingress)).unwrap_err();
        assert!(error.to_string().contains("shared ingress are in shared block 22"), "{error}");
        assert_eq!(qdisc(netlink, &clean), Qdisc::Absent);
        // Only its ingress is shared.
        net::plan(netlink, wanted(Hook::Egress)).unwrap().apply(netlink).unwrap();
    });
}

#[test]
fn what_the_original_attached_to_egress_of_a_legacy_qdisc_is_found_on_ingress() {
    in_netns(|netlink| {
        let legacy = device(netlink, "legacy");
        add_qdisc(netlink, &legacy, "ingress");
        foreign(netlink, &legacy, Hook::Ingress, ORIGINAL, 49152, &program(NEXT, 1));
        let egress = [Hook::Egress];
        let legacy = [legacy];
        assert!(net::detach(netlink, &legacy, &egress, Whose::Ours).unwrap().is_empty());
        assert_eq!(net::detach(netlink, &legacy, &egress, Whose::OursAndTheOriginals).unwrap().len(), 1);
    });
}

#[test]
fn a_foreign_filter_at_our_priority_is_never_replaced() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let program = program(NEXT, 1);
        add_qdisc(netlink, &lo, "clsact");
        foreign(netlink, &lo, Hook::Ingress, "theirs", filter::PRIORITY, &program);
        let error =
            net::plan(netlink, vec![attachment(&lo, Hook::Ingress, &program, "sfunnel")]).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. }), "{error}");
        assert_eq!(names(netlink, &lo, Hook::Ingress), ["theirs"]);
    });
}

#[test]
fn detach_removes_ours_only_and_the_qdisc_when_it_is_empty() {
    in_netns(|netlink| {
        let lo = interface(netlink, "lo");
        let program = program(NEXT, 1);
        let both = Hook::ALL.map(|hook| attachment(&lo, hook, &program, "sfunnel"));
        net::plan(netlink, both.to_vec()).unwrap().apply(netlink).unwrap();
        foreign(netlink, &lo, Hook::Egress, "theirs", 7, &program);
        foreign(netlink, &lo, Hook::Egress, "sfunnel-like", 8, &program);

        let lo_only = std::slice::from_ref(&lo);
        let removed = net::detach(netlink, lo_only, &Hook::ALL, Whose::OursAndTheOriginals).unwrap();
        assert_eq!(removed.len(), 2);
        assert_eq!(names(netlink, &lo, Hook::Egress), ["theirs", "sfunnel-like"]);
        assert!(matches!(qdisc(netlink, &lo), Qdisc::Clsact { .. }));
        assert!(net::detach(netlink, lo_only, &Hook::ALL, Whose::Ours).unwrap().is_empty());

        let eth = device(netlink, "eth");
        net::plan(netlink, vec![attachment(&eth, Hook::Egress, &program, "sfunnel")])
            .unwrap()
            .apply(netlink)
            .unwrap();
        net::detach(netlink, std::slice::from_ref(&eth), &Hook::ALL, Whose::Ours).unwrap();
        assert_eq!(qdisc(netlink, &eth), Qdisc::Absent);
    });
}

#[test]
fn clean_removes_the_originals_filters_even_from_a_legacy_qdisc() {
    in_netns(|netlink| {
        let (modern, legacy) = (device(netlink, "modern"), device(netlink, "legacy"));
        let program = program(NEXT, 1);
        add_qdisc(netlink, &modern, "clsact");
        add_qdisc(netlink, &legacy, "ingress");
        foreign(netlink, &modern, Hook::Egress, ORIGINAL, 49152, &program);
        foreign(netlink, &modern, Hook::Egress, ORIGINAL, 49151, &program);
        foreign(netlink, &modern, Hook::Ingress, "theirs", 49152, &program);
        foreign(netlink, &legacy, Hook::Ingress, ORIGINAL, 49152, &program);

        let all = [modern.clone(), legacy.clone()];
        assert!(net::detach(netlink, &all, &Hook::ALL, Whose::Ours).unwrap().is_empty());
        assert_eq!(net::detach(netlink, &all, &Hook::ALL, Whose::OursAndTheOriginals).unwrap().len(), 3);
        assert!(filters(netlink, &modern, Hook::Egress).is_empty());
        assert_eq!(names(netlink, &modern, Hook::Ingress), ["theirs"]);
        assert_eq!(qdisc(netlink, &legacy), Qdisc::Legacy);
    });
}

#[test]
fn a_missing_interface_is_named_with_those_that_exist() {
    in_netns(|netlink| {
        device(netlink, "eth0");
        let error = links::find(netlink, &["eth0".to_owned(), "ehh0".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "no interface named ehh0; there are: lo, eth0-peer, eth0");
        assert!(error.is_missing_interface());
    });
}

#[test]
fn the_link_header_follows_from_the_device_type() {
    in_netns(|netlink| {
        assert_eq!(interface(netlink, "lo").link(), Some(Link::Ethernet));
        assert_eq!(device(netlink, "eth0").link(), Some(Link::Ethernet));
        let of = |link_type| Interface { index: 1, name: String::new(), link_type }.link();
        assert_eq!(of(0xfffe), Some(Link::None)); // tun, wireguard
        assert_eq!(of(768), Some(Link::None)); // ipip
        assert_eq!(of(280), None); // CAN
    });
}

#[test]
fn a_refused_program_is_explained_with_its_instruction() {
    if !require_root() {
        return;
    }
    // r0 = *(u32 *)(r2 + 0), with r2 never set
    let code = [[0x61, 0x20, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]].concat();
    let error = kernel::load(&elf(&[("bad", &code)]), &["bad"]).unwrap_err();
    assert_eq!(error.at(), Some(("bad", 0)), "{error}");
    assert!(matches!(&error, LoadError::Refused { .. }));
    let text = error.to_string();
    assert!(text.contains("R2 !read_ok"), "{text}");
    assert!(text.contains("omitted)"), "{text}");
    assert!(text.lines().count() == 1, "{text}");
}

#[test]
fn several_programs_of_one_object_come_back_in_the_order_asked_for() {
    if !require_root() {
        return;
    }
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    let zero = [[0xb7, 0, 0, 0, 0, 0, 0, 0], exit].concat();
    let one = [[0xb7, 0, 0, 0, 1, 0, 0, 0], exit].concat();
    let loaded = kernel::load(&elf(&[("zero", &zero), ("one", &one)]), &["one", "zero"]).unwrap();
    assert_eq!([loaded[0].name.as_str(), loaded[1].name.as_str()], ["one", "zero"]);
    assert_ne!(loaded[0].id, loaded[1].id);
    assert_eq!(loaded[0].translated, Some(16));
    assert!(kernel::program_by_id(loaded[0].id).is_some());
    assert!(kernel::program_by_id(u32::MAX).is_none());
    assert!(matches!(kernel::load(&elf(&[("zero", &zero)]), &["none"]), Err(LoadError::Object(_))));
}
