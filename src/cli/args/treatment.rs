//! How rules are attached, wherever they come from: the words that `attach` and `watch` share.

use clap::{Args, ValueEnum};

use crate::net::Gso;

/// What is done with packets, and where.
#[derive(Debug, Default, Args)]
pub struct Treatment {
    /// What becomes of TCP and UDP packets of several segments (GSO) that are to be funneled
    /// [variable: SFUNNEL_GSO] [default: segment]
    #[arg(long, value_enum, ignore_case = true, value_name = "HOW")]
    pub gso: Option<GsoArg>,
    /// Finish checksums before a header is pushed: for NAT on the same machine, such as a Service's
    /// [variable: SFUNNEL_FINISH_CHECKSUMS]
    #[arg(long)]
    pub finish_checksums: bool,
    /// Leave TCP in the segments that it is unfunneled in: faster answers, slower bulk [variable: SFUNNEL_NO_MERGE]
    #[arg(long)]
    pub no_merge: bool,
    /// Where on the hook: clsact or TCX, whose programs run first
    /// [variable: SFUNNEL_HOOK] [default: auto]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHERE")]
    pub hook: Option<HookArg>,
    /// Where among the programs on TCX: first, last, `before ID` or `after ID`
    /// [variable: SFUNNEL_ORDER] [default: where sfunnel was before, or first]
    #[arg(long, value_name = "PLACE", num_args = 1..=2)]
    pub order: Vec<String>,
    /// Whose end this is, if the rules are a `service` [variable: SFUNNEL_END]
    #[arg(long, value_enum, ignore_case = true, value_name = "WHOSE")]
    pub end: Option<End>,
    /// Count packets and bytes of every rule; `status` shows them [variable: SFUNNEL_COUNTERS]
    #[arg(long)]
    pub counters: bool,
    /// Say more about what is loaded [variable: DEBUG]
    #[arg(long)]
    pub debug: bool,
    /// What is said on standard error: lines for people, or a JSON object each
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
    /// Of who opens the conversation
    Client,
    /// Of who answers
    Pod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GsoArg {
    /// Devices beside the interface cut them; each segment is funneled
    Segment,
    /// The interface's gso_max_segs becomes 1, until detached: TCP makes none; UDP's pass as they are
    Limit,
    /// They pass as they are
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
    /// Behind all programs on TCX: what they end never gets here
    Clsact,
    /// Linux 6.6 or later
    Tcx,
    /// TCX where programs of others are on it, clsact elsewhere
    Auto,
}
