//! Secrets, from the configuration itself, from files, or from systemd's credentials directory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::keys::Config;
use super::load::{Files, Findings};
use super::problem::Problem;
use super::values::prepared;
use crate::telemetry::Secret;

/// The text that stands for a secret in the example; refused everywhere.
pub(super) const EXAMPLE_SECRET: &str = "replace-this-secret";

/// A shorter secret gets a warning.
const SECRET_LEN_MIN: usize = 16;

/// The longest key for broadcasters; it travels in a link.
const KEY_LEN_MAX: usize = 128;

/// Every secret of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Shared secrets; the first signs, all verify.
    pub shared: Vec<Secret<String>>,
    /// Names and passwords of fixed users.
    pub users: Vec<(String, Secret<String>)>,
    /// Names and keys of those who may broadcast.
    pub broadcast_keys: Vec<(String, Secret<String>)>,
}

/// Reads and checks every secret.
pub(super) fn collect(config: &Config, files: &Files, findings: &mut Findings) -> Secrets {
    let secrets = Secrets {
        shared: shared(config, files, findings),
        users: users(config, files, findings),
        broadcast_keys: broadcast_keys(config, files, findings),
    };
    warn_of_inline(config, files, findings);
    let key_of_file = if findings.is_set("turn.shared_secret_file") {
        "turn.shared_secret_file"
    } else {
        "turn.shared_secret"
    };
    for secret in &secrets.shared {
        judge(secret, key_of_file, findings);
    }
    for (_, secret) in &secrets.users {
        judge(secret, "turn.users", findings);
    }
    for (_, secret) in &secrets.broadcast_keys {
        judge(secret, "broadcast.keys", findings);
    }
    secrets
}

fn shared(config: &Config, files: &Files, findings: &mut Findings) -> Vec<Secret<String>> {
    let key = "turn.shared_secret_file";
    let inline = &config.turn.shared_secret;
    let Some(path) = &config.turn.shared_secret_file else {
        let credential =
            files.credentials.as_ref().map(|directory| directory.join("shared_secret"));
        return match credential.filter(|path| inline.is_empty() && path.exists()) {
            Some(path) => lines(&path, "turn.shared_secret", findings),
            None => inline.to_vec(),
        };
    };
    if !inline.is_empty() {
        let problem = Problem::new("shared_secret is set too, so one of them would be ignored");
        findings.refuse(key, problem.help("keep one of the two keys"));
        return Vec::new();
    }
    lines(&files.locate(path), key, findings)
}

fn users(config: &Config, files: &Files, findings: &mut Findings) -> Vec<(String, Secret<String>)> {
    let key = "turn.users";
    let mut users: Vec<(String, Secret<String>)> = Vec::new();
    for entry in &config.turn.users {
        let name = entry.name.text();
        if users.iter().any(|(taken, _)| taken == name) {
            findings.refuse(key, Problem::new(format!("two users are called \"{name}\"")));
        }
        let digits = name.split(':').next().unwrap_or_default();
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            findings.refuse(
                key,
                Problem::new(format!("\"{name}\" begins as a time-limited credential does"))
                    .help("a fixed user's name must not be digits alone, or digits and a colon"),
            );
        }
        let given = (entry.password.as_ref(), entry.password_file.as_deref());
        let words = (name, "password", "password_file");
        let Some(secret) = one_of(given, words, key, files, findings) else { continue };
        match prepared(secret.expose()) {
            Ok(password) => users.push((name.to_owned(), Secret::new(password))),
            Err(why) => {
                let title = format!("the password of \"{name}\" cannot be used: {why}");
                findings.refuse(key, Problem::new(title));
            }
        }
    }
    users
}

