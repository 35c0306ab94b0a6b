//! Whatever can be counted is counted: a value of a label that no code names stays zero for ever,
//! and an operator who watches it is told that all is well.

use crate::source::{
    Source, crate_files, is_word, matching, module_path, test_only_modules, words,
};
use crate::{Faults, assert_tidy};

const LABELS: &str = "src/metrics/labels.rs";

/// The closed labels that a file defines: `label! { Name, "key" { Value => "text", } }`.
fn labels(file: &Source) -> Vec<(String, Vec<String>)> {
    let code = file.production();
    let mut found = Vec::new();
    for (start, _) in code.match_indices("label! {") {
        let Some(end) = matching(&code, start + "label! ".len()) else { continue };
        let block = &code[start + "label! {".len()..end];
        let mut names = words(block);
        let Some((_, name)) = names.next() else { continue };
        let is_value = |(at, word): &(usize, &str)| block[at + word.len()..].starts_with(" =>");
        let values = names.filter(is_value).map(|(_, word)| word.to_owned()).collect();
        found.push((name.to_owned(), values));
    }
    found
}

/// Whether one of `codes` says `Name::Value`, or the table of refusals has `= Value 400`.
fn is_named(name: &str, value: &str, codes: &[String]) -> bool {
    codes.iter().any(|code| {
        let alias =
            code.split_once(&format!("{name} as ")).and_then(|(_, rest)| words(rest).next());
        let mut names = [Some(name), alias.map(|(_, alias)| alias)].into_iter().flatten();
        let of = |name: &str| {
            let full = format!("{name}::{value}");
            code.match_indices(&full).any(|(at, _)| {
                !code[..at].ends_with(is_word) && !code[at + full.len()..].starts_with(is_word)
            })
        };
        let refused = format!("= {value} ");
        let is_number = |(_, rest): (&str, &str)| rest.starts_with(|c: char| c.is_ascii_digit());
        names.any(of) || (name == "Code" && code.split_once(&refused).is_some_and(is_number))
    })
}

fn label_faults(file: &Source, codes: &[String]) -> Faults {
    let mut faults = Faults::new();
    for (name, values) in labels(file) {
        for value in values.iter().filter(|value| !is_named(&name, value, codes)) {
            faults.push(format!("{}: nobody counts {name}::{value}", file.path));
        }
    }
    faults
}

#[test]
fn every_value_of_a_label_is_counted_somewhere() {
    let files = crate_files();
    let tests = test_only_modules(&files);
    let is_test = |file: &&Source| tests.iter().any(|m| module_path(&file.path).starts_with(m));
    let others = files.iter().filter(|file| file.path != LABELS && !is_test(file));
    let codes: Vec<String> = others.map(Source::production).collect();
    let file = files.iter().find(|file| file.path == LABELS).expect("the labels");
    assert!(labels(file).len() > 10, "the labels were not found");
    assert_tidy("what is never counted is no label", &label_faults(file, &codes));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "label! {\n    Code, \"code\" {\n        /// One.\n        \
                       One => \"1\",\n        Two => \"2\",\n    }\n}\n";

    fn faults(code: &str) -> Faults {
        label_faults(&Source::new(LABELS, TWO), &[Source::new("src/x.rs", code).production()])
    }

    #[test]
    fn a_value_that_nobody_names_is_a_fault() {
        let none = Faults::new();
        assert_eq!(faults("fn x() { m.count(Code::One); m.count(Code::Two) }"), none);
        assert_eq!(faults("use m::Code as C; fn x() { [C::One, C::Two] }"), none);
        assert_eq!(faults("reasons! { Bad = One 401, \"x\"; Worse = Two 402, \"y\"; }"), none);
        assert_eq!(faults("fn x() { m.count(Code::One); m.count(Other::Two) }").len(), 1);
        assert_eq!(faults("// Code::Two\nfn x() { m.count(Code::One, \"Code::Two\") }").len(), 1);
        let tests = "fn x() { Code::One }\n#[cfg(test)]\nmod tests { fn y() { Code::Two } }\n";
        assert_eq!(faults(tests).len(), 1);
    }
}
