//! One order, from the account to the certificate.

use std::net::IpAddr;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeHandle,
    ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::Der;
use tracing::{debug, warn};

use super::failure::{self, Failed};
use super::http::{Http, RetryAfter};
use super::kept::{self, ACCOUNT, KeptAccount};
use super::{Challenge, Challenges, Hooks, Issued, Options};
use crate::telemetry::Secret;

/// Opens the account of an earlier run, or makes one; the operator has accepted the terms.
pub(super) async fn account(
    options: &Options,
    hooks: &Hooks,
    told: &RetryAfter,
) -> Result<Account, Failed> {
    let failed = |error: Error| Failed::new(&error, host(options));
    let contact = options.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let (account, credentials) = match kept_account(options, hooks, told).await? {
        Some((account, kept)) => {
            if kept.email == options.email {
                return Ok(account);
            }
            let updated = account.update_contacts(&contact).await;
            updated.map_err(|error| Failed::of_account(&error, host(options)))?;
            (account, kept.credentials)
        }
        None => {
            let new = NewAccount {
                contact: &contact,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            // An account that could not be kept would be made again at every attempt.
            (hooks.write)(ACCOUNT, Some("{}")).map_err(Failed::ours)?;
            let builder = Account::builder_with_http(http(options, told)?);
            let directory = options.directory.clone();
            let (account, credentials) =
                builder.create(&new, directory, None).await.map_err(failed)?;
            let credentials = serde_json::to_value(credentials)
                .map_err(|err| Failed::ours(format!("the account cannot be kept: {err}")))?;
            (account, credentials)
        }
    };
    let (directory, email) = (options.directory.clone(), options.email.clone());
    kept::write(hooks, ACCOUNT, &KeptAccount { directory, email, credentials })
        .map_err(Failed::ours)?;
    Ok(account)
}

/// The account of an earlier run at this authority; `None` when there is none, or none that can be
/// used: a new one is as good.
async fn kept_account(
    options: &Options,
    hooks: &Hooks,
    told: &RetryAfter,
) -> Result<Option<(Account, KeptAccount)>, Failed> {
    let kept: Option<KeptAccount> = kept::read(hooks, ACCOUNT);
    let Some(kept) = kept.filter(|kept| kept.directory == options.directory) else {
        return Ok(None);
    };
    let damaged = |why: String| {
        warn!(why, "the kept account is damaged; a new one is made");
        Ok(None)
    };
    let credentials: AccountCredentials = match serde_json::from_value(kept.credentials.clone()) {
        Ok(credentials) => credentials,
        Err(err) => return damaged(err.to_string()),
    };
    let builder = Account::builder_with_http(http(options, told)?);
    match builder.from_credentials(credentials).await {
        Ok(account) => Ok(Some((account, kept))),
        // The key is none, or what belongs to it is missing.
        Err(err @ (Error::KeyRejected | Error::Crypto | Error::Str(_))) => damaged(err.to_string()),
        Err(err) => Err(Failed::new(&err, host(options))),
    }
}

fn http(options: &Options, told: &RetryAfter) -> Result<Box<Http>, Failed> {
    let http = Http::new(options.root_certificate.as_deref(), told.clone());
    http.map(Box::new).map_err(Failed::ours)
}

/// What an order needs beside the account.
pub(super) struct Ordering<'a> {
    pub(super) options: &'a Options,
    pub(super) hooks: &'a Hooks,
    pub(super) challenges: &'a Challenges,
    pub(super) challenge: Challenge,
    /// The certificate that is to be replaced: key identifier and serial number.
    pub(super) replaces: Option<(Vec<u8>, Vec<u8>)>,
}

