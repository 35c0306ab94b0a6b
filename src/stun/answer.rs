//! The answers that strangers get. Small, so that a forged source address gains nothing: no
//! SOFTWARE and no reason phrase.

use std::net::SocketAddr;

use super::{Class, Method, PASSWORD_ALGORITHMS_OFFERED, TransactionId, Writer, attr};

/// The answer to a Binding request: only XOR-MAPPED-ADDRESS. 32 bytes for IPv4, 44 for IPv6, 8
/// more with FINGERPRINT, which belongs in the answer when the request had one.
pub fn binding_success(id: TransactionId, mapped: SocketAddr, fingerprint: bool) -> Vec<u8> {
    Writer::new(Class::Success, Method::BINDING, id)
        .xor_address(attr::XOR_MAPPED_ADDRESS, mapped)
        .finish(None, fingerprint)
}

/// The answer that asks for a credential (401) or a newer nonce (438): ERROR-CODE, REALM, NONCE,
/// PASSWORD-ALGORITHMS (RFC 8489, section 9.2.4). With a realm of 11 bytes and a nonce of 40 it is
/// as long as the policy lets it be, 8 bytes more with FINGERPRINT:
///
/// ```text
/// header 20 + ERROR-CODE 8 + REALM 4+12 + NONCE 4+40 + PASSWORD-ALGORITHMS 4+8 = 100
/// ```
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
        .attribute(attr::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS_OFFERED)
        .finish(None, fingerprint)
}

#[cfg(test)]
mod tests {
    use super::super::{Message, parse_xor_address};
    use super::*;

    const ID: TransactionId = TransactionId(*b"transaction1");

    #[test]
    fn a_binding_answer_is_as_small_as_it_can_be() {
        let cases = [("192.0.2.1:32853", 32), ("[2001:db8::1]:32853", 44)];
        for (mapped, len) in cases {
            let mapped = mapped.parse().unwrap();
            let bytes = binding_success(ID, mapped, false);
            assert_eq!(bytes.len(), len);
            let message = Message::parse(&bytes).unwrap();
            let value = message.first(attr::XOR_MAPPED_ADDRESS).unwrap();
            assert_eq!(parse_xor_address(value, &ID), Some(mapped));
            assert_eq!(message.attributes().count(), 1);

            let bytes = binding_success(ID, mapped, true);
            assert_eq!(bytes.len(), len + 8);
            assert_eq!(Message::parse(&bytes).unwrap().fingerprint_ok(), Some(true));
        }
    }

    #[test]
    fn a_challenge_is_exactly_100_bytes() {
        let nonce = [b'n'; 40];
        for (code, class_and_number) in [(401, [0, 0, 4, 1]), (438, [0, 0, 4, 38])] {
            for (fingerprint, len) in [(false, 100), (true, 108)] {
                let bytes =
                    challenge(Method::ALLOCATE, ID, code, "example.org", &nonce, fingerprint);
                assert_eq!(bytes.len(), len);
                let message = Message::parse(&bytes).unwrap();
                assert_eq!(message.class(), Class::Error);
                assert_eq!(message.first(attr::ERROR_CODE), Some(&class_and_number[..]));
                assert_eq!(message.first(attr::REALM), Some(&b"example.org"[..]));
                assert_eq!(message.first(attr::NONCE), Some(&nonce[..]));
                let offered = message.first(attr::PASSWORD_ALGORITHMS);
                assert_eq!(offered, Some(&PASSWORD_ALGORITHMS_OFFERED[..]));
                assert_eq!(message.fingerprint_ok(), fingerprint.then_some(true));
                // Each byte is accounted for: nothing else is in it.
                assert_eq!(message.attributes().count(), 4 + usize::from(fingerprint));
            }
        }
    }
}
