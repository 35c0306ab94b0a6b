//! A filter in the kernel that drops a part of what some sources send, before it is queued.
//!
//! It is a program of classic BPF, which needs no privilege. Sources are told apart by a salted
//! hash of address and port into [`BUCKETS`]; [`Salt::bucket`] and the program compute the same.

use std::io;
use std::net::{IpAddr, SocketAddr};

use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_H, BPF_IMM, BPF_JA, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K,
    BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX, BPF_W, BPF_X,
    BPF_XOR, SKF_AD_OFF, SKF_AD_RANDOM, SKF_NET_OFF,
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
#[derive(Debug, Clone)]
pub(in crate::relay) struct Filter {
    salt: Salt,
    /// For each bucket how many of [`PARTS`] of what its sources send are dropped: four bits, the
    /// first bucket of a word in the lowest.
    parts: Box<[u32; WORDS]>,
    /// Whether STUN requests pass in any case.
    spares_requests: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self::new(Salt::default(), true)
    }
}

impl Filter {
    /// Drops nothing yet.
    pub(in crate::relay) fn new(salt: Salt, spares_requests: bool) -> Self {
        Self { salt, parts: Box::new([0; WORDS]), spares_requests }
    }

    /// Drops `parts` of [`PARTS`] of what the sources of `bucket` send, less than all.
    pub(in crate::relay) fn set(&mut self, bucket: usize, parts: u32) {
        let (word, at) = (&mut self.parts[bucket / 8], bucket % 8 * 4);
        *word = *word & !(0xF << at) | parts.min(PARTS - 1) << at;
    }

