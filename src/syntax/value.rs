//! Ports and addresses: one word in, a value in range or what is wrong with the word out.
//!
//! Nothing here looks at any other word, but for the keyword that is quoted in remedies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::help;
use super::word::Word;
use crate::diag::{Diagnostic, Span, quote};

/// `port = decimal number between 1 and 65535`
pub(super) fn port(word: Word<'_>, keyword: &str) -> Result<u16, Diagnostic> {
    let text = word.text;
    if !is_digits(text) {
        return Err(not_a_port(word, keyword));
    }
    let digits = text.trim_start_matches('0');
    let out_of_range = |label: String| {
        Err(Diagnostic::error("port must be between 1 and 65535", word.span, label)
            .help(format!("to match any port, leave `{keyword}` out")))
    };
    match digits.parse::<u16>() {
        _ if digits.is_empty() => out_of_range("0 is not a port".into()),
        Err(_) => out_of_range(format!("{} does not fit in 16 bits", quote(digits).trim_matches('`'))),
        Ok(port) if digits == text => Ok(port),
        Ok(port) => Err(Diagnostic::error("port has a leading zero", word.span, "could be taken for octal")
            .help(format!("write `{keyword} {port}`"))),
    }
}

/// `address = ( A "." A "." A "." A | IPv6 ) [ "/" ( length | netmask ) ]`: the first and the last one.
pub(super) fn address(word: Word<'_>, keyword: &str) -> Result<(IpAddr, IpAddr), Diagnostic> {
    let (addr_text, suffix) = match word.text.split_once('/') {
        Some((addr, suffix)) => (addr, Some(suffix)),
        None => (word.text, None),
    };
    let Ok(addr) = addr_text.parse::<IpAddr>() else {
        return Err(not_an_address(word, addr_text, keyword));
    };
    let Some(suffix) = suffix else { return Ok((addr, addr)) };
    let span = Span { start: word.span.end - suffix.len(), end: word.span.end };
    match addr {
        IpAddr::V4(addr) => {
            let host_bits = u32::MAX.checked_shr(prefix_len(suffix, span)?.into()).unwrap_or(0);
            let (first, last) = (addr.to_bits() & !host_bits, addr.to_bits() | host_bits);
            Ok((Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into()))
        }
        IpAddr::V6(addr) => {
            let host_bits = u128::MAX.checked_shr(plain_len(suffix, span, &V6)?.into()).unwrap_or(0);
            let (first, last) = (addr.to_bits() & !host_bits, addr.to_bits() | host_bits);
            Ok((Ipv6Addr::from(first).into(), Ipv6Addr::from(last).into()))
        }
    }
}

/// What is said about prefix lengths of a version of IP.
struct Lengths {
    most: u8,
    range: &'static str,
    bits: &'static str,
    single: &'static str,
    neither: &'static str,
    example: &'static str,
}

const V4: Lengths = Lengths {
    most: 32,
    range: "prefix length must be between 0 and 32",
    bits: "an IPv4 address has 32 bits",
    single: "write `/32`, or no length at all, for a single address",
    neither: "expected a prefix length or a netmask after `/`",
    example: "write for example `10.0.0.0/8` or `10.0.0.0/255.0.0.0`",
};

const V6: Lengths = Lengths {
    most: 128,
    range: "prefix length must be between 0 and 128",
    bits: "an IPv6 address has 128 bits",
    single: "write `/128`, or no length at all, for a single address",
    neither: "expected a prefix length after `/`",
    example: "write for example `2001:db8::/32`",
};

/// What stands behind the `/` of an IPv4 address: a number of bits or a netmask.
fn prefix_len(text: &str, span: Span) -> Result<u8, Diagnostic> {
    let Ok(mask) = text.parse::<Ipv4Addr>() else { return plain_len(text, span, &V4) };
    match u8::try_from(mask.to_bits().leading_ones()) {
        Ok(len) if mask.to_bits().count_ones() == u32::from(len) => Ok(len),
        _ => Err(Diagnostic::error("netmask has gaps", span, "not a run of ones, then zeros")
            .help("write one rule for each prefix, such as `10.0.0.0/255.0.0.0`")),
    }
}

