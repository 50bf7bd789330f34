//! Rulesets: the pieces of a text, the chains and services in them, and rules.
//!
//! Input: a source. Output: everything that could be read, and what is wrong with the rest. Never looks
//! into a rule.

use nom::Err;

use super::action::hiding;
use super::ast::{Action, Ast, Chain, Head};
use super::bypass::node;
use super::define::{Names, define, given};
use super::help::{self, Spoils};
use super::parser::rule;
use super::word::{Cursor, Parsed, Word, keyword, lines, peek, separator, word};
use crate::diag::{Diagnostic, PieceKind, Source, Span, quote};

/// `ruleset = separator { ( rule | chain | service | define | node ) separator }`
pub(super) fn ruleset(source: &Source) -> (Ast, Vec<Diagnostic>) {
    let mut reader = Reader::default();
    let names = Names::default();
    for piece in source.pieces() {
        if let Some(at) = lone_return(&source.text[piece.span.start..piece.span.end]) {
            let span = Span { start: piece.span.start + at, end: piece.span.start + at + 1 };
            let error = Diagnostic::error("a carriage return without a line feed", span, "ends no line");
            reader.faults.push(error.help("end lines with LF, or with CR and LF"));
            names.unread();
            continue;
        }
        let i = Cursor::new(&source.text, piece.span, &names);
        let chain = match piece.kind {
            PieceKind::Define => {
                reader.defined(i, given(i));
                continue;
            }
            PieceKind::Rules => None,
            PieceKind::Ingress => Some(Chain::Ingress),
            PieceKind::Egress => Some(Chain::Egress),
        };
        let open = chain.map(|chain| {
            let span = i.here();
            reader.ast.chains.push(Head { span, chain });
            Open { chain, span, known: true, braces: false, action: None }
        });
        reader.statements(i, open);
    }
    reader.ast.defines = names.into_defines();
    reader.ast.unread = !reader.faults.is_empty();
    (reader.ast, reader.faults)
}

#[derive(Default)]
struct Reader {
    ast: Ast,
    faults: Vec<Diagnostic>,
}

/// The chain or service that is being read.
#[derive(Clone, Copy)]
struct Open<'o> {
    chain: Chain,
    span: Span,
    /// False if nobody knows which one it is.
    known: bool,
    /// Ends with a brace, not with the piece.
    braces: bool,
    /// What rules do that do not say it.
    action: Option<&'o Action>,
}

const SERVICE: &str = "write for example `service funnel tcp sport 540 dport 179 { udp dport 4739 }`";
const CHAINS: &str = "write `chain ingress { ... }` or `chain egress { ... }`";

impl Reader {
    /// Up to the end of the text, or of the chain.
    fn statements<'a>(&mut self, mut i: Cursor<'a>, open: Option<Open<'_>>) -> Cursor<'a> {
        let known = self.faults.len();
        i = separator(i);
        while let Ok((after, first)) = word(i) {
            let clean = self.faults.len() == known;
            match (open, first.text) {
                (Some(Open { braces: true, .. }), "}") => return after.in_chain(false),
                (Some(open), "chain" | "service") => {
                    if clean {
                        self.faults.push(nested(first.span, open));
                    }
                    if open.braces {
                        return i.in_chain(false);
                    }
                    let heads = self.ast.chains.len();
                    i = self.block(after, first);
                    self.ast.chains.truncate(heads);
                }
                (None, "chain" | "service") => i = self.block(after, first),
                (_, "define") => i = self.defined(after, define(after, Some(first.span))),
                (_, "node") => {
                    let parsed = node(after, first).map(|(rest, node)| (rest, self.ast.nodes.push(node)));
                    i = self.defined(after, parsed);
                }
                (None, _) if opens_chain(first, after) => {
                    self.faults.push(help::unknown_word(first, false).0);
                    i = self.chain(after, first.span);
                }
                _ => i = self.rule(i, open),
            }
            i = separator(i);
        }
        if let Some(Open { span, braces: true, .. }) = open
            && self.faults.len() == known
        {
            let name =
                if open.is_some_and(|open| open.chain == Chain::Service) { "service" } else { "chain" };
            let error = Diagnostic::error(format!("the {name} is not closed"), span, "has no `}`");
            self.faults.push(error.help("write `}` after its last rule"));
        }
        i
    }

    fn rule<'a>(&mut self, i: Cursor<'a>, open: Option<Open<'_>>) -> Cursor<'a> {
        let (rest, rule) = rule(i, &mut self.faults);
        if let Some(mut rule) = rule {
            rule.chain = open.map(|open| open.chain);
            rule.damaged |= open.is_some_and(|open| !open.known);
            if let Some(action) = open.and_then(|open| open.action)
                && rule.actions_word.is_none()
                && rule.actions.iter().all(|action| action.kind.stands_beside())
            {
                rule.actions.push(action.clone());
            }
            self.ast.rules.push(rule);
        }
        rest
    }

