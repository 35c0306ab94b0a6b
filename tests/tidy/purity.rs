//! The state machines and the values below them are functions of what they are told: no clock, no
//! randomness, no I/O, no task, no global. And `unsafe` lives in one folder.

use crate::imports::{NamedPath, named_paths};
use crate::source::{Source, crate_files, files_below, module_path, test_only_modules, words};
use crate::{Faults, assert_tidy};

const PURE_ROOMS: [&str; 4] = ["turn", "signal", "stun", "credentials"];

/// A path is forbidden when one of these stands in it, as whole segments.
const FORBIDDEN_PATHS: [&str; 24] = [
    "Instant::now",
    "SystemTime",
    "UNIX_EPOCH",
    "Now::read",
    "rand",
    "thread_rng",
    "OsRng",
    "SystemRandom",
    "getrandom",
    "from_os_rng",
    "tokio",
    "socket2",
    "libc",
    "std::net::UdpSocket",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::os",
    "std::thread",
    "std::fs",
    "std::env",
    "std::process",
    "std::io",
    "std::sync::mpsc",
    "std::sync::Condvar",
];

/// Words that need no path to do harm.
const FORBIDDEN_WORDS: [&str; 11] = [
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "SystemTime",
    "SystemRandom",
    "OsRng",
    "elapsed",
    "block_on",
    "spawn",
    "thread_local",
    "interface_addresses",
];

/// What makes a `static` a global variable.
const INTERIOR_MUTABILITY: [&str; 8] =
    ["Atomic", "Mutex", "RwLock", "OnceLock", "LazyLock", "Cell", "Once", "mut "];

/// The syscall layer.
const UNSAFE_FOLDER: &str = "src/relay/sys";

fn stands_in(path: &str, forbidden: &str) -> bool {
    format!("::{path}::").contains(&format!("::{forbidden}::"))
}

fn purity_faults(files: &[Source]) -> Faults {
    let for_tests = test_only_modules(files);
    let mut faults = Faults::new();
    for file in files {
        let module = module_path(&file.path);
        let pure = module.first().is_some_and(|room| PURE_ROOMS.contains(&room.as_str()));
        if !pure || for_tests.iter().any(|test| module.starts_with(test)) {
            continue;
        }
        let code = file.production();
        for NamedPath { offset, path } in named_paths(&code) {
            if let Some(bad) = FORBIDDEN_PATHS.iter().find(|bad| stands_in(&path, bad)) {
                faults.push(format!("{}: `{path}` ({bad})", file.at(offset)));
            }
        }
        for (offset, word) in words(&code) {
            if FORBIDDEN_WORDS.contains(&word) {
                faults.push(format!("{}: `{word}`", file.at(offset)));
            }
            let item = word == "static" && !code[..offset].ends_with('\'');
            if item && is_global(&code[offset..]) {
                faults.push(format!("{}: a global variable", file.at(offset)));
            }
        }
    }
    faults
}

/// Whether the item that starts with the word `static` can change while the program runs.
fn is_global(item: &str) -> bool {
    let declared = item.split(['=', ';']).next().unwrap_or_default();
    INTERIOR_MUTABILITY.iter().any(|word| declared.contains(word))
}

fn unsafe_faults(files: &[Source]) -> Faults {
    let mut faults = Faults::new();
    for file in files {
        let allowed = file.path.starts_with(UNSAFE_FOLDER);
        for (offset, word) in words(&file.code) {
            if word != "unsafe" {
                continue;
            }
            if !allowed {
                faults.push(format!("{}: `unsafe` outside {UNSAFE_FOLDER}/", file.at(offset)));
            } else if !is_justified(file, offset) {
                faults.push(format!("{}: `unsafe` without a `SAFETY:` line", file.at(offset)));
            }
        }
    }
    faults
}

/// Whether the comment above the statement that contains `offset` says why it is sound.
fn is_justified(file: &Source, offset: usize) -> bool {
    let lines: Vec<(&str, &str)> = file.text.lines().zip(file.code.lines()).collect();
    let own = file.line(offset) - 1;
    let says = |index: usize| {
        let text = lines[index].0;
        text.contains("// SAFETY:") || text.contains("/// # Safety")
    };
    if says(own) {
        return true;
    }
    for index in (0..own).rev() {
        if says(index) {
            return true;
        }
        let (text, code) = (lines[index].0.trim(), lines[index].1.trim());
        let is_comment = text.starts_with("//");
        let ends_a_statement = code.ends_with([';', '{', '}']) || text.is_empty();
        if !is_comment && ends_a_statement {
            return false;
        }
    }
    false
}

