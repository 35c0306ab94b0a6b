//! What clients say: the bytes of a line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Script;
use crate::credentials::{password, userhash};
use crate::stun::{Class, Integrity, Method, PASSWORD_ALGORITHMS_OFFERED, PasswordAlgorithm, attr};
use crate::turn::tests::bench::{Ask, Bench, Holds, REALM, SECRETS, START_UNIX_SECS};
use crate::turn::tests::words::{
    Words, append, attribute, class_and_method, credential_hash, from_hex, payload, read_attributes,
};

impl Script {
    /// The bytes of a client's line.
    pub(super) fn datagram(&mut self, name: &str, words: &[&str]) -> Vec<u8> {
        match *words {
            ["again"] => self.clients[name].last.clone(),
            ["raw", hex] => from_hex(hex),
            ["channel", number, text] => {
                let payload = payload(text);
                let number = from_hex(number.trim_start_matches("0x"));
                let mut datagram = number;
                datagram.extend_from_slice(&(payload.len() as u16).to_be_bytes());
                datagram.extend_from_slice(&payload);
                datagram
            }
            [method, ref rest @ ..] => self.build(name, method, &Words::parse(rest)),
            [] => panic!("a client says nothing"),
        }
    }

    /// Builds a STUN message. `user=` NAME of a fixed user or grant, or a time-limited username
    /// (`secret=2`: signed with the second secret, `hash=sha256`); `says=` what USERNAME is all
    /// the same; `hidden`: USERHASH instead; `password=`, `realm=`; `nonce=stale|wrong|TEXT`, or
    /// `other-port|other-host`: that of another client; `without=ATTR`; `algorithm=md5|sha256` with
    /// PASSWORD-ALGORITHMS, which `algorithms=HEX` replaces; `integrity=sha1|sha256|both`,
    /// `cut=BYTES` of it; `tx=` a transaction id; `peer=`, `at=` another address of ours,
    /// `over=tcp`; `change=`, `port=`, `padding=` (RFC 5780); `channel=`, `transport=`, `family=`,
    /// `additional=`, `lifetime=`, `text=`, `even`, `reserve` (EVEN-PORT), `token` (the last one
    /// told), `id=` (the CONNECTION-ID of that number), `attr=KIND:HEX`, `behind=KIND:HEX` (after
    /// the integrity); `fingerprint`, `fingerprint=wrong`.
    fn build(&mut self, name: &str, method: &str, words: &Words<'_>) -> Vec<u8> {
        let (class, method) = class_and_method(method);
        let mut ask = self.bench().ask(method);
        if let Some(tx) = words.get("tx") {
            ask.transaction.0.fill(tx.parse().expect("a number"));
        }
        if words.get("token") == Some("") {
            ask.attributes.push((attr::RESERVATION_TOKEN, self.token.clone()));
        }
        if let Some(number) = words.get("id") {
            ask.attributes.push((attr::CONNECTION_ID, self.connections.id(number).to_vec()));
        }
        read_attributes(words, &mut ask);
        let has_transport = words.has("transport") || words.get("without") == Some("transport");
        if method == Method::ALLOCATE && !has_transport {
            ask.attributes.push((attr::REQUESTED_TRANSPORT, vec![17, 0, 0, 0]));
        }
        let claims = class == Class::Request && method != Method::BINDING;
        let anonymous = !(claims && words.has("user"));
        let mut datagram = if anonymous {
            ask.writer(class).finish(None, words.has("fingerprint"))
        } else {
            self.signed(name, words, &ask)
        };
        if words.get("fingerprint") == Some("wrong") {
            let last = datagram.len() - 1;
            datagram[last] ^= 1;
        }
        datagram
    }

