//! How long a file, a function and a line may be, and what may not be left behind in them.

use crate::source::{Source, crate_files, files_below, is_script, is_word, matching, words};
use crate::{Faults, assert_tidy};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// One function: where its head starts and its body ends.
struct Function {
    start: usize,
    end: usize,
    name: String,
}

fn rust_functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (start, word) in words(code) {
        let Some((gap, name)) = words(&code[start + word.len()..]).next() else { continue };
        let named = code[start + word.len()..][..gap].chars().all(char::is_whitespace);
        if word != "fn" || gap == 0 || !named {
            continue;
        }
        if let Some(opening) = body(code, start)
            && let Some(end) = matching(code, opening)
        {
            found.push(Function { start, end, name: name.to_owned() });
        }
    }
    found
}

/// The brace that opens the body of the function at `start`; a declaration has none.
fn body(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

fn script_functions(code: &str) -> Vec<Function> {
    const NO_FUNCTION: [&str; 7] = ["if", "for", "while", "switch", "catch", "with", "await"];
    let mut found = Vec::new();
    for (opening, _) in code.match_indices('{') {
        let head = code[..opening].trim_end();
        let (start, name) = if let Some(arrow) = head.strip_suffix("=>") {
            (arrow.trim_end().len(), "=>".to_owned())
        } else if head.ends_with(')') {
            let Some(parameters) = opening_of(head) else { continue };
            let before = head[..parameters].trim_end();
            let from = before.rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
            (from, before[from..].to_owned())
        } else {
            continue;
        };
        if let Some(end) = matching(code, opening)
            && !NO_FUNCTION.contains(&name.as_str())
        {
            found.push(Function { start, end, name });
        }
    }
    found
}

/// The parenthesis that the last character of `head` closes.
fn opening_of(head: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, byte) in head.bytes().enumerate().rev() {
        match byte {
            b')' => depth += 1,
            b'(' => {
                depth -= 1;
                if depth == 0 {
                    return Some(offset);
                }
            }
            _ => {}
        }
    }
    None
}

fn function_faults(file: &Source) -> Faults {
    let functions = if is_script(&file.path) {
        script_functions(&file.code)
    } else {
        rust_functions(&file.code)
    };
    let too_long = |function: &Function| {
        let lines = file.line(function.end) - file.line(function.start) + 1;
        (lines > FUNCTION_LINES_MAX)
            .then(|| format!("{}: `{}` has {lines} lines", file.at(function.start), function.name))
    };
    functions.iter().filter_map(too_long).collect()
}

fn file_faults(file: &Source) -> Faults {
    let lines = file.text.lines().count() - file.test_lines();
    let fault = || format!("{}: {lines} lines above the tests", file.path);
    (lines > FILE_LINES_MAX).then(fault).into_iter().collect()
}

/// Tables and addresses in prose cannot be broken.
fn column_faults(file: &Source) -> Faults {
    let prose = file.path.ends_with(".md");
    let too_wide = |(index, line): (usize, &str)| {
        let columns = line.chars().count();
        let unbreakable = prose && (line.starts_with('|') || line.contains("://"));
        (columns > COLUMNS_MAX && !unbreakable)
            .then(|| format!("{}:{}: {columns} columns", file.path, index + 1))
    };
    file.text.lines().enumerate().filter_map(too_wide).collect()
}

/// Marks of unfinished work. Spelled in two halves: this file is searched too.
const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("to", "do!"),
    concat!("unimplement", "ed!"),
];

fn leftover_faults(file: &Source) -> Faults {
    let mut faults = Faults::new();
    for mark in LEFTOVERS {
        for (offset, _) in file.text.match_indices(mark) {
            let before = file.text[..offset].chars().next_back();
            let after = file.text[offset + mark.len()..].chars().next();
            let within = |c: Option<char>| c.is_some_and(is_word);
            if !within(before) && (mark.ends_with('!') || !within(after)) {
                faults.push(format!("{}: {mark}", file.at(offset)));
            }
        }
    }
    for (offset, _) in file.code.match_indices(concat!("#[ig", "nore")) {
        faults.push(format!("{}: a test that never runs", file.at(offset)));
    }
    faults
}

/// Everything that people write here by hand; drawings are made by programs.
fn own_files() -> Vec<Source> {
    const FOLDERS: [&str; 6] = ["src", "tests", "static", "systemd", ".github", ".ci"];
    const GENERATED: [&str; 4] = [".json", ".lock", ".snap", ".svg"];
    let mut files: Vec<_> = FOLDERS.iter().flat_map(|folder| files_below(folder)).collect();
    files.retain(|file| !GENERATED.iter().any(|ending| file.path.ends_with(ending)));
    files
}

