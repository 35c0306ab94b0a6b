//! RFC 8489, sections 5 to 7 and 14: the header, the attributes, and what is no message.

use super::client::{CONFIG, Check, Server, Wire};
use super::wire::{BINDING, Out, XOR_MAPPED_ADDRESS};

#[test]
fn a_message_is_what_section_5_says() {
    const CHECKS: &[Check] = &[
        ("6.3.1.1: XOR-MAPPED-ADDRESS is the source", |client| {
            let answer = client.ask(&Out::request(BINDING));
            assert_eq!(answer.code(), 0);
            assert_eq!(answer.xor_address(XOR_MAPPED_ADDRESS), client.local);
        }),
        ("9.2.4: ", |client| {
            let answer = client.ask_signed(Out::allocate());
            assert_eq!(answer.code(), 0);
        }),
    ];
    Server::start(CONFIG).run(&Wire::ALL, CHECKS);
}
