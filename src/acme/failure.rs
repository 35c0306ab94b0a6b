//! Why there is no certificate, in words that an operator can act on.

use instant_acme::{Error, Problem};
use serde::{Deserialize, Serialize};

use super::Challenge;

/// Why the last attempt failed. It is kept beside the certificate, so that `turncast check` can
/// tell it and a restart does not try again too soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In the authority's words, or ours when it was not even reached.
    pub reason: String,
    /// What is likely the matter; `None` when nobody knows.
    pub likely_cause: Option<String>,
    /// How many attempts have failed in a row.
    pub failures: u32,
    /// When it is tried again, in seconds since 1970.
    pub next_try: u64,
    /// Whether the authority itself told us to wait that long. Otherwise a restart, or a reload,
    /// tries at once: somebody may have opened the port.
    pub told_to_wait: bool,
}

/// One attempt that did not lead to a certificate.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) reason: String,
    pub(super) likely_cause: Option<String>,
    /// Whether the authority does not know our account any more.
    pub(super) no_account: bool,
    /// Whether it makes sense to try another challenge at once: the authority looked, and did not
    /// find what it wanted.
    pub(super) of_challenge: bool,
}

impl Failed {
    /// A failure on our own side.
    pub(super) fn ours(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), likely_cause: None, no_account: false, of_challenge: false }
    }

    /// What the client library says. `host` and `challenge` are what was asked for.
    pub(super) fn new(error: &Error, host: &str, challenge: Challenge) -> Self {
        match error {
            Error::Api(problem) => Self::api(problem, host, challenge),
            Error::Other(source) => {
                let mut reason = source.to_string();
                let mut deeper = source.source();
                while let Some(cause) = deeper {
                    reason = format!("{reason}: {cause}");
                    deeper = cause.source();
                }
                let likely = "this host does not reach the authority by HTTPS (firewall, DNS, \
                              clock), or acme.directory or acme.root_certificate is wrong";
                Self { likely_cause: Some(likely.to_owned()), ..Self::ours(reason) }
            }
            Error::Json(_) => Self {
                likely_cause: Some("acme.directory is no URL of an ACME directory".to_owned()),
                ..Self::ours(format!("the authority's answer makes no sense: {error}"))
            },
            error => Self::ours(error.to_string()),
        }
    }

    /// What the authority says. `host` and `challenge` are what was asked for.
    pub(super) fn api(problem: &Problem, host: &str, challenge: Challenge) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind);
        let mut reason = problem.detail.clone().unwrap_or_else(|| kind.to_owned());
        if !kind.is_empty() && reason != kind {
            reason = format!("{reason} ({kind})");
        }
        for sub in &problem.subproblems {
            if let Some(detail) = &sub.detail {
                reason = format!("{reason}; {detail}");
            }
        }
        Self {
            likely_cause: likely_cause(kind, host, challenge),
            no_account: kind == "accountDoesNotExist",
            of_challenge: OF_CHALLENGE.contains(&kind),
            ..Self::ours(reason)
        }
    }

    /// The same after every challenge has failed: to open the port of the last one is not all that
    /// can be done. What is not about ports stays as it is.
    pub(super) fn by_every_challenge(self, host: &str) -> Self {
        match &self.likely_cause {
            Some(cause) if cause.contains("TCP port") => Self {
                likely_cause: Some(format!(
                    "the authority reaches us neither by TCP port 443 of {host} nor by 80: a \
                     firewall closes them (of this host or of its provider), or {host} leads to \
                     another machine"
                )),
                ..self
            },
            _ => self,
        }
    }
}

/// Errors that are about how the authority found us.
const OF_CHALLENGE: [&str; 5] =
    ["connection", "unauthorized", "incorrectResponse", "tls", "serverInternal"];

fn likely_cause(kind: &str, host: &str, challenge: Challenge) -> Option<String> {
    let port = match challenge {
        Challenge::TlsAlpn01 => 443,
        Challenge::Http01 => 80,
    };
    let cause = match kind {
        "connection" => format!(
            "TCP port {port} of {host} is closed (firewall of this host or of its provider), or \
             {host} leads to another machine"
        ),
        "dns" => format!("the name {host} does not resolve: it needs an A or AAAA record"),
        "unauthorized" | "incorrectResponse" | "tls" => format!(
            "{host} leads to another machine, or something in front answers TCP port {port}"
        ),
        "rateLimited" => "too many certificates or failures lately".to_owned(),
        "caa" => format!("a CAA record of {host} does not name this authority"),
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            format!("the authority gives no certificates for {host}")
        }
        "invalidContact" | "unsupportedContact" => "acme.email is not taken".to_owned(),
        "externalAccountRequired" => {
            "this authority wants an account that was made beforehand, which is not supported"
                .to_owned()
        }
        "userActionRequired" => "the authority has new terms: see its site".to_owned(),
        "serverInternal" => "the authority itself has trouble".to_owned(),
        _ => return None,
    };
    Some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(kind: &str, challenge: Challenge) -> Failed {
        let problem = serde_json::json!({
            "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "because"
        });
        let problem = serde_json::from_value(problem).expect("a problem");
        Failed::api(&problem, "live.example", challenge)
    }

    #[test]
    fn the_authoritys_reason_comes_with_what_is_likely_the_matter() {
        let failed = api("connection", Challenge::Http01);
        assert_eq!(failed.reason, "because (connection)");
        let likely = failed.likely_cause.expect("a cause");
        assert!(likely.contains("port 80 of live.example is closed"), "{likely}");
        let likely = api("connection", Challenge::TlsAlpn01).likely_cause.expect("a cause");
        assert!(likely.contains("port 443"), "{likely}");
        let likely = api("unauthorized", Challenge::Http01).likely_cause.expect("a cause");
        assert!(likely.contains("leads to another machine"), "{likely}");
        assert!(api("dns", Challenge::Http01).likely_cause.expect("a cause").contains("A or AAAA"));
        assert_eq!(api("nobodyKnows", Challenge::Http01).likely_cause, None);
        let both = |kind| api(kind, Challenge::Http01).by_every_challenge("live.example");
        let likely = both("connection").likely_cause.expect("a cause");
        assert!(likely.contains("neither by TCP port 443 of live.example nor by 80"), "{likely}");
        let likely = both("serverInternal").likely_cause.expect("a cause");
        assert_eq!(likely, "the authority itself has trouble");
        assert!(api("accountDoesNotExist", Challenge::Http01).no_account);
    }

    #[test]
    fn only_what_the_authority_did_not_find_is_tried_by_another_challenge() {
        assert!(api("connection", Challenge::Http01).of_challenge);
        assert!(!api("rateLimited", Challenge::Http01).of_challenge);
        assert!(!api("caa", Challenge::Http01).of_challenge);
        assert!(!Failed::ours("nothing").of_challenge);
    }
}
