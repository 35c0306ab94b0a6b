//! What is known of a socket's receive queue.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::calls::{Call, made};

/// How many datagrams `socket` has lost in all, to a full queue or to its filter; the kernel
/// counts to 2^32 and begins again. `None` before Linux 4.12.
pub(in crate::relay) fn queue_drops(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut words = [0u32; WORDS];
    let mut len = size_of_val(&words) as libc::socklen_t;
    made(Call::Other);
    // SAFETY: the kernel writes at most as many bytes as `len` says to a live array.
    let result = unsafe {
        let words = words.as_mut_ptr().cast();
        let (level, name) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
        libc::getsockopt(socket.as_raw_fd(), level, name, words, &raw mut len)
    };
    let is_told = result == 0 && len as usize > DROPS * size_of::<u32>();
    is_told.then(|| words[DROPS])
}

/// The words that `SO_MEMINFO` tells, more than today's kernels have.
const WORDS: usize = 16;
/// The one that counts drops (`linux/sock_diag.h`: `SK_MEMINFO_DROPS`).
const DROPS: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::recv::RecvBatch;
    use super::super::socket::udp_listener;
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn what_a_full_queue_loses_is_told() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let here = address.parse().expect("a test address");
            let socket = udp_listener(here, false, 4096).expect("a listener");
            let here = socket.local_addr().ok().and_then(|local| local.as_socket());
            let (here, sender) = (here.expect("an address"), UdpSocket::bind(address));
            let sender = sender.expect("a sender");
            let mut batch = RecvBatch::new();
            assert_eq!(queue_drops(socket.as_fd()), Some(0));
            let (mut sent, mut received) = (0, 0);
            for _ in 0..3 {
                for _ in 0..50 {
                    sender.send_to(b"x", here).expect("a send");
                    sent += 1;
                }
                received += batch.recv(socket.as_fd()).expect("what found room");
                assert_eq!(queue_drops(socket.as_fd()), Some(sent - received as u32));
                // The next one to be queued says so, too.
                sender.send_to(b"x", here).expect("a send");
                sent += 1;
                received += batch.recv(socket.as_fd()).expect("the next");
                assert_eq!(batch.queue_drops(), Some(sent - received as u32));
            }
            assert!(received < sent as usize);
        }
    }
}
