//! Single values: one word in, a value in range or what is wrong with the word out.
//!
//! Nothing here looks at any other word, but for the keyword that is quoted in remedies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ast::Value;
use super::flags;
use super::help;
use super::set::looks_like_a_value;
use super::word::Word;
use crate::diag::{Diagnostic, Span, quote};
use crate::field::{Notation, Number, PORT};

/// What is to be read, and for which word.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub notation: &'static Notation,
    pub key: Word<'a>,
    /// The match may be left out, so that any value will do.
    optional: bool,
}

/// What is wrong with a word.
pub(super) struct Unread {
    pub error: Box<Diagnostic>,
    /// It is a value, but not one that can be there: what to do about that depends on where it is.
    out_of_range: bool,
}

impl Unread {
    /// With this remedy, if the value is out of range.
    pub fn advise(self, help: impl Into<String>) -> Diagnostic {
        if self.out_of_range { self.error.help(help) } else { *self.error }
    }
}

impl From<Diagnostic> for Unread {
    fn from(error: Diagnostic) -> Self {
        Unread { error: Box::new(error), out_of_range: false }
    }
}

impl<'a> Wanted<'a> {
    /// Values of a match.
    pub fn matched(notation: &'static Notation, key: Word<'a>) -> Self {
        Wanted { notation, key, optional: true }
    }

    /// Values that must be there.
    pub fn listed_by(notation: &'static Notation, key: Word<'a>) -> Self {
        Wanted { notation, key, optional: false }
    }

    /// The same inside a set.
    pub fn listed(self) -> Self {
        Wanted { optional: false, ..self }
    }

    /// As in "expected a port number".
    pub fn one(&self) -> &'static str {
        match self.notation {
            Notation::Address => "an IP address",
            Notation::Flags => "TCP flags",
            Notation::Number(number) => number.one,
        }
    }

    /// As in "between two ports".
    pub fn name(&self) -> &'static str {
        self.notation.name()
    }

    pub fn several(&self) -> String {
        let name = self.name();
        if name.ends_with('s') { format!("{name}es") } else { format!("{name}s") }
    }

    fn examples(&self) -> [&'static str; 2] {
        match self.notation {
            Notation::Address => ["10.0.0.1", "{ 10.0.0.1, 10.0.1.0/24 }"],
            // The port that a rule matches beside `unalias` is the well-known one.
            Notation::Flags => ["syn", "{ syn, syn|ack }"],
            Notation::Number(_) if self.key.text == "unalias" => ["8080", "{ 80, 443 }"],
            Notation::Number(number) => number.examples,
        }
    }

    pub fn example(&self) -> String {
        format!("write for example `{} {}`", self.key.text, self.examples()[0])
    }

    pub fn example_of_set(&self) -> String {
        format!("write for example `{} {}`", self.key.text, self.examples()[1])
    }

    /// A word that stands for itself, or for a range, as a prefix does.
    pub fn read(&self, word: Word<'_>) -> Result<(Value, Value), Unread> {
        match self.notation {
            Notation::Address => {
                let (first, last) = address(word, self.key.text)?;
                Ok((Value::Address(first), Value::Address(last)))
            }
            Notation::Number(number) => {
                let value = Value::Number(self::number(word, number, self.key.text)?);
                Ok((value, value))
            }
            Notation::Flags => {
                let value = Value::Number(flags::bit(word)?.into());
                Ok((value, value))
            }
        }
    }

    /// Whether the word looks like a range with its `-` there, and not like the name of a service.
    pub fn may_be(&self, text: &str, dash: usize) -> bool {
        let is_name = |names: &[(&str, u32)]| names.iter().any(|(name, _)| *name == &text[..dash]);
        looks_like_a_value(text) || matches!(self.notation, Notation::Number(number) if is_name(number.names))
    }

    /// One end of a range.
    pub fn end(&self, word: Word<'_>) -> Result<Value, Unread> {
        let is_prefix = word.text.contains('/');
        if let (Notation::Address, true) = (self.notation, is_prefix) {
            let error = Diagnostic::error("a range runs from address to address", word.span, "a prefix");
            let help = format!("write `{} 10.0.0.0-10.0.0.9`, or a set of prefixes", self.key.text);
            return Err(error.help(help).into());
        }
        self.read(word).map(|(first, _)| first)
    }

    /// What to do about a value that is out of range.
    pub fn advice(&self) -> String {
        match self.notation {
            Notation::Number(number) if !self.optional => {
                format!("list {} from {} to {}", self.several(), number.min, number.max)
            }
            _ => format!("to match any {}, leave `{}` out", self.name(), self.key.text),
        }
    }
}