#[test]
fn files_are_short() {
    let code = |file: &&Source| file.path.ends_with(".rs") || is_script(&file.path);
    let faults = own_files().iter().filter(code).flat_map(file_faults).collect();
    assert_tidy("a file has at most 600 lines above its tests", &faults);
}

#[test]
fn functions_are_short() {
    let files = files_below("static").into_iter().filter(|file| is_script(&file.path));
    let tests = files_below("tests").into_iter().filter(|file| file.path.ends_with(".rs"));
    let all: Vec<_> = crate_files().into_iter().chain(files).chain(tests).collect();
    let faults = all.iter().flat_map(function_faults).collect();
    assert_tidy("a function has at most 70 lines", &faults);
}

#[test]
fn lines_are_short() {
    // Transcripts hold long datagrams; the page of the protocol is generated.
    let by_hand = |file: &&Source| !file.path.ends_with(".txt") && !file.path.contains("PROTOCOL");
    let faults = own_files().iter().filter(by_hand).flat_map(column_faults).collect();
    assert_tidy("a line has at most 100 columns", &faults);
}

#[test]
fn nothing_is_left_for_later() {
    let faults = own_files().iter().flat_map(leftover_faults).collect();
    assert_tidy("no marks of unfinished work", &faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_rust_function_is_a_fault() {
        let function = |lines: usize| {
            let text = format!("fn long(x: [u8; 2]) -> u8 {{\n{}}}\n", "    f();\n".repeat(lines));
            function_faults(&Source::new("src/x.rs", format!("fn short() {{}}\n{text}")))
        };
        assert_eq!(function(68), Faults::new());
        assert_eq!(function(69), ["src/x.rs:2: `long` has 71 lines"]);
    }

    #[test]
    fn brackets_in_literals_and_declarations_do_not_mislead() {
        let text =
            format!("trait T {{ fn a(); }}\nfn b() {{ f('{{', \"}}\"); }}\n{}", "\n".repeat(90));
        assert_eq!(function_faults(&Source::new("src/x.rs", text)), Faults::new());
    }

    #[test]
    fn a_long_script_function_is_a_fault() {
        let faults = |head: &str| {
            let text = format!("{head} {{\n{}}}\n", "  f(`{`, /[{/]/);\n".repeat(70));
            function_faults(&Source::new("static/x.js", text)).len()
        };
        assert_eq!(faults("function long(a, b = g(1))"), 1);
        assert_eq!(faults("const long = async (a) =>"), 1);
        assert_eq!(faults("async long(a)"), 1);
        assert_eq!(faults("if (a)"), 0);
        assert_eq!(faults("const table ="), 0);
    }

    #[test]
    fn a_long_file_is_a_fault() {
        let file = |text: String| file_faults(&Source::new("src/x.rs", text)).len();
        assert_eq!(file("a;\n".repeat(600)), 0);
        assert_eq!(file("a;\n".repeat(601)), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "b;\n".repeat(300));
        assert_eq!(file("a;\n".repeat(590) + &tests), 0);
        assert_eq!(file("a;\n".repeat(601) + &tests), 1);
    }

    #[test]
    fn a_wide_line_is_a_fault_but_for_tables() {
        let wide = |path: &str, text: String| column_faults(&Source::new(path, text)).len();
        assert_eq!(wide("src/x.rs", "a".repeat(101)), 1);
        assert_eq!(wide("src/x.rs", "ä".repeat(100)), 0);
        assert_eq!(wide("src/README.md", format!("| {}", "a".repeat(101))), 0);
        assert_eq!(wide("src/README.md", "a ".repeat(51)), 1);
    }

    #[test]
    fn unfinished_work_is_a_fault() {
        for mark in LEFTOVERS {
            let file = Source::new("static/x.css", format!("a {mark} b"));
            assert_eq!(leftover_faults(&file).len(), 1, "{mark}");
        }
        let skipped = format!("{}ore]\nfn f() {{}}", concat!("#[ig", "n"));
        assert_eq!(leftover_faults(&Source::new("tests/it/x.rs", skipped)).len(), 1);
        let name = Source::new("tests/run", format!("mktemp {}", "X".repeat(6)));
        assert_eq!(leftover_faults(&name), Faults::new());
    }
}
