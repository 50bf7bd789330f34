//! A blocking rtnetlink socket: one request, its acknowledgement; one dump, its answers.
//!
//! Requests come in as rtnetlink's message types. Answers go out as bytes with an attribute reader:
//! they describe other people's devices, qdiscs and filters too, and one attribute that a decoder
//! does not know must not keep us from seeing our own. Never knows what the messages mean.

use std::io;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use rtnetlink::packet_core::{
    Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

use crate::system;

/// A socket on the network namespace of the thread that opened it, wherever the thread goes later.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    listings: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's answer; `said` is its own explanation (extended acknowledgement), if it gave one.
    #[error(
        "{errno}{}{}",
        said.as_deref().map(|text| format!(" (the kernel says: {text})")).unwrap_or_default(),
        errno.raw_os_error().map(Errno::from_raw).map_or("", system::advice)
    )]
    Refused { errno: io::Error, said: Option<String> },
    #[error("netlink socket: {}", system::said(.0))]
    Socket(#[from] io::Error),
    #[error("unreadable netlink answer: {0}")]
    Unreadable(String),
}

impl Error {
    /// Whether the kernel may have done what it was asked for all the same: its answer did not come.
    pub fn is_unanswered(&self) -> bool {
        !matches!(self, Error::Refused { .. })
    }

    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } | Error::Socket(errno) => errno.raw_os_error().map(Errno::from_raw),
            Error::Unreadable(_) => None,
        }
    }
}

type Result<T> = std::result::Result<T, Error>;

/// A message, and flags that are added to REQUEST.
pub type Request = (RouteNetlinkMessage, u16);

/// One answer of a dump: a fixed header of a length that the caller knows, then attributes.
#[derive(Debug)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// The fixed header, `None` if the answer is shorter.
    pub fn header<const N: usize>(&self) -> Option<[u8; N]> {
        self.0.first_chunk().copied()
    }

    /// Type and value of each attribute after a fixed header of `skip` bytes.
    pub fn attributes(&self, skip: usize) -> impl Iterator<Item = (u16, Vec<u8>)> {
        attributes(self.0.get(skip..).unwrap_or_default())
    }
}

/// Type and value of each attribute in `bytes`, up to the first malformed one.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(bytes)
        .map_while(|attribute| attribute.ok())
        .map(|attribute| (attribute.kind(), attribute.value().to_vec()))
}

/// A NUL-terminated attribute value.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A 32-bit attribute value in host order.
pub fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes))
}

impl Netlink {
    pub fn open() -> Result<Self> {
        Self::open_on(NETLINK_ROUTE)
    }

