//! README.md and docs/ are true: examples compile, commands parse, links lead somewhere, files exist.
//!
//! Reads the documents as text. Runs no command: what it takes to run one is tested elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use sfunnel::cli::{Cli, Command};
use sfunnel::diag::{Source, render};

struct Document {
    path: PathBuf,
    text: String,
}

/// What stands between two fences, and what the first is marked with.
struct Block<'a> {
    mark: &'a str,
    text: &'a str,
}

impl Document {
    fn all() -> Vec<Document> {
        let mut paths = vec![root().join("README.md"), root().join("LICENSE.md")];
        for folder in ["docs", "docs/examples", "docs/use-cases"] {
            paths.extend(fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
        paths.sort();
        paths.into_iter().map(|path| Document { text: fs::read_to_string(&path).unwrap(), path }).collect()
    }

    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// Every second piece between fences is a block; its first line is what it is marked with.
    fn blocks(&self) -> impl Iterator<Item = Block<'_>> {
        self.text.split("```").skip(1).step_by(2).map(|block| {
            let (mark, text) = block.split_once('\n').unwrap();
            Block { mark, text }
        })
    }

    fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// What `# headings` are called in links.
    fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                kept.collect::<String>().replace(' ', "-")
            })
            .collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the user would see, if anything.
fn talk(name: &str, rules: &str) -> String {
    let source = Source::new(name, rules);
    match sfunnel::read_lists(&source) {
        Ok(checked) => render(&source, &checked.warnings, false),
        Err(faults) => render(&source, &faults, false),
    }
}

#[test]
fn examples_of_rules_do_what_is_said() {
    let mut seen = (0, 0);
    for document in Document::all() {
        for Block { mark, text } in document.blocks() {
            let talk = talk(&document.name(), text);
            match mark {
                "sfunnel" => {
                    assert!(talk.is_empty(), "{talk}");
                    seen.0 += 1;
                }
                "sfunnel,error" => {
                    // Its first line says what is wrong.
                    let expected =
                        text.lines().next().and_then(|line| line.strip_prefix("# ")).expect("a message");
                    let errors: Vec<&str> =
                        talk.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
                    assert_eq!(errors, [expected], "{}:\n{text}", document.name());
                    seen.1 += 1;
                }
                _ => {}
            }
        }
    }
    assert!(seen.0 >= 12 && seen.1 >= 20, "examples have gone: {seen:?}");
}

#[test]
fn commands_in_examples_are_understood() {
    let mut seen = (0, 0);
    for document in Document::all() {
        for block in document.blocks().filter(|block| block.mark == "sh") {
            for words in commands(block.text) {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                for rules in words.iter().filter_map(|word| rules_of(word)) {
                    assert_eq!(talk(&document.name(), rules), "");
                    seen.1 += 1;
                }
                let Some(args) = sfunnel_args(&words) else { continue };
                let cli = match Cli::try_parse_from([&["sfunnel"], args].concat()) {
                    Ok(cli) => cli,
                    Err(error) => panic!("{}: {}\n{error}", document.name(), words.join(" ")),
                };
                seen.0 += 1;
                if let Some(Command::Attach(attach)) = cli.command
                    && let Some(rules) = attach.ruleset
                {
                    assert_eq!(talk(&document.name(), &rules), "");
                    seen.1 += 1;
                }
            }
        }
    }
    assert!(seen.0 >= 8 && seen.1 >= 6, "commands have gone: {seen:?}");
}

/// What a word sets a variable with rules to.
fn rules_of(word: &str) -> Option<&str> {
    ["SFUNNEL_RULESET=", "SFUNNEL_RULESET_INGRESS=", "SFUNNEL_RULESET_EGRESS="]
        .iter()
        .find_map(|variable| word.strip_prefix(variable))
}

/// The arguments of sfunnel in a command that runs it: by itself, by cargo, or in a container.
fn sfunnel_args<'a, 'b>(words: &'a [&'b str]) -> Option<&'a [&'b str]> {
    match words {
        ["sfunnel", args @ ..] | ["cargo", "run", "--release", "--", args @ ..] => Some(args),
        ["podman" | "docker", "run", rest @ ..] => {
            let image = rest.iter().position(|word| *word == "sfunnel" || word.ends_with("/sfunnel"))?;
            rest.get(image + 1..)
        }
        _ => None,
    }
}

