//! `check` and `compile`: pure, for anyone.

use std::fs;
use std::path::Path;

use asm::Program;

use super::args::{Check, Chosen, Compile, Emit, End, FeatureArg};
use super::files::{apart, file_source};
use super::rules::{Lists, Rules};
use super::settings::defined;
use super::{Console, Failure, page};
use crate::codegen::Features;
use crate::ir::Side;
use crate::policy::{self, Choices};
use crate::stored::{self, Answer, Form};
use crate::{drawing, json, system};

pub fn check(args: &Check, console: &mut Console<'_>) -> Result<(), Failure> {
    let source = defined(file_source(&args.file)?, &args.defines);
    let name = source.name.clone();
    let lists = Lists::read_critically(source, args.strict, console)?;
    if let Some(rules) = lists.service() {
        for end in [End::Client, End::Pod] {
            Lists::of_end(rules, end, console)?;
        }
        console.say(format!("{name}: a service of {}, no errors", count(rules)));
        return Ok(());
    }
    let counted: Vec<String> = lists
        .each()
        .map(|(side, rules)| {
            let side = side.map(|side| format!("{side}: ")).unwrap_or_default();
            format!("{side}{}", count(rules))
        })
        .collect();
    console.say(format!("{name}: {}, no errors", counted.join(", ")));
    Ok(())
}

fn count(rules: &Rules) -> String {
    match rules.ruleset.rules.len() {
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    }
}

/// The choices of a command that attaches nothing.
pub fn chosen(args: Chosen) -> Result<Choices, Failure> {
    Choices::new(args.gso.into(), args.finish_checksums, !args.no_merge).map_err(Failure::Usage)
}

pub fn compile(args: &Compile, console: &mut Console<'_>) -> Result<(), Failure> {
    let to_stdout = args.output.as_deref().is_none_or(|file| file == Path::new("-"));
    if args.emit == Emit::Elf && to_stdout && console.out_is_terminal {
        return Err(Failure::Usage("an object file is not for a terminal: use `-o FILE`".to_owned()));
    }
    apart(Some(&args.file), args.output.as_deref())?;
    let stored = args.check.as_deref().map(|file| Stored::read(file, args)).transpose()?;
    let wanted = args.direction.map(Side::from);
    let lists = Lists::read(defined(file_source(&args.file)?, &args.defines), args.strict, console)?;
    if args.emit == Emit::Html {
        return write(args, page::of_rules(args, lists, console)?.as_bytes(), console);
    }
    let (side, rules) = lists.at(args.end, console)?.one(wanted)?;
    let compile = || program(args, side, &rules);
    if args.emit == Emit::Elf && rules.ruleset.counts() {
        return Err(Failure::Usage("an object file has no maps to count in: leave `counter` out".to_owned()));
    }
    let titles = |rule: u32| rules.title(rule);
    let data = match args.emit {
        Emit::Diagram => rules.diagram.to_string().into_bytes(),
        Emit::Dot => drawing::dot(&rules.diagram, &rules.ruleset).into_bytes(),
        Emit::Svg => drawing::svg(&drawing::drawings(&rules.diagram, &rules.ruleset)).into_bytes(),
        Emit::Asm => compile()?.listing(&titles).into_bytes(),
        Emit::Hex => compile()?.hex(&titles).into_bytes(),
        Emit::Json => {
            let (link, program) = (args.link.into(), compile()?);
            let document = json::document(&rules.source, &rules.ruleset, &rules.diagram, &program, link);
            let mut text = serde_json::to_vec_pretty(&document)
                .map_err(|error| Failure::Internal(format!("cannot write JSON: {error}")))?;
            text.push(b'\n');
            text
        }
        Emit::Elf => rules.object(&[("sfunnel", &compile()?)])?,
        Emit::Html => return Err(Failure::Internal("a page is made of all lists".to_owned())),
    };
    if let Some(stored) = stored {
        return stored.compare(&String::from_utf8_lossy(&data), console);
    }
    write(args, &data, console)
}

/// The program that the arguments ask for.
pub fn program(args: &Compile, side: Option<Side>, rules: &Rules) -> Result<Program, Failure> {
    let side = side.or(args.direction.map(Side::from)).unwrap_or(policy::DEFAULT_SIDE);
    let features = Features {
        check_mtu: !args.without.contains(&FeatureArg::CheckMtu),
        long_jumps: !args.without.contains(&FeatureArg::LongJumps),
        nested_tags: !args.without.contains(&FeatureArg::NestedTags),
    };
    let target = policy::target(features, side, &rules.ruleset, None);
    rules.compile(policy::usual(args.link.into(), side, &rules.ruleset, chosen(args.chosen)?).on(target))
}

fn write(args: &Compile, data: &[u8], console: &mut Console<'_>) -> Result<(), Failure> {
    match args.output.as_deref().filter(|file| *file != Path::new("-")) {
        Some(file) => fs::write(file, data)
            .map_err(|source| Failure::File { what: format!("cannot write {}", file.display()), source }),
        None => Ok(console.out.write_all(data)?),
    }
}

/// A listing that was stored, to compare with.
struct Stored {
    name: String,
    text: String,
    form: Form,
}

impl Stored {
    fn read(file: &Path, args: &Compile) -> Result<Self, Failure> {
        let form = match args.emit {
            Emit::Asm => Form::Asm,
            Emit::Hex => Form::Hex,
            Emit::Elf | Emit::Diagram | Emit::Json | Emit::Dot | Emit::Svg | Emit::Html => {
                return Err(Failure::Usage(
                    "`--check` compares listings: `--emit asm` or `--emit hex`".to_owned(),
                ));
            }
        };
        let name = file.display().to_string();
        let read = |what: &str| Failure::Usage(format!("cannot read {name}: {what}"));
        let bytes = fs::read(file).map_err(|error| read(&system::said(&error)))?;
        let text = String::from_utf8(bytes).map_err(|_| read("it is not text"))?;
        Ok(Self { name, text, form })
    }

    fn compare(&self, made: &str, console: &mut Console<'_>) -> Result<(), Failure> {
        let name = &self.name;
        let answer = stored::compare(&self.text, made, self.form)
            .map_err(|error| Failure::Usage(format!("cannot compare with {name}: {error}")))?;
        match answer {
            Answer::Same => Ok(()),
            Answer::Reworded => {
                console.say(format!("note: {name} has the same instructions, with other words beside them"));
                Ok(())
            }
            Answer::Differs(text) => {
                console.out.write_all(text.as_bytes())?;
                console.out.flush()?;
                console.say(format!(
                    "the rules compile to another program than {name} has; if that is right, run this again with \
                     `-o {name}` in place of `--check {name}`"
                ));
                Err(Failure::Different)
            }
        }
    }
}