    pub(super) fn open_on(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Both only make errors readable: a kernel without them loses nothing else.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 0, listings: 0 })
    }

    /// How often everything of a kind was listed, which costs as much as there is: all interfaces, or all qdiscs.
    pub fn listings(&self) -> usize {
        self.listings
    }

    /// Sends one request and waits for its acknowledgement. `flags` are added to REQUEST and ACK.
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(|_| ())
    }

    /// Sends requests in one datagram, and gives each one's refusal. The kernel works them off in order, within the system
    /// call that brings them: whoever is killed has had none of them done, or all. But a refused one does not keep the rest
    /// from being done, and packets, and others' requests, come in between.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Option<Error>>> {
        let count = requests.len();
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        for (at, (message, flags)) in requests.into_iter().enumerate() {
            // Refusals are answered in any case: acknowledgements of all would overflow the socket.
            let last = if at + 1 == count { NLM_F_ACK } else { 0 };
            bytes.extend(self.packed(message, NLM_F_REQUEST | flags | last));
        }
        let mut refusals: Vec<Option<Error>> = Vec::new();
        refusals.resize_with(count, || None);
        if count == 0 {
            return Ok(refusals);
        }
        self.make_room(bytes.len());
        self.socket.send(&bytes, 0)?;
        let answered = self.refusals(first, &mut refusals);
        if answered.is_err() {
            self.clear();
        }
        answered.map(|()| refusals)
    }

    /// Those of the requests that begin with number `first`, up to the answer to the last.
    fn refusals(&mut self, first: u32, refusals: &mut [Option<Error>]) -> Result<()> {
        let count = refusals.len();
        loop {
            let datagram = self.datagram()?;
            for message in messages(&datagram) {
                let message = message?;
                let at = usize::try_from(message.sequence_number().wrapping_sub(first)).unwrap_or(count);
                let Some(slot) = refusals.get_mut(at) else { continue };
                if message.message_type() == NLMSG_ERROR {
                    *slot = refusal(message.payload(), message.message_type(), message.flags()).err();
                    if at + 1 == count {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// For a datagram of this length, and as much of refusals. What is allowed depends on who we are; it is enough for
    /// some thousand filters in any case, and sending says so where it is not.
    fn make_room(&self, length: usize) {
        const ENOUGH: usize = 1 << 16;
        if length > ENOUGH {
            let _ = setsockopt(&self.socket, sockopt::SndBuf, &length);
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &length);
            let _ = setsockopt(&self.socket, sockopt::RcvBuf, &(2 * length));
            let _ = setsockopt(&self.socket, sockopt::RcvBufForce, &(2 * length));
        }
    }

    /// Sends one request of another protocol, everything after the header given as bytes.
    pub(super) fn request_bytes(&mut self, message_type: u16, payload: &[u8]) -> Result<Vec<Answer>> {
        self.send_bytes(message_type, NLM_F_REQUEST | NLM_F_ACK, payload)?;
        self.receive().map(|(answers, _)| answers)
    }

    /// The same for a dump.
    pub(super) fn dump_bytes(&mut self, message_type: u16, payload: &[u8]) -> Result<Vec<Answer>> {
        self.send_bytes(message_type, NLM_F_REQUEST | NLM_F_DUMP, payload)?;
        self.receive().map(|(answers, _)| answers)
    }

    fn send_bytes(&mut self, message_type: u16, flags: u16, payload: &[u8]) -> Result<()> {
        const HEADER: usize = 16; // struct nlmsghdr
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
        header.message_type = message_type;
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut bytes = vec![0; HEADER];
        header.emit(&mut bytes);
        bytes.extend_from_slice(payload);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// Sends one dump request and collects its answers.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<Answer>> {
        // Something changed while the kernel was listing: what came is neither the old nor the new.
        const TRIES: usize = 20;
        let mut last = Vec::new();
        let of_one = matches!(message, RouteNetlinkMessage::GetTrafficFilter(_));
        for _ in 0..TRIES {
            self.listings += usize::from(!of_one);
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (answers, interrupted) = self.receive()?;
            if !interrupted {
                return Ok(answers);
            }
            last = answers;
        }
        Ok(last)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        let bytes = self.packed(message, flags);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// A message with its header and padding, as the next in order.
    fn packed(&mut self, message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn datagram(&self) -> Result<Vec<u8>> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => return Ok(datagram),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Everything up to the end of the answer, and whether a dump was interrupted by a change.
    fn receive(&mut self) -> Result<(Vec<Answer>, bool)> {
        let received = self.receive_answer();
        if received.as_ref().is_err_and(Error::is_unanswered) {
            self.clear();
        }
        received
    }

    /// Takes what is left of an answer: until that is done, the kernel refuses to list anything else (`EBUSY`).
    fn clear(&mut self) {
        const MANY: usize = 10_000;
        if self.socket.set_non_blocking(true).is_ok() {
            let _ = (0..MANY).find(|_| self.socket.recv_from_full().is_err());
            let _ = self.socket.set_non_blocking(false);
        }
    }

    fn receive_answer(&mut self) -> Result<(Vec<Answer>, bool)> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.datagram()?;
            for message in messages(&datagram) {
                let message = message?;
                if message.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    // DONE carries an error code as well, when a dump failed half-way.
                    NLMSG_ERROR | NLMSG_DONE => {
                        refusal(message.payload(), message.message_type(), message.flags())?;
                        return Ok((answers, interrupted));
                    }
                    _ => answers.push(Answer(message.payload().to_vec())),
                }
            }
        }
    }
}

/// The messages of a datagram, up to the first that cannot be read.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match NetlinkBuffer::new_checked(rest) {
            Ok(message) => {
                let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
                rest = rest.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
                Some(Ok(message))
            }
            Err(error) => {
                rest = &[];
                Some(Err(Error::Unreadable(error.to_string())))
            }
        }
    })
}

/// The error that an ERROR or DONE message carries, with the kernel's own words if there are any.
fn refusal(payload: &[u8], message_type: u16, flags: u16) -> Result<()> {
    const EXPLANATION: u16 = 1; // NLMSGERR_ATTR_MSG
    const REQUEST_HEADER: usize = 16; // with "capped" acknowledgements, only the header comes back
    let code = payload.first_chunk().map_or(0, |&bytes| i32::from_ne_bytes(bytes));
    if code >= 0 {
        return Ok(());
    }
    let skip = if message_type == NLMSG_ERROR { 4 + REQUEST_HEADER } else { 4 };
    let said = (flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(payload.get(skip..).unwrap_or_default()).find(|(kind, _)| *kind == EXPLANATION))
        .flatten()
        .map(|(_, value)| text(&value));
    Err(Error::Refused { errno: io::Error::from_raw_os_error(code.saturating_neg()), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_errno_and_the_kernels_words() {
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        payload.extend([8, 0, 1, 0]); // attribute: length 8, type 1
        payload.extend(*b"bad\0");
        let error = refusal(&payload, NLMSG_ERROR, NLM_F_ACK_TLVS).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        assert!(error.to_string().ends_with("(the kernel says: bad)"), "{error}");
    }

    #[test]
    fn an_acknowledgement_is_no_error() {
        assert!(refusal(&[0; 4], NLMSG_ERROR, 0).is_ok());
        assert!(refusal(&[], NLMSG_DONE, 0).is_ok());
    }
}