    /// How many of [`PARTS`] are dropped of what `source` sends and begins with the 16 bits
    /// `first`.
    pub(in crate::relay) fn parts(&self, source: SocketAddr, first: u16) -> u32 {
        if self.spares_requests && is_request(first) {
            return 0;
        }
        let bucket = self.salt.bucket(source);
        self.parts[bucket / 8] >> (bucket % 8 * 4) & 0xF
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
            program.push(jump(BPF_JSET | BPF_K, NOT_REQUEST.into(), 1, 0));
            program.push(KEEP);
        }
        self.write_hash(is_ipv4, &mut program);
        // The place within its word waits in M[1] while the word is looked for.
        program.extend([
            step(BPF_ST, 0),
            step(BPF_ALU | BPF_AND | BPF_K, 7),
            step(BPF_ALU | BPF_MUL | BPF_K, 4),
            step(BPF_ST, 1),
            step(BPF_LD | BPF_MEM, 0),
            step(BPF_ALU | BPF_RSH | BPF_K, 3),
        ]);
        self.write_words(0, WORDS, size_of_search(WORDS), &mut program);
        program.extend([
            step(BPF_LDX | BPF_MEM, 1),
            step(BPF_ALU | BPF_RSH | BPF_X, 0),
            step(BPF_ALU | BPF_AND | BPF_K, 0xF),
            step(BPF_MISC | BPF_TAX, 0),
            step(BPF_LD | BPF_W | BPF_ABS, RANDOM),
            step(BPF_ALU | BPF_AND | BPF_K, PARTS - 1),
            jump(BPF_JGE | BPF_X, 0, 1, 0),
            DROP,
            KEEP,
        ]);
        program
    }

    /// A binary search for the word of the accumulator's index, among `count` from `first`. Its
    /// steps and `left` - those of it included - are jumped over once it is found.
    fn write_words(&self, first: usize, count: usize, left: u32, program: &mut Vec<SockFilter>) {
        if count == 1 {
            program.push(step(BPF_LD | BPF_IMM, self.parts[first]));
            program.push(step(BPF_JMP | BPF_JA, left - 2));
            return;
        }
        let half = count / 2;
        let lower = size_of_search(half);
        program.push(jump(BPF_JGE | BPF_K, (first + half) as u32, lower as u8, 0));
        self.write_words(first, half, left - 1, program);
        self.write_words(first + half, half, left - 1 - lower, program);
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

/// How many steps a search among `count` words has, a power of two: two for each word, and a
/// comparison less than there are words.
const fn size_of_search(count: usize) -> u32 {
    3 * count as u32 - 1
}

/// Jumps over `yes` steps or over `no`.
const fn jump(test: u32, k: u32, yes: u8, no: u8) -> SockFilter {
    SockFilter::new((BPF_JMP | test) as u16, yes, no, k)
}

/// Ends the program: all of the datagram is kept, or none.
const KEEP: SockFilter = step(BPF_RET | BPF_K, u32::MAX);
const DROP: SockFilter = step(BPF_RET | BPF_K, 0);

/// How many buckets there are.
pub(in crate::relay) const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;
const BUCKET_SHIFT: u32 = u32::BITS - BUCKET_BITS;
const WORDS: usize = BUCKETS / 8;

/// What a filter drops is said in parts of so many: as many as four bits can tell.
pub(in crate::relay) const PARTS: u32 = 16;

const _: () = assert!(size_of_search(WORDS / 2) <= u8::MAX as u32, "a jump is eight bits wide");

/// More steps than any program has.
const PROGRAM_MAX: usize = 3 * WORDS + 64;

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
    const REPEATS: usize = 64;

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
    fn the_kernel_drops_whose_packets_the_filter_says_and_spares_the_others() {
        for (address, spares_requests) in
            [("127.0.0.1:0", true), ("127.0.0.1:0", false), ("[::1]:0", true), ("[::1]:0", false)]
        {
            let (socket, here) = listener(address);
            let salt = Salt::new(SALT);
            let senders: Vec<_> =
                (0..32).map(|_| UdpSocket::bind(address).expect("a sender")).collect();
            let mut filter = Filter::new(salt, spares_requests);
            for sender in senders.iter().step_by(2) {
                filter.set(salt.bucket(sender.local_addr().expect("an address")), PARTS);
            }
            filter.attach(&socket).expect("a filter");
            let (mut concerned, mut spared) = (0, 0);
            for (index, sender) in senders.iter().enumerate() {
                let source = sender.local_addr().expect("an address");
                for first in FIRSTS {
                    for _ in 0..REPEATS {
                        sender.send_to(&first, here).expect("a send");
                    }
                    let passed = received(&socket);
                    if filter.parts(source, u16::from_be_bytes(first)) == 0 {
                        assert_eq!(passed, REPEATS, "{source} {first:?}");
                        spared += 1;
                    } else {
                        // One in sixteen passes; that more than half do is beyond any chance.
                        assert!(passed < REPEATS / 2, "{passed} {source} {first:?}");
                        concerned += 1;
                    }
                    let is_spared = spares_requests && first == [0, 1];
                    assert!(index % 2 == 1 || is_spared || passed < REPEATS / 2);
                }
            }
            // Half of the senders, and some that share a bucket with one of them.
            assert!(concerned >= 48 && spared >= 40, "{concerned} {spared}");
        }
    }

    #[test]
    fn a_part_of_what_is_too_much_passes() {
        let (socket, here) = listener("127.0.0.1:0");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a sender");
        let source = sender.local_addr().expect("an address");
        let salt = Salt::new(SALT);
        for parts in [4, 12] {
            let mut filter = Filter::new(salt, true);
            filter.set(salt.bucket(source), parts);
            filter.attach(&socket).expect("a filter");
            for _ in 0..1600 {
                sender.send_to(b"\x40\x00", here).expect("a send");
            }
            let passed = received(&socket) as u32;
            let fair = 100 * (PARTS - parts);
            // Ten times the deviation of so many throws.
            assert!(passed.abs_diff(fair) <= 173, "{passed}");
        }
        socket.detach_filter().expect("a filter is there");
        sender.send_to(b"\x40\x00", here).expect("a send");
        assert_eq!(received(&socket), 1);
    }

    #[test]
    fn a_filter_is_a_program_of_bounded_length() {
        assert!(Filter::new(Salt::new(SALT), true).program(false).len() <= PROGRAM_MAX);
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
