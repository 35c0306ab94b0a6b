//! What is wrong with a configuration, as a person reads it: file, line, column, the key, what is
//! allowed there, and the likely fix.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// A text that keys were read from: the file, or a variable of the environment.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// The path of the file, or the name of the variable.
    pub(super) name: String,
    /// What stands there.
    pub(super) text: String,
}

/// A place in a source.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Which source.
    pub(super) source: usize,
    /// Which bytes of it.
    pub(super) span: Range<usize>,
}

/// One thing that is wrong, or worth a warning.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// The sentence.
    pub(super) title: String,
    /// Where; a default has no place.
    pub(super) place: Option<Place>,
    /// What stands beside the place.
    pub(super) label: String,
    /// What to do.
    pub(super) help: Option<String>,
    /// The value at this place is a secret: its line is not shown.
    pub(super) is_secret: bool,
    /// The place is a key that nobody knows: what follows may be a secret, and is not shown.
    pub(super) is_unknown: bool,
}

impl Problem {
    /// A problem that is told in one sentence.
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            place: None,
            label: String::new(),
            help: None,
            is_secret: false,
            is_unknown: false,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The problem as text, `level` being `ERROR` or `WARNING`, without a newline at the end.
    pub(super) fn render(&self, level: Level<'_>, sources: &[Source]) -> String {
        let title = wrapped(&self.title);
        let help = self.help.as_deref().map(wrapped);
        let mut group = Group::with_title(level.primary_title(title.as_str()));
        let place = self.place.as_ref().and_then(|place| Some((sources.get(place.source)?, place)));
        if let Some((source, place)) = place {
            let (line, column) = line_and_column(&source.text, place.span.start);
            if self.is_secret || has_neighbours(&source.text, place.span.start) {
                // A line with a secret is named and never quoted.
                let place = Origin::path(source.name.as_str()).line(line).char_column(column);
                group = group.element(place);
                if !self.label.is_empty() {
                    group = group.element(Level::NOTE.message(self.label.as_str()));
                }
            } else {
                let kind = AnnotationKind::Primary.span(visible(&source.text, &place.span));
                let annotation =
                    if self.label.is_empty() { kind } else { kind.label(self.label.as_str()) };
                let end = if self.is_unknown { place.span.end } else { source.text.len() };
                let snippet = Snippet::source(source.text.get(..end).unwrap_or_default())
                    .path(source.name.as_str())
                    .annotation(annotation);
                group = group.element(snippet);
            }
        } else if !self.label.is_empty() {
            group = group.element(Level::NOTE.message(self.label.as_str()));
        }
        if let Some(help) = &help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        Renderer::plain().render(&[group])
    }

    /// The problem in one line: place, sentence, what to do.
    pub(super) fn line(&self, sources: &[Source]) -> String {
        let place = self.place.as_ref().and_then(|place| Some((sources.get(place.source)?, place)));
        let place = place.map_or_else(String::new, |(source, place)| {
            let (line, column) = line_and_column(&source.text, place.span.start);
            format!("{}:{line}:{column}: ", source.name)
        });
        let help = self.help.as_ref().map_or_else(String::new, |help| format!("; {help}"));
        format!("{place}{}{help}", self.title)
    }
}

/// `text` in lines that have room for what stands before them on a terminal of 80 columns.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| {
            line.is_empty() || line.chars().count() + 1 + word.chars().count() <= COLUMNS
        });
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// A terminal's 80, less `warning: ` or ` = help: `.
const COLUMNS: usize = 71;

/// The span cut to its first line, so that a multi-line value is not painted all over.
fn visible(text: &str, span: &Range<usize>) -> Range<usize> {
    let end = span.end.min(text.len());
    let start = span.start.min(end);
    let first_line = text.get(start..end).and_then(|shown| shown.split('\n').next());
    start..start + first_line.map_or(0, str::len)
}

/// Whether the line at `offset` holds a table of several keys, of which any may be a secret.
fn has_neighbours(text: &str, offset: usize) -> bool {
    let start = text.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    text[start..].lines().next().is_some_and(|line| line.contains('{'))
}

/// Line and column, both counted from 1, the column in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Whether what stands at `offset` could be a secret, judged by the last key before it: a syntax
/// error must not print the password that lacks a quote.
pub(super) fn may_be_secret(text: &str, offset: usize) -> bool {
    let before = text.get(..offset).unwrap_or(text);
    let line_end =
        text.get(offset..).and_then(|rest| rest.find('\n')).map_or(text.len(), |n| offset + n);
    let with_line = text.get(..line_end).unwrap_or(before);
    let secret = |line: &str| {
        ["secret", "password", "key"].iter().any(|word| line.to_ascii_lowercase().contains(word))
    };
    for line in with_line.lines().rev() {
        if secret(line) {
            return true;
        }
        if line.contains('=') || line.trim_start().starts_with('[') {
            return false;
        }
    }
    false
}

/// The one of `candidates` that `text` was most likely meant to be.
pub(super) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let bound = (text.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(text, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two texts.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_word_finds_its_neighbour() {
        let words = ["realm", "relay_ports", "users"];
        assert_eq!(nearest("relam", words), Some("realm"));
        assert_eq!(nearest("relay_port", words), Some("relay_ports"));
        assert_eq!(nearest("user", words), Some("users"));
        assert_eq!(nearest("certificate", words), None);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "acb"), 1);
    }

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        assert_eq!(line_and_column("a\nbü x", 5), (2, 3));
        assert_eq!(line_and_column("", 0), (1, 1));
        assert_eq!(line_and_column("ab", 99), (1, 3));
    }

    #[test]
    fn what_follows_a_secret_key_may_be_a_secret() {
        let text = "[turn]\nrealm = \"x\nshared_secret = [\n\"abc,\n]\n";
        let at = |needle: &str| text.find(needle).expect("it is there");
        assert!(!may_be_secret(text, at("\"x")));
        assert!(may_be_secret(text, at("\"abc")));
        assert!(may_be_secret(text, at("shared")));
    }
}
