//! The doctor's parts by themselves; `tests/it/doctor.rs` has it look at a daemon.

mod certificate;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use webrtc_util::Conn as _;

use super::in_lines;
use super::url::TurnUrl;
use super::wire::StreamConn;
use crate::turn::Transport;

#[test]
fn urls_are_read_as_we_tell_them() {
    let read = |text| TurnUrl::parse(text).map(|url| (url.transport, url.host, url.port));
    let is = |transport, host: &str, port| Some((transport, host.to_owned(), port));
    assert_eq!(read("turn:a.example:3478?transport=udp"), is(Transport::Udp, "a.example", 3478));
    assert_eq!(read("turn:192.0.2.1:1?transport=tcp"), is(Transport::Tcp, "192.0.2.1", 1));
    assert_eq!(
        read("turns:[2001:db8::1]:443?transport=tcp"),
        is(Transport::Tls, "2001:db8::1", 443)
    );
    for bad in
        ["", "turn:", "stun:a:1", "turns:a:1?transport=udp", "turn::1?transport=udp", "turn:a"]
    {
        assert_eq!(read(bad), None, "{bad}");
    }
}

#[test]
fn text_is_broken_between_words_and_what_is_to_be_copied_is_not() {
    let long = "word ".repeat(40);
    let text = in_lines(&format!("{long}\ncopy {}", "me ".repeat(40)), "head: ");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(
        lines[0].starts_with("head: word word") && lines[1].starts_with("      word"),
        "{text}"
    );
    assert!(lines[..3].iter().all(|line| line.len() <= 80), "{text}");
    assert!(lines[3].starts_with("      copy me") && lines[3].len() > 80, "{text}");
}

/// Messages in a stream, however it is cut: a STUN message of 24 bytes, ChannelData of 5 bytes with
/// its padding, an empty STUN message.
#[tokio::test]
async fn messages_are_found_in_any_cutting() {
    let stun = [&[0x01, 0x01, 0, 4][..], &[7; 20]].concat();
    let channel = [0x40, 0x00, 0, 5, 1, 2, 3, 4, 5];
    let empty = [&[0x00, 0x01, 0, 0][..], &[9; 16]].concat();
    let all = [&stun[..], &channel, &[0; 3], &empty].concat();
    let somewhere: SocketAddr = "192.0.2.1:3478".parse().expect("an address");
    for cut in 1..all.len() {
        let (mut far, near) = tokio::io::duplex(4096);
        let conn = StreamConn::new(near, somewhere, somewhere);
        let writer = async {
            for piece in all.chunks(cut) {
                far.write_all(piece).await.expect("there is room");
                tokio::task::yield_now().await;
            }
        };
        let reader = async {
            let mut buffer = [0; 100];
            for expected in [&stun[..], &channel, &empty] {
                let (read, from) = conn.recv_from(&mut buffer).await.expect("a message");
                assert_eq!((&buffer[..read], from), (expected, somewhere), "cut at {cut}");
            }
        };
        tokio::join!(writer, reader);
        conn.send(&channel).await.expect("it is taken");
        let mut padded = [0; 12];
        far.read_exact(&mut padded).await.expect("the message and its padding");
        assert_eq!(padded[..9], channel);
        far.write_all(&[0x80; 20]).await.expect("there is room");
        assert!(conn.recv(&mut [0; 100]).await.is_err(), "that is no message");
    }
}

#[tokio::test]
async fn a_stream_that_ends_is_an_error() {
    let (far, near) = tokio::io::duplex(16);
    let somewhere: SocketAddr = "192.0.2.1:3478".parse().expect("an address");
    let conn = StreamConn::new(near, somewhere, somewhere);
    drop(far);
    assert!(conn.recv(&mut [0; 100]).await.is_err());
}
