//! Authentication that nobody here wrote, that of `turn-client-proto`, against the engine: it
//! knows PASSWORD-ALGORITHMS, MESSAGE-INTEGRITY-SHA256 and USERHASH, and checks every answer.

use std::net::SocketAddr;

use turn_client_proto::stun::auth::{Feature, LongTermClientAuth, LongTermClientValidation};
use turn_client_proto::stun::types::attribute::{AttributeType, RawAttribute};
use turn_client_proto::stun::types::message::{
    IntegrityAlgorithm, Message as Theirs, MessageType, MessageWrite, MessageWriteExt,
    MessageWriteVec,
};
use turn_client_proto::types::TurnCredentials;

use super::bench::{Bench, Holds, START_UNIX_SECS, five_tuple, options};
use crate::stun::{Class, Integrity, Message, Method, attr};
use crate::turn::Options;

/// The client's side of one allocation.
struct Client {
    bench: Bench,
    auth: LongTermClientAuth,
    address: SocketAddr,
    /// Every request that claimed a name: whether it was hidden, and under which integrity.
    claims: Vec<(bool, Integrity)>,
    /// The codes of the errors that were answered.
    codes: Vec<u16>,
}

impl Client {
    fn new(bench: Bench, holds: &Holds, algorithms: &[IntegrityAlgorithm], hide: Feature) -> Self {
        let mut auth = LongTermClientAuth::new();
        auth.set_credentials(TurnCredentials::new(&holds.username, &holds.password).into());
        auth.set_supported_integrity(algorithms[0]);
        for more in &algorithms[1..] {
            auth.add_supported_integrity(*more);
        }
        auth.set_anonymous_username(hide);
        let address = "198.51.100.1:40001".parse().expect("an address");
        Self { bench, auth, address, claims: Vec::new(), codes: Vec::new() }
    }

    /// Sends a request, anew as often as the client wants; returns the answer that it believes.
    fn ask(&mut self, method: Method, attributes: &[(u16, &[u8])]) -> Option<Vec<u8>> {
        for _ in 0..5 {
            let request = self.request(method, attributes);
            let message = Message::parse(&request).expect("a request");
            let (open, hidden) = (message.first(attr::USERNAME), message.first(attr::USERHASH));
            if let Some(integrity) = message.integrity() {
                assert!(open.is_some() != hidden.is_some());
                self.claims.push((hidden.is_some(), integrity));
            }
            let (_, answers) = self.bench.client(self.address, &request);
            let [answer] = &answers[..] else { panic!("{} answers", answers.len()) };
            let code = Message::parse(answer).expect("an answer").first(attr::ERROR_CODE);
            self.codes.extend(code.map(|value| u16::from(value[2]) * 100 + u16::from(value[3])));
            let theirs = Theirs::from_bytes(answer).expect("an answer that they understand");
            match self.auth.validate_incoming_message(&theirs) {
                Ok(LongTermClientValidation::ResendRequest(_)) => {}
                Ok(LongTermClientValidation::Validated(_)) => return Some(answer.clone()),
                Err(_) => return None,
            }
        }
        panic!("the client never ends to ask: {:?}", self.codes);
    }

    fn request(&mut self, method: Method, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let method = MessageType::from_bytes(&method.number().to_be_bytes()).expect("a method");
        let writer = MessageWriteVec::new();
        let mut request = Theirs::builder_request(method.method(), writer);
        for (kind, value) in attributes {
            let attribute = RawAttribute::new(AttributeType::new(*kind), value);
            request.add_attribute(&attribute).expect("room");
        }
        self.auth.sign_outgoing_message(request).expect("a signature").finish()
    }

    fn succeed(&mut self, method: Method, attributes: &[(u16, &[u8])]) {
        let answer = self.ask(method, attributes).expect("an answer that they believe");
        let class = Message::parse(&answer).expect("an answer").class();
        assert_eq!(class, Class::Success, "{:?}", self.bench.server.marks);
    }

