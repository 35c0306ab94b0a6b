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
    /// How many of them because the authority did not find what it looked for.
    pub by_challenge: u32,
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

    /// What the client library says. `host` is what was asked for.
    pub(super) fn new(error: &Error, host: &str) -> Self {
        match error {
            Error::Api(problem) => Self::api(problem, host, None),
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

    /// What the authority says of an authorization that it has looked at `host` for, by
    /// `challenge`.
    pub(super) fn of_authorization(problem: &Problem, host: &str, challenge: Challenge) -> Self {
        Self::api(problem, host, Some(challenge))
    }

    /// What the client library says of a request that only the account can be to blame for if the
    /// authority does not permit it (RFC 8555, section 7.3.6).
    pub(super) fn of_account(error: &Error, host: &str) -> Self {
        let failed = Self::new(error, host);
        match error {
            Error::Api(problem) if kind(problem) == "unauthorized" => {
                Self { likely_cause: Some(NO_ACCOUNT.to_owned()), no_account: true, ..failed }
            }
            _ => failed,
        }
    }

    /// What the authority says; of an authorization, if there is a `challenge`.
    fn api(problem: &Problem, host: &str, challenge: Option<Challenge>) -> Self {
        let kind = kind(problem);
        let mut reason = match &problem.detail {
            Some(detail) => detail.clone(),
            None if kind.is_empty() => "the authority refuses and does not say why".to_owned(),
            None => kind.to_owned(),
        };
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
            of_challenge: challenge.is_some() && OF_CHALLENGE.contains(&kind),
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

/// The kind of a problem, without what all kinds begin with; empty when it names none.
pub(super) fn kind(problem: &Problem) -> &str {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.strip_prefix(ERROR).unwrap_or(kind)
}

/// What the kinds of RFC 8555 begin with.
pub(super) const ERROR: &str = "urn:ietf:params:acme:error:";

/// Kinds that say, of an authorization, how the authority found us. The same kinds in answer to a
/// request are about something else.
const OF_CHALLENGE: [&str; 4] = ["connection", "unauthorized", "incorrectResponse", "tls"];

const NO_ACCOUNT: &str =
    "the authority has closed or lost our account; the next try makes a new one";

fn likely_cause(kind: &str, host: &str, challenge: Option<Challenge>) -> Option<String> {
    let port = challenge.map(|challenge| match challenge {
        Challenge::TlsAlpn01 => 443,
        Challenge::Http01 => 80,
    });
    if let Some(port) = port
        && let Some(cause) = not_found(kind, host, port)
    {
        return Some(cause);
    }
    let cause = match kind {
        "dns" => format!("the name {host} does not resolve: it needs an A or AAAA record"),
        "rateLimited" => "too many certificates or failures lately".to_owned(),
        "caa" => format!("a CAA record of {host} does not name this authority"),
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            format!("the authority gives no certificates for {host}")
        }
        "accountDoesNotExist" => NO_ACCOUNT.to_owned(),
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

/// What is likely the matter when the authority looked at this port and did not find its answer.
fn not_found(kind: &str, host: &str, port: u16) -> Option<String> {
    match kind {
        "connection" => Some(format!(
            "TCP port {port} of {host} is closed (firewall of this host or of its provider), or \
             {host} leads to another machine"
        )),
        "unauthorized" | "incorrectResponse" | "tls" => Some(format!(
            "{host} leads to another machine, or something in front answers TCP port {port}"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str) -> Problem {
        let problem = serde_json::json!({ "type": format!("{ERROR}{kind}"), "detail": "because" });
        serde_json::from_value(problem).expect("a problem")
    }

    /// What is said of an authorization.
    fn api(kind: &str, challenge: Challenge) -> Failed {
        Failed::of_authorization(&problem(kind), "live.example", challenge)
    }

    /// What is said in answer to a request.
    fn refused(kind: &str) -> Failed {
        Failed::new(&Error::Api(problem(kind)), "live.example")
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
        let gone = refused("accountDoesNotExist");
        assert!(gone.no_account);
        assert!(gone.likely_cause.expect("a cause").contains("makes a new one"));
        let silent = serde_json::from_value(serde_json::json!({})).expect("a problem");
        assert!(Failed::api(&silent, "live.example", None).reason.contains("does not say why"));
    }

    #[test]
    fn an_account_that_may_not_order_is_given_up_and_nothing_else_is() {
        let order = |kind: &str| Failed::of_account(&Error::Api(problem(kind)), "live.example");
        let closed = order("unauthorized");
        assert!(closed.no_account && !closed.of_challenge);
        assert!(closed.likely_cause.expect("a cause").contains("our account"));
        assert!(order("accountDoesNotExist").no_account);
        assert!(!order("rateLimited").no_account);
        assert!(!refused("unauthorized").no_account, "it may be about something else");
    }

    #[test]
    fn only_what_the_authority_did_not_find_is_tried_by_another_challenge() {
        assert!(api("connection", Challenge::Http01).of_challenge);
        assert!(!api("rateLimited", Challenge::Http01).of_challenge);
        assert!(!api("caa", Challenge::Http01).of_challenge);
        assert!(!api("serverInternal", Challenge::Http01).of_challenge);
        for kind in ["connection", "unauthorized", "serverInternal"] {
            let refused = refused(kind);
            assert!(!refused.of_challenge, "{kind}");
            let likely = refused.likely_cause.unwrap_or_default();
            assert!(!likely.contains("port") && !likely.contains("machine"), "{likely}");
        }
        assert!(!Failed::ours("nothing").of_challenge);
    }
}
