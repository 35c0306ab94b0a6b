//! Medians, spreads, ratios: a table for people, a line of JSON for each cell and server.

use serde_json::{Map, Value, json};

use crate::cells::Sample;
use crate::target::OWN;

/// What a cell shall show of our daemon.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    pub(crate) figure: &'static str,
    bound: Bound,
}

#[derive(Debug, Clone)]
enum Bound {
    /// The best of these costs at least so many times as much as we do.
    Ratio(&'static [&'static str], f64),
    Most(f64),
    Least(f64),
    /// Nothing; it is worth a place in the tables.
    Told,
    /// At most `times` the best of these, and `plus`; run by run.
    Within(&'static [&'static str], f64, f64),
}

impl Goal {
    pub(crate) fn ratio(
        figure: &'static str,
        against: &'static [&'static str],
        least: f64,
    ) -> Self {
        Self { figure, bound: Bound::Ratio(against, least) }
    }

    pub(crate) fn most(figure: &'static str, most: f64) -> Self {
        Self { figure, bound: Bound::Most(most) }
    }

    pub(crate) fn least(figure: &'static str, least: f64) -> Self {
        Self { figure, bound: Bound::Least(least) }
    }

    pub(crate) fn told(figure: &'static str) -> Self {
        Self { figure, bound: Bound::Told }
    }

    pub(crate) fn within(
        figure: &'static str,
        against: &'static [&'static str],
        times: f64,
        plus: f64,
    ) -> Self {
        Self { figure, bound: Bound::Within(against, times, plus) }
    }
}

/// All runs of a cell: for each server its samples, in the order of the runs.
pub(crate) struct Results {
    pub(crate) cell: String,
    pub(crate) goals: Vec<Goal>,
    pub(crate) samples: Vec<(&'static str, Vec<Sample>)>,
}

/// Median and quartiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        // Between two values, in proportion.
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Self { low: at(0.25), median: at(0.5), high: at(0.75) })
    }
}

