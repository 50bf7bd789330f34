//! Rulesets in several pieces: names from the command line, and the text of one chain.

use sfunnel::diag::{PieceKind, Source, render};

/// What the user would see of rules with names from the command line, if anything.
fn defined(rules: &str, define: &str) -> String {
    told(&Source::new("rules.sf", rules).with_defines("--define", &[define.to_owned()]))
}

fn told(source: &Source) -> String {
    match sfunnel::read_lists(source) {
        Ok(checked) => render(source, &checked.warnings, false),
        Err(faults) => render(source, &faults, false),
    }
}

#[test]
fn what_follows_the_value_of_a_name_from_the_command_line_is_an_error() {
    for (define, place, rest) in [
        ("WEB=80; tcp drop", ":1:7\n", "^^^^^^^^^^ "),
        ("WEB=80;", ":1:7\n", "^ "),
        ("WEB=80\ntcp drop", ":2:1\n", "^^^^^^^^ "),
        ("WEB={ 80,\n81 }\n\n  udp drop ", ":4:3\n", "^^^^^^^^ "),
        ("WEB=80 # the web", ":1:8\n", "^^^^^^^^^ "),
        ("WEB=80\ndefine LB = 81\ndefine X = 82", ":2:1\n", "^^^^^^^^^^^^^^ "),
    ] {
        let said = defined("tcp dport $WEB drop", define);
        assert!(said.starts_with("error: unexpected text after the value\n"), "{define:?}: {said}");
        assert!(said.contains(&format!("--> --define{place}")), "{define:?}: {said}");
        assert!(said.contains(rest), "{define:?}: {said}");
        assert_eq!(said.matches("error").count(), 1, "{define:?}: {said}");
    }
    for define in ["WEB=80", " WEB = 80 \n", "WEB={ 80, # one\n 81 }\r\n"] {
        assert_eq!(defined("tcp dport $WEB drop", define), "", "{define:?}");
    }
}

#[test]
fn a_definition_of_the_command_line_is_told_how_it_is_written_there() {
    for (define, remedy) in [
        ("WEB", "write `--define WEB=VALUE`\n"),
        ("$WEB=80", "write `--define WEB=VALUE`; the `$` is for where it is used\n"),
        ("", "write for example `--define WEB=80`\n"),
        ("WEB=80 81", "write one value, or a set: `--define 'WEB={ several, values }'`\n"),
    ] {
        let said = defined("tcp drop", define);
        assert!(said.contains(remedy), "{define:?}: {said}");
        assert!(!said.contains("`define"), "{define:?}: {said}");
    }
}

#[test]
fn names_in_a_text_that_is_not_read_are_not_missed() {
    for (rules, define) in [
        ("tcp dport $WEB drop", "WEB=80\r81"),
        ("tcp dport { $WEB, 443 } drop\nudp dport $WEB funnel tcp sport $WEB dport 1", "WEB=8\r0"),
        ("tcp dport $WEB-$LAST drop", "WEB={ 80\r }"),
    ] {
        let said = defined(rules, define);
        assert!(said.starts_with("error: a carriage return without a line feed\n"), "{define:?}: {said}");
        assert_eq!(said.matches("error").count(), 1, "{define:?}: {said}");
    }
    // Nothing of the kind where all is read.
    assert!(
        defined("tcp dport $WEB sport $WEBB drop", "WEB=80").starts_with("error: `$WEBB` is not defined\n")
    );
}

#[test]
fn a_chain_in_the_text_of_that_chain_is_told_once() {
    for rules in
        ["chain ingress { tcp drop }", "chain egress { tcp drop }", "udp drop; chain ingress { tcp drop }"]
    {
        let source =
            Source::of(vec![("SFUNNEL_RULESET_INGRESS".to_owned(), PieceKind::Ingress, rules.to_owned())]);
        let said = told(&source);
        assert!(said.starts_with("error: a chain in a chain\n"), "{said}");
        assert_eq!(said.matches("error").count(), 1, "{said}");
    }
}
