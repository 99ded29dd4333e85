//! The patches that `make sabotage` breaks the rules with: each still applies and names its tests.

use std::collections::BTreeMap;
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

/// The table of `docs/sabotage.md`, in the order of the rules.
fn rules() -> String {
    let mut rules: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, patch) in patches() {
        let tests: Vec<String> = header(&patch, "Caught by")
            .iter()
            .map(|test| format!("`{}`", test.trim_start_matches("it ")))
            .collect();
        let [rule, breaks] = ["Rule", "Breaks"].map(|key| header(&patch, key)[0].to_owned());
        let row = format!("| `{name}` | {breaks} | {} |", tests.join(", "));
        rules.entry(rule).or_default().push(row);
    }
    let section = |(rule, rows): (String, Vec<String>)| {
        let head = "| patch | what is done wrong | caught by |\n|---|---|---|";
        format!("**{rule}**\n\n{head}\n{}\n", rows.join("\n"))
    };
    rules
        .into_iter()
        .map(section)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_documented_rules_are_those_of_the_patches() {
    const BEGIN: &str = "<!-- rules: UPDATE=1 cargo test --test it sabotage -->\n\n";
    let path = crate::rig::project("docs/sabotage.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, was) = text.split_once(BEGIN).expect("the mark before the rules");
    let is = rules();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{is}")).unwrap();
    } else {
        assert_eq!(is, was, "run with UPDATE=1 and read the difference");
    }
}
