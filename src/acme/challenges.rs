//! What an authority is answered that looks at us to see whether the name is ours.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The open challenges by http-01 (RFC 8555, section 8.3): what stands behind
/// `/.well-known/acme-challenge/TOKEN`. Clones are handles to the same table.
#[derive(Debug, Clone, Default)]
pub struct Challenges(Arc<RwLock<HashMap<String, String>>>);

impl Challenges {
    /// The path below which an authority asks, with the slash at its end.
    pub const PATH: &'static str = "/.well-known/acme-challenge/";

    /// The key authorization for a `GET` of this path over plain HTTP; `None` when nobody waits
    /// for one.
    pub fn answer(&self, path: &str) -> Option<String> {
        let token = path.strip_prefix(Self::PATH)?;
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    /// Answers `token` until [`Challenges::close`].
    pub(super) fn open(&self, token: &str, key_authorization: &str) {
        let mut open = self.0.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(token.to_owned(), key_authorization.to_owned());
    }

    /// Answers `token` no more.
    pub(super) fn close(&self, token: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_while_it_is_open_and_nothing_else_is() {
        let challenges = Challenges::default();
        challenges.open("token", "token.thumbprint");
        let asked = |path: &str| challenges.clone().answer(path);
        assert_eq!(asked("/.well-known/acme-challenge/token").as_deref(), Some("token.thumbprint"));
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/other", "/token"]
        {
            assert_eq!(asked(path), None, "{path}");
        }
        challenges.close("token");
        assert_eq!(asked("/.well-known/acme-challenge/token"), None);
    }
}
