//! Names that mean three things at once are not given to anything of ours. The words of the RFCs,
//! of configuration keys and of other libraries stay.

use crate::source::{
    Source, crate_files, files_below, is_script, module_path, test_only_modules, words,
};
use crate::{Faults, assert_tidy};

const BANNED: [&str; 8] =
    ["session", "user", "data", "info", "manager", "util", "utils", "helpers"];

/// Endings that say nothing about a type.
const BANNED_ENDINGS: [&str; 4] = ["Manager", "Info", "Util", "Utils"];

const TYPE_WORDS: [&str; 5] = ["struct", "enum", "trait", "type", "mod"];
const VARIABLE_WORDS: [&str; 4] = ["let", "const", "static", "var"];

fn name_faults(files: &[Source]) -> Faults {
    let for_tests = test_only_modules(files);
    let in_product = |file: &&Source| {
        let module = module_path(&file.path);
        !for_tests.iter().any(|test| module.starts_with(test))
    };
    files.iter().filter(in_product).flat_map(faults_of).collect()
}

fn faults_of(file: &Source) -> Faults {
    let code = file.production();
    let all: Vec<_> = words(&code).collect();
    let mut faults = Faults::new();
    for (index, (offset, word)) in all.iter().enumerate() {
        let before = index.checked_sub(1).map_or("", |at| all[at].1);
        let banned = BANNED.contains(&word.to_lowercase().as_str());
        let bad_type = TYPE_WORDS.contains(&before)
            && (banned || BANNED_ENDINGS.iter().any(|ending| word.ends_with(ending)));
        // Constants are the words of an RFC: `DATA` is an attribute.
        let constant = word.chars().all(char::is_uppercase);
        if bad_type || (banned && !constant && is_variable(&code, *offset, word, before)) {
            faults.push(format!("{}: `{word}`", file.at(*offset)));
        }
    }
    faults
}

/// Whether the word is declared here: after `let`, or as a parameter.
fn is_variable(code: &str, offset: usize, word: &str, before: &str) -> bool {
    let head = code[..offset].trim_end();
    if head.ends_with('.') || head.ends_with("::") {
        return false;
    }
    let after = code[offset + word.len()..].trim_start();
    let declared = VARIABLE_WORDS.contains(&before)
        || (before == "mut" && head.ends_with("mut") && !head.ends_with("&mut"));
    let parameter = after.starts_with(':')
        && !after.starts_with("::")
        && head.ends_with(['(', ','])
        && in_parentheses(head);
    let closure = head.ends_with('|') && after.starts_with(['|', ',']);
    declared || parameter || closure
}

/// Whether the innermost open bracket is a parenthesis.
fn in_parentheses(head: &str) -> bool {
    let mut depth = 0usize;
    for c in head.chars().rev() {
        match c {
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' if depth == 0 => return c == '(',
            '(' | '[' | '{' => depth -= 1,
            _ => {}
        }
    }
    false
}

#[test]
fn names_mean_one_thing() {
    let scripts = files_below("static").into_iter().filter(|file| is_script(&file.path));
    let all: Vec<_> = crate_files().into_iter().chain(scripts).collect();
    let rule = "session, user, data, info, manager and util name nothing of ours";
    assert_tidy(rule, &name_faults(&all));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        name_faults(&[Source::new("src/x.rs", text)]).len()
    }

    #[test]
    fn a_banned_name_of_ours_is_a_fault() {
        assert_eq!(faults("struct Session;"), 1);
        assert_eq!(faults("struct RelayManager;"), 1);
        assert_eq!(faults("mod util;"), 1);
        assert_eq!(faults("let data = 1;"), 1);
        assert_eq!(faults("let mut info = 1;"), 1);
        assert_eq!(faults("fn f(data: &[u8]) {}"), 1);
        assert_eq!(faults("fn f(a: u8, user: &str) {}"), 1);
        assert_eq!(faults("let f = |data| g(data);"), 1);
    }

    #[test]
    fn words_of_rfcs_and_libraries_stay() {
        assert_eq!(faults("enum Method { Data } const DATA: u16 = 0x0013;"), 0);
        assert_eq!(faults("struct FixedUser; struct ChannelData;"), 0);
        assert_eq!(faults("fn f(x: &mut Frame) { x.data(); g(event.data); }"), 0);
        assert_eq!(faults("info!(count, \"started\");"), 0);
        assert_eq!(faults("let x = Frame { data: 1 };"), 0);
    }
}
