//! What the doctor says: to people, and as JSON.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Trouble;
use super::certificate::Judgement;
use super::probe::Passed;
use crate::metrics::Diagnosis;

/// What was found of every URL.
#[derive(Debug, Clone)]
pub struct Report {
    /// One for each address that a URL leads to, in the order of the URLs.
    pub findings: Vec<Finding>,
    /// What is to be said of the pages, which nobody asked for: the relay may be well while
    /// browsers turn away before it. A sentence without its end.
    pub note: Option<String>,
}

/// What was found of one URL, at one of the addresses that it leads to.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The URL, as browsers are told it.
    pub url: String,
    /// Where it leads; `None` when its name has no address.
    pub address: Option<SocketAddr>,
    /// What was found, as a closed word.
    pub diagnosis: Diagnosis,
    /// The same as a sentence without its end.
    pub why: String,
    /// What to do; `None` when all is well.
    pub next_step: Option<String>,
    /// The address that streams are relayed from, when it came so far.
    pub relayed: Option<IpAddr>,
    /// What is to be said of the certificate, when it came so far and there is one.
    pub certificate: Option<Judgement>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Finding {
    pub(super) fn good(url: &str, address: SocketAddr, start: Instant, passed: Passed) -> Self {
        let elapsed = start.elapsed();
        let why = match passed.relayed {
            Some(relayed) => format!("relayed by {relayed}, {} ms", elapsed.as_millis()),
            None => "answers, and sends other applications on (turn.alternate_server)".to_owned(),
        };
        let trusted = passed.certificate.map_or("", |_| ", certificate trusted");
        Self {
            url: url.to_owned(),
            address: Some(address),
            diagnosis: passed.relayed.map_or(Diagnosis::SentOn, |_| Diagnosis::Relayed),
            why: why + trusted,
            next_step: None,
            relayed: passed.relayed,
            certificate: passed.certificate,
            elapsed,
        }
    }

    pub(super) fn bad(
        url: &str,
        address: Option<SocketAddr>,
        start: Instant,
        trouble: Trouble,
    ) -> Self {
        Self {
            url: url.to_owned(),
            address,
            diagnosis: trouble.diagnosis,
            why: trouble.why,
            next_step: Some(trouble.next_step),
            relayed: trouble.relayed,
            certificate: trouble.certificate,
            elapsed: start.elapsed(),
        }
    }

    /// Whether browsers can use it.
    pub fn is_well(&self) -> bool {
        self.next_step.is_none()
    }

    fn json(&self) -> Value {
        json!({
            "url": self.url,
            "ok": self.is_well(),
            "diagnosis": self.diagnosis.text(),
            "address": self.address.map(|address| address.to_string()),
            "relayed_address": self.relayed.map(|relayed| relayed.to_string()),
            "certificate": self.certificate.map(Judgement::word),
            "elapsed_ms": self.elapsed.as_millis() as u64,
            "why": self.why,
            "next_step": self.next_step,
        })
    }
}

impl Report {
    /// Whether there are URLs, and browsers can use all of them.
    pub fn is_well(&self) -> bool {
        !self.findings.is_empty() && self.findings.iter().all(Finding::is_well)
    }

    /// How many findings are bad.
    pub fn bad(&self) -> usize {
        self.findings.iter().filter(|finding| !finding.is_well()).count()
    }

    /// `{ok, urls: [{url, ok, diagnosis, address, relayed_address, certificate, elapsed_ms, why,
    /// next_step}], note}`.
    pub fn json(&self) -> Value {
        let urls: Vec<Value> = self.findings.iter().map(Finding::json).collect();
        json!({ "ok": self.is_well(), "urls": urls, "note": self.note })
    }

    /// A line for each finding, below a bad one what to do, and the note.
    pub fn text(&self) -> String {
        if self.findings.is_empty() {
            let none = "FAILED  browsers are told no URL: turn.listen and web.listen are empty\n";
            return none.to_owned();
        }
        let line = |finding: &Finding| {
            let word = if finding.is_well() { "ok" } else { "FAILED" };
            let text = format!("{}: {}", finding.url, finding.why);
            let text = in_lines(&text, &format!("{word:<7} "));
            let step = finding.next_step.as_deref().map(|step| in_lines(step, NEXT));
            text + &step.unwrap_or_default()
        };
        let note = self.note.as_deref().map(|note| in_lines(note, NOTE));
        self.findings.iter().map(line).chain(note).collect()
    }
}

/// `text` in lines of 80 columns at the most, the first after `head`, the others below it. What
/// stands after a line break is to be copied, and stays in one line.
pub fn in_lines(text: &str, head: &str) -> String {
    let mut parts = text.split('\n');
    let below = " ".repeat(head.chars().count());
    let mut lines = String::new();
    let mut line = head.to_owned();
    for word in parts.next().unwrap_or_default().split_whitespace() {
        let columns = line.chars().count() + word.chars().count();
        if !line.ends_with(' ') && columns + 1 > COLUMNS {
            lines += &line;
            lines.push('\n');
            line.clone_from(&below);
        }
        if !line.ends_with(' ') {
            line.push(' ');
        }
        line += word;
    }
    lines += &line;
    lines.push('\n');
    for part in parts {
        lines += &format!("{below}{part}\n");
    }
    lines
}

const COLUMNS: usize = 80;
const NEXT: &str = "        next: ";
const NOTE: &str = "note    ";
