//! Captures: pcap and pcapng in, pcap out.
//!
//! Input: a file's bytes. Output: samples with an Ethernet header (made up for raw IP), and back. Other link types are
//! an error. Parsing is the crate's, since files come from anywhere; writing is twenty lines. Never opens a file.

use pcap_parser::pcapng::Block;
use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Linktype, PcapBlockOwned, PcapError, create_reader};

use super::Sample;
use crate::dissect::{self, ETHERNET};
use crate::kernel::trial::Metadata;

/// More than any tool captures of one packet (libpcap: 262,144).
const BUFFER: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is neither pcap nor pcapng")]
    Format,
    #[error(
        "its packets start with a link header that sfunnel does not know (LINKTYPE {0}): capture on one Ethernet or IP interface, not on `any`"
    )]
    Link(i32),
    #[error("packet {0} is of an interface that the file does not describe")]
    Interface(usize),
    #[error("it cannot be read behind packet {packets}: {what}")]
    Damaged { packets: usize, what: &'static str },
}

/// What a packet in a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Ethernet,
    Ip,
}

impl Link {
    fn read(number: Linktype) -> Result<Self, Error> {
        match number {
            Linktype::ETHERNET => Ok(Link::Ethernet),
            Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => Ok(Link::Ip),
            Linktype(other) => Err(Error::Link(other)),
        }
    }
}

/// The packets of a file, and what the first of them begins with there.
pub fn read(bytes: &[u8]) -> Result<(Vec<Sample>, Link), Error> {
    let mut reader = create_reader(BUFFER, bytes).map_err(|_| Error::Format)?;
    let mut samples = Vec::new();
    // Link and what a second has of the timestamp's units, for each interface.
    let mut interfaces: Vec<(Linktype, u64, u64)> = Vec::new();
    let mut first = None;
    loop {
        let packets = samples.len();
        let damaged = |what| Error::Damaged { packets, what };
        let (consumed, sample) = match reader.next() {
            Ok((consumed, PcapBlockOwned::LegacyHeader(header))) => {
                let units = if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                interfaces.push((header.network, units, 0));
                (consumed, None)
            }
            Ok((consumed, PcapBlockOwned::Legacy(block))) => {
                let (link, units, _) = interfaces.first().ok_or(Error::Interface(packets))?;
                let time = (block.ts_sec, micros(u64::from(block.ts_usec), *units));
                (consumed, Some((*link, block.data.to_vec(), block.origlen, time)))
            }
            Ok((consumed, PcapBlockOwned::NG(block))) => (
                consumed,
                match block {
                    Block::SectionHeader(_) => {
                        interfaces.clear();
                        None
                    }
                    Block::InterfaceDescription(interface) => {
                        let units = interface
                            .ts_resolution()
                            .ok_or_else(|| damaged("an impossible time resolution"))?;
                        interfaces.push((interface.linktype, units, interface.ts_offset().cast_unsigned()));
                        None
                    }
                    Block::EnhancedPacket(block) => {
                        let index = usize::try_from(block.if_id).unwrap_or(usize::MAX);
                        let (link, units, offset) = interfaces.get(index).ok_or(Error::Interface(packets))?;
                        let (seconds, rest) = block.decode_ts(*offset, *units);
                        let time = (seconds, micros(u64::from(rest), *units));
                        Some((*link, block.packet_data().to_vec(), block.origlen, time))
                    }
                    Block::SimplePacket(block) => {
                        let (link, ..) = interfaces.first().ok_or(Error::Interface(packets))?;
                        Some((*link, block.packet_data().to_vec(), block.origlen, (0, 0)))
                    }
                    _ => None,
                },
            ),
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) => {
                reader.refill().map_err(|_| damaged("it cannot be read"))?;
                continue;
            }
            Err(PcapError::UnexpectedEof) => return Err(damaged("it ends in the middle of a packet")),
            Err(PcapError::BufferTooSmall) => return Err(damaged("a packet of more than 1 MiB")),
            Err(_) => return Err(damaged("not a packet")),
        };
        reader.consume(consumed);
        if let Some((link, data, original, time)) = sample {
            let link = Link::read(link)?;
            first.get_or_insert(link);
            samples.push(self::sample(link, &data, original, time));
        }
    }
    Ok((samples, first.unwrap_or(Link::Ethernet)))
}

/// A part of a second in microseconds.
fn micros(rest: u64, units: u64) -> u32 {
    u32::try_from(rest.saturating_mul(1_000_000) / units.max(1)).unwrap_or(0)
}

fn sample(link: Link, data: &[u8], original: u32, time: (u32, u32)) -> Sample {
    let original = usize::try_from(original).unwrap_or(usize::MAX);
    let cut_from = (original > data.len()).then_some(original);
    let frame = match link {
        Link::Ethernet => untagged(data),
        Link::Ip => [&[0; 12], ethertype(data).as_slice(), data].concat(),
    };
    Sample { frame, metadata: Metadata::default(), cut_from, time }
}

