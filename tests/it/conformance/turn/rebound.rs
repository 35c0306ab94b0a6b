//! A client whose NAT has given it another address, in the words of sections 5 and 7.2: what it has
//! is of a five-tuple that it does not come from any more.

use super::*;

#[test]
fn a_client_from_a_new_address_hears_438_and_then_437_and_never_nothing() {
    let workers = CONFIG.replace("[turn]\n", "[turn]\nworkers = 4\n");
    let server = Server::start(&workers);
    for wire in Wire::DATAGRAMS {
        let peer = Peer::new();
        let mut before = server.client(wire);
        let relayed = before.allocate();
        if wire == Wire::Udp {
            before.bind(0x4000, peer.address);
        }
        // Each comes from another port, so that they come to every worker.
        for _ in 0..16 {
            for request in [
                || Out::refresh(600),
                || Out::refresh(0),
                || permission(&[PEER]),
                || channel_bind(0x4000, PEER),
            ] {
                let mut after = server.client(wire);
                after.realm = before.realm.clone();
                after.nonce = before.nonce.clone();
                let answer = after.ask(&after.sign(request()));
                assert_eq!(answer.code(), 438, "the nonce is of another address");
                after.heed(&answer);
                assert_eq!(after.signed_code(request()), 437, "there is no allocation here");
            }
        }
        // It makes a new one at once, with what it has just learned; the old one is its own still.
        let mut after = server.client(wire);
        after.realm = before.realm.clone();
        after.nonce = before.nonce.clone();
        let answer = after.ask(&after.sign(Out::allocate()));
        assert_eq!(answer.code(), 438);
        after.heed(&answer);
        assert_ne!(after.allocate(), relayed);
        assert_eq!(before.signed_code(Out::refresh(600)), 0, "nobody has touched it");
        if wire == Wire::Udp {
            before.send_channel(0x4000, b"still here");
            peer.reads(b"still here", relayed);
        }
    }
}

const PEER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2)), 7);
