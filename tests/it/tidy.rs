//! House rules as tests: what a file may be called, how long it may be, and what it may name.
//!
//! Every rule is a function from files to complaints, so that
//! [`every_rule_sees_what_it_forbids`] can plant a breach of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

mod source;

use source::{Source, functions, own_modules, words};

/// Longest file, in production lines.
const LINES_MAX: usize = 400;
/// Longest body of a function, in lines.
const FUNCTION_LINES_MAX: usize = 70;

/// Files that are longer, each with its length on the day it was reviewed: a ratchet.
const LONG_FILES: &str = include_str!("tidy/long_files.txt");
/// The same for functions.
const LONG_FUNCTIONS: &str = include_str!("tidy/long_functions.txt");
/// Which of our modules a module may use: the architecture, changed by a diff in one place.
const IMPORTS: &str = include_str!("tidy/imports.txt");
/// Which modules may name a library that has a place of its own.
const LIBRARIES: &str = include_str!("tidy/libraries.txt");

/// Its table says of each file what it is, and of some that they are pure.
const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");
/// What same input, same answer rules out: to wait, to ask a clock, to draw a number, and the world.
const IMPURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "ToSocketAddrs",
    "UdpSocket",
    "Zoned",
    "axum",
    "env",
    "fs",
    "lapin",
    "new_v4",
    "rand",
    "reqwest",
    "rusqlite",
    "sleep",
    "thread",
    "tokio",
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "common", "helper", "helpers", "misc", "types", "models", "util", "utils",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The project's own files. Outside of a checkout, those of the folders that hold code.
fn tracked() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut files: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect(),
        _ => ["src", "tests", "deploy"]
            .iter()
            .flat_map(|d| walk(d))
            .collect(),
    };
    files.retain(|file| root().join(file).is_file());
    files.sort();
    files
}

