//! Who may know whom: a room uses rooms of lower rows, never of higher ones, never of its own.

use crate::source::{Source, crate_files, matching, module_path, split_commas, words};
use crate::{Faults, assert_tidy};

/// From the top to the ground. `net` lies below the rest of the ground: addresses and prefixes are
/// what `metrics` and `telemetry` print.
const ROWS: [&[&str]; 10] = [
    &["main"],
    &["cli"],
    &["daemon"],
    &["relay", "web", "doctor"],
    &["edge"],
    &["turn", "signal"],
    &["stun", "credentials"],
    &["config", "tls", "acme"],
    &["metrics", "telemetry"],
    &["net"],
];

/// The only rooms that see `config`; every other one has plain options of its own.
const CONFIG_READERS: [&str; 3] = ["config", "daemon", "cli"];

/// A path that the code names, such as `crate::turn::Server`, and where.
pub(crate) struct NamedPath {
    pub(crate) offset: usize,
    pub(crate) path: String,
}

/// Every path of `code`: of `use` declarations with their braces spelled out, and within code.
pub(crate) fn named_paths(code: &str) -> Vec<NamedPath> {
    let (mut found, mut declared_until) = (Vec::new(), 0);
    for (offset, word) in words(code) {
        if offset < declared_until {
            continue;
        }
        if word == "use" && code[offset + 3..].starts_with(char::is_whitespace) {
            let end = code[offset..].find(';').map_or(code.len(), |at| offset + at);
            expand(offset + 4, "", &code[offset + 4..end], &mut found);
            declared_until = end;
        } else if !code[..offset].ends_with("::") {
            let mut path = word.to_owned();
            let mut rest = &code[offset + word.len()..];
            while let Some(next) = rest.strip_prefix("::") {
                let Some((0, segment)) = words(next).next() else { break };
                path = format!("{path}::{segment}");
                rest = &next[segment.len()..];
            }
            if path.contains("::") {
                found.push(NamedPath { offset, path });
            }
        }
    }
    found
}

fn expand(offset: usize, prefix: &str, tree: &str, found: &mut Vec<NamedPath>) {
    let trimmed = tree.trim();
    let offset = offset + tree.find(trimmed).unwrap_or_default();
    let opening = trimmed.find('{');
    if let Some(opening) = opening {
        let head = format!("{prefix}{}", &trimmed[..opening]);
        let closing = matching(trimmed, opening).unwrap_or(trimmed.len());
        for (at, part) in split_commas(&trimmed[opening + 1..closing]) {
            expand(offset + opening + 1 + at, &head, part, found);
        }
    } else {
        let name = trimmed.split(" as ").next().unwrap_or_default().trim();
        found.push(NamedPath { offset, path: format!("{prefix}{name}") });
    }
}

/// The rooms that a file names, with where it does.
fn rooms_named(file: &Source) -> Vec<(usize, String)> {
    let module = module_path(&file.path);
    let mut found = Vec::new();
    for NamedPath { offset, path } in named_paths(&file.code) {
        let mut segments = path.trim_start_matches("::").split("::").peekable();
        let first = *segments.peek().unwrap_or(&"");
        let from_root = match first {
            "crate" | "turncast" => {
                segments.next();
                true
            }
            "self" | "super" => {
                let mut depth = module.len() + inline_depth(&file.code, offset);
                while let Some(up) = segments.next_if(|part| matches!(*part, "self" | "super")) {
                    depth = depth.saturating_sub(usize::from(up == "super"));
                }
                depth == 0
            }
            _ => false,
        };
        if let (true, Some(room)) = (from_root, segments.next()) {
            found.push((offset, room.to_owned()));
        }
    }
    found
}

/// How many `mod name { .. }` of the file are open at `offset`.
fn inline_depth(code: &str, offset: usize) -> usize {
    let opens_around = |(at, word): (usize, &str)| {
        let opening = code[at..].find(['{', ';']).map(|found| at + found);
        word == "mod"
            && at < offset
            && opening.is_some_and(|opening| {
                code.as_bytes()[opening] == b'{'
                    && matching(code, opening).is_some_and(|closing| offset < closing)
            })
    };
    words(code).filter(|word| opens_around(*word)).count()
}

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|rooms| rooms.contains(&room))
}

fn import_faults(files: &[Source]) -> Faults {
    let mut faults = Faults::new();
    for file in files {
        let Some(room) = module_path(&file.path).into_iter().next() else { continue };
        let Some(own) = row(&room) else {
            faults.push(format!("{}: room `{room}` stands in no row", file.path));
            continue;
        };
        for (offset, named) in rooms_named(file) {
            let allowed = named == room || row(&named).is_none_or(|below| own < below);
            if !allowed {
                faults.push(format!("{}: `{room}` may not use `{named}`", file.at(offset)));
            } else if named == "config" && !CONFIG_READERS.contains(&room.as_str()) {
                faults.push(format!("{}: `config` stops at `daemon`", file.at(offset)));
            }
        }
    }
    faults
}

#[test]
fn imports_go_downwards() {
    assert_tidy("a room uses lower rows only", &import_faults(&crate_files()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Faults {
        import_faults(&[Source::new(path, text)])
    }

    #[test]
    fn an_import_upwards_or_sideways_is_a_fault() {
        assert_eq!(faults("src/turn/mod.rs", "use crate::signal::Hub;").len(), 1);
        assert_eq!(faults("src/turn/mod.rs", "use crate::{net::Now, relay};").len(), 1);
        assert_eq!(faults("src/relay/sys/io.rs", "fn f() { crate::web::g() }").len(), 1);
        assert_eq!(faults("src/net.rs", "use crate::telemetry::Addr;").len(), 1);
        assert_eq!(faults("src/turn/mod.rs", "use crate::{net::Now, stun};"), Faults::new());
        assert_eq!(faults("src/turn/table.rs", "use crate::turn::Limits;"), Faults::new());
    }

    #[test]
    fn a_detour_over_the_parents_is_seen() {
        assert_eq!(faults("src/turn/mod.rs", "use super::signal;").len(), 1);
        assert_eq!(faults("src/turn/method/x.rs", "use super::super::super::web;").len(), 1);
        assert_eq!(faults("src/turn/x.rs", "use super::signal;"), Faults::new());
        let inline = "mod tests { use super::super::web; }";
        assert_eq!(faults("src/turn/mod.rs", inline).len(), 1);
        assert_eq!(faults("src/turn/x.rs", inline), Faults::new());
    }

    #[test]
    fn config_is_seen_by_daemon_and_cli_only() {
        assert_eq!(faults("src/web/mod.rs", "use crate::config::Config;").len(), 1);
        assert_eq!(faults("src/main.rs", "use turncast::config;").len(), 1);
        assert_eq!(faults("src/daemon/mod.rs", "use crate::config::Config;"), Faults::new());
    }

    #[test]
    fn a_room_without_a_row_is_a_fault() {
        assert_eq!(faults("src/helpers.rs", "").len(), 1);
        assert_eq!(faults("src/lib.rs", "pub mod turn;"), Faults::new());
    }

    #[test]
    fn comments_and_literals_import_nothing() {
        let text = "// crate::web\nfn f() { g(\"crate::web\") }";
        assert_eq!(faults("src/turn/mod.rs", text), Faults::new());
    }
}
