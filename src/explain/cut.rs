//! What the kernel's segmentation makes of a GSO packet.
//!
//! Input: a whole frame and the size of its segments. Output: the frames that the program meets once a companion
//! device has cut it. Pure; never used for packets that are really sent.

use crate::dissect::{ETHERNET, Ip, add, be16, be32, checksum, fold, put};
use crate::ir::{Family, Proto};

/// The segments in order; `None` for what cannot be cut: not TCP or UDP, or a segment size of 0.
pub fn segments(frame: &[u8], gso_size: u32) -> Option<Vec<Vec<u8>>> {
    let size = usize::try_from(gso_size).ok().filter(|size| *size > 0)?;
    let ip = Ip::in_frame(frame).ok()?;
    let segment = ip.segment().ok()?;
    let link = frame.get(..ETHERNET)?;
    let count = segment.payload().len().div_ceil(size);
    let mut all = Vec::new();
    for (index, data) in segment.payload().chunks(size).enumerate() {
        let mut header = ip.header.to_vec();
        let mut body = [segment.header(), data].concat();
        let length = u16::try_from(body.len()).ok()?;
        match ip.family {
            Family::V4 => {
                put(&mut header, 2, u16::try_from(ip.header.len()).ok()?.checked_add(length)?);
                let id = be16(ip.header, 4).wrapping_add(u16::try_from(index).ok()?);
                put(&mut header, 4, id);
                put(&mut header, 10, 0);
                let sum = !fold(add(&header));
                put(&mut header, 10, sum);
            }
            Family::V6 => put(&mut header, 4, length),
        }
        let at = match segment.proto {
            Proto::Tcp => {
                let sent = u32::try_from(index.checked_mul(size)?).ok()?;
                let sequence = be32(segment.bytes, 4).wrapping_add(sent);
                body.get_mut(4..8)?.copy_from_slice(&sequence.to_be_bytes());
                // FIN and PSH are the last segment's (`tcp_gso_segment`, net/ipv4/tcp_offload.c).
                if index + 1 < count {
                    *body.get_mut(13)? &= !0x09;
                }
                16
            }
            Proto::Udp => {
                put(&mut body, 4, length);
                6
            }
        };
        put(&mut body, at, 0);
        let pseudo = add(ip.addresses()) + u64::from(segment.proto.number()) + u64::from(length);
        let sum = checksum(segment.proto, pseudo + add(&body));
        put(&mut body, at, sum);
        all.push([link, &header, &body].concat());
    }
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::segments;
    use crate::dissect::{ChecksumState, Ip};
    use crate::explain::words::packet;

    #[test]
    fn segments_are_whole_packets_that_carry_all_the_data() {
        for (words, sizes) in [
            ("tcp 10.0.0.1:5000 > 10.0.0.2:80 psh ack gso 1000 len 2500", [1000, 1000, 500].as_slice()),
            ("tcp [2001:db8::1]:5000 > [2001:db8::2]:80 gso 1448 len 2000", &[1448, 552]),
            ("udp 10.0.0.1:5000 > 10.0.0.2:53 gso 700 len 1400", &[700, 700]),
            ("udp [2001:db8::1]:5000 > [2001:db8::2]:53 gso 700 len 701", &[700, 1]),
        ] {
            let sample = packet(words).unwrap();
            let whole = Ip::in_frame(&sample.frame).unwrap().segment().unwrap();
            let cut = segments(&sample.frame, sample.metadata.gso_size).unwrap();
            let mut data = Vec::new();
            let mut found = Vec::new();
            for frame in &cut {
                let ip = Ip::in_frame(frame).unwrap();
                let segment = ip.segment().unwrap();
                assert_ne!(ip.sum(), ChecksumState::Wrong, "{words}");
                assert_eq!(segment.sum(ip.addresses()), ChecksumState::Right, "{words}");
                found.push(segment.payload().len());
                data.extend_from_slice(segment.payload());
            }
            assert_eq!((found.as_slice(), data.as_slice()), (sizes, whole.payload()), "{words}");
        }
        let small = packet("tcp 10.0.0.1:5000 > 10.0.0.2:80").unwrap();
        assert_eq!(segments(&small.frame, 0), None);
    }
}