fn walk(folder: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else {
        return Vec::new();
    };
    let paths = entries.map(|e| format!("{folder}/{}", e.unwrap().file_name().display()));
    paths
        .flat_map(|path| {
            if root().join(&path).is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn sources() -> Vec<Source> {
    let files = tracked();
    let rust = files.iter().filter(|f| f.ends_with(".rs"));
    let sources: Vec<Source> = rust
        .filter(|f| f.starts_with("src/") || f.starts_with("tests/"))
        .map(|f| Source::new(f, &std::fs::read_to_string(root().join(f)).unwrap()))
        .collect();
    assert!(sources.len() > 40, "the sources were not found");
    sources
}

/// Production code only: no file that is compiled for tests alone, and no test module.
fn production() -> Vec<Source> {
    source::production(sources())
}

fn nothing_wrong(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Lines `key: words…`; `#` begins a comment.
fn table(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let lines = text.lines().filter_map(|line| line.split('#').next());
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, words)| (key.trim(), words.split_whitespace().collect()))
        .collect()
}

fn without_opening(sources: &[Source]) -> Vec<String> {
    let opens = |source: &&Source| {
        let first = source.text.lines().map_while(|l| l.strip_prefix("//! "));
        let paragraph = first.collect::<Vec<_>>().join(" ");
        let capital = paragraph.starts_with(|c: char| c.is_uppercase() || c == '`');
        !capital || !paragraph.ends_with(['.', ':'])
    };
    let found = sources.iter().filter(opens);
    found
        .map(|s| format!("{}: open it with `//! ` and a sentence", s.path))
        .collect()
}

#[test]
fn every_file_opens_with_a_sentence_that_says_what_it_is() {
    nothing_wrong(without_opening(&sources()));
}

/// The files that the architecture calls pure; what is in their folders is theirs.
fn pure(architecture: &str) -> BTreeSet<String> {
    let rows = architecture.lines().filter_map(|l| l.strip_prefix("| `"));
    let pure = rows.filter(|row| row.ends_with("Pure |"));
    let named = pure.filter_map(|row| row.split(" | ").next());
    named
        .flat_map(|names| names.split(", "))
        .flat_map(|name| alternatives(name.trim_matches('`')))
        .collect()
}

/// `a/{b,c}.rs` is two files.
fn alternatives(name: &str) -> Vec<String> {
    match name.split_once('{').zip(name.split_once('}')) {
        None => vec![format!("src/{name}")],
        Some(((head, rest), (_, tail))) => {
            let words = rest.split('}').next().unwrap_or_default().split(',');
            words
                .map(|word| format!("src/{head}{word}{tail}"))
                .collect()
        }
    }
}

fn is_pure(path: &str, pure: &BTreeSet<String>) -> bool {
    let folder = |file: &str| {
        format!(
            "{}/",
            file.trim_end_matches("/mod.rs").trim_end_matches(".rs")
        )
    };
    pure.contains(path) || pure.iter().any(|file| path.starts_with(&folder(file)))
}

fn impure(sources: &[Source], pure: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|s| is_pure(&s.path, pure)) {
        let named = words(&source.code);
        let mut found: Vec<&str> = IMPURE
            .iter()
            .copied()
            .filter(|w| named.contains(w))
            .collect();
        if source.code.contains("Timestamp::now") {
            found.push("Timestamp::now");
        }
        if !found.is_empty() {
            complaints.push(format!(
                "{}: pure, but names {}",
                source.path,
                found.join(", ")
            ));
        }
    }
    complaints
}

#[test]
fn pure_files_neither_wait_nor_read_a_clock_nor_draw_a_number() {
    let (production, pure) = (production(), pure(ARCHITECTURE));
    assert!(pure.len() > 25, "the table was not found: {pure:?}");
    for file in &pure {
        assert!(production.iter().any(|s| s.path == *file), "{file} is gone");
    }
    nothing_wrong(impure(&production, &pure));
}

fn unexpected_imports(sources: &[Source], allowed: &str) -> Vec<String> {
    let allowed = table(allowed);
    let mut complaints = Vec::new();
    for source in sources {
        let Some(may) = allowed.get(source.module()) else {
            complaints.push(format!(
                "{}: its module has no line in imports.txt",
                source.path
            ));
            continue;
        };
        for used in own_modules(&source.code) {
            if used != source.module() && !may.contains(used) && !may.contains("*") {
                complaints.push(format!("{}: may not use crate::{used}", source.path));
            }
        }
    }
    complaints
}

#[test]
fn a_module_uses_only_the_modules_that_the_architecture_lets_it() {
    nothing_wrong(unexpected_imports(&production(), IMPORTS));
}

/// What is allowed and not used hides the day on which it is used again.
fn unused(list: &str, is_used: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let unused = |key, word| word != "*" && !is_used(key, word);
    let lines = table(list).into_iter();
    let pairs = lines.flat_map(|(key, words)| words.into_iter().map(move |word| (key, word)));
    pairs
        .filter(|(key, word)| unused(key, word))
        .map(|(key, word)| format!("{key}: {word} is not used; take it off the list"))
        .collect()
}

fn unused_imports(sources: &[Source], allowed: &str) -> Vec<String> {
    unused(allowed, |module, other| {
        let mut own = sources.iter().filter(|source| source.module() == module);
        own.any(|source| own_modules(&source.code).contains(other))
    })
}

fn unused_libraries(sources: &[Source], places: &str) -> Vec<String> {
    unused(places, |library, module| {
        let mut there = sources.iter().filter(|source| source.module() == module);
        there.any(|source| words(&source.code).contains(library))
    })
}

#[test]
fn what_a_module_may_use_is_used() {
    let production = production();
    nothing_wrong(unused_imports(&production, IMPORTS));
    nothing_wrong(unused_libraries(&production, LIBRARIES));
}

fn misplaced_libraries(sources: &[Source], places: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (library, modules) in table(places) {
        for source in sources {
            if words(&source.code).contains(library) && !modules.contains(source.module()) {
                complaints.push(format!("{}: may not name {library}", source.path));
            }
        }
    }
    complaints
}

#[test]
fn each_library_of_the_outside_world_has_its_few_places() {
    nothing_wrong(misplaced_libraries(&production(), LIBRARIES));
}

fn badly_named(files: &[String]) -> Vec<String> {
    let bad = |file: &&String| {
        let parts = file.split('/');
        parts
            .map(|part| part.split('.').next().unwrap_or_default())
            .any(|part| EMPTY_NAMES.contains(&part))
    };
    files
        .iter()
        .filter(bad)
        .map(|file| format!("{file}: name it after what is inside"))
        .collect()
}

#[test]
fn no_file_is_called_a_drawer() {
    // What is vendored has the names that its authors gave.
    let ours = |file: &String| !file.starts_with("vendor/");
    let files: Vec<String> = tracked().into_iter().filter(ours).collect();
    nothing_wrong(badly_named(&files));
}

fn leftovers(sources: &[Source]) -> Vec<String> {
    // In pieces, so that this file does not find itself.
    let code = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
    let anywhere = [concat!("FIX", "ME"), concat!("HA", "CK")];
    let mut complaints = Vec::new();
    for source in sources {
        let found = code.iter().filter(|word| source.code.contains(**word));
        let found = found.chain(anywhere.iter().filter(|word| source.text.contains(**word)));
        complaints.extend(found.map(|word| format!("{}: {word} is left over", source.path)));
    }
    complaints
}

#[test]
fn nothing_is_left_over_from_the_writing() {
    nothing_wrong(leftovers(&sources()));
}

fn panics(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|s| s.path.starts_with("src/")) {
        for word in [".unwrap()", ".expect(", "panic!", "unreachable!"] {
            if source.code.contains(word) {
                complaints.push(format!("{}: {word} in production code", source.path));
            }
        }
    }
    complaints
}

