//! What is remembered of a flow that may go past the stack: the layout of the maps, in one table.
//!
//! Data only. [`codegen`](crate::codegen) emits loads and stores of these fields, [`kernel`](crate::kernel) makes the maps
//! and reads entries. Everything is in host byte order but for addresses, ports and link addresses, which are as in packets.
//!
//! | map | key | value |
//! |---|---|---|
//! | `flows` | [`key`]: addresses and ports as the pod has them | [`value`] |
//! | | the same as they are past NAT, which has changed the remote end | [`value::IS_ALIAS`]: the remote end as the pod has it |
//! | | a pod's address and port, and zeros | that of a connection which it is opening to who is not a pod |
//! | `pods` | number of an interface | number of the pod behind it |
//! | `devices` | number of a pod | number of its interface; the kernel removes the entry with the interface |
//!
//! Interfaces that go leave their number to others. The number of a pod is given once only, so a flow that names it can
//! never be delivered to whoever has the interface's number next.

use asm::Size;

use crate::packet::{Field, field};

/// The names of the maps. Programs know them by place in this list.
pub const MAPS: [&str; 3] = ["sfunnel_flows", "sfunnel_pods", "sfunnel_devices"];

/// The key of a flow. Local is the pod of this node.
///
/// ```text
/// +---------------------------------------------------------------+
/// |                         local address                         |  0
/// +---------------------------------------------------------------+
/// |                        remote address                         |  4
/// +-------------------------------+-------------------------------+
/// |          local port           |          remote port          |  8
/// +-------------------------------+-------------------------------+
/// ```
pub mod key {
    use super::{Field, Size, field};

    pub const ADDRESSES: Field = field("flow.local, flow.remote", 0, Size::D);
    pub const PORTS: Field = field("flow.ports", 8, Size::W);
    pub const LEN: i16 = 12;
}

/// What is known of a flow.
///
/// ```text
/// +---------------------------------------------------------------+
/// |   noted: when the pod has sent a packet of it, in ticks       |  0
/// |   out: when one has last come out of netfilter                |  8
/// |   in: when one has last been delivered by it                  | 16
/// |   asked_out, asked_in: when netfilter was last asked          | 24, 32
/// +-------------------------------+-------------------------------+
/// |    number of the interface    |       number of the pod       | 40
/// +-------------------------------+-------------------------------+
/// |   link addresses: the pod's, that of its gateway              | 48
/// |                               +-------------------------------+
/// |                               |  end_out: the highest         | 60
/// +-------------------------------+  sequence number that has     +
/// |  end_in: come out of          |  ahead_out: been asked        | 64, 68
/// |  netfilter                    |  for                          |
/// +-------------------------------+-------------------------------+
/// |  ahead_in                     |  acked_out: the highest       | 72, 76
/// +-------------------------------+  acknowledgement of what      +
/// |  acked_in: came in            |  went out  |  proofs          | 80, 84
/// +-------+-------+-------+-------+-------------------------------+
/// |closing|opener | scale_out, _in|  other: the remote end as     | 88
/// +-------+-------+-------+-------+                       +-------+
/// |  it is past NAT, if NAT changes it    |alias  |               | 96
/// +---------------------------------------+-------+---------------+
/// ```
///
/// A byte each for what is set and cleared by itself, so that processors that do so at once lose nothing.
pub mod value {
    use super::{Field, Size, field};