/// Captures have VLAN tags in the frame. The program takes them out, as the kernel mostly has, before it looks.
fn untagged(frame: &[u8]) -> Vec<u8> {
    match (dissect::tags(frame), dissect::Ip::in_frame(frame)) {
        (tags, Ok(_)) => {
            [frame.get(..12), frame.get(12 + tags..)].into_iter().flatten().flatten().copied().collect()
        }
        (_, Err(_)) => frame.to_vec(),
    }
}

/// Of a raw IP packet, by its version.
pub fn ethertype(packet: &[u8]) -> [u8; 2] {
    match packet.first().map(|first| first >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    }
}

/// A pcap file of these frames (draft-ietf-opsawg-pcap, microseconds).
pub fn write<'a>(frames: impl Iterator<Item = (&'a [u8], (u32, u32))>, link: Link) -> Vec<u8> {
    let Linktype(network) = match link {
        Link::Ethernet => Linktype::ETHERNET,
        Link::Ip => Linktype::RAW,
    };
    let mut file = words([0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, network.cast_unsigned()]);
    for (frame, (seconds, micros)) in frames {
        let data = match link {
            Link::Ethernet => frame,
            Link::Ip => frame.get(ETHERNET..).unwrap_or_default(),
        };
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        file.extend(words([seconds, micros, length, length]));
        file.extend(data);
    }
    file
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::super::words as said;
    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let frames = [(frame(60), (1, 2)), (frame(3000), (1_700_000_000, 999_999))];
        let file = write(frames.iter().map(|(frame, time)| (frame.as_slice(), *time)), Link::Ethernet);
        let (samples, link) = read(&file).unwrap();
        assert_eq!(link, Link::Ethernet);
        let again: Vec<_> = samples.into_iter().map(|sample| (sample.frame, sample.time)).collect();
        assert_eq!(again, frames);
    }

    #[test]
    fn raw_ip_gets_a_link_header_and_loses_it_again() {
        let ip4 = [&[0x45], frame(30).as_slice()].concat();
        let ip6 = [&[0x60], frame(50).as_slice()].concat();
        let framed = |kind: [u8; 2], packet: &[u8]| [&[0; 12], kind.as_slice(), packet].concat();
        let frames = [framed([8, 0], &ip4), framed([0x86, 0xdd], &ip6)];
        let file = write(frames.iter().map(|frame| (frame.as_slice(), (0, 0))), Link::Ip);
        assert!(file.windows(ip6.len()).any(|window| window == ip6));
        let (samples, link) = read(&file).unwrap();
        assert_eq!(link, Link::Ip);
        assert_eq!(samples.into_iter().map(|sample| sample.frame).collect::<Vec<_>>(), frames);
    }

    #[test]
    fn tags_are_taken_out_of_the_frame() {
        let plain = said::packet("udp 10.0.0.1:5000 > 10.0.0.2:53 len 7").unwrap().frame;
        let tagged = |tags: &[u8]| [&plain[..12], tags, &plain[12..]].concat();
        let [one, two, three] =
            [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8], &[0x81, 0, 0, 7].repeat(3)]
                .map(tagged);
        let file = write([&one, &two, &three].map(|f| (f.as_slice(), (0, 0))).into_iter(), Link::Ethernet);
        let frames: Vec<_> = read(&file).unwrap().0.into_iter().map(|sample| sample.frame).collect();
        assert_eq!(frames, [plain.clone(), plain, three]);
    }

    /// Two blocks of the least that pcapng needs, and a packet cut short: draft-ietf-opsawg-pcapng.
    #[test]
    fn pcapng_is_read_with_its_own_resolution_of_time() {
        let block = |kind: u32, body: &[u8]| {
            let length = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
            [&kind.to_le_bytes(), &length, body, &length].concat()
        };
        let section = [0x1a2b_3c4d_u32.to_le_bytes().as_slice(), &[1, 0, 0, 0], &[0xff; 8]].concat();
        // Ethernet, no limit, option if_tsresol (9): 10^-9.
        let interface = [1u8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        let nanos = 1_700_000_000_123_456_789_u64;
        let (high, low) = (u32::try_from(nanos >> 32).unwrap(), u32::try_from(nanos & 0xffff_ffff).unwrap());
        let mut packet: Vec<u8> = [0, high, low, 18, 1000].into_iter().flat_map(u32::to_le_bytes).collect();
        packet.extend(frame(18));
        packet.extend([0; 2]); // to a multiple of four
        let file = [block(0x0a0d_0d0a, &section), block(1, &interface), block(6, &packet)].concat();
        let (samples, _) = read(&file).unwrap();
        let expected = Sample {
            frame: frame(18),
            metadata: Metadata::default(),
            cut_from: Some(1000),
            time: (1_700_000_000, 123_456),
        };
        assert_eq!(samples, [expected]);
    }

    #[test]
    fn damage_is_an_error_and_not_an_end() {
        let file = write([(frame(60).as_slice(), (0, 0))].into_iter(), Link::Ethernet);
        assert!(matches!(read(b"not a capture at all, whatever it says"), Err(Error::Format)));
        assert!(matches!(read(&file[..file.len() - 1]), Err(Error::Damaged { packets: 0, .. })));
        let mut any = file.clone();
        any[20] = 113; // LINKTYPE_LINUX_SLL
        assert!(matches!(read(&any), Err(Error::Link(113))));
    }
}
