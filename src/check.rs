//! From rules as written to rules as sets: only legal rulesets get through.
//!
//! An [`Ast`] goes in; an [`ir::Ruleset`] and warnings, or every semantic error at once, come out.
//! Never looks at text: what cannot be read is the business of [`syntax`].

mod actions;
mod alias;
mod bypass;
mod chains;
mod family;
mod missing_guard;
mod multiline;
mod refunnel;
mod return_path;
mod set;
mod shadowing;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use crate::diag::{Diagnostic, Severity, Source, Span};
use crate::diagram::{self, Diagram};
use crate::field::Field;
use crate::ir::{self, Family};
use crate::matches::{self, Ports};
use crate::syntax::ast::{ActionKind, Ast, Define, Match, MatchKind, Values};
use crate::syntax::{self, ast};

/// A rule as it was written, and what it means.
type Pair<'a> = (&'a ast::Rule, ir::Rule);

/// What a list of rules means, and how they overlap. The diagram is built when it is first needed.
struct Meaning {
    ruleset: ir::Ruleset,
    diagram: OnceCell<Diagram>,
}

impl Meaning {
    fn of(rules: &[Pair<'_>]) -> Self {
        let rules = rules.iter().map(|(_, rule)| rule.clone()).collect();
        Meaning { ruleset: ir::Ruleset { rules }, diagram: OnceCell::new() }
    }

    fn diagram(&self) -> &Diagram {
        self.diagram.get_or_init(|| diagram::build(&self.ruleset))
    }
}

/// A list of rules that can be compiled, and what is odd about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub ruleset: ir::Ruleset,
    pub warnings: Vec<Diagnostic>,
}

/// The same of a text that may have chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lists {
    pub rulesets: ir::Rulesets,
    /// The diagram of each list, in their order, where one had to be built.
    pub diagrams: Vec<Option<Diagram>>,
    pub warnings: Vec<Diagnostic>,
    /// Valid but suspicious: reported by `check` only.
    pub advice: Vec<Diagnostic>,
}

impl Lists {
    /// Warnings and advice, in the order of the text.
    pub fn remarks(&self) -> Vec<Diagnostic> {
        let mut remarks = [self.warnings.as_slice(), &self.advice].concat();
        sort(&mut remarks);
        remarks
    }
}

/// Parses and checks one list of rules: chains are refused.
pub fn read(source: &Source) -> Result<Checked, Vec<Diagnostic>> {
    let Lists { rulesets, warnings, .. } = read_lists(source)?;
    match rulesets {
        ir::Rulesets::Anywhere(ruleset) => Ok(Checked { ruleset, warnings }),
        ir::Rulesets::Chains(chains) => {
            Err(vec![chains::unwanted(chains.iter().map(|(_, ruleset)| ruleset))])
        }
        ir::Rulesets::Service(ruleset) => Err(vec![chains::unwanted([&ruleset].into_iter())]),
    }
}

/// Parses and checks: the rules, or everything that is wrong with them, in the order of the text.
pub fn read_lists(source: &Source) -> Result<Lists, Vec<Diagnostic>> {
    let (ast, mut faults) = syntax::recover(source);
    match check(&ast) {
        Ok(checked) if faults.is_empty() => return Ok(checked),
        Ok(checked) => faults.extend(checked.warnings),
        Err(more) => faults.extend(more),
    }
    sort(&mut faults);
    Err(faults)
}

/// The rules as sets, or all semantic errors. Damaged rules are checked as far as they go, but
/// are not part of the result.
pub fn check(ast: &Ast) -> Result<Lists, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    chains::heads(ast, &mut faults);
    ast.defines.iter().for_each(|define| faults.extend(defined(define)));
    if ast.rules.is_empty() && ast.chains.is_empty() && !ast.unread {
        faults.push(
            Diagnostic::error("the ruleset has no rules", Span::default(), "nothing to attach").help(
                "write at least one rule, such as `tcp dport 8080 actions funnel tcp sport 540 dport 80`",
            ),
        );
    }
    let table = bypass::table(ast, &mut faults);
    let mut checked = Vec::new();
    let parts = multiline::parts(&ast.rules, &mut faults);
    for (rule, is_part) in ast.rules.iter().zip(parts) {
        let found = faults.len();
        let ir = self::rule(rule, is_part, (ast, &table), &mut faults);
        if !faults[found..].iter().any(|fault| fault.severity == Severity::Error)
            && !rule.damaged
            && let Some(ir) = ir
        {
            checked.push((rule, ir));
        }
    }
    faults.extend(alias::lists(&checked));
    faults.extend(return_path::missing(ast, &checked));
    let mut advice = missing_guard::unguarded(&checked);
    if ast.chains.iter().any(|head| head.chain == ast::Chain::Service) {
        advice.extend(missing_guard::services(&checked));
    }
    let lists = chains::split(ast, checked);
    let mut diagrams = Vec::new();
    for (_, rules) in &lists {
        let meaning = Meaning::of(rules);
        faults.extend(refunnel::funneled_again(rules, &meaning));
        faults.extend(refunnel::ambiguous(rules));
        faults.extend(shadowing::shadowed(&meaning));
        diagrams.push(meaning.diagram.into_inner());
    }
    sort(&mut faults);
    if faults.iter().any(|fault| fault.severity == Severity::Error) {
        return Err(faults);
    }
    Ok(Lists { rulesets: chains::rulesets(ast, lists), diagrams, warnings: faults, advice })
}

