//! An eBPF assembler.