fn broadcast_keys(
    config: &Config,
    files: &Files,
    findings: &mut Findings,
) -> Vec<(String, Secret<String>)> {
    let key = "broadcast.keys";
    let mut keys: Vec<(String, Secret<String>)> = Vec::new();
    for entry in &config.broadcast.keys {
        if entry.name.trim().is_empty() {
            findings.refuse(key, Problem::new("a key needs a name, which the log shows"));
        }
        if keys.iter().any(|(taken, _)| *taken == entry.name) {
            let title = format!("two keys are called \"{}\"", entry.name);
            findings.refuse(key, Problem::new(title));
        }
        let given = (entry.key.as_ref(), entry.key_file.as_deref());
        let words = (entry.name.as_str(), "key", "key_file");
        let Some(secret) = one_of(given, words, key, files, findings) else { continue };
        let in_link = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if secret.expose().len() > KEY_LEN_MAX || !secret.expose().bytes().all(in_link) {
            let title = format!("the key \"{}\" would not survive in a link", entry.name);
            let allowed = "allowed: 1 to 128 of a-z A-Z 0-9 - _";
            findings.refuse(key, Problem::new(title).help(allowed));
        }
        keys.push((entry.name.clone(), secret));
    }
    keys
}

/// The secret of an entry that may name a file instead; exactly one of the two must stand there.
fn one_of(
    (inline, file): (Option<&Secret<String>>, Option<&Path>),
    (name, inline_word, file_word): (&str, &str, &str),
    key: &str,
    files: &Files,
    findings: &mut Findings,
) -> Option<Secret<String>> {
    match (inline, file) {
        (Some(secret), None) => Some(secret.clone()),
        (None, Some(path)) => lines(&files.locate(path), key, findings).into_iter().next(),
        _ => {
            let title = format!("\"{name}\" needs one of {inline_word} and {file_word}");
            findings.refuse(key, Problem::new(title));
            None
        }
    }
}

/// The lines of a file that are not empty.
fn lines(path: &Path, key: &str, findings: &mut Findings) -> Vec<Secret<String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let title = format!("cannot read {}: {error}", path.display());
            findings.refuse(key, Problem::new(title));
            return Vec::new();
        }
    };
    warn_of_readers(path, key, findings);
    let secrets: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| Secret::new(line.to_owned()))
        .collect();
    if secrets.is_empty() {
        let title = format!("{} is empty", path.display());
        findings.refuse(key, Problem::new(title).help("a secret is a line of that file"));
    }
    secrets
}

fn judge(secret: &Secret<String>, key: &str, findings: &mut Findings) {
    let text = secret.expose();
    if text == EXAMPLE_SECRET {
        let problem = Problem::new("this is the secret of the example, which everybody knows");
        findings.refuse(key, problem.help("draw one of your own: openssl rand -base64 24"));
    } else if text.chars().count() < SECRET_LEN_MIN {
        let title = format!("a secret of less than {SECRET_LEN_MIN} characters can be guessed");
        findings.warn(key, Problem::new(title).help("draw a longer one: openssl rand -base64 24"));
    }
}

/// Warns when everybody may read a configuration that holds secrets itself.
fn warn_of_inline(config: &Config, files: &Files, findings: &mut Findings) {
    let Some(file) = &files.file else { return };
    let inline = [
        ("turn.shared_secret", !config.turn.shared_secret.is_empty()),
        ("turn.users", config.turn.users.iter().any(|entry| entry.password.is_some())),
        ("broadcast.keys", config.broadcast.keys.iter().any(|entry| entry.key.is_some())),
    ];
    if let Some((key, _)) = inline.iter().find(|(_, is_inline)| *is_inline) {
        warn_of_readers(file, key, findings);
    }
}

/// Warns when others than owner and group may read `path`.
fn warn_of_readers(path: &Path, key: &str, findings: &mut Findings) {
    let mode = path.metadata().map_or(0, |meta| meta.permissions().mode());
    if mode & 0o004 != 0 {
        let title = format!("everybody on this host can read {}", path.display());
        let help = "chmod o-r takes that away; or keep secrets in files of their own";
        findings.warn(key, Problem::new(title).help(help));
    }
}