/// What is odd about a name.
fn defined(define: &Define) -> Vec<Diagnostic> {
    let mut found = match &define.values {
        Values::Known(set) => set::overlaps(set),
        Values::Unknown => Vec::new(),
    };
    if !define.used && define.values != Values::Unknown {
        let name = &define.name;
        let unused = Diagnostic::warning(format!("`{name}` is never used"), define.span, "no rule says it");
        found.push(unused.help(format!("remove it, or write `${name}` in a rule")));
    }
    found
}

fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.primary.span.start, diagnostic.primary.span.end));
}

/// One rule, if there is enough of it to make sense. A part of one need not be complete.
fn rule(
    rule: &ast::Rule,
    is_part: bool,
    (ast, table): (&Ast, &bypass::Table),
    faults: &mut Vec<Diagnostic>,
) -> Option<ir::Rule> {
    let matches = Matches::read(rule, faults);
    actions::combination(rule, faults);
    faults.extend(of_other_protocol(rule));
    if !rule.damaged && !is_part {
        faults.extend(matches.protocol.is_none().then(|| missing_protocol(rule)));
        faults.extend(rule.actions.is_empty().then(|| missing_action(rule)));
    }
    let family = match family::family(rule, ast) {
        Ok(family) => family,
        Err(wrong) => {
            faults.push(wrong);
            None
        }
    };
    if let Some(family) = family {
        faults.extend(matches.none_left(rule, family));
    }
    let proto = proto(matches.protocol?);
    let action = actions::meaning(rule, &matches, (ast, table), faults)?;
    Some(ir::Rule {
        text: rule.text.clone(),
        span: rule.span,
        proto,
        matches: Family::ALL.map(|of| family.is_none_or(|only| only == of).then(|| matches.of(of)).flatten()),
        action,
        nat: actions::nat(rule),
        settings: actions::settings(rule),
        counter: actions::counter(rule),
    })
}

/// The matches of a rule, each in its place.
#[derive(Default)]
struct Matches {
    protocol: Option<ast::Protocol>,
    fields: BTreeMap<Field, set::ByFamily>,
}

impl Matches {
    fn read(rule: &ast::Rule, faults: &mut Vec<Diagnostic>) -> Self {
        let mut seen: Vec<&Match> = Vec::new();
        let mut matches = Matches::default();
        for m in &rule.matches {
            if let Some(first) = seen.iter().find(|first| same_field(&first.kind, &m.kind)) {
                faults.push(conflict(first, m));
                continue;
            }
            seen.push(m);
            let (field, sets) = match &m.kind {
                MatchKind::Ip(_) => continue,
                MatchKind::Protocol(protocol) => {
                    matches.protocol = Some(*protocol);
                    continue;
                }
                MatchKind::Field { field, negated, set } => {
                    faults.extend(set::overlaps(set));
                    (*field, set::values(*field, set, *negated))
                }
            };
            if sets.iter().all(Option::is_none) {
                faults.push(never(m, field));
            }
            matches.fields.insert(field, sets);
        }
        matches
    }

    /// A match that packets of the rule's only family cannot have, though those of the other could.
    fn none_left(&self, rule: &ast::Rule, family: Family) -> Option<Diagnostic> {
        let none = |sets: &set::ByFamily| sets[family.index()].is_none() && sets.iter().any(Option::is_some);
        let (field, _) = self.fields.iter().find(|(field, sets)| field.is_in(family) && none(sets))?;
        rule.matched(*field).map(|m| never(m, *field))
    }