    pub const NOTED: Field = field("flow.noted", 0, Size::D);
    pub const OUT: Field = field("flow.out", 8, Size::D);
    pub const IN: Field = field("flow.in", 16, Size::D);
    pub const ASKED_OUT: Field = field("flow.asked_out", 24, Size::D);
    pub const ASKED_IN: Field = field("flow.asked_in", 32, Size::D);
    pub const INTERFACE: Field = field("flow.interface", 40, Size::W);
    pub const POD: Field = field("flow.pod", 44, Size::W);
    /// In halves: as a map's memory is, so are its loads and stores on all processors.
    pub const POD_MAC: [Field; 3] = [
        field("flow.pod_mac[0..15]", 48, Size::H),
        field("flow.pod_mac[16..31]", 50, Size::H),
        field("flow.pod_mac[32..47]", 52, Size::H),
    ];
    pub const GATEWAY_MAC: [Field; 3] = [
        field("flow.gateway_mac[0..15]", 54, Size::H),
        field("flow.gateway_mac[16..31]", 56, Size::H),
        field("flow.gateway_mac[32..47]", 58, Size::H),
    ];
    pub const END_OUT: Field = field("flow.end_out", 60, Size::W);
    pub const END_IN: Field = field("flow.end_in", 64, Size::W);
    pub const AHEAD_OUT: Field = field("flow.ahead_out", 68, Size::W);
    pub const AHEAD_IN: Field = field("flow.ahead_in", 72, Size::W);
    pub const ACKED_OUT: Field = field("flow.acked_out", 76, Size::W);
    pub const ACKED_IN: Field = field("flow.acked_in", 80, Size::W);
    /// All four that follow in one load.
    pub const PROOFS: Field = field("flow.proofs", 84, Size::W);
    /// Packets of the pods have come out of netfilter with the addresses and ports they went in with.
    pub const REAL_OUT: Field = field("flow.real_out", 84, Size::B);
    pub const REAL_IN: Field = field("flow.real_in", 85, Size::B);
    /// So have segments of our own.
    pub const PROBED_OUT: Field = field("flow.probed_out", 86, Size::B);
    pub const PROBED_IN: Field = field("flow.probed_in", 87, Size::B);
    /// FIN or RST was seen.
    pub const CLOSING: Field = field("flow.closing", 88, Size::B);
    /// One of the constants of that name.
    pub const OPENER: Field = field("flow.opener", 89, Size::B);
    /// How far windows that the pod, and its peer, announce are to be shifted; [`UNSCALED`].
    pub const SCALE_OUT: Field = field("flow.scale_out", 90, Size::B);
    pub const SCALE_IN: Field = field("flow.scale_in", 91, Size::B);
    /// The four before in one store: the lowest byte is the first.
    pub const OPENING: Field = field("flow.opening", 88, Size::W);

    /// The remote end at the other side of NAT, as it is in packets; no address: NAT changes nothing.
    pub const OTHER: Field = field("flow.other", 92, Size::W);
    pub const OTHER_PORT: Field = field("flow.other_port", 96, Size::H);
    /// This is no flow, but leads to the one whose remote end is that other one.
    pub const IS_ALIAS: Field = field("flow.is_alias", 98, Size::B);
    /// The two before in one store.
    pub const OTHER_REST: Field = field("flow.other_port, flow.is_alias", 96, Size::W);

    pub const LEN: i16 = 104;
}

/// Of [`value::OPENER`]: nobody has seen the connection being opened.
pub const OPENED_UNSEEN: u8 = 0;
pub const OPENED_HERE: u8 = 1;
pub const OPENED_BY_PEER: u8 = 2;

/// Of a scale: there was no such option, or nobody has seen the SYN.
pub const UNSCALED: u8 = 0xff;

/// Of [`value::PROOFS`].
pub const PROVEN_BOTH_WAYS: u32 = 0x0101;
pub const PROVEN_AND_PROBED: u32 = 0x0101_0101;

/// Time is counted in ticks of 2^20 nanoseconds, 1.05 ms: then what it is compared with fits into an instruction.
pub const TICK: u32 = 20;
/// How long a proof holds, 2.5 s: as long it may take until a policy is in force that came to be while a flow went past it.
pub const LIFE: u32 = 2384;
/// How often netfilter is asked, each second.
pub const EVERY: u32 = 954;
/// How often it is asked again that has not answered, 50 ms.
pub const AGAIN: u32 = 48;
/// Rest after which netfilter may have forgotten the flow, a minute.
pub const STALE: u32 = 57_220;
/// How long a flow must have been silent for its next packet to be the first after rest, 200 ms.
pub const PAUSE: u32 = 191;
/// Another processor may have read the clock a moment later, and noted its time.
pub const SLACK: u32 = 16;
