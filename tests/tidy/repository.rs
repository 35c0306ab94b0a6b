//! The repository as a whole: the map is true, the pages name no other host, what must be there is
//! there, and lock files know the public registries only.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::source::{files_below, root};
use crate::{Faults, assert_tidy};

const MAP: &str = "src/README.md";

/// The text between single backticks outside of code blocks.
fn code_spans(markdown: &str) -> Vec<&str> {
    let mut spans = Vec::new();
    for prose in markdown.split("```").step_by(2) {
        for line in prose.lines() {
            spans.extend(line.split('`').skip(1).step_by(2));
        }
    }
    spans
}

/// Whether a span is the path of a file or folder rather than code.
fn is_path(span: &str) -> bool {
    let known = [".rs", ".md", ".toml", ".js", ".css", ".html", ".service", ".yml"];
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    span.starts_with(|c: char| c.is_ascii_lowercase() || c == '.')
        && span.chars().all(plain)
        && (span.contains('/') || known.iter().any(|ending| span.ends_with(ending)))
}

/// `exists` is asked for a path relative to the root.
fn map_faults(map: &str, folders: &BTreeSet<String>, exists: &dyn Fn(&str) -> bool) -> Faults {
    let paths: BTreeSet<&str> = code_spans(map).into_iter().filter(|span| is_path(span)).collect();
    let unnamed = folders
        .iter()
        .filter(|folder| !paths.contains(format!("{folder}/").as_str()))
        .map(|folder| format!("{MAP} does not name `{folder}/`"));
    let missing = paths
        .iter()
        .filter(|path| !exists(&format!("src/{path}")) && !exists(path))
        .map(|path| format!("{MAP} names `{path}`, which does not exist"));
    unnamed.chain(missing).collect()
}

/// The folders of `src/`, relative to it.
fn folders() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in files_below("src") {
        let inner = file.path.trim_start_matches("src/").to_owned();
        found.extend(Path::new(&inner).ancestors().skip(1).map(|f| f.to_string_lossy().into()));
    }
    found.remove("");
    found
}

/// Hosts that `text` names in addresses. The name of the SVG language only looks like one.
fn foreign_hosts(text: &str) -> Vec<&str> {
    const OWN: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
    const SVG: &str = "www.w3.org/2000/svg";
    let mut hosts = Vec::new();
    for (mark, scheme) in [("://", true), ("\"//", false), ("'//", false), ("(//", false)] {
        for (offset, _) in text.match_indices(mark) {
            let rest = &text[offset + mark.len()..];
            let host = rest.split(|c: char| !(c.is_alphanumeric() || ".-[:]".contains(c)));
            let host = host.clone().next().unwrap_or_default();
            let own = OWN.iter().any(|own| host.starts_with(own)) || rest.starts_with(SVG);
            if host.starts_with(|c: char| c.is_alphanumeric() || c == '[') && !own {
                hosts.push(if scheme { host } else { rest.split('/').next().unwrap_or(host) });
            }
        }
    }
    hosts
}

fn lock_faults(path: &str, text: &str) -> Faults {
    const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let bad = |line: &&str| {
        let foreign_source = line.starts_with("source = ") && *line != REGISTRY;
        foreign_source || line.contains("\"resolved\"") || line.contains("registry=")
    };
    text.lines().filter(bad).map(|line| format!("{path}: {}", line.trim())).collect()
}

#[test]
fn the_map_is_true() {
    let map = fs::read_to_string(root().join(MAP)).expect("the map of the code");
    let exists = |path: &str| root().join(path).exists();
    assert_tidy("src/README.md is the map", &map_faults(&map, &folders(), &exists));
}

#[test]
fn pages_name_no_other_host() {
    let mut faults = Faults::new();
    for file in files_below("static") {
        let hosts = foreign_hosts(&file.text);
        faults.extend(hosts.iter().map(|host| format!("{}: {host}", file.path)));
    }
    assert_tidy("pages name no other host", &faults);
}

#[test]
fn what_a_reader_looks_for_is_there() {
    let expected = [
        "README.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        ".github/SECURITY.md",
        ".github/CONTRIBUTING.md",
        "systemd/turncast.service",
        "Cargo.lock",
        ".ci/run",
        "tests/run",
    ];
    let missing = expected.into_iter().filter(|path| !root().join(path).exists());
    assert_tidy("files that must exist", &missing.map(str::to_owned).collect());
    let changes = fs::read_to_string(root().join("CHANGELOG.md")).expect("a change log");
    assert!(changes.contains(env!("CARGO_PKG_VERSION")) || changes.contains("## Unreleased"));
}

#[test]
fn lock_files_know_the_public_registries_only() {
    let lock = |path: &str| {
        path.ends_with("Cargo.lock")
            || path.ends_with("package-lock.json")
            || path.ends_with(".npmrc")
    };
    let mut faults = Faults::new();
    let files: Vec<_> = files_below("").into_iter().filter(|file| lock(&file.path)).collect();
    assert!(!files.is_empty(), "no lock file was found");
    for file in files {
        faults.extend(lock_faults(&file.path, &file.text));
    }
    assert_tidy("lock files carry no addresses of mirrors", &faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_folder_and_a_dead_path_are_faults() {
        let folders = BTreeSet::from(["turn".to_owned(), "turn/method".to_owned()]);
        let exists = |path: &str| ["src/turn/", "src/net.rs", "tests/run"].contains(&path);
        let map = "`turn/`, `net.rs`, `tests/run`, `PUBLIC/LOCAL`, `/ws`\n```\n`gone/`\n```\n";
        assert_eq!(
            map_faults(map, &folders, &exists),
            ["src/README.md does not name `turn/method/`"]
        );
        let dead = map_faults("`turn/` `turn/method/` `gone.rs`", &folders, &exists);
        assert_eq!(dead.len(), 2, "{dead:?}");
    }

    #[test]
    fn another_host_is_a_fault() {
        assert_eq!(foreign_hosts("fetch('https://example.org/x')"), ["example.org"]);
        assert_eq!(foreign_hosts("url(//cdn.example.org/x)"), ["cdn.example.org"]);
        assert_eq!(foreign_hosts("<script src=\"//cdn.example.org\">").len(), 1);
        assert_eq!(foreign_hosts("new WebSocket(`wss://${location.host}/ws`)").len(), 0);
        assert_eq!(foreign_hosts("xmlns=\"http://www.w3.org/2000/svg\"").len(), 0);
        assert_eq!(foreign_hosts("http://localhost:8080 // a comment").len(), 0);
    }

    #[test]
    fn a_mirror_in_a_lock_file_is_a_fault() {
        let good = "source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        assert_eq!(lock_faults("Cargo.lock", good), Faults::new());
        assert_eq!(lock_faults("Cargo.lock", "source = \"sparse+https://mirror/\"").len(), 1);
        assert_eq!(lock_faults("package-lock.json", " \"resolved\": \"x\",").len(), 1);
        assert_eq!(lock_faults(".npmrc", "registry=x").len(), 1);
    }
}