    /// The packets of a family, unless some field says that it is none of theirs.
    fn of(&self, family: Family) -> Option<matches::Matches> {
        self.fields.iter().try_fold(matches::Matches::default(), |matches, (field, sets)| {
            Some(matches.with(*field, family, sets[family.index()].clone()?))
        })
    }

    /// The ports that are matched, if any are.
    fn ports(&self, side: ast::Side) -> Option<Ports> {
        let sets = self.fields.get(&side.of(Field::SPORT, Field::DPORT))?;
        sets.iter().flatten().next().map(|set| matches::ports(Some(set)))
    }
}

fn never(m: &Match, field: Field) -> Diagnostic {
    let name = field.row().notation.name();
    Diagnostic::error("this can never match", m.span, format!("no {name} is left"))
        .help(format!("leave `{field}` out to match any {name}"))
}

/// Whether two matches test the same field of the packet.
fn same_field(a: &MatchKind, b: &MatchKind) -> bool {
    matches!((a, b), (MatchKind::Protocol(_), MatchKind::Protocol(_)) | (MatchKind::Ip(_), MatchKind::Ip(_)))
        || a.keyword() == b.keyword()
}

fn conflict(first: &Match, again: &Match) -> Diagnostic {
    let (one, other) = (first.kind.keyword(), again.kind.keyword());
    if one == other {
        return syntax::repeated(one, first.span, again.span)
            .help(format!("keep one `{one}`, or write two rules"));
    }
    let error =
        Diagnostic::error(format!("`{one}` and `{other}` in one rule"), again.span, "no packet is both");
    if let MatchKind::Ip(_) = first.kind {
        return error
            .with(first.span, "first version")
            .help("leave both out: a rule without them matches both versions, or that of its addresses");
    }
    error
        .with(first.span, "first protocol")
        .help(format!("write two rules, one with `{one}` and one with `{other}`"))
}

/// A match on a field that packets of the rule's protocol do not have.
fn of_other_protocol(rule: &ast::Rule) -> Option<Diagnostic> {
    let (word, protocol) = rule.matches.iter().find_map(|m| match m.kind {
        MatchKind::Protocol(protocol) => Some((m, protocol)),
        _ => None,
    })?;
    let (m, only) = rule.matches.iter().find_map(|m| match m.kind {
        MatchKind::Field { field, .. } => {
            Some((m, field.row().proto.filter(|only| *only != proto(protocol))?))
        }
        _ => None,
    })?;
    let (keyword, name) = (m.kind.keyword(), protocol.keyword());
    let error =
        Diagnostic::error(format!("`{keyword}` and `{name}` in one rule"), m.span, "no packet has both");
    Some(error.with(word.span, "this protocol").help(format!("leave `{keyword}` out, or match `{only}`")))
}

fn missing_protocol(rule: &ast::Rule) -> Diagnostic {
    let matches_end = rule.actions_word.or(rule.actions.first().map(|action| action.span));
    let span = matches_end.unwrap_or(rule.span.after());
    let error = Diagnostic::error("the rule names no protocol", span, "expected `tcp` or `udp` before this");
    let words: Vec<&str> = rule.text.split(' ').collect();
    let ends_matches = |word: &&str| *word == "actions" || ActionKind::starts_with(word);
    let (matches, rest) = words.split_at(words.iter().position(ends_matches).unwrap_or(words.len()));
    let whole = [matches, &["tcp"], rest].concat().join(" ");
    if whole.len() > syntax::LONGEST_QUOTED {
        return error.help("write `tcp` or `udp` among the matches; for both, write two rules");
    }
    error.help(format!("write `{whole}`, the same with `udp`, or both rules"))
}

fn missing_action(rule: &ast::Rule) -> Diagnostic {
    let (message, label) = match rule.actions_word {
        Some(_) => ("the list of actions is empty", "expected an action after this"),
        None => ("the rule has no action", "expected an action at the end"),
    };
    Diagnostic::error(message, rule.actions_word.unwrap_or(rule.span), label).help(
        "write `actions accept`, `actions drop`, `actions funnel ...`, `actions unfunnel ...`, \
             `actions alias ...`, `actions unalias ...` or `actions bypass`",
    )
}

fn proto(protocol: ast::Protocol) -> ir::Proto {
    match protocol {
        ast::Protocol::Tcp => ir::Proto::Tcp,
        ast::Protocol::Udp => ir::Proto::Udp,
    }
}