/// Enough of a shell: words and quotes, `\` at the end of a line, comments, what separates commands.
/// Redirections end a command: nothing here has arguments behind one.
fn commands(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("\\\n", " ");
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut deaf) = (None, false);
    let mut comment = false;
    for c in text.chars().chain(['\n']) {
        match c {
            '\n' => comment = false,
            _ if comment => continue,
            _ => {}
        }
        match (quote, c) {
            (Some(end), _) if c == end => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => comment = true,
            (None, ' ' | '\n' | ';' | '|' | '&' | '<' | '>') => {
                words.extend(word.take().filter(|_| !deaf));
                deaf |= matches!(c, '<' | '>');
                if matches!(c, '\n' | ';' | '|' | '&') {
                    deaf = false;
                    commands.push(std::mem::take(&mut words));
                }
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    commands.retain(|words| !words.is_empty());
    commands
}

#[test]
fn rules_in_manifests_compile() {
    let mut seen = 0;
    for document in Document::all() {
        for block in document.blocks().filter(|block| block.mark == "yaml") {
            for rules in rulesets_of_manifest(block.text) {
                assert_eq!(talk(&document.name(), &rules), "", "{}", document.name());
                seen += 1;
            }
        }
    }
    assert!(seen >= 5, "manifests have gone: {seen}");
}

/// The values of `SFUNNEL_RULESET`, in the three ways in which the documents write them.
fn rulesets_of_manifest(yaml: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = yaml.lines().collect();
    let named = lines.iter().enumerate().filter(|(_, line)| line.contains("name: SFUNNEL_RULESET"));
    named
        .map(|(at, line)| {
            let with_value = if line.contains("value:") { at } else { at + 1 };
            let (_, value) = lines[with_value].split_once("value:").expect("a value");
            let value = value.trim().trim_end_matches('}').trim().trim_matches('"');
            if value != "|" {
                return value.to_owned();
            }
            let block = lines[with_value + 1..].iter();
            let block = block.take_while(|line| indent(line) > indent(lines[with_value]));
            block.map(|line| format!("{line}\n")).collect()
        })
        .collect()
}

#[test]
fn chores_that_are_named_exist() {
    let xtask = fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    for document in Document::all() {
        for rest in document.text.split("cargo xtask ").skip(1) {
            let chore: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
            assert!(
                xtask.contains(&format!("[\"{chore}\"")),
                "{}: there is no `cargo xtask {chore}`",
                document.name()
            );
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let documents = Document::all();
    let mut wrong = Vec::new();
    for document in &documents {
        for link in document.prose().split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.path.clone(),
                _ => document.path.parent().unwrap().join(file),
            };
            let Ok(target) = target.canonicalize() else {
                wrong.push(format!("{}: {link}: no such file", document.name()));
                continue;
            };
            let known = documents.iter().find(|known| known.path == target);
            if !anchor.is_empty() && !known.is_some_and(|known| known.anchors().contains(anchor)) {
                wrong.push(format!("{}: {link}: no such heading", document.name()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What stands in backquotes and looks like a path of this repository.
#[test]
fn files_that_are_named_exist() {
    const FOLDERS: [&str; 6] = ["asm/", "docs/", "src/", "testdata/", "tests/", "xtask/"];
    let mut seen = 0;
    for document in Document::all() {
        let prose = document.prose();
        let spans = prose.split('`').skip(1).step_by(2);
        for path in spans.filter(|span| FOLDERS.iter().any(|folder| span.starts_with(folder))) {
            assert!(root().join(path).exists(), "{}: there is no `{path}`", document.name());
            seen += 1;
        }
    }
    assert!(seen >= 50, "the code map has gone: {seen}");
}

#[test]
fn pictures_are_what_the_program_draws() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("docs/pictures")).unwrap() {
        let rules = entry.unwrap().path();
        if rules.extension().is_none_or(|extension| extension != "sf") {
            continue;
        }
        let text = fs::read_to_string(&rules).unwrap();
        let checked = sfunnel::read(&Source::new("rules", text.as_str())).unwrap();
        let diagram = sfunnel::diagram::build(&checked.ruleset);
        let drawn = sfunnel::drawing::svg(&sfunnel::drawing::drawings(&diagram, &checked.ruleset));
        let stored = fs::read_to_string(rules.with_extension("svg")).unwrap();
        assert!(drawn == stored, "{}: make it anew with `cargo xtask docs`", rules.display());
        seen += 1;
    }
    assert!(seen >= 1, "there are no pictures");
}