#[test]
fn state_machines_are_pure() {
    let faults = purity_faults(&crate_files());
    assert_tidy("turn, signal, stun and credentials are told what they need to know", &faults);
}

#[test]
fn unsafe_code_lives_in_the_syscall_layer_and_says_why() {
    let mut files = crate_files();
    files.extend(files_below("tests").into_iter().filter(|file| file.path.ends_with(".rs")));
    assert_tidy("unsafe code", &unsafe_faults(&files));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impure(text: &str) -> usize {
        purity_faults(&[Source::new("src/turn/x.rs", text)]).len()
    }

    #[test]
    fn a_clock_a_random_number_or_a_socket_is_a_fault() {
        assert_ne!(impure("fn f() { Instant::now(); }"), 0);
        assert_ne!(impure("fn f() { std::time::Instant::now(); }"), 0);
        assert_ne!(impure("use crate::net::Now; fn f() { Now::read(); }"), 0);
        assert_ne!(impure("use std::{fs, io};"), 0);
        assert_ne!(impure("use rand::Rng;"), 0);
        assert_ne!(impure("use ring::rand::SystemRandom;"), 0);
        assert_ne!(impure("fn f() { tokio::spawn(g()); }"), 0);
        assert_ne!(impure("fn f(start: Instant) { start.elapsed(); }"), 0);
        assert_ne!(impure("use std::net::{IpAddr, UdpSocket};"), 0);
        assert_ne!(impure("fn f() { std::env::var(NAME); }"), 0);
        assert_eq!(impure("use std::time::{Duration, Instant}; fn f(now: Instant) {}"), 0);
        assert_eq!(impure("use std::net::{IpAddr, SocketAddr}; use rand_chacha::ChaCha20Rng;"), 0);
    }

    #[test]
    fn a_global_is_a_fault() {
        assert_ne!(impure("static COUNT: AtomicU64 = AtomicU64::new(0);"), 0);
        assert_ne!(impure("static mut COUNT: u64 = 0;"), 0);
        assert_ne!(impure("static TABLE: LazyLock<Vec<u8>> = LazyLock::new(Vec::new);"), 0);
        assert_eq!(impure("static TABLE: [u8; 2] = [1, 2]; fn f(x: &'static Mutex<u8>) {}"), 0);
    }

    #[test]
    fn tests_may_read_the_clock() {
        let text = "#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }";
        assert_eq!(impure(text), 0);
        let parent = Source::new("src/turn/mod.rs", "#[cfg(test)]\nmod x;");
        let clock = || Source::new("src/turn/x.rs", "fn f() { Instant::now(); }");
        assert_eq!(purity_faults(&[parent, clock()]), Faults::new());
        assert_eq!(purity_faults(&[clock()]).len(), 1);
    }

    #[test]
    fn other_rooms_do_io() {
        let file = Source::new("src/relay/x.rs", "fn f() { Instant::now(); }");
        assert_eq!(purity_faults(&[file]), Faults::new());
    }

    #[test]
    fn unsafe_elsewhere_or_unexplained_is_a_fault() {
        let check = |path: &str, text: &str| unsafe_faults(&[Source::new(path, text)]).len();
        let explained = "// SAFETY: the buffer lives.\nlet x =\n    unsafe { f() };";
        assert_eq!(check("src/relay/sys/io.rs", explained), 0);
        assert_eq!(check("src/relay/udp.rs", explained), 1);
        assert_eq!(check("src/relay/sys/io.rs", "let x = unsafe { f() };"), 1);
        let stale = "// SAFETY: the buffer lives.\nlet x = unsafe { f() };\nunsafe { g() };";
        assert_eq!(check("src/relay/sys/io.rs", stale), 1);
        assert_eq!(check("src/web/x.rs", "#![deny(unsafe_code)] // unsafe"), 0);
    }
}
