//! The results as `README.md` has them: a row for each figure that a cell is about.

use std::path::Path;

use crate::report::{Results, Spread};
use crate::target::{EXTERNAL, NAMES};

/// A page that grows with each cell.
pub(crate) struct Page {
    text: String,
    servers: Vec<&'static str>,
}

impl Page {
    /// The head of the table, below one line that says what the figures depend on.
    pub(crate) fn new(conditions: &str, external: bool) -> Self {
        let there = |name: &&str| external || *name != EXTERNAL;
        let servers: Vec<_> = NAMES.into_iter().filter(there).collect();
        let columns = servers.len() + 3;
        let head = format!("| cell | figure | {} | goals |", servers.join(" | "));
        let text = format!("{conditions}\n\n{head}\n{}|\n", "|---".repeat(columns));
        Self { text, servers }
    }

    /// Adds the rows of a cell.
    pub(crate) fn add(&mut self, results: &Results) {
        for figure in results.keys() {
            let of = |server: &&'static str| {
                Spread::of(results.runs(server, figure)).map_or(String::new(), written)
            };
            let figures: Vec<String> = self.servers.iter().map(of).collect();
            let goals = results.goals.iter().filter(|goal| goal.figure == figure);
            let goals = goals.filter_map(|goal| {
                let (words, found, reached) = results.verdict(goal)?;
                let words = words.strip_prefix(figure).unwrap_or(&words);
                let words = words.trim_start_matches([':', ' ']);
                let not = if reached { "" } else { ", **not reached**" };
                Some(format!("{words}: {}{not}", written(found)))
            });
            let goals: Vec<String> = goals.collect();
            let (cell, figures, goals) = (&results.cell, figures.join(" | "), goals.join("; "));
            self.text += &format!("| {cell} | {figure} | {figures} | {goals} |\n");
        }
    }

    /// Writes what there is so far.
    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, &self.text).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    }
}

/// Median and quartiles, with as many digits as mean something.
fn written(Spread { low, median, high }: Spread) -> String {
    let digits = if median.abs() < 9.995 { 2 } else { usize::from(median.abs() < 99.95) };
    if low == high {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({low:.digits$}-{high:.digits$})")
}

/// Fails if a row is not what the samples say; a part of `cargo test`.
pub(crate) fn check() {
    let results = crate::report::example();
    let mut page = Page::new("conditions", false);
    page.add(&results);
    let expected = "conditions\n\n\
        | cell | figure | turncast | coturn | epoll | mmsg | segmented | goals |\n\
        |---|---|---|---|---|---|---|---|\n\
        | a cell | cost | 3.00 (1.75-5.00) |  | 9.00 | 3.50 (2.75-4.00) |  | \
        mmsg / turncast >= 1.5: 1.25 (0.88-1.62), **not reached**; <= 3: 3.00 (1.75-5.00) |\n";
    assert_eq!(page.text, expected);
}
