//! Sends through real sockets, and compares what arrives with what was sent, byte for byte.
//!
//! Input: a lab. Output: counts, or the first thing that was not as it should be. Every wait has a deadline.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::flow::Flow;
use super::lab::Lab;
use super::{DEADLINE, Error};
use crate::ir::Proto;

/// Datagrams in a UDP flow.
const DATAGRAMS: usize = 100;
/// Requests on a TCP connection.
const REQUESTS: usize = 20;
/// The largest UDP payload that fits 1500 bytes with both headers: nothing is fragmented.
const LARGEST: usize = 1500 - 20 - 20 - 8;

/// What applications have sent and received, all of it compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub messages: usize,
    pub bytes: usize,
}

impl Count {
    fn add(&mut self, message: &[u8]) {
        self.messages += 1;
        self.bytes += message.len();
    }
}

/// Runs one flow from end to end. Returns what was sent, and what was received.
pub fn run(lab: &mut Lab, flow: &Flow) -> Result<(Count, Count), Error> {
    match flow.inner {
        Proto::Udp => datagrams(lab, flow),
        Proto::Tcp => requests(lab, flow),
    }
}

/// The first datagram, the one whose life is shown.
pub fn sample() -> Vec<u8> {
    message(0, 52)
}

fn datagrams(lab: &mut Lab, flow: &Flow) -> Result<(Count, Count), Error> {
    let step = |what: &str| format!("{what} ({})", flow.name());
    let (from, to) = (lab.client.address, lab.server.address);
    let sender = bind_udp(lab, true, from, 0)?;
    let receiver = bind_udp(lab, false, to, flow.port)?;
    sender.connect((to, flow.port)).map_err(|error| Error::system(step("send UDP"), error))?;
    let source = sender.local_addr().map_err(|error| Error::system(step("send UDP"), error))?;

    let (mut sent, mut received) = (Count::default(), Count::default());
    let mut buffer = [0; 0x1_0000];
    for number in 0..DATAGRAMS {
        let message = if number == 0 {
            sample()
        } else {
            message(number, 16 + number * (LARGEST - 16) / (DATAGRAMS - 1))
        };
        sender.send(&message).map_err(|error| Error::system(step("send UDP"), error))?;
        sent.add(&message);
        let (length, address) =
            receiver.recv_from(&mut buffer).map_err(|error| Error::system(step("receive UDP"), error))?;
        let got = buffer.get(..length).unwrap_or_default();
        compare(&step("receiving UDP"), number, &message, got)?;
        if address != source {
            let found = format!("datagram {number} comes from {address}, not {source}");
            return Err(Error::wrong(step("receiving UDP"), found));
        }
        received.add(got);
        lab.drain()?;
    }
    Ok((sent, received))
}

fn requests(lab: &mut Lab, flow: &Flow) -> Result<(Count, Count), Error> {
    let fail = |what: &str| {
        let step = format!("{what} ({})", flow.name());
        move |error: io::Error| Error::system(step, error)
    };
    let to = SocketAddr::from((lab.server.address, flow.port));
    let listener = lab.server.namespace.within(|| TcpListener::bind(to).map_err(fail("listen on TCP")))?;
    let seconds = TimeVal::seconds(i64::try_from(DEADLINE.as_secs()).unwrap_or(i64::MAX));
    // Linux applies it to accept(2) as well.
    setsockopt(&listener, sockopt::ReceiveTimeout, &seconds)
        .map_err(|errno| fail("listen on TCP")(errno.into()))?;
    let connect = || TcpStream::connect_timeout(&to, DEADLINE).map_err(fail("connect by TCP"));
    let mut client = lab.client.namespace.within(connect)?;
    let (mut server, _) = listener.accept().map_err(fail("accept TCP"))?;
    for stream in [&client, &server] {
        let set = || {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_write_timeout(Some(DEADLINE))
        };
        set().map_err(fail("prepare TCP"))?;
    }

    let (mut sent, mut received) = (Count::default(), Count::default());
    let mut exchange = |number: usize, from: &mut TcpStream, to: &mut TcpStream, length| {
        let message = message(number, length);
        from.write_all(&message).map_err(fail("send by TCP"))?;
        sent.add(&message);
        let mut got = vec![0; length];
        to.read_exact(&mut got).map_err(fail("receive by TCP"))?;
        compare(&format!("receiving by TCP ({})", flow.name()), number, &message, &got)?;
        received.add(&got);
        lab.drain()
    };
    for number in 0..REQUESTS {
        exchange(number, &mut client, &mut server, 64 + number)?;
        exchange(number, &mut server, &mut client, 100 + number * 50)?;
    }
    Ok((sent, received))
}

fn bind_udp(lab: &Lab, client: bool, address: Ipv4Addr, port: u16) -> Result<UdpSocket, Error> {
    let end = if client { &lab.client } else { &lab.server };
    let bind = || {
        let socket = UdpSocket::bind((address, port))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(socket)
    };
    end.namespace.within(|| bind().map_err(|error: io::Error| Error::system("open a UDP socket", error)))
}

fn compare(step: &str, number: usize, sent: &[u8], got: &[u8]) -> Result<(), Error> {
    if sent == got {
        return Ok(());
    }
    let at = sent.iter().zip(got).take_while(|(a, b)| a == b).count();
    let (sent, got) = (sent.len(), got.len());
    Err(Error::wrong(
        step,
        format!("message {number} arrived changed at byte {at} ({sent} bytes sent, {got} received)"),
    ))
}

/// A message unlike all others, of this length.
fn message(number: usize, length: usize) -> Vec<u8> {
    format!("message {number}. ").into_bytes().into_iter().cycle().take(length).collect()
}