    /// The life of an allocation, with a nonce that becomes too old in between.
    fn live(&mut self) {
        self.succeed(Method::ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])]);
        for _ in 0..80 {
            self.bench.wait(60);
            self.succeed(Method::REFRESH, &[]);
        }
        let refused = self.ask(Method::CREATE_PERMISSION, &[]).expect("a 400 that they believe");
        assert_eq!(Message::parse(&refused).expect("an answer").class(), Class::Error);
        assert!(self.bench.server.relay_of(&five_tuple(self.address)).is_some());
        self.succeed(Method::REFRESH, &[(attr::LIFETIME, &[0, 0, 0, 0])]);
        assert_eq!(self.bench.server.allocations(), 0);
        assert_eq!(self.codes, [401, 438, 400]);
    }
}

const SHA1: IntegrityAlgorithm = IntegrityAlgorithm::Sha1;
const SHA256: IntegrityAlgorithm = IntegrityAlgorithm::Sha256;

#[test]
fn a_client_with_sha256_and_a_hidden_name_is_served() {
    let bench = Bench::new(options(), 1);
    let alice = bench.fixed("alice");
    let mut client = Client::new(bench, &alice, &[SHA1, SHA256], Feature::Required);
    client.live();
    assert!(client.claims.iter().all(|claim| *claim == (true, Integrity::Sha256)));
}

#[test]
fn a_client_with_sha256_and_an_open_name_is_served() {
    let bench = Bench::new(options(), 1);
    let alice = bench.fixed("alice");
    let mut client = Client::new(bench, &alice, &[SHA256], Feature::Disabled);
    client.live();
    assert!(client.claims.iter().all(|claim| *claim == (false, Integrity::Sha256)));
}

#[test]
fn a_name_of_the_hub_is_hidden_when_fixed_users_ask_for_it() {
    let mut bench = Bench::new(options(), 1);
    bench.grant("one", "red");
    let holds = bench.granted("one", START_UNIX_SECS + 300);
    let mut client = Client::new(bench, &holds, &[SHA256], Feature::Auto);
    client.live();
    assert!(client.claims.iter().all(|claim| *claim == (true, Integrity::Sha256)));
}

#[test]
fn a_name_of_a_shared_secret_goes_in_the_open_without_fixed_users() {
    let bench = Bench::new(Options { users: Vec::new(), ..options() }, 1);
    let secrets = &bench.shared.options().shared_secrets;
    let credential = secrets.sign("carol", START_UNIX_SECS + 300).expect("a secret");
    let password = credential.password.expose().clone();
    let holds = Holds { username: credential.username, password };
    let mut client = Client::new(bench, &holds, &[SHA256], Feature::Auto);
    client.live();
    assert!(client.claims.iter().all(|claim| *claim == (false, Integrity::Sha256)));
}

#[test]
fn a_name_of_many_letters_is_hashed_as_they_hash_it() {
    let mut options = options();
    options.users = vec![super::bench::fixed("マトリックス"), super::bench::fixed("Amélie")];
    for name in ["マトリックス", "Amélie"] {
        let bench = Bench::new(options.clone(), 1);
        let holds = bench.fixed(name);
        Client::new(bench, &holds, &[SHA256], Feature::Required).live();
    }
}

#[test]
fn a_wrong_password_is_refused_and_not_tried_again() {
    let bench = Bench::new(options(), 1);
    let holds = Holds { username: "alice".to_owned(), password: "a guess".to_owned() };
    let mut client = Client::new(bench, &holds, &[SHA256], Feature::Auto);
    let answer = client.ask(Method::ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])]);
    assert_eq!(answer, None);
    assert!(client.codes.iter().all(|code| *code == 401));
    assert_eq!(client.bench.server.allocations(), 0);
}

/// Such a client names MD5 and signs by SHA-1, where RFC 8489, section 9.2.5 asks for SHA-256, and
/// does not look for another integrity in the answer; so the answer has both.
#[test]
fn a_client_that_knows_sha1_alone_is_served() {
    let bench = Bench::new(options(), 1);
    let alice = bench.fixed("alice");
    let mut client = Client::new(bench, &alice, &[SHA1], Feature::Auto);
    client.live();
    assert!(client.claims.iter().all(|claim| *claim == (true, Integrity::Sha1)));
}
