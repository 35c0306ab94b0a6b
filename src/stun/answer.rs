//! The answers that strangers get. Small, so that a forged source address gains nothing: no
//! SOFTWARE and no reason phrase.

use std::net::SocketAddr;

use super::{Class, Method, TransactionId, Writer, attr};

/// The answer to a Binding request: only XOR-MAPPED-ADDRESS. 32 bytes for IPv4, 44 for IPv6, 8
/// more with FINGERPRINT, which belongs in the answer when the request had one.
pub fn binding_success(id: TransactionId, mapped: SocketAddr, fingerprint: bool) -> Vec<u8> {
    Writer::new(Class::Success, Method::BINDING, id)
        .xor_address(attr::XOR_MAPPED_ADDRESS, mapped)
        .finish(None, fingerprint)
}

/// The answer that asks for a credential (401) or a newer nonce (438): ERROR-CODE, REALM, NONCE
/// (RFC 8489, section 9.2.4). 88 bytes with a realm of 11 bytes and a nonce of 40, 8 more with
/// FINGERPRINT.
pub fn challenge(
    method: Method,
    id: TransactionId,
    code: u16,
    realm: &str,
    nonce: &[u8],
    fingerprint: bool,
) -> Vec<u8> {
    Writer::new(Class::Error, method, id)
        .error_code(code, "")
        .attribute(attr::REALM, realm.as_bytes())
        .attribute(attr::NONCE, nonce)
        .finish(None, fingerprint)
}
