//! Runs the benches, keeps what they say in docs/performance/, and makes docs/performance.md of it.
//!
//! The page is prose with parts between `<!-- begin NAME -->` and `<!-- end NAME -->`, which are replaced. What the
//! benches said last stays in files, so that the page can be made anew without measuring, and a test can tell whether
//! it has been.

mod chart;
mod scale;
mod table;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use self::scale::Scale;
use crate::cargo;

const PAGE: &str = "docs/performance.md";
const FOLDER: &str = "docs/performance";
/// The benches that print tables of their own.
const TEXTS: [&str; 4] = ["cost", "throughput", "funnel", "bypass"];

/// Kept beside the page, not on it.
const ASIDE: [&str; 1] = ["peers"];

pub fn run(names: &[&str]) -> Result<()> {
    match names {
        [] => ["cost", "scale", "throughput", "funnel", "bypass"].into_iter().try_for_each(bench)?,
        ["peers"] => return bench("peers"),
        ["page"] => {}
        ["scale", shapes @ ..] if !shapes.is_empty() => return only(shapes),
        _ => names.iter().try_for_each(|name| bench(name))?,
    }
    write()
}

/// Some shapes, for a look: nothing is kept.
fn only(shapes: &[&str]) -> Result<()> {
    shapes.iter().try_for_each(|shape| crate::exec(command("scale").arg(shape)))
}

/// The benches of one profile, on two processors: numbers that were taken at once would be of nothing.
fn command(name: &str) -> Command {
    let mut command = cargo();
    command.args(["bench", "--locked", "--bench", name, "--"]);
    command
}

fn bench(name: &str) -> Result<()> {
    let folder = fs::canonicalize(FOLDER).context(FOLDER)?;
    if name == "scale" {
        return crate::exec(command(name).env("SFUNNEL_SCALE", folder.join("scale.json")));
    }
    if !TEXTS.contains(&name) && !ASIDE.contains(&name) {
        bail!("there is no bench `{name}`: cost, scale, throughput, funnel, bypass, peers or page");
    }
    eprintln!("> {:?}", command(name));
    let output = command(name).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    print!("{text}");
    ensure!(output.status.success(), "{name}: {}", output.status);
    Ok(fs::write(folder.join(format!("{name}.txt")), text)?)
}

fn write() -> Result<()> {
    let folder = Path::new(FOLDER);
    let scale = Scale::read(&folder.join("scale.json"))?;
    for (name, svg) in chart::all(&scale)? {
        fs::write(folder.join(format!("{name}.svg")), svg)?;
    }
    let page = fs::read_to_string(PAGE).context(PAGE)?;
    fs::write(PAGE, filled(&page, &parts(&scale, folder)?)?)?;
    eprintln!("{PAGE} is made anew");
    Ok(())
}

/// What stands between the marks, by name.
fn parts(scale: &Scale, folder: &Path) -> Result<Vec<(String, String)>> {
    let mut parts = table::all(scale);
    for name in TEXTS {
        let file = folder.join(format!("{name}.txt"));
        // A bench that nobody has kept the words of is not on the page; prose there says where its figures are.
        if !file.exists() {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        parts.push((name.to_owned(), format!("```text\n{}\n```\n", text.trim_end())));
    }
    Ok(parts)
}

fn filled(page: &str, parts: &[(String, String)]) -> Result<String> {
    let mut page = page.to_owned();
    for (name, part) in parts {
        let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
        let from =
            page.find(&begin).with_context(|| format!("{PAGE} has no `{}`", begin.trim()))? + begin.len();
        let to = from + page[from..].find(&end).with_context(|| format!("{PAGE} has no `{end}`"))?;
        page.replace_range(from..to, part);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_the_benches_said() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let folder = root.join(FOLDER);
        let scale = Scale::read(&folder.join("scale.json")).unwrap();
        let page = fs::read_to_string(root.join(PAGE)).unwrap();
        let anew = filled(&page, &parts(&scale, &folder).unwrap()).unwrap();
        assert!(page == anew, "`cargo xtask bench page` makes it anew");
        for (name, svg) in chart::all(&scale).unwrap() {
            let kept = fs::read_to_string(folder.join(format!("{name}.svg"))).unwrap();
            assert!(kept == svg, "{name}.svg: `cargo xtask bench page` makes it anew");
            assert!(
                page.contains(&format!("](performance/{name}.svg)")),
                "{name}.svg is nowhere on the page"
            );
        }
    }

    #[test]
    fn a_part_that_is_not_there_is_missed() {
        let part = |name: &str| [(name.to_owned(), "new\n".to_owned())];
        let page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n";
        assert_eq!(filled(page, &part("x")).unwrap(), "a\n<!-- begin x -->\nnew\n<!-- end x -->\nb\n");
        assert!(filled(page, &part("y")).is_err());
    }
}
