//! Just enough of Rust's grammar to count lines and find names: comments, texts, braces.

#![expect(
    clippy::string_slice,
    reason = "every index is where an ASCII mark was found"
)]

use std::collections::BTreeSet;

/// A file of the project.
pub(crate) struct Source {
    /// From the root of the project.
    pub(crate) path: String,
    /// As written.
    pub(crate) text: String,
    /// The same lines with comments and texts blanked out.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code: code(text),
        }
    }

    /// The module below the root that it belongs to.
    pub(crate) fn module(&self) -> &str {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = inside.split('/').next().unwrap_or(inside);
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

/// Drops what is compiled for tests alone.
pub(crate) fn production(sources: Vec<Source>) -> Vec<Source> {
    let mut for_tests = BTreeSet::new();
    let mut kept = Vec::new();
    for mut source in sources.into_iter().filter(|s| s.path.starts_with("src/")) {
        let (code, modules) = without_tests(&source.code);
        let folder = match source
            .path
            .strip_suffix("/mod.rs")
            .or(source.path.strip_suffix("/lib.rs"))
        {
            Some(folder) => folder.to_owned(),
            None => source.path.trim_end_matches(".rs").to_owned(),
        };
        for_tests.extend(modules.iter().map(|module| format!("{folder}/{module}")));
        source.code = code;
        kept.push(source);
    }
    // With what is below them.
    kept.retain(|source| {
        let path = source.path.trim_end_matches(".rs");
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        !above.chain([path]).any(|one| for_tests.contains(one))
    });
    kept
}

/// The code without its items under `#[cfg(test)]`, and the modules among them that are
/// files of their own.
fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let end = match (item.find('{'), item.find(';')) {
            (Some(open), Some(semicolon)) if semicolon < open => semicolon + 1,
            (None, Some(semicolon)) => semicolon + 1,
            (Some(open), _) => closing(item, open) + 1,
            (None, None) => item.len(),
        };
        // Other attributes may stand between the mark and the module.
        if let Some((_, name)) = item[..end].rsplit_once("mod ") {
            modules.extend(name.strip_suffix(';').map(str::to_owned));
        }
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// Where the brace that opens at `open` is closed.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len() - 1
}

/// Name of every function with a body, and the lines of that.
pub(crate) fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let whole_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let rest = &code[at + 3..];
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let Some(open) = body(rest).filter(|_| whole_word && !name.is_empty()) else {
            continue;
        };
        found.push((name, rest[open..=closing(rest, open)].lines().count()));
    }
    found
}

/// Where the body of a function begins; a declaration has none.
fn body(rest: &str) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Every word of the code.
pub(crate) fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect()
}

/// Our modules that are named after `crate::`, singly or in a group.
pub(crate) fn own_modules(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(
                rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next(),
            );
            continue;
        };
        let (mut depth, mut start) = (0_i32, 0);
        for (at, c) in group.char_indices() {
            match c {
                ',' | '}' if depth == 0 => {
                    let item = group[start..at].trim();
                    found.extend(
                        item.split(|c: char| !c.is_alphanumeric() && c != '_')
                            .next(),
                    );
                    start = at + 1;
                }
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth < 0 || (c == '}' && start == at + 1) {
                break;
            }
        }
    }
    found.remove("");
    found
}

/// Blanks out comments, texts and characters; lines stay where they are.
pub(crate) fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = blank(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(
                chars[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

/// Where the comment, text or character that begins at `at` ends; `at` itself if none does.
fn blank(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or_default();
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', '/') => (at..chars.len())
            .find(|i| chars[*i] == '\n')
            .unwrap_or(chars.len()),
        ('/', '*') => comment(chars, at),
        ('"', _) => quoted(chars, at + 1, '"'),
        ('r', '"' | '#') if !in_word || chars[at - 1] == 'b' => raw(chars, at),
        ('\'', '\\') => quoted(chars, at + 1, '\''),
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0_usize, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 1),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 1),
            _ => {}
        }
        i += 1;
    }
    chars.len()
}

fn quoted(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 1,
            c if c == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    chars.len()
}

fn raw(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let start = at + 1 + hashes;
    if chars.get(start) != Some(&'"') {
        return at;
    }
    let ends = |i: &usize| {
        let after = chars[i + 1..].iter().take_while(|c| **c == '#').count();
        chars[*i] == '"' && after >= hashes
    };
    (start + 1..chars.len())
        .find(ends)
        .map_or(chars.len(), |i| i + 1 + hashes)
}
