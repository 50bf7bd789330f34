//! Flows that go past the stack: the programs in the kernel, one packet at a time.

mod support;

#[path = "fast/bench.rs"]
mod bench;
#[path = "fast/flow.rs"]
mod flow;
#[path = "fast/model.rs"]
mod model;
#[path = "fast/transitions.rs"]
mod transitions;
