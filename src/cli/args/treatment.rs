//! How rules are attached, wherever they come from: the words that `attach` and `watch` share.

use clap::{Args, ValueEnum};

use crate::net::Gso;

/// What is done with packets, and where.
#[derive(Debug, Default, Args)]
pub struct Treatment {
    /// How to handle packets of several segments (GSO) that match a funnel rule
    /// [variable: SFUNNEL_GSO] [default: segment]
    #[arg(long, value_enum, ignore_case = true, value_name = "HOW")]
    pub gso: Option<GsoArg>,
    /// Finish checksums before a header is pushed: for NAT on the same machine, such as a Service's
    /// [variable: SFUNNEL_FINISH_CHECKSUMS]
    #[arg(long)]
    pub finish_checksums: bool,
    /// Do not merge unfunneled TCP segments (GRO): lower latency, lower throughput [variable: SFUNNEL_NO_MERGE]
    #[arg(long)]
    pub no_merge: bool,
    /// How to attach: to clsact or to TCX, whose programs run first
    /// [variable: SFUNNEL_HOOK] [default: auto]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHERE")]
    pub hook: Option<HookArg>,
    /// Position among the programs on TCX: first, last, `before ID` or `after ID`
    /// [variable: SFUNNEL_ORDER] [default: where sfunnel was before, or first]
    #[arg(long, value_name = "PLACE", num_args = 1..=2)]
    pub order: Vec<String>,
    /// Whose end this is, if the rules are a `service` [variable: SFUNNEL_END]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHOSE")]
    pub end: Option<End>,
    /// Count packets and bytes of every rule; `status` shows them [variable: SFUNNEL_COUNTERS]
    #[arg(long)]
    pub counters: bool,
    /// Print details about what is loaded [variable: DEBUG]
    #[arg(long)]
    pub debug: bool,
    /// Format of messages on standard error: text, or one JSON object per line
    #[arg(long, value_enum, ignore_case = true, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    /// With `ts` (seconds since 1970), `level`, `message`, and what it is about
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum End {
    /// The side that opens connections
    Client,
    /// The side that accepts them
    Pod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GsoArg {
    /// Companion devices of the interface cut them; each segment is funneled
    Segment,
    /// The interface's gso_max_segs becomes 1, until detached: TCP sends none; UDP GSO packets pass unchanged
    Limit,
    /// They pass unchanged
    Off,
}

impl From<GsoArg> for Gso {
    fn from(gso: GsoArg) -> Self {
        match gso {
            GsoArg::Segment => Gso::Segment,
            GsoArg::Limit => Gso::Limit,
            GsoArg::Off => Gso::Off,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HookArg {
    /// After all programs on TCX: packets that those decide on never get here
    Clsact,
    /// Linux 6.6 or later
    Tcx,
    /// TCX where other programs are attached to it, clsact elsewhere
    Auto,
}
