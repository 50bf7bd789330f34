//! Reads the verifier's log: the one line that matters, and the instruction it is about.
//!
//! Input: a log of any length. Output: a few lines of text. Never guesses: what it cannot find is left out.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// Why the verifier refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The number of the instruction (in 8-byte slots), if the log tells.
    pub slot: Option<usize>,
    /// The log's last line about the program.
    pub line: String,
    /// The instruction as the kernel prints it.
    pub instruction: Option<String>,
    /// Lines of the log that are not shown.
    pub omitted: usize,
    /// The whole log.
    pub log: String,
    errno: Option<Errno>,
}

impl Refusal {
    /// `None` if the log says nothing: then it was not the verifier.
    pub fn read(error: &io::Error, log: &str) -> Option<Self> {
        let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        // Linux 7.3 explains its last line at length, with an excerpt of the program.
        let end = lines.iter().position(|line| line.starts_with("Verification failed: "));
        let last = lines[..end.unwrap_or(lines.len())].iter().rposition(|line| !is_statistics(line))?;
        let line = lines[last].to_owned();
        let printed = lines[..last].iter().rev().find_map(|line| Some((slot_of(line)?, *line)));
        let named = number_after(&line, "insn ").or_else(|| number_after(&line, "insn_idx "));
        let shown = 1 + usize::from(printed.is_some());
        Some(Self {
            slot: named.or(printed.map(|(slot, _)| slot)),
            line,
            instruction: printed.map(|(_, line)| line.to_owned()),
            omitted: lines.len() - shown,
            log: log.to_owned(),
            errno: error.raw_os_error().map(Errno::from_raw),
        })
    }

    fn hint(&self) -> &'static str {
        match self.errno {
            Some(Errno::E2BIG) => "; the ruleset makes too large a program",
            Some(Errno::EFAULT) => "; the ruleset makes too branchy a program for this kernel",
            // As 5.10 does; later ones compare pointers into the packet for whoever has CAP_BPF.
            _ if self.line.contains("pointer comparison prohibited") => {
                "; this kernel asks for CAP_PERFMON (or CAP_SYS_ADMIN) as well"
            }
            _ => "",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.line, self.hint())?;
        if let Some(instruction) = &self.instruction {
            write!(f, "; last instruction looked at: `{instruction}`")?;
        }
        match self.omitted {
            0 => Ok(()),
            1 => write!(f, " (1 line omitted)"),
            lines => write!(f, " ({lines} lines omitted)"),
        }
    }
}

/// The summary lines that the kernel puts at the end of every log.
fn is_statistics(line: &str) -> bool {
    ["processed ", "verification time ", "stack depth ", "subprog ", "max_states", "peak_states", "mark_read"]
        .iter()
        .any(|start| line.starts_with(start))
}

/// `57: (61) r2 = *(u32 *)(r6 +76)` is about slot 57; `57: R1=ctx() R10=fp0` only describes the state there.
fn slot_of(line: &str) -> Option<usize> {
    let (slot, rest) = line.split_once(": ")?;
    rest.starts_with('(').then(|| slot.parse().ok()).flatten()
}

fn number_after(line: &str, word: &str) -> Option<usize> {
    let (_, rest) = line.split_once(word)?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(errno: Errno, log: &str) -> Refusal {
        Refusal::read(&io::Error::from(errno), log).unwrap()
    }

    #[test]
    fn the_line_before_the_statistics_is_the_reason() {
        let refusal = read(
            Errno::EACCES,
            "func#0 @0\n0: R1=ctx() R10=fp0\n0: (61) r2 = *(u32 *)(r1 +76)         ; R1=ctx()\n1: (71) r0 = *(u8 *)(r2 +0)\n\
             R2 invalid mem access 'scalar'\nverification time 41 usec\nstack depth 0\nprocessed 2 insns (limit 1000000)\n",
        );
        assert_eq!(refusal.slot, Some(1));
        assert_eq!(
            refusal.to_string(),
            "R2 invalid mem access 'scalar'; last instruction looked at: `1: (71) r0 = *(u8 *)(r2 +0)` (6 lines omitted)"
        );
    }

    #[test]
    fn a_new_kernel_that_explains_its_reason_is_understood() {
        let refusal = read(
            Errno::EACCES,
            "0: R1=ctx() R10=fp0\n0: (61) r0 = *(u32 *)(r2 +0)\nR2 !read_ok\n\n\
             Verification failed: Register Type Safety: Unreadable register\n\n\
             Reason:\n  R2 has never been initialized on this path, so the verifier cannot use it as an input.\n\n\
             At:\n  insn 0\n       | ^-- error: R2 is not readable\n  Instruction context:\n  \
             >>> 0 | (61) r0 = *(u32 *)(r2 +0)\n      1 | (95) exit\n\n\
             Suggestion:\n  Initialize R2 on every path before this instruction.\n\n\
             verification time 1292 usec\nstack depth max 0\n\
             subprog 0 (<unknown>) main insns_self 1 insns_total 1 stack 0\n\
             processed 1 insns (limit 1000000) max_states_per_insn 0\n",
        );
        assert_eq!(refusal.slot, Some(0));
        assert!(
            refusal
                .to_string()
                .starts_with("R2 !read_ok; last instruction looked at: `0: (61) r0 = *(u32 *)(r2 +0)` ("),
            "{refusal}"
        );
    }

    #[test]
    fn an_old_kernel_that_asks_for_one_more_capability_is_understood() {
        let refusal = read(
            Errno::EACCES,
            "18: (2d) if r4 > r3 goto pc+9\nR3 pointer comparison prohibited\nprocessed 12 insns\n",
        );
        assert!(refusal.to_string().contains("prohibited; this kernel asks for CAP_PERFMON"), "{refusal}");
    }

    #[test]
    fn an_instruction_named_in_the_reason_counts_more() {
        assert_eq!(read(Errno::EINVAL, "unreachable insn 2\nprocessed 0 insns\n").slot, Some(2));
    }

    #[test]
    fn a_log_of_statistics_only_is_no_refusal() {
        assert_eq!(Refusal::read(&io::Error::from(Errno::EPERM), "processed 0 insns\n"), None);
        assert_eq!(Refusal::read(&io::Error::from(Errno::EPERM), ""), None);
    }
}