fn plain_len(text: &str, span: Span, lengths: &Lengths) -> Result<u8, Diagnostic> {
    let error = |message: &str, label: &str| Diagnostic::error(message, span, label);
    if !is_digits(text) {
        let label = if lengths.most == V4.most { "neither" } else { "not a number" };
        return Err(error(lengths.neither, label).help(lengths.example));
    }
    match text.parse::<u8>() {
        Ok(len) if len > lengths.most => Err(error(lengths.range, lengths.bits).help(lengths.single)),
        Ok(len) if text == len.to_string() => Ok(len),
        Ok(len) => {
            Err(error("prefix length has a leading zero", "not a plain number")
                .help(format!("write `/{len}`")))
        }
        Err(_) => Err(error(lengths.range, lengths.bits).help(lengths.single)),
    }
}

fn not_a_port(word: Word<'_>, keyword: &str) -> Diagnostic {
    if let Some(odd) = help::odd_value(word) {
        return odd;
    }
    let text = word.text;
    let message = format!("expected a port number, found {}", quote(text));
    let error = |label: &str| Diagnostic::error(message.clone(), word.span, label);
    if let Some(hex) = text.strip_prefix("0x")
        && let Ok(port) = u16::from_str_radix(hex, 16)
    {
        return error("not decimal").help(format!("write `{keyword} {port}`"));
    }
    if let Some(digits) = text.strip_prefix(['+', '-', '!'])
        && let Ok(port) = digits.parse::<u16>()
    {
        let negated = if text.starts_with('!') { "!= " } else { "" };
        return error("not a plain number").help(format!("write `{keyword} {negated}{port}`"));
    }
    if let Some((first, last)) = text.split_once("..").or_else(|| text.split_once(':'))
        && let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>())
    {
        return error("ranges are written with `-`").help(format!("write `{keyword} {first}-{last}`"));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(['+', '-', '*', '/']) {
        return error("nothing is computed here").help(format!("write the result: `{keyword} N`"));
    }
    error("not a decimal number").help(format!("write `{keyword} N`, with N between 1 and 65535"))
}

fn not_an_address(word: Word<'_>, addr: &str, keyword: &str) -> Diagnostic {
    if let Some(odd) = help::odd_value(word) {
        return odd;
    }
    let error = |label: &str| {
        Diagnostic::error(format!("expected an IP address, found {}", quote(word.text)), word.span, label)
    };
    if addr.contains(':') {
        return not_an_ipv6_address(word, addr, keyword);
    }
    let parts: Vec<&str> = addr.split('.').take(5).collect();
    if parts.len() == 4 && parts.iter().all(|part| is_digits(part)) {
        let plain: Vec<u32> = parts.iter().filter_map(|part| part.parse().ok()).collect();
        return match plain[..] {
            [a, b, c, d] if plain.iter().all(|&part| part <= 255) => {
                error("leading zeros could be taken for octal").help(format!("write `{a}.{b}.{c}.{d}`"))
            }
            _ => error("each of the four numbers must be at most 255")
                .help(format!("write for example `{keyword} 10.0.0.1`")),
        };
    }
    if parts.iter().all(|part| is_digits(part)) {
        return error("an IPv4 address has four numbers")
            .help(format!("write for example `{keyword} 10.0.0.0/8`"));
    }
    error("not an address; names are not resolved").help(format!("write for example `{keyword} 10.0.0.1`"))
}

fn not_an_ipv6_address(word: Word<'_>, addr: &str, keyword: &str) -> Diagnostic {
    let error = |label: &str| {
        Diagnostic::error(format!("expected an IPv6 address, found {}", quote(word.text)), word.span, label)
    };
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    if let Some((plain, _)) = addr.split_once('%')
        && is_address(plain)
    {
        return error("names a zone").help(format!("write `{keyword} {plain}`: rules are for one interface"));
    }
    if let Some((plain, rest)) = addr.strip_prefix('[').and_then(|addr| addr.split_once(']'))
        && is_address(plain)
    {
        let help = match rest.is_empty() {
            true => format!("write `{keyword} {plain}`"),
            false => format!("write `{keyword} {plain}`, and the port as a match of its own"),
        };
        return error("no brackets are needed").help(help);
    }
    if let Some((addr, port)) = addr.split_once(':')
        && addr.parse::<Ipv4Addr>().is_ok()
        && is_digits(port)
    {
        return error("an IPv4 address and a port")
            .help(format!("write `{keyword} {addr}`, and the port as a match of its own"));
    }
    error("not eight groups of up to four hexadecimal digits, nor fewer and one `::`")
        .help(format!("write for example `{keyword} 2001:db8::1`"))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
