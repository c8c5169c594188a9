//! Where the eBPF datapath will live: tc and XDP programs in Rust, and the ABI they share with the agent.
//!
//! There is nothing here yet. The agent's only datapath is nftables (crate `shunt-rules`), and a configuration that asks
//! for `datapath = "ebpf"` is refused with an error that says so; it never falls back by itself.
