//! Whatever comes in: 100,000 seeded inputs through every reader. A panic here is a bug.

use std::net::SocketAddr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::control::Control;
use super::{
    ChannelData, Class, HEADER_BYTES, Kind, Message, Method, SendIndication, TransactionId, Writer,
    attr, classify, long_term_key, parse_xor_address, write_channel_data_header,
    write_data_indication,
};

const SEED: u64 = 0x5455_524e;
const INPUTS: usize = 100_000;

#[test]
fn no_input_makes_a_reader_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let samples = samples();
    let mut accepted = [0_usize; 5];
    for round in 0..INPUTS {
        let input = match round % 8 {
            0 => random(&mut rng),
            1 => random_attributes(&mut rng),
            _ => mutated(&mut rng, &samples),
        };
        for (count, yes) in accepted.iter_mut().zip(read_everything(&input)) {
            *count += usize::from(yes);
        }
    }
    // Otherwise the mutations never get behind the framing, and the test proves nothing.
    assert!(accepted.iter().all(|count| *count > INPUTS / 100), "accepted {accepted:?}");
}

/// Reads `input` in every way, and says which of them accepted it: message, ChannelData, Send
/// indication, integrity, fingerprint.
fn read_everything(input: &[u8]) -> [bool; 5] {
    let channel_data = ChannelData::parse(input);
    if let Ok(found) = &channel_data {
        assert_eq!(classify(input), Kind::ChannelData);
        assert!(input.get(found.payload.clone()).is_some());
    }
    let Ok(message) = Message::parse(input) else {
        return [false, channel_data.is_ok(), false, false, false];
    };
    // A method above 0x0FF is STUN, but no longer by its first byte.
    let multiplexed = message.method().number() <= 0x0FF;
    assert_eq!(classify(input), if multiplexed { Kind::Stun } else { Kind::Other });
    let id = message.transaction_id();
    let mut end = HEADER_BYTES;
    for attribute in message.attributes() {
        assert_eq!(attribute.offset, end, "attributes are contiguous");
        assert_eq!(&input[attribute.value_range()], attribute.value);
        end = attribute.value_range().end.next_multiple_of(4);
        let _ = parse_xor_address(attribute.value, &id);
    }
    assert_eq!(end, input.len(), "attributes reach to the end");
    assert!(message.trusted_attributes().count() <= message.attributes().count());
    assert!(message.unknown_required(&[]).len() <= super::UNKNOWN_ATTRIBUTES_MAX);
    let _ = format!("{message:?}");
    read_control(&message);

    let send = SendIndication::read(&message, &[]);
    if let Ok(send) = &send {
        assert!(input.get(send.payload.clone()).is_some());
    }
    let integrity = message.integrity_ok(&key()) == Some(true);
    let fingerprint = message.fingerprint_ok() == Some(true);
    [true, channel_data.is_ok(), send.is_ok(), integrity, fingerprint]
}

fn read_control(message: &Message<'_>) {
    let control = Control::of(*message);
    let _ = (control.lifetime(), control.dont_fragment(), control.connection_id());
    let _ = (control.requested_transport(), control.channel_number(), control.even_port());
    let _ = (control.requested_address_family(), control.additional_address_family());
    let _ = (control.reservation_token(), control.peer_address());
    assert!(control.peer_addresses().count() <= message.attributes().count());
}

fn mutated(rng: &mut ChaCha8Rng, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut input = samples[below(rng, samples.len())].clone();
    for _ in 0..below(rng, 4) {
        let at = below(rng, input.len());
        match below(rng, 6) {
            0 => input[at] ^= 1 << below(rng, 8),
            1 => input[at] = rng.next_u32() as u8,
            2 => input.truncate(at.max(1)),
            3 => input.insert(at, rng.next_u32() as u8),
            4 => input.extend_from_within(at..),
            _ => input.resize(input.len().next_multiple_of(4), 0xFF),
        }
    }
    if below(rng, 2) == 0 {
        fix_length(&mut input);
    }
    input
}

fn random(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut input = vec![0; below(rng, 120)];
    rng.fill_bytes(&mut input);
    if let Some(first) = input.first_mut() {
        *first &= 0x43;
    }
    input
}

/// A right header with random attributes behind it, most of them of known numbers.
fn random_attributes(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut id = [0; 12];
    rng.fill_bytes(&mut id);
    let mut writer = Writer::new(Class::Request, Method::ALLOCATE, TransactionId(id));
    for _ in 0..below(rng, 6) {
        let mut value = vec![0; below(rng, 24)];
        rng.fill_bytes(&mut value);
        writer = writer.attribute(below(rng, 0x2C) as u16, &value);
    }
    writer.finish(None, below(rng, 2) == 0)
}

/// Makes the length field true, so that a mutation reaches the attributes.
fn fix_length(input: &mut [u8]) {
    if let Some(length) = input.len().checked_sub(HEADER_BYTES) {
        input[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    }
}

fn samples() -> Vec<Vec<u8>> {
    let id = TransactionId(*b"samples of s");
    let v4: SocketAddr = "198.51.100.7:4000".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::7]:4000".parse().unwrap();
    let request = |method| Writer::new(Class::Request, method, id);
    let allocate = request(Method::ALLOCATE)
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0])
        .attribute(attr::EVEN_PORT, &[0x80])
        .number(attr::LIFETIME, 600)
        .attribute(attr::RESERVATION_TOKEN, &[7; 8])
        .attribute(attr::USERNAME, b"1700000000:name")
        .attribute(attr::REALM, b"example.org")
        .attribute(attr::NONCE, &[b'n'; 40]);
    let permission = request(Method::CREATE_PERMISSION)
        .xor_address(attr::XOR_PEER_ADDRESS, v4)
        .xor_address(attr::XOR_PEER_ADDRESS, v6);
    let bind = request(Method::CHANNEL_BIND)
        .attribute(attr::CHANNEL_NUMBER, &[0x40, 1, 0, 0])
        .xor_address(attr::XOR_PEER_ADDRESS, v6);
    let send = Writer::new(Class::Indication, Method::SEND, id)
        .xor_address(attr::XOR_PEER_ADDRESS, v4)
        .attribute(attr::DONT_FRAGMENT, &[])
        .attribute(attr::DATA, b"payload");

    let mut buffer = [b'p'; 80];
    let channel_data = write_channel_data_header(&mut buffer, 48..70, 0x4001).unwrap();
    let channel_data = buffer[channel_data].to_vec();
    let data = write_data_indication(&mut buffer, 48..70, v6, &id).unwrap();
    vec![
        request(Method::BINDING).finish(None, true),
        allocate.finish(Some(&key()), true),
        permission.finish(Some(&key()), false),
        bind.finish(Some(&key()), true),
        send.finish(None, true),
        channel_data,
        buffer[data].to_vec(),
    ]
}

fn key() -> [u8; 16] {
    long_term_key("1700000000:name", "example.org", "password")
}

fn below(rng: &mut ChaCha8Rng, end: usize) -> usize {
    rng.next_u32() as usize % end
}
