//! Flows that go past the stack: the programs in the kernel, one packet at a time, and pods on nodes with a VXLAN between them.

mod support;

#[path = "fast/bench.rs"]
mod bench;
#[path = "fast/changes.rs"]
mod changes;
// The nodes of tests/bypass.rs, which does more with them.
#[allow(dead_code)]
#[path = "bypass/cluster.rs"]
mod cluster;
#[path = "fast/flow.rs"]
mod flow;
#[path = "fast/live.rs"]
mod live;
#[path = "fast/model.rs"]
mod model;
#[path = "fast/nodes.rs"]
mod nodes;
#[path = "fast/operating.rs"]
mod operating;
#[path = "fast/pods.rs"]
mod pods;
#[path = "fast/services.rs"]
mod services;
#[path = "fast/transitions.rs"]
mod transitions;
