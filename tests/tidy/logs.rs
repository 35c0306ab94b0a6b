//! A log line is a constant sentence with fields of a closed vocabulary, so that it can be searched
//! for and so that no address or secret slips in through a format string.

use crate::source::{Source, crate_files, is_word, matching, split_commas, words};
use crate::{Faults, assert_tidy};

const MACROS: [&str; 10] = [
    "error",
    "warn",
    "info",
    "debug",
    "trace",
    "event",
    "span",
    "error_span",
    "info_span",
    "debug_span",
];

const FIELDS: [&str; 19] = [
    "client",
    "peer",
    "relayed",
    "username",
    "method",
    "code",
    "why",
    "room",
    "conn",
    "member",
    "listener",
    "err",
    "elapsed_ms",
    "bytes",
    "count",
    // Of certificates: SHA-256, what is likely the matter, and seconds since 1970.
    "fingerprint",
    "likely",
    "next_try",
    "renew_at",
];

fn log_faults(file: &Source) -> Faults {
    let code = file.production();
    let mut faults = Faults::new();
    for (offset, word) in words(&code) {
        let after = offset + word.len();
        if !MACROS.contains(&word) || !code[after..].starts_with("!(") {
            continue;
        }
        let Some(end) = matching(&code, after + 1) else { continue };
        let arguments = after + 2;
        let mut message = false;
        for (at, part) in split_commas(&code[arguments..end]) {
            let start = arguments + at + (part.len() - part.trim_start().len());
            let part = part.trim();
            if message {
                faults.push(format!("{}: the message takes no arguments", file.at(start)));
            } else if part.starts_with('"') {
                message = true;
                if file.text[start..start + part.len()].contains('{') {
                    faults.push(format!("{}: the message is no constant", file.at(start)));
                }
            } else if let Some(name) = unknown_field(part) {
                faults.push(format!("{}: field `{name}`", file.at(start)));
            }
        }
    }
    faults
}

/// The field's name, if it is not in the vocabulary. `target:` and levels are no fields.
fn unknown_field(part: &str) -> Option<&str> {
    let head = part.trim_start_matches(['%', '?']).trim_start();
    let name = head.split(|c| !is_word(c)).next().unwrap_or_default();
    let rest = head[name.len()..].trim_start();
    let no_field = name.is_empty() || (rest.starts_with(':') && !rest.starts_with("::"));
    let level = head.contains("Level::") && !head.contains('=');
    (!no_field && !level && !FIELDS.contains(&name)).then_some(name)
}

#[test]
fn log_lines_use_the_vocabulary() {
    let faults = crate_files().iter().flat_map(log_faults).collect();
    assert_tidy("a log line is a constant sentence with known fields", &faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> usize {
        log_faults(&Source::new("src/x.rs", text)).len()
    }

    #[test]
    fn an_unknown_field_is_a_fault() {
        assert_eq!(faults(r#"info!(client = %Addr::from(a), count, "allocation created");"#), 0);
        assert_eq!(faults(r#"tracing::warn!(?err, "send failed");"#), 0);
        assert_eq!(faults(r#"info!(target: "hub", room = %name, "room opened");"#), 0);
        assert_eq!(faults(r#"info!(address = %a, "allocation created");"#), 1);
        assert_eq!(faults(r#"debug!(%password, "refused");"#), 1);
    }

    #[test]
    fn a_message_that_is_no_constant_is_a_fault() {
        assert_eq!(faults(r#"info!("created {client}");"#), 1);
        assert_eq!(faults(r#"info!("created {}", client);"#), 2);
    }
}