/// `number = decimal number | "0x" hexadecimal number | the name of one`, in range.
pub(super) fn number(word: Word<'_>, number: &Number, keyword: &str) -> Result<u32, Unread> {
    let text = word.text;
    if let Some((_, value)) = number.names.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let hexadecimal = text.strip_prefix("0x").filter(|hex| {
        number.hexadecimal && !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let (digits, radix) = match hexadecimal {
        Some(hex) => (hex.trim_start_matches('0'), 16),
        None if is_digits(text) => (text.trim_start_matches('0'), 10),
        None => return Err(not_a_number(word, number, keyword).into()),
    };
    let value = match digits {
        "" => Some(0),
        digits => u32::from_str_radix(digits, radix).ok(),
    };
    match value {
        Some(value) if !(number.min..=number.max).contains(&value) => {
            Err(out_of_range(word, number, Some(value)))
        }
        None => Err(out_of_range(word, number, None)),
        Some(value) if radix == 10 && text.len() > 1 && text.starts_with('0') => {
            let message = format!("{} has a leading zero", number.name);
            let error = Diagnostic::error(message, word.span, "could be taken for octal");
            Err(error.help(format!("write `{keyword} {value}`")).into())
        }
        Some(value) => Ok(value),
    }
}

pub(super) fn port(word: Word<'_>, keyword: &str) -> Result<u16, Unread> {
    number(word, &PORT, keyword).map(|port| u16::try_from(port).unwrap_or(u16::MAX))
}

/// A number that is none of this kind. `value`: if it has 32 bits.
pub(super) fn out_of_range(word: Word<'_>, number: &Number, value: Option<u32>) -> Unread {
    let Number { name, min, max, .. } = number;
    let digits = if word.text.starts_with("0x") { word.text } else { word.text.trim_start_matches('0') };
    let shown = quote(digits);
    let shown = shown.trim_matches('`');
    let label = match value {
        Some(value) if value < *min => format!("{value} is not a {name}"),
        _ if (max & max.wrapping_add(1)) == 0 => {
            format!("{shown} does not fit in {} bits", max.trailing_ones())
        }
        _ => format!("{shown} is more than {max}"),
    };
    let error = Diagnostic::error(format!("{name} must be between {min} and {max}"), word.span, label);
    let error = error.help(format!("write a number from {min} to {max}"));
    Unread { error: Box::new(error), out_of_range: true }
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

/// What stands after the `/` of an IPv4 address: a number of bits or a netmask.
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

fn not_a_number(word: Word<'_>, number: &Number, keyword: &str) -> Diagnostic {
    if let Some(odd) = help::odd_value(word) {
        return odd;
    }
    let Number { one, min, max, hexadecimal, names, .. } = number;
    let text = word.text;
    let message = format!("expected {one}, found {}", quote(text));
    let error = |label: &str| Diagnostic::error(message.clone(), word.span, label);
    if let Some(hex) = text.strip_prefix("0x")
        && let Ok(value) = u32::from_str_radix(hex, 16)
        && value <= *max
    {
        return error("not decimal").help(format!("write `{keyword} {value}`"));
    }
    if let Some(digits) = text.strip_prefix(['+', '-', '!'])
        && let Some(value) = digits.parse::<u32>().ok().filter(|value| value <= max)
    {
        let negated = if text.starts_with('!') { "!= " } else { "" };
        return error("not a plain number").help(format!("write `{keyword} {negated}{value}`"));
    }
    let small = |text: &str| text.parse::<u32>().ok().filter(|value| value <= max);
    if let Some((first, last)) = text.split_once("..").or_else(|| text.split_once(':'))
        && let (Some(first), Some(last)) = (small(first), small(last))
    {
        return error("ranges are written with `-`").help(format!("write `{keyword} {first}-{last}`"));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(['+', '-', '*', '/']) {
        return error("nothing is computed here").help(format!("write the result: `{keyword} N`"));
    }
    let slips = |name: &&str| (text.len() <= 8).then(|| strsim::osa_distance(name, &text.to_lowercase()));
    let near = names.iter().map(|(name, _)| *name).filter_map(|name| Some((slips(&name)?, name))).min();
    if let Some((0 | 1, name)) = near {
        return error("not a name").help(format!("did you mean `{keyword} {name}`?"));
    }
    error(if *hexadecimal { "not a number" } else { "not a decimal number" })
        .help(format!("write `{keyword} N`, with N between {min} and {max}"))
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
