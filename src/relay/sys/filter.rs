//! A filter in the kernel that drops a part of what some sources send, before it is queued.
//!
//! It is a program of classic BPF, which needs no privilege. Sources are told apart by a salted
//! hash of address and port into [`BUCKETS`]; [`Salt::bucket`] and the program compute the same.

use std::io;
use std::net::{IpAddr, SocketAddr};

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_H, BPF_IMM, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP,
    BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST,
    BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_AD_OFF, SKF_AD_RANDOM, SKF_NET_OFF,
};
use socket2::{SockFilter, Socket};

/// How sources are spread over the buckets: two that share one do so under few salts.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::relay) struct Salt([u32; 3]);

impl Salt {
    /// Of any numbers; random ones cannot be met on purpose.
    pub(in crate::relay) fn new(numbers: [u32; 3]) -> Self {
        // A product with an odd number loses nothing.
        Self(numbers.map(|number| number | 1))
    }

    /// The bucket of `source`, below [`BUCKETS`].
    pub(in crate::relay) fn bucket(self, source: SocketAddr) -> usize {
        let Self([of_address, of_port, last]) = self;
        let word = |hash: u32, word: u32| hash.wrapping_add(word).wrapping_mul(of_address);
        let address = match source.ip() {
            IpAddr::V4(ip) => word(0, u32::from(ip)),
            IpAddr::V6(ip) => {
                let bits = u128::from(ip);
                [96, 64, 32, 0].into_iter().fold(0, |hash, at| word(hash, (bits >> at) as u32))
            }
        };
        let hash = address.wrapping_add(u32::from(source.port()).wrapping_mul(of_port));
        ((hash ^ (hash >> 16)).wrapping_mul(last) >> BUCKET_SHIFT) as usize
    }
}

/// What is dropped of what arrives. By default nothing is.
#[derive(Debug, Clone, Default)]
pub(in crate::relay) struct Filter {
    /// How buckets are found.
    pub(in crate::relay) salt: Salt,
    /// A bit for each bucket: whether its sources send too much.
    loud: [u32; WORDS],
    /// How many of 2^32 datagrams of such a source pass.
    pub(in crate::relay) pass: u32,
    /// Whether STUN requests pass in any case.
    pub(in crate::relay) spares_requests: bool,
}

impl Filter {
    /// Its sources send too much.
    pub(in crate::relay) fn add(&mut self, bucket: usize) {
        self.loud[bucket / 32] |= 1 << (bucket % 32);
    }

    /// Whether a part of what `source` sends is dropped, when it begins with the 16 bits `first`.
    pub(in crate::relay) fn concerns(&self, source: SocketAddr, first: u16) -> bool {
        let bucket = self.salt.bucket(source);
        let is_loud = self.loud[bucket / 32] >> (bucket % 32) & 1 == 1;
        is_loud && !(self.spares_requests && is_request(first))
    }

    /// Drops what it says from now on, in place of what an earlier filter said.
    ///
    /// # Errors
    /// What the system call said.
    pub(in crate::relay) fn attach(&self, socket: &Socket) -> io::Result<()> {
        let is_ipv4 = socket.local_addr().is_ok_and(|local| local.is_ipv4());
        socket.attach_filter(&self.program(is_ipv4))
    }

