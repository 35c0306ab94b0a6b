//! Section 20: the detailed example, message by message. Its addresses of documentation are ours on
//! loopback; its long-term credential is alice's.

use super::super::wire::{
    ALLOCATE, DONT_FRAGMENT, LIFETIME, REFRESH, REQUEST, REQUESTED_TRANSPORT, SOFTWARE,
    XOR_MAPPED_ADDRESS,
};
use super::*;

fn id(hex: u128) -> [u8; 12] {
    hex.to_be_bytes()[4..].try_into().expect("96 bits")
}

/// As the client of the example signs: the list, the choice, and the integrity of SHA-256.
#[track_caller]
fn ask(client: &mut Client, request: Out) -> In {
    let request = client.sign_sha256(request.attribute(SOFTWARE, b"Example client, version 1.03"));
    let answer = client.ask(&request);
    client.assert_sha256(&answer, &client.sha256_key());
    answer
}

#[test]
fn the_detailed_example_runs_as_it_is_written() {
    on_each_wire(|server, wire| {
        let (peer_a, peer_b) = (Peer::new(), Peer::new());
        let mut client = server.client(wire);
        let request = |id| {
            Out::with_id(REQUEST, ALLOCATE, id)
                .attribute(LIFETIME, &3600u32.to_be_bytes())
                .attribute(REQUESTED_TRANSPORT, &[17, 0, 0, 0])
                .attribute(DONT_FRAGMENT, &[])
        };
        let refused = client.ask(&request(id(0xA562_50D3_F17A_BE67_9422_DE85)));
        assert_eq!(refused.code(), 401);
        client.heed(&refused);
        let cookie = client.nonce.strip_prefix(b"obMatJos2").expect("the nonce cookie");
        assert!(cookie[0] >= b'g', "the bit that says PASSWORD-ALGORITHMS are there");
        assert_eq!(client.algorithms.len(), 8, "two algorithms");
        let answer = ask(&mut client, request(id(0xC271_E932_AD74_46A3_2C23_4492)));
        assert_eq!(answer.code(), 0);
        assert_eq!(answer.lifetime(), 3600);
        assert_eq!(answer.xor_address(XOR_MAPPED_ADDRESS), client.local);
        let relayed = answer.xor_address(XOR_RELAYED_ADDRESS);

        // A permission, its port of no meaning, and the Send mechanism to peer A.
        let mut port_of_nobody = peer_a.address;
        port_of_nobody.set_port(0);
        let request = Out::with_id(REQUEST, CREATE_PERMISSION, id(0xE591_3A8F_4609_0CF7_7D3B_CFA2));
        let answer = ask(&mut client, request.xor_address(XOR_PEER_ADDRESS, port_of_nobody));
        assert_eq!(answer.code(), 0);
        client.send(&send_indication(peer_a.address, b"to A").attribute(DONT_FRAGMENT, &[]).0);
        peer_a.reads(b"to A", relayed);
        peer_a.send(b"from A", relayed);
        assert_eq!(client.relayed(), Relayed::Indication(peer_a.address, b"from A".to_vec()));

        // A channel to peer B.
        let request = Out::with_id(REQUEST, CHANNEL_BIND, id(0x6490_D3BC_175A_FF3D_8451_3212))
            .attribute(CHANNEL_NUMBER, &[0x40, 0, 0, 0])
            .xor_address(XOR_PEER_ADDRESS, peer_b.address);
        assert_eq!(ask(&mut client, request).code(), 0);
        client.send_channel(0x4000, b"to B");
        peer_b.reads(b"to B", relayed);
        peer_b.send(b"from B", relayed);
        assert_eq!(client.relayed(), Relayed::Channel(0x4000, b"from B".to_vec()));

        // A nonce that is no longer good, and the new one.
        let good = std::mem::take(&mut client.nonce);
        client.nonce = [&good[..good.len() - 1], b"!"].concat();
        let request = |id| Out::with_id(REQUEST, REFRESH, id);
        let stale = client.sign_sha256(request(id(0x0864_B3C2_7ADE_9354_B431_2414)));
        let stale = client.ask(&stale);
        assert_eq!(stale.code(), 438);
        client.heed(&stale);
        let answer = ask(&mut client, request(id(0x427B_D3E6_25A8_5FC7_31DC_4191)));
        assert_eq!((answer.code(), answer.lifetime()), (0, 600), "the default without LIFETIME");
    });
}