    /// Where to read on.
    fn defined<'a>(&mut self, i: Cursor<'a>, parsed: Parsed<'a, ()>) -> Cursor<'a> {
        match parsed {
            Ok((rest, ())) => rest,
            Err(Err::Error(fault) | Err::Failure(fault)) => {
                self.faults.extend(fault.diagnostics);
                fault.rest
            }
            Err(Err::Incomplete(_)) => i,
        }
    }

    /// `chain = "chain" ( "ingress" | "egress" ) "{" separator { ( rule | define ) separator } "}"`
    fn chain<'a>(&mut self, i: Cursor<'a>, key: Span) -> Cursor<'a> {
        let mut i = i;
        let mut span = key;
        let found = peek(i).filter(|found| found.text != "{");
        let chain = found.and_then(|found| match found.text {
            "ingress" => Some(Chain::Ingress),
            "egress" => Some(Chain::Egress),
            _ => None,
        });
        match (found, chain) {
            (Some(found), Some(_)) => span = key.to(found.span),
            (Some(found), None) => self.faults.push(
                Diagnostic::error(format!("no chain {}", quote(found.text)), found.span, "not a hook")
                    .help(CHAINS),
            ),
            (None, _) => {
                let message = "expected `ingress` or `egress` after `chain`";
                self.faults.push(Diagnostic::error(message, key, "which hook?").help(CHAINS));
            }
        }
        if found.is_some()
            && let Ok((rest, _)) = word(i)
        {
            i = rest;
        }
        let Ok((rest, brace)) = keyword("{")(lines(i)) else {
            if chain.is_some() {
                let error =
                    Diagnostic::error("expected `{` after the name of the chain", span, "has no rules");
                self.faults.push(error.help(CHAINS));
            }
            return help::skip(i, Spoils::Rule);
        };
        if let Some(chain) = chain {
            self.ast.chains.push(Head { span, chain });
        }
        // What rules are checked for does not depend on the hook.
        let open = Open {
            chain: chain.unwrap_or(Chain::Ingress),
            span: span.to(brace.span),
            known: chain.is_some(),
            braces: true,
            action: None,
        };
        self.statements(rest.in_chain(true), Some(open))
    }

    fn block<'a>(&mut self, after: Cursor<'a>, first: Word<'_>) -> Cursor<'a> {
        if first.text == "service" { self.service(after, first.span) } else { self.chain(after, first.span) }
    }

    /// `service = "service" [ funnel | alias ] "{" separator { ( rule | define ) separator } "}"`
    ///
    /// A rule without an action of its own has the one before the brace.
    fn service<'a>(&mut self, i: Cursor<'a>, key: Span) -> Cursor<'a> {
        let (i, action, known) = match hiding(i) {
            Ok((rest, action)) => (rest, Some(action), true),
            Err(Err::Failure(fault)) => {
                self.faults.extend(fault.diagnostics);
                (fault.rest, None, false)
            }
            Err(_) => (i, None, true),
        };
        let span = key.to(action.as_ref().map_or(key, |action| action.span));
        let Ok((rest, brace)) = keyword("{")(lines(i)) else {
            if known {
                let error = match peek(i).filter(|_| action.is_none()) {
                    Some(word) => {
                        Diagnostic::error("expected `funnel`, `alias` or `{`", word.span, "not one of them")
                    }
                    None => Diagnostic::error("expected `{`", span, "has no rules"),
                };
                self.faults.push(error.help(SERVICE));
            }
            return help::skip(i, Spoils::Rule);
        };
        self.ast.chains.push(Head { span, chain: Chain::Service });
        let span = span.to(brace.span);
        let open = Open { chain: Chain::Service, span, known, braces: true, action: action.as_ref() };
        self.statements(rest.in_chain(true), Some(open))
    }
}

/// `chian ingress {`
fn opens_chain(first: Word<'_>, after: Cursor<'_>) -> bool {
    help::meant(first.text) == Some("chain")
        && peek(after).is_some_and(|next| matches!(next.text, "ingress" | "egress"))
}

/// A CR inside a line. It looks like the end of one, and what is after it would be of this one.
fn lone_return(text: &str) -> Option<usize> {
    let lines = text.split_inclusive('\n');
    let mut start = 0;
    for line in lines {
        let inside = line.trim_end_matches(['\r', '\n']);
        if let Some(at) = inside.find('\r') {
            return Some(start + at);
        }
        start += line.len();
    }
    None
}

fn nested(span: Span, open: Open<'_>) -> Diagnostic {
    let within = if open.chain == Chain::Service { "service" } else { "chain" };
    let error = Diagnostic::error(format!("a chain in a {within}"), span, "begins inside another one");
    if open.braces {
        return error.with(open.span, "is not closed before").help("write `}` before it");
    }
    error.help("leave `chain` and its braces out: this text is that of one chain already")
}