    /// The program, which sees the UDP header first and returns how many bytes are kept. Where a
    /// datagram is too short to be looked at, nothing is.
    fn program(&self, is_ipv4: bool) -> Vec<SockFilter> {
        let mut program = Vec::with_capacity(PROGRAM_MAX);
        if self.spares_requests {
            program.push(step(BPF_LD | BPF_H | BPF_ABS, PAYLOAD));
            program.push(jump(BPF_JSET, NOT_REQUEST.into(), 1, 0));
            program.push(KEEP);
        }
        self.write_hash(is_ipv4, &mut program);
        // The bit within its word waits in M[1] while the word is looked for.
        program.extend([
            step(BPF_ST, 0),
            step(BPF_ALU | BPF_AND | BPF_K, 31),
            step(BPF_ST, 1),
            step(BPF_LD | BPF_MEM, 0),
            step(BPF_ALU | BPF_RSH | BPF_K, 5),
        ]);
        let words = (0..).zip(self.loud).filter(|(_, word)| *word != 0);
        let mut left = words.clone().count() as u32;
        for (index, word) in words {
            left -= 1;
            // Over what is left of this list, and over the end of it.
            program.push(jump(BPF_JEQ, index, 0, 2));
            program.push(step(BPF_LD | BPF_IMM, word));
            program.push(step(BPF_JMP | BPF_JA, 3 * left + 1));
        }
        program.extend([
            KEEP,
            step(BPF_LDX | BPF_MEM, 1),
            step(BPF_ALU | BPF_RSH | BPF_X, 0),
            jump(BPF_JSET, 1, 1, 0),
            KEEP,
            step(BPF_LD | BPF_W | BPF_ABS, RANDOM),
            jump(BPF_JGE, self.pass, 0, 1),
            DROP,
            KEEP,
        ]);
        program
    }

    /// What [`Salt::bucket`] computes, into the accumulator.
    fn write_hash(&self, is_ipv4: bool, program: &mut Vec<SockFilter>) {
        let Salt([of_address, of_port, last]) = self.salt;
        let words: &[u32] = if is_ipv4 { &SOURCE_IPV4 } else { &SOURCE_IPV6 };
        program.push(step(BPF_LD | BPF_IMM, 0));
        for word in words {
            program.extend([
                step(BPF_MISC | BPF_TAX, 0),
                step(BPF_LD | BPF_W | BPF_ABS, *word),
                step(BPF_ALU | BPF_ADD | BPF_X, 0),
                step(BPF_ALU | BPF_MUL | BPF_K, of_address),
            ]);
        }
        program.extend([
            step(BPF_MISC | BPF_TAX, 0),
            step(BPF_LD | BPF_H | BPF_ABS, SOURCE_PORT),
            step(BPF_ALU | BPF_MUL | BPF_K, of_port),
            step(BPF_ALU | BPF_ADD | BPF_X, 0),
            step(BPF_MISC | BPF_TAX, 0),
            step(BPF_ALU | BPF_RSH | BPF_K, 16),
            step(BPF_ALU | BPF_XOR | BPF_X, 0),
            step(BPF_ALU | BPF_MUL | BPF_K, last),
            step(BPF_ALU | BPF_RSH | BPF_K, BUCKET_SHIFT),
        ]);
    }
}

/// Whether 16 bits begin a STUN request: two zeros and the class (RFC 8489, section 5).
pub(in crate::relay) const fn is_request(first: u16) -> bool {
    first & NOT_REQUEST == 0
}

const fn step(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}

/// Jumps over `yes` steps or over `no`.
const fn jump(test: u32, k: u32, yes: u8, no: u8) -> SockFilter {
    SockFilter::new((BPF_JMP | test | BPF_K) as u16, yes, no, k)
}

/// Ends the program: all of the datagram is kept, or none.
const KEEP: SockFilter = step(BPF_RET | BPF_K, u32::MAX);
const DROP: SockFilter = step(BPF_RET | BPF_K, 0);

/// How many buckets there are.
pub(in crate::relay) const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;
const BUCKET_SHIFT: u32 = u32::BITS - BUCKET_BITS;
const WORDS: usize = BUCKETS / 32;

/// More steps than any program has.
const PROGRAM_MAX: usize = 3 * WORDS + 48;

/// The bits that are clear in the first 16 of a STUN request alone.
const NOT_REQUEST: u16 = 0xC110;

// Where things are; what is negative counts from the IP header, or is not of the packet.
const SOURCE_PORT: u32 = 0;
const PAYLOAD: u32 = 8;
const SOURCE_IPV4: [u32; 1] = [(SKF_NET_OFF + 12) as u32];
const SOURCE_IPV6: [u32; 4] = [
    (SKF_NET_OFF + 8) as u32,
    (SKF_NET_OFF + 12) as u32,
    (SKF_NET_OFF + 16) as u32,
    (SKF_NET_OFF + 20) as u32,
];
const RANDOM: u32 = (SKF_AD_OFF + SKF_AD_RANDOM) as u32;