#[test]
fn production_code_does_not_panic_on_purpose() {
    nothing_wrong(panics(&production()));
}

/// Lines `name length reason…` of a ratchet.
fn ratchet(text: &str) -> BTreeMap<String, usize> {
    let lines = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty());
    lines
        .map(|line| {
            let parts: Vec<&str> = line.splitn(3, ' ').collect();
            let [name, length, reason] = parts[..] else {
                panic!("{line:?} is not `name length reason`");
            };
            assert!(reason.len() > 10, "{line:?} gives no reason");
            (name.to_owned(), length.parse().unwrap())
        })
        .collect()
}

/// Too long, longer than on the day of the review, or reviewed and no longer long.
fn beyond(lengths: &BTreeMap<String, usize>, most: usize, reviewed: &str) -> Vec<String> {
    let reviewed = ratchet(reviewed);
    let mut complaints = Vec::new();
    for (name, length) in lengths {
        let most = reviewed.get(name).copied().unwrap_or(most);
        if *length > most {
            complaints.push(format!("{name}: {length} lines, at most {most}"));
        }
    }
    for name in reviewed.keys() {
        if lengths.get(name).is_none_or(|length| *length <= most) {
            complaints.push(format!(
                "{name}: within the limit or gone; take it off the list"
            ));
        }
    }
    complaints
}

#[test]
fn files_are_short_and_the_long_ones_do_not_grow() {
    let production = production();
    let own = production.iter().filter(|s| s.path.starts_with("src/"));
    let lengths = own
        .map(|s| (s.path.clone(), s.code.lines().count()))
        .collect();
    nothing_wrong(beyond(&lengths, LINES_MAX, LONG_FILES));
}

#[test]
fn functions_are_short_and_the_long_ones_do_not_grow() {
    let mut lengths = BTreeMap::new();
    for source in production() {
        for (name, length) in functions(&source.code) {
            let longest = lengths
                .entry(format!("{}:{name}", source.path))
                .or_default();
            *longest = length.max(*longest);
        }
    }
    assert!(lengths.len() > 400, "the functions were not found");
    nothing_wrong(beyond(&lengths, FUNCTION_LINES_MAX, LONG_FUNCTIONS));
}

fn strangers(path: &str, text: &str) -> Vec<String> {
    // In pieces, so that this file does not find itself.
    let strange = [
        concat!("../", "shared"),
        concat!("/wo", "rk/"),
        concat!("/tmp/", "wt"),
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("registry.npmjs", ".org"),
        concat!("deb.debian", ".org"),
    ];
    let found = strange.iter().filter(|word| text.contains(**word));
    found.map(|word| format!("{path}: names {word}")).collect()
}

#[test]
fn no_file_names_a_place_that_only_one_machine_has() {
    let files = tracked();
    let files = files.iter().filter(|file| *file != "Cargo.lock");
    let read = |file: &String| std::fs::read(root().join(file)).unwrap();
    nothing_wrong(
        files
            .flat_map(|file| strangers(file, &String::from_utf8_lossy(&read(file))))
            .collect(),
    );
}