    fn signed(&mut self, name: &str, words: &Words<'_>, ask: &Ask) -> Vec<u8> {
        let holds = self.holds(words);
        let algorithm = match words.get("algorithm") {
            None | Some("md5") => PasswordAlgorithm::Md5,
            _ => PasswordAlgorithm::Sha256,
        };
        let key = Bench::keys(&holds).by(algorithm).to_vec();
        let client = self.clients.get_mut(name).expect("a client");
        client.key = Some(key.clone());
        let address = client.five_tuple.client;
        let nonce = self.nonce(address, words);
        let says = words.get("says").map(payload);
        let username = says.unwrap_or_else(|| holds.username.clone().into_bytes());
        let hash = userhash(&holds.username, REALM);
        let realm = words.get("realm").map_or(REALM.as_bytes().to_vec(), payload);
        let hidden = words.has("hidden");
        let choice = algorithm.value();
        let list = words.get("algorithms").map(from_hex);
        let list = list.unwrap_or_else(|| PASSWORD_ALGORITHMS_OFFERED.to_vec());
        let modern = words.has("algorithm");
        let without: Vec<&str> = words.all("without").collect();
        let mut writer = ask.writer(Class::Request);
        for (kind, text, there, value) in [
            (attr::USERNAME, "username", !hidden || words.has("says"), &username[..]),
            (attr::USERHASH, "userhash", hidden, &hash),
            (attr::REALM, "realm", true, &realm),
            (attr::NONCE, "nonce", true, &nonce),
            (attr::PASSWORD_ALGORITHM, "algorithm", modern, &choice),
            (attr::PASSWORD_ALGORITHMS, "algorithms", modern, &list),
        ] {
            if there && !without.contains(&text) {
                writer = writer.attribute(kind, value);
            }
        }
        let usual = if modern { "sha256" } else { "sha1" };
        let integrity: &[Integrity] = match words.get("integrity").unwrap_or(usual) {
            "sha1" => &[Integrity::Sha1],
            "sha256" => &[Integrity::Sha256],
            _ => &[Integrity::Sha1, Integrity::Sha256],
        };
        for integrity in integrity {
            writer = writer.integrity(*integrity, &key);
        }
        let mut message = writer.finish(None, words.has("fingerprint"));
        if let Some(cut) = words.get("cut") {
            let kept = 32 - cut.parse::<usize>().expect("a number");
            message.truncate(message.len() - 32 + kept);
            let at = message.len() - kept;
            message[at - 2..at].copy_from_slice(&(kept as u16).to_be_bytes());
        }
        append(message, words.all("behind").map(attribute))
    }

    fn nonce(&mut self, mut address: SocketAddr, words: &Words<'_>) -> Vec<u8> {
        let bench = self.bench();
        let mut at = bench.now.unix_secs;
        match words.get("nonce") {
            None => {}
            Some("stale") => at -= u64::from(bench.shared.options().limits.nonce_secs),
            Some("other-port") => address.set_port(address.port() + 1),
            Some("other-host") => address.set_ip(match address.ip() {
                IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 1).into(),
                IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 1).into(),
            }),
            Some("wrong") => return b"obMatJos2AAAAwrongwrongwrongwrongwrongw".to_vec(),
            Some(text) => return payload(text),
        }
        bench.shared.nonces.make(address, at).to_vec()
    }

    fn holds(&mut self, words: &Words<'_>) -> Holds {
        let name = words.get("user").expect("a user");
        let bench = self.bench();
        let expiry = START_UNIX_SECS + 300;
        let expiry = words.get("expiry").map_or(expiry, |text| text.parse().expect("seconds"));
        let mut holds = if bench.grants.contains_key(name) {
            bench.granted(name, expiry)
        } else if name.as_bytes()[0].is_ascii_digit() {
            let secret = words.get("secret").map_or(1, |text| text.parse().expect("a number"));
            let hash = credential_hash(words.get("hash").unwrap_or("sha1"));
            let password = password(hash, SECRETS[secret - 1].as_bytes(), name);
            Holds { username: name.to_owned(), password: password.expose().clone() }
        } else {
            bench.fixed(name)
        };
        if let Some(password) = words.get("password") {
            holds.password = password.to_owned();
        }
        holds
    }
}