#[cfg(test)]
mod tests {
    use super::super::socket::udp_listener;
    use super::*;
    use std::mem::MaybeUninit;
    use std::net::UdpSocket;

    const SALT: [u32; 3] = [0x9E37_79B9, 0x85EB_CA6B, 0xC2B2_AE35];
    /// ChannelData, a Send indication, a Binding request, and an Allocate response.
    const FIRSTS: [[u8; 2]; 4] = [[0x40, 0], [0, 0x16], [0, 1], [1, 3]];

    fn listener(address: &str) -> (Socket, SocketAddr) {
        let address = address.parse().expect("a test address");
        let socket = udp_listener(address, false, 1 << 20).expect("a listener");
        let local = socket.local_addr().ok().and_then(|local| local.as_socket());
        (socket, local.expect("an address"))
    }

    fn received(socket: &Socket) -> usize {
        let mut buffer = [MaybeUninit::uninit(); 16];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
    }

    #[test]
    fn the_kernel_drops_what_the_filter_says_and_nothing_else() {
        for (address, spares_requests) in
            [("127.0.0.1:0", true), ("127.0.0.1:0", false), ("[::1]:0", true), ("[::1]:0", false)]
        {
            let (socket, here) = listener(address);
            let salt = Salt::new(SALT);
            let senders: Vec<_> =
                (0..200).map(|_| UdpSocket::bind(address).expect("a sender")).collect();
            let mut filter = Filter { salt, spares_requests, ..Filter::default() };
            for sender in senders.iter().step_by(2) {
                filter.add(salt.bucket(sender.local_addr().expect("an address")));
            }
            filter.attach(&socket).expect("a filter");
            let mut concerned = 0;
            for sender in &senders {
                let source = sender.local_addr().expect("an address");
                for first in FIRSTS {
                    sender.send_to(&first, here).expect("a send");
                    let drops = filter.concerns(source, u16::from_be_bytes(first));
                    assert_eq!(received(&socket), usize::from(!drops), "{source} {first:?}");
                    concerned += usize::from(drops);
                }
            }
            // Half of the senders, and some that share a bucket with one of them.
            let kinds = if spares_requests { 3 } else { 4 };
            assert!((100 * kinds..=160 * kinds).contains(&concerned), "{concerned}");
        }
    }

    #[test]
    fn a_part_of_what_is_too_much_passes() {
        let (socket, here) = listener("127.0.0.1:0");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a sender");
        let source = sender.local_addr().expect("an address");
        let salt = Salt::new(SALT);
        let mut filter = Filter { salt, pass: 1 << 30, ..Filter::default() };
        filter.add(salt.bucket(source));
        filter.attach(&socket).expect("a filter");
        for _ in 0..1000 {
            sender.send_to(b"\x40\x00", here).expect("a send");
        }
        let passed = received(&socket);
        // Ten times the deviation of so many throws.
        assert!((250 - 137..=250 + 137).contains(&passed), "{passed}");
        Filter::default().attach(&socket).expect("another in its place");
        sender.send_to(b"\x40\x00", here).expect("a send");
        assert_eq!(received(&socket), 1);
    }

    #[test]
    fn any_filter_is_a_program_that_the_kernel_takes() {
        let (socket, _) = listener("127.0.0.1:0");
        let mut filter = Filter { spares_requests: true, ..Filter::default() };
        for bucket in 0..BUCKETS {
            filter.add(bucket);
            if bucket % 97 == 0 || bucket + 1 == BUCKETS {
                filter.attach(&socket).expect("a filter");
            }
        }
        assert!(filter.program(false).len() <= PROGRAM_MAX);
    }

    #[test]
    fn sources_are_spread_over_all_buckets() {
        let salt = Salt::new(SALT);
        for ip in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = ip.parse().expect("a test address");
            let mut sources = vec![0; BUCKETS];
            for port in 0..=u16::MAX {
                sources[salt.bucket(SocketAddr::new(ip, port))] += 1;
            }
            // 64 each, on average.
            assert!(sources.iter().all(|count| (16..=160).contains(count)), "{sources:?}");
        }
    }
}
