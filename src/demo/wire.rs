//! What the captures show: that every packet was in its funnel, with right checksums, and came out as it went in.
//!
//! Input: a lab after its traffic. Output: counts and a few packets to show, or what was wrong.

use super::flow::{FLOWS, Flow};
use super::lab::Lab;
use super::packet::Packet;
use super::{Error, traffic};

/// One flow on the wire, seen at the server's end.
#[derive(Debug)]
pub struct Wire {
    /// Frames, all of them funneled.
    pub frames: usize,
    /// Frames with a wrong checksum: none, or the run has failed.
    pub wrong: usize,
    /// Packets with data, compared before funnel and after unfunnel.
    pub identical: usize,
    /// The first frames.
    pub first: Vec<Sighting>,
}

/// A frame and its direction.
#[derive(Debug)]
pub struct Sighting {
    pub from_client: bool,
    pub frame: Vec<u8>,
}

/// One packet at three places.
#[derive(Debug)]
pub struct Life {
    pub plain: Vec<u8>,
    pub funneled: Vec<u8>,
    pub delivered: Vec<u8>,
}

/// As many frames as a connection takes to its first answer.
const SHOWN: usize = 6;

pub fn examine(lab: &Lab, flow: &Flow) -> Result<Wire, Error> {
    let step = format!("looking at the wire ({})", flow.name());
    let mut wire = Wire { frames: 0, wrong: 0, identical: 0, first: Vec::new() };
    for frame in lab.server.capture.frames.iter().filter(|frame| frame.is_on(&lab.server.wire)) {
        let Some(packet) = Packet::read(&frame.bytes, flow) else { continue };
        if packet.outer.is_none() {
            return Err(Error::wrong(step, "a packet is not in its funnel"));
        }
        wire.wrong += usize::from(!packet.sums_are_right());
        wire.frames += 1;
        if wire.first.len() < SHOWN {
            wire.first.push(Sighting { from_client: !frame.outgoing, frame: frame.bytes.clone() });
        }
    }
    if wire.wrong > 0 {
        return Err(Error::wrong(
            step,
            format!("{} of {} frames have a wrong checksum", wire.wrong, wire.frames),
        ));
    }
    let delivered: Vec<Vec<u8>> = tapped(lab, false, flow).map(|packet| packet.finished()).collect();
    // Without data: an acknowledgement that may still be on its way.
    for packet in tapped(lab, true, flow).filter(|packet| !packet.inner.payload().is_empty()) {
        if !delivered.contains(&packet.finished()) {
            return Err(Error::wrong(
                step,
                "a packet is not the same in front of funnel and behind unfunnel",
            ));
        }
        wire.identical += 1;
    }
    if wire.frames == 0 || wire.identical == 0 {
        return Err(Error::wrong(step, "the packet sockets saw nothing of it"));
    }
    Ok(wire)
}

/// The sample datagram's frame before funnel, on the wire and after unfunnel.
pub fn life(lab: &Lab) -> Result<Life, Error> {
    let [flow, ..] = &FLOWS;
    let sample = traffic::sample();
    let find = |client: bool, tap: bool| {
        let end = if client { &lab.client } else { &lab.server };
        let interface = if tap { &end.tap } else { &end.wire };
        end.capture
            .frames
            .iter()
            .filter(|frame| frame.is_on(interface))
            .find(|frame| {
                Packet::read(&frame.bytes, flow).is_some_and(|packet| packet.inner.payload() == sample)
            })
            .map(|frame| frame.bytes.clone())
            .ok_or_else(|| Error::wrong("looking for the first packet", "a packet socket did not see it"))
    };
    Ok(Life { plain: find(true, true)?, funneled: find(false, false)?, delivered: find(false, true)? })
}

fn tapped<'a>(lab: &'a Lab, client: bool, flow: &Flow) -> impl Iterator<Item = Packet<'a>> {
    let end = if client { &lab.client } else { &lab.server };
    end.capture
        .frames
        .iter()
        .filter(|frame| frame.outgoing && frame.is_on(&end.tap))
        .filter_map(|frame| Packet::read(&frame.bytes, flow))
}
