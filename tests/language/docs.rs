//! The examples of docs/rules.md are run: those marked `sfunnel` must be fine, `sfunnel,error` must not.

use std::fs;
use std::path::Path;

use super::talk;

#[test]
fn examples_in_the_reference_do_what_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rules.md");
    let text = fs::read_to_string(path).unwrap();
    let mut seen = (0, 0);
    // Every second piece between fences is a block; its first line is what it is marked with.
    for block in text.split("```").skip(1).step_by(2) {
        let (mark, rules) = block.split_once('\n').unwrap();
        let talk = talk("docs/rules.md", rules);
        match mark {
            "sfunnel" => {
                assert!(talk.is_empty(), "{talk}");
                seen.0 += 1;
            }
            "sfunnel,error" => {
                assert!(talk.contains("error: "), "these should be refused:\n{rules}");
                seen.1 += 1;
            }
            _ => {}
        }
    }
    assert!(seen.0 >= 10 && seen.1 >= 5, "examples have gone: {seen:?}");
}
