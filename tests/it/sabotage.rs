//! The patches that `make sabotage` breaks the rules with: each still applies and names its tests.

use std::fs;
use std::path::PathBuf;

fn patches() -> Vec<(String, String)> {
    let folder = crate::rig::project("tests/sabotage");
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut patches: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .map(|path: PathBuf| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect();
    patches.sort();
    assert!(patches.len() > 40, "the patches were not found");
    patches
}

/// The lines `Key: value` before the diff.
fn header<'p>(patch: &'p str, key: &'p str) -> Vec<&'p str> {
    let lines = patch.lines().take_while(|line| !line.starts_with("--- "));
    let value = move |line: &'p str| line.strip_prefix(key)?.strip_prefix(": ");
    lines.filter_map(value).collect()
}

/// One change: the file, the lines as they are, the lines as they would be.
struct Hunk<'p> {
    file: &'p str,
    before: String,
    after: String,
}

fn hunks(patch: &str) -> Vec<Hunk<'_>> {
    let mut hunks: Vec<Hunk<'_>> = Vec::new();
    let mut file = "";
    for line in patch.lines().skip_while(|line| !line.starts_with("--- ")) {
        if let Some(path) = line.strip_prefix("--- a/") {
            file = path;
        } else if line.starts_with("@@ ") {
            let (before, after) = (String::from("\n"), String::from("\n"));
            hunks.push(Hunk {
                file,
                before,
                after,
            });
        } else if let Some(hunk) = hunks.last_mut().filter(|_| !line.starts_with("+++ ")) {
            let (mark, text) = line.split_at_checked(1).unwrap_or((" ", ""));
            if mark != "+" {
                hunk.before.push_str(&format!("{text}\n"));
            }
            if mark != "-" {
                hunk.after.push_str(&format!("{text}\n"));
            }
        }
    }
    hunks
}

#[test]
fn every_patch_says_which_rule_it_breaks_and_what_catches_it() {
    for (name, patch) in patches() {
        for key in ["Rule", "Breaks"] {
            let [said] = header(&patch, key)[..] else {
                panic!("{name}: one line {key}: is wanted");
            };
            assert!(said.ends_with('.') && said.contains(' '), "{name}: {said}");
        }
        let caught = header(&patch, "Caught by");
        assert!(!caught.is_empty(), "{name}: which test fails?");
        for test in caught {
            let (target, filter) = test.split_once(' ').unwrap_or_default();
            assert!(
                ["it", "lib"].contains(&target) && !filter.is_empty(),
                "{name}: {test}"
            );
        }
    }
}

#[test]
fn every_patch_applies_to_one_place_of_the_sources() {
    for (name, patch) in patches() {
        let hunks = hunks(&patch);
        assert!(!hunks.is_empty(), "{name}: no change");
        for hunk in hunks {
            assert!(hunk.file.starts_with("src/"), "{name}: {}", hunk.file);
            assert_ne!(hunk.before, hunk.after, "{name}: nothing is changed");
            let text = fs::read_to_string(crate::rig::project(hunk.file)).unwrap();
            let places = format!("\n{text}").matches(&hunk.before).count();
            assert_eq!(
                places, 1,
                "{name}: these lines are not once in {}; write the patch anew for the current \
                 sources:{}",
                hunk.file, hunk.before
            );
        }
    }
}