impl Ordering<'_> {
    /// Orders a certificate and answers the authority's challenges; `false` with it when there was
    /// none, because the authority remembered earlier answers.
    pub(super) async fn run(&self, account: &Account) -> Result<(Issued, bool), Failed> {
        let mut order = self.open(account).await?;
        // They are closed when this is dropped, however the order ends.
        let mut answers = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.failed(&error))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let kind = match self.challenge {
                Challenge::Http01 => ChallengeType::Http01,
                Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                let reason = format!("the authority does not offer {} here", self.challenge.text());
                return Err(Failed { of_challenge: true, ..Failed::ours(reason) });
            };
            answers.push(self.answer(&challenge)?);
            challenge.set_ready().await.map_err(|error| self.failed(&error))?;
        }
        match order.poll_ready(&POLL).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
            outcome => return Err(self.why_invalid(&mut order, outcome.err()).await),
        }
        let was_asked = !answers.is_empty();
        drop(answers);
        let key = KeyPair::generate().map_err(|err| Failed::ours(err.to_string()))?;
        let mut request = CertificateParams::new(self.options.hosts.clone())
            .map_err(|err| Failed::ours(err.to_string()))?;
        request.distinguished_name = DistinguishedName::new();
        let request =
            request.serialize_request(&key).map_err(|err| Failed::ours(err.to_string()))?;
        order.finalize_csr(request.der()).await.map_err(|error| self.failed(&error))?;
        let chain = order.poll_certificate(&POLL).await.map_err(|error| self.failed(&error))?;
        Ok((Issued { chain, key: Secret::new(key.serialize_pem()) }, was_asked))
    }

    async fn open(&self, account: &Account) -> Result<Order, Failed> {
        let identifier = |host: &String| match host.parse::<IpAddr>() {
            Ok(ip) => Identifier::Ip(ip),
            Err(_) => Identifier::Dns(host.clone()),
        };
        let identifiers: Vec<_> = self.options.hosts.iter().map(identifier).collect();
        let has_address = identifiers.iter().any(|host| matches!(host, Identifier::Ip(_)));
        // Public authorities give certificates for addresses for a few days only.
        let short = has_address && account.profiles().any(|profile| profile.name == SHORT_LIVED);
        let new = || match short {
            true => NewOrder::new(&identifiers).profile(SHORT_LIVED),
            false => NewOrder::new(&identifiers),
        };
        if let Some((key_id, serial)) = &self.replaces {
            let replaced =
                CertificateIdentifier::new(Der::from_slice(key_id), Der::from_slice(serial));
            match account.new_order(&new().replaces(replaced)).await {
                Ok(order) => return Ok(order),
                Err(err) if is_about_replaced(&err) => {
                    debug!(%err, "the order cannot name what it replaces");
                }
                // The same order without it would be refused for the same reason, and counted.
                Err(err) => return Err(Failed::of_account(&err, host(self.options))),
            }
        }
        let ordered = account.new_order(&new()).await;
        ordered.map_err(|error| Failed::of_account(&error, host(self.options)))
    }

    /// Answers a challenge until the result is dropped.
    fn answer(&self, challenge: &ChallengeHandle<'_>) -> Result<Answered<'_>, Failed> {
        let authorization = challenge.key_authorization();
        match self.challenge {
            Challenge::Http01 => {
                let token = challenge.token.clone();
                self.challenges.open(&token, authorization.as_str());
                Ok(Answered::Http { challenges: self.challenges, token })
            }
            Challenge::TlsAlpn01 => {
                let host = challenge.identifier().to_string();
                let pair = challenge_pair(&host, authorization.digest().as_ref())?;
                let name = server_name(&host);
                (self.hooks.open_tls_challenge)(&name, Some(&pair)).map_err(Failed::ours)?;
                Ok(Answered::Tls { hooks: self.hooks, name })
            }
        }
    }

    /// The order is invalid, or became nothing in time: the authorizations say why.
    async fn why_invalid(&self, order: &mut Order, error: Option<Error>) -> Failed {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let Ok(mut authorization) = authorization else { break };
            let Ok(state) = authorization.refresh().await else { break };
            let host = state.identifier().to_string();
            let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = problem {
                return Failed::of_authorization(problem, &host, self.challenge);
            }
        }
        match error {
            Some(error) => self.failed(&error),
            None => Failed::ours("the authority refuses the order and does not say why"),
        }
    }

    fn failed(&self, error: &Error) -> Failed {
        Failed::new(error, host(self.options))
    }
}

/// Whether an order was refused because the authority does not know, or does not take, what it is
/// to replace (RFC 9773, section 5).
fn is_about_replaced(error: &Error) -> bool {
    match error {
        Error::Unsupported(_) => true,
        // `unauthorized`: another account has ordered what is replaced.
        Error::Api(problem) => {
            problem.status == Some(409)
                || ["alreadyReplaced", "malformed", "unauthorized"]
                    .contains(&failure::kind(problem))
        }
        // The library says so when the answer does not name what is replaced.
        Error::Other(source) => source.to_string().starts_with("replaces field mismatch"),
        _ => false,
    }
}

/// The host that error messages name.
fn host(options: &Options) -> &str {
    options.hosts.first().map_or("this host", String::as_str)
}

/// An open challenge.
enum Answered<'a> {
    Http { challenges: &'a Challenges, token: String },
    Tls { hooks: &'a Hooks, name: String },
}

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        match self {
            Self::Http { challenges, token } => challenges.close(token),
            Self::Tls { hooks, name } => {
                // Closing cannot fail: there is no certificate to be wrong.
                let _ = (hooks.open_tls_challenge)(name, None);
            }
        }
    }
}

/// The certificate that answers a challenge (RFC 8737, section 3): the identifier, and the digest
/// of the key authorization in a critical extension.
fn challenge_pair(host: &str, digest: &[u8]) -> Result<Issued, Failed> {
    let failed = |err: rcgen::Error| Failed::ours(format!("no challenge certificate: {err}"));
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Issued { chain: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}

/// The SNI by which an authority asks for a host: the name, or for an address the name of its
/// reverse mapping (RFC 8738, section 6).
fn server_name(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Err(_) => host.to_ascii_lowercase(),
        Ok(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(v6)) => {
            let nibbles = v6.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
            let reversed: Vec<_> = nibbles.rev().map(|nibble| format!("{nibble:x}.")).collect();
            format!("{}ip6.arpa", reversed.concat())
        }
    }
}

/// The name of the profile for addresses.
const SHORT_LIVED: &str = "shortlived";
/// How long an authority may take to look at us, and to sign.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).timeout(Duration::from_secs(90));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_replaced_certificate_is_ordered_again_without_it() {
        let api = |kind: &str, status: u16| {
            let kind = format!("{}{kind}", failure::ERROR);
            let problem = serde_json::json!({ "type": kind, "status": status });
            Error::Api(serde_json::from_value(problem).expect("a problem"))
        };
        for (kind, status) in [("alreadyReplaced", 409), ("malformed", 404), ("conflict", 409)] {
            assert!(is_about_replaced(&api(kind, status)), "{kind}");
        }
        for (kind, status) in [("rateLimited", 429), ("serverInternal", 503)] {
            assert!(!is_about_replaced(&api(kind, status)), "{kind}");
        }
        assert!(is_about_replaced(&Error::Unsupported("ARI")));
        assert!(is_about_replaced(&Error::Other("replaces field mismatch: ...".into())));
        assert!(!is_about_replaced(&Error::Other("connection refused".into())));
    }

    #[test]
    fn an_address_is_asked_for_by_its_reverse_name() {
        assert_eq!(server_name("1.2.3.4"), "4.3.2.1.in-addr.arpa");
        assert_eq!(
            server_name("2001:db8::1"),
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
        assert_eq!(server_name("Live.Example"), "live.example");
    }
}
