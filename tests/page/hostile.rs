//! Text that wants to be more than text, in every place that a user fills; and rulesets of the largest size.

use std::fmt::Write as _;

use serde_json::json;

use super::browser::{Browser, CHROMIUM};
use super::support::require;
use super::{Folder, RULES};

/// Ends a script, opens an element, closes an attribute, turns the line round.
const EVIL: &str = "</script><script>document.title='evil'</script><img src=x onerror=alert(1)>\"'`&amp;<!--\u{202e}\u{2066}";

#[test]
fn what_users_write_is_shown_as_text() {
    if !require(&[CHROMIUM]) {
        return;
    }
    let folder = Folder::new();
    let long = "a".repeat(10_000);
    let rules = format!(
        "# {EVIL}\r\ndefine NAME = 80 # {EVIL}\n{RULES}tcp dport $NAME actions drop # {long}{EVIL}\n# 日本語 😀 {long}\n"
    );
    let name = "<img src=x onerror=alert(1)>\u{202e}&amp;\"'.sf";
    folder.write(name, &rules);
    let page = folder.page("evil.html", &["compile", name, "--emit", "html"]);
    let mut browser = Browser::start();
    browser.open(&page, "");
    assert_eq!(browser.eval("document.title"), json!(format!("{name} · sfunnel")));
    assert_eq!(browser.eval("document.querySelector('h1').textContent"), name);
    assert_eq!(browser.eval("document.querySelectorAll('img, #page script, #page iframe').length"), 0);
    let shown = browser.eval("document.querySelector('#rules code').textContent");
    let seen = EVIL.replace('\u{202e}', "U+202E").replace('\u{2066}', "U+2066");
    assert_eq!(shown, json!(format!("# {seen}")));
    // The page does not grow with a line: panes scroll, and what is long is cut until one asks for it.
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= innerWidth"), true);
    assert_eq!(browser.eval("Math.max(...[...document.querySelectorAll('#rules code')].map((e) => e.textContent.length)) < 400"), true);
    browser.eval("document.querySelector('#rules .more').click()");
    assert_eq!(browser.eval("document.documentElement.scrollWidth <= innerWidth"), true);
    assert_eq!(browser.faults(), Vec::<String>::new());
}

#[test]
fn the_largest_ruleset_is_a_page_of_at_most_8_mb_that_is_drawn_in_parts() {
    if !require(&[CHROMIUM]) {
        return;
    }
    let mut rules = String::new();
    for number in 0..65_536_u32 {
        let scattered = number.wrapping_mul(2_654_435_761);
        let [a, b, c, d] = scattered.to_be_bytes();
        let _ = writeln!(
            rules,
            "ip saddr {}.{b}.{c}.{d} tcp dport {} actions drop",
            a % 200 + 1,
            number % 60_000 + 1
        );
    }
    let folder = Folder::new();
    let page = folder.page_of(&rules);
    let size = std::fs::metadata(&page).expect("a file").len();
    assert!(size <= 8_000_000, "{size}");
    let mut browser = Browser::start();
    browser.open(&page, "");
    let drawn = browser.eval("document.querySelectorAll('*').length");
    assert!(drawn.as_u64().is_some_and(|drawn| drawn < 8_000), "{drawn}");
    // What is far away is drawn when it is looked for.
    assert_eq!(browser.eval("document.querySelector('#rule-60000')"), json!(null));
    browser.eval("location.hash = '#rule-60000'; new Promise((done) => setTimeout(done, 100))");
    assert_eq!(
        browser.eval("[...document.querySelectorAll('button.rule.lit')].map((e) => e.id)"),
        json!(["rule-60000"])
    );
    assert_eq!(browser.eval("document.querySelectorAll('.insn.lit').length > 0"), true);
    assert!(
        browser
            .eval("document.querySelector('#way').textContent")
            .as_str()
            .is_some_and(|way| way.contains("saddr"))
    );
    assert_eq!(browser.faults(), Vec::<String>::new());
}
