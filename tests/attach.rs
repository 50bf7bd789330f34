//! Attaching, replacing and removing, on the kernel that runs the tests. Needs root; each test has a network
//! namespace of its own and touches nothing outside it.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

#[path = "attach/support.rs"]
mod support;

#[path = "attach/library.rs"]
mod library;

#[path = "attach/binary.rs"]
mod binary;

#[path = "attach/chains.rs"]
mod chains;

#[path = "attach/confined.rs"]
mod confined;

#[path = "attach/counters.rs"]
mod counters;

#[path = "attach/container.rs"]
mod container;

#[path = "attach/lines.rs"]
mod lines;

#[path = "attach/watch.rs"]
mod watch;

#[path = "attach/prometheus.rs"]
mod prometheus;

#[path = "attach/pod.rs"]
mod pod;

#[path = "attach/oci.rs"]
mod oci;

#[path = "attach/cni.rs"]
mod cni;

#[path = "attach/drift.rs"]
mod drift;

#[path = "attach/tcx.rs"]
mod tcx;

#[path = "attach/scarce.rs"]
mod scarce;

#[path = "attach/turn.rs"]
mod turn;

#[path = "attach/injected.rs"]
mod injected;

#[path = "attach/interrupted.rs"]
mod interrupted;

#[path = "attach/killed.rs"]
mod killed;

#[path = "attach/many.rs"]
mod many;
