//! The container's log, as scripts and CI read that of the original: what they look for is there. (Its CI calls `grep` on
//! standard output and error together.)

use super::support::*;

const RULE: &str = "ip saddr 127.0.0.2 udp dport 80 actions unfunnel udp";

/// Each word of the original's CI and manual, in what ours says.
fn holds(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word}\n{said}");
    }
}

#[test]
fn what_scripts_look_for_is_said() {
    in_netns(|netlink| {
        device(netlink, "eth0");
        let said = talk(&succeed(sfunnel().env("SFUNNEL_RULESET", RULE).env("IFACES", "lo eth0")));
        holds(
            &said,
            &[
                "[INFO] sfunnel 0.",
                "[INFO] ENVs:\n",
                "  $DEBUG='0'\n",
                "  $DIRECTION='ingress'\n",
                "  $N_ATTEMPTS='6'\n",
                "  $RETRY_DELAY='3'\n",
                "  $IFACES='lo eth0'\n",
                "  $NETNS=''\n",
                "[INFO] Container info:\n  Kernel: Linux ",
                &format!("[INFO] SFUNNEL_RULESET='{RULE}'\n"),
                "[INFO] Recompiling sfunnel BPF program with ruleset:",
                &format!("\n===\n{RULE}\n===\n"),
                "[INFO] Attaching BPF program ",
                " IFACES={lo eth0} DIRECTION=ingress",
                "[INFO] Successfully attached BPF program(s) on 'eth0' DIRECTION=ingress.\n",
                "[INFO] Successfully attached BPF program(s) on interfaces {lo eth0} DIRECTION=ingress\n",
            ],
        );
        let mut command = sfunnel();
        command.env("SFUNNEL_RULESET", RULE).env("IFACES", "lo").env("DEBUG", "1").env("N_ATTEMPTS", "7");
        let said = talk(&succeed(command.env("RETRY_DELAY", "3").env("DIRECTION", "egress")));
        holds(
            &said,
            &["$DEBUG='1'", "$N_ATTEMPTS='7'", "$RETRY_DELAY='3'", "$IFACES='lo'", "$DIRECTION='egress'"],
        );
        let mut command = sfunnel();
        let said = talk(&succeed(command.env("CLEAN", "1").env("DIRECTION", "both")));
        holds(
            &said,
            &["[INFO] Cleaning ", "[INFO] Successfully cleaned BPF program(s) on 'eth0' DIRECTION=both.\n"],
        );
    });
}

#[test]
fn so_is_what_went_wrong() {
    in_netns(|_| {
        let said = fail(sfunnel().env("SFUNNEL_RULESET", RULE).env("DIRECTION", "sideways"), 1);
        holds(
            &said,
            &["FATAL: Invalid traffic direction 'sideways'. Allowed values {ingress, egress, both}.\n"],
        );
        holds(&fail(&mut sfunnel(), 1), &["[ERROR] Neither '"]);
        let mut command = sfunnel();
        command.env("SFUNNEL_RULESET", RULE).env("IFACES", "none").env("N_ATTEMPTS", "1");
        holds(&fail(&mut command, 1), &["[ERROR] unable to attach BPF program to 'none'!\n"]);
        // Mistakes in rules are not the interface's.
        let said = fail(sfunnel().env("SFUNNEL_RULESET", "udp dorp"), 2);
        assert!(!said.contains("unable to attach") && !said.contains("Successfully"), "{said}");
    });
}

/// Whoever sets one variable has not written a line of the log.
#[test]
fn a_value_stays_on_its_line() {
    in_netns(|_| {
        let mut command = sfunnel();
        command.env("SFUNNEL_RULESET", RULE).env("IFACES", "lo\n[INFO] Successfully");
        let said = fail(command.env("N_ATTEMPTS", "1"), 1);
        assert!(said.contains("$IFACES='lo [INFO] Successfully'"), "{said}");
        assert!(!said.lines().any(|line| line.starts_with("[INFO] Successfully")), "{said}");
    });
}