#[test]
fn the_worker_asks_the_disk_for_a_full_sync() {
    // A connection's own setting, which no other connection can see: read in the source.
    let folder = walk("src/ledger")
        .into_iter()
        .filter(|f| f.contains("sqlite"));
    let text: String = folder
        .map(|f| std::fs::read_to_string(root().join(f)).unwrap())
        .collect();
    let text: String = text.split_whitespace().collect();
    assert!(text.contains(r#"pragma_update(None,"synchronous","FULL")"#));
    assert!(
        !text.contains(r#""synchronous","NORMAL""#) && !text.contains(r#""synchronous","OFF""#)
    );
}

#[test]
fn every_rule_sees_what_it_forbids() {
    let one = |path: &str, text: &str| vec![Source::new(path, text)];
    let wrong = |complaints: Vec<String>| assert_eq!(complaints.len(), 1, "{complaints:?}");
    wrong(without_opening(&one("src/a.rs", "use std::fmt;")));
    wrong(without_opening(&one("src/a.rs", "//! no sentence")));
    let pure = pure("| `a/mod.rs`, `b/{c,d}.rs` | e. Pure |\n| `f.rs` | g |\n");
    for (path, code) in [
        ("src/a/mod.rs", "use tokio::sync;"),
        ("src/a/b.rs", "fn a() { Timestamp::now() }"),
        ("src/b/c.rs", "use std::time::{Duration, Instant};"),
        ("src/b/d/e.rs", "fn a() { Uuid::new_v4() }"),
    ] {
        wrong(impure(&one(path, code), &pure));
    }
    let harmless = "// tokio\nfn operand() -> &str { \"rand\" }";
    assert!(impure(&one("src/b/c.rs", harmless), &pure).is_empty());
    assert!(impure(&one("src/f.rs", "use tokio::sync;"), &pure).is_empty());
    for code in [
        "use crate::job;",
        "use crate::{wire, job::{Job, run}};",
        "fn a() { crate::job::b() }",
    ] {
        wrong(unexpected_imports(&one("src/a.rs", code), "a: wire"));
    }
    wrong(unexpected_imports(&one("src/b.rs", ""), "a: wire"));
    wrong(misplaced_libraries(
        &one("src/a/b.rs", "use lapin::Channel;"),
        "lapin: amqp",
    ));
    wrong(unused_imports(&one("src/a.rs", "use crate::b;"), "a: b c"));
    wrong(unused_libraries(
        &one("src/a.rs", "use lapin::Channel;"),
        "lapin: a b",
    ));
    wrong(badly_named(&["src/utils.rs".to_owned()]));
    wrong(badly_named(&["src/common/mod.rs".to_owned()]));
    wrong(leftovers(&one("src/a.rs", "fn a() { todo!() }")));
    wrong(leftovers(&one("src/a.rs", concat!("// HA", "CK"))));
    let tested = "fn a() { b.unwrap() }\n#[cfg(test)]\nmod tests { fn c() { panic!() } }\n";
    wrong(panics(&source::production(one("src/a.rs", tested))));
    let apart = "#[cfg(test)]\n#[allow(dead_code, reason = \"b\")]\nmod tests;\n";
    let files = vec![
        Source::new("src/a.rs", apart),
        Source::new("src/a/tests.rs", "panic!()"),
        Source::new("src/a/tests/b.rs", "panic!()"),
    ];
    assert!(panics(&source::production(files)).is_empty());
    wrong(strangers("a", concat!("see /wo", "rk/a")));
    let long = |n: usize| BTreeMap::from([("a".to_owned(), n)]);
    wrong(beyond(&long(11), 10, ""));
    wrong(beyond(&long(21), 10, "a 20 for a good reason"));
    wrong(beyond(&long(9), 10, "a 20 for a good reason"));
    assert!(beyond(&long(20), 10, "a 20 for a good reason").is_empty());
    let body = "fn a(x: [u8; 2]) -> &'static str {\n  '{'; \"}\"; /* } */\n  1\n}\nfn b();";
    assert_eq!(functions(&source::code(body)), [("a".to_owned(), 4)]);
}