impl Results {
    /// What the cell is about: its first figure, and those that have a goal.
    pub(crate) fn keys(&self) -> Vec<&'static str> {
        let first = self.samples.iter().find_map(|(_, runs)| runs.first()?.first());
        let mut keys: Vec<_> = first.map(|(figure, _)| *figure).into_iter().collect();
        for goal in &self.goals {
            if !keys.contains(&goal.figure) {
                keys.push(goal.figure);
            }
        }
        keys
    }

    /// The figure of a server, run by run.
    pub(crate) fn runs(&self, server: &str, figure: &str) -> Vec<f64> {
        let samples = self.samples.iter().find(|(name, _)| *name == server);
        let value = |sample: &Sample| {
            sample.iter().find(|(name, _)| *name == figure).map(|(_, value)| *value)
        };
        samples.map_or(Vec::new(), |(_, runs)| runs.iter().filter_map(value).collect())
    }

    /// The one of `servers` with the least median, and its runs.
    fn best(&self, servers: &[&'static str], figure: &str) -> Option<(&'static str, Vec<f64>)> {
        let median = |runs: &[f64]| Spread::of(runs.to_vec()).map_or(f64::MAX, |it| it.median);
        let all = servers.iter().map(|server| (*server, self.runs(server, figure)));
        let there = all.filter(|(_, runs)| !runs.is_empty());
        there.min_by(|(_, one), (_, other)| median(one).total_cmp(&median(other)))
    }

    /// The goal in words, what was found, and whether that is enough.
    pub(crate) fn verdict(&self, goal: &Goal) -> Option<(String, Spread, bool)> {
        let figure = goal.figure;
        let own = self.runs(OWN, figure);
        let found = Spread::of(own.clone())?;
        Some(match &goal.bound {
            Bound::Ratio(against, least) => {
                let (name, theirs) = self.best(against, figure)?;
                // Run by run, so that what slows all of them down cancels out.
                let ratios = theirs.iter().zip(&own).map(|(theirs, own)| theirs / own);
                let ratio = Spread::of(ratios.collect())?;
                (format!("{figure}: {name} / {OWN} >= {least}"), ratio, ratio.median >= *least)
            }
            Bound::Most(most) => (format!("{figure} <= {most}"), found, found.median <= *most),
            Bound::Least(least) => (format!("{figure} >= {least}"), found, found.median >= *least),
            Bound::Within(against, times, plus) => {
                let (name, theirs) = self.best(against, figure)?;
                let more = theirs.iter().zip(&own).map(|(theirs, own)| own - times * theirs);
                let more = Spread::of(more.collect())?;
                let most = times * Spread::of(theirs)?.median + plus;
                let words = format!("{figure} <= {times} x {name} + {plus} = {most:.1}");
                (words, found, more.median <= *plus)
            }
            Bound::Told => return None,
        })
    }

    /// The table of this cell.
    pub(crate) fn table(&self) -> String {
        let runs = self.samples.iter().map(|(_, runs)| runs.len()).max().unwrap_or(0);
        let mut text = format!("\n{} (median of {runs}, quartiles)\n", self.cell);
        let Some(first) = self.samples.iter().find_map(|(_, runs)| runs.first()) else {
            return text;
        };
        let keys = self.keys();
        text += &format!("  {:<10}", "");
        for (figure, _) in first {
            text += &format!("{figure:>15}");
            if keys.contains(figure) {
                text += &" ".repeat(17);
            }
        }
        text.push('\n');
        for (server, _) in &self.samples {
            text += &format!("  {server:<10}");
            for (figure, _) in first {
                let Some(spread) = Spread::of(self.runs(server, figure)) else { continue };
                text += &format!("{:>15.2}", spread.median);
                if keys.contains(figure) {
                    let quartiles = format!("({:.2} - {:.2})", spread.low, spread.high);
                    text += &format!(" {quartiles:<16}");
                }
            }
            text.push('\n');
        }
        for (words, found, good) in self.goals.iter().filter_map(|goal| self.verdict(goal)) {
            let Spread { low, median, high } = found;
            let verdict = if good { "reached" } else { "not reached" };
            text += &format!("  {words}: {median:.2} ({low:.2} - {high:.2}), {verdict}\n");
        }
        text
    }

    /// A line for each server.
    pub(crate) fn json(&self) -> Vec<String> {
        let line = |(server, runs): &(&'static str, Vec<Sample>)| {
            let mut figures = Map::new();
            for (figure, _) in runs.first().into_iter().flatten() {
                let all = self.runs(server, figure);
                if let Some(Spread { low, median, high }) = Spread::of(all.clone()) {
                    let value = json!({"median": median, "q1": low, "q3": high, "runs": all});
                    figures.insert((*figure).to_owned(), value);
                }
            }
            let mut line = json!({"cell": self.cell, "server": server, "figures": figures});
            if *server == OWN {
                let goals = self.goals.iter().filter_map(|goal| self.verdict(goal));
                line["goals"] = goals
                    .map(|(goal, found, reached)| {
                        json!({"goal": goal, "found": found.median, "reached": reached})
                    })
                    .collect::<Value>();
            }
            line.to_string()
        };
        self.samples.iter().map(line).collect()
    }
}

/// Four runs of three servers, for the checks of `cargo test`.
pub(crate) fn example() -> Results {
    let runs = |costs: [f64; 4]| costs.map(|cost| vec![("cost", cost)]).to_vec();
    let samples = vec![
        (OWN, runs([2.0, 4.0, 8.0, 1.0])),
        ("mmsg", runs([3.0, 4.0, 4.0, 2.0])),
        ("epoll", runs([9.0, 9.0, 9.0, 9.0])),
    ];
    let goals = vec![Goal::ratio("cost", &["mmsg"], 1.5), Goal::most("cost", 3.0)];
    Results { cell: "a cell".to_owned(), goals, samples }
}

/// Fails if medians, ratios or verdicts are not what they are called; a part of `cargo test`.
pub(crate) fn check() {
    let results = example();
    // 0.5, 1, 1.5, 2: run by run, against the better of the two.
    let ratio = |least| Goal::ratio("cost", &["epoll", "mmsg"], least);
    for (goal, median, reached) in [
        (ratio(1.25), 1.25, true),
        (ratio(1.26), 1.25, false),
        (Goal::most("cost", 3.0), 3.0, true),
        (Goal::least("cost", 3.5), 3.0, false),
        (Goal::within("cost", &["mmsg"], 1.0, -1.0), 3.0, false),
        (Goal::within("cost", &["mmsg"], 1.0, -0.5), 3.0, true),
    ] {
        let (words, found, verdict) = results.verdict(&goal).expect("all of it is there");
        assert_eq!((found.median, verdict), (median, reached), "{words}");
    }
    assert!(results.verdict(&Goal::ratio("cost", &["coturn"], 1.0)).is_none());
}
