use turncast::edge::{
    FIRST_BYTES_MAX, PROXY_BYTES_MAX, Proxied, Speaks, first_bytes, proxy_header,
};

/// What a connection speaks, and who a proxy says is behind it: what is told of a beginning holds
/// for whatever follows, and nothing is waited for beyond its bound.
pub fn first_bytes_of_a_connection(input: &[u8]) {
    let header = (0..=input.len()).find_map(|len| match proxy_header(&input[..len]) {
        Ok(Proxied::More) => None,
        told => Some((len, told)),
    });
    let rest = match header {
        Some((len, told)) => {
            assert!(len <= PROXY_BYTES_MAX + 1);
            let whole = proxy_header(input);
            assert_eq!(whole, told, "more bytes change nothing");
            match whole {
                Ok(Proxied::Header { bytes, .. }) => &input[bytes..],
                Ok(Proxied::Absent) => input,
                Ok(Proxied::More) | Err(_) => return,
            }
        }
        None => {
            assert!(input.len() <= PROXY_BYTES_MAX);
            return;
        }
    };
    let told = (0..=rest.len()).find_map(|len| Some((len, first_bytes(&rest[..len])?)));
    match told {
        Some((len, speaks)) => {
            assert!((1..=FIRST_BYTES_MAX).contains(&len));
            assert_eq!(first_bytes(rest), Some(speaks), "more bytes change nothing");
            let is_turn = matches!(rest, [0 | 1, _, _, _, 0x21, 0x12, 0xA4, 0x42, ..]);
            assert_eq!(speaks == Speaks::Turn, is_turn);
            assert_eq!(speaks == Speaks::Tls, rest.first() == Some(&0x16));
        }
        None => assert!(rest.len() < FIRST_BYTES_MAX),
    }
}
