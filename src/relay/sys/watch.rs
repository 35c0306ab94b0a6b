//! A datagram socket that wakes a task of the runtime.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll};

use socket2::Socket;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use super::socket::set_option;

/// A socket in the runtime's own epoll, which reports each change once.
#[derive(Debug)]
pub(in crate::relay) struct Watched(AsyncFd<Socket>);

impl Watched {
    /// Only within a runtime.
    ///
    /// # Errors
    /// When the kernel has no memory or no watch left.
    pub(in crate::relay) fn new(socket: Socket) -> io::Result<Self> {
        // An error in the queue counts as urgent, so that a task that waits for datagrams is woken:
        // the runtime tells of errors alone only those who write. Before Linux 3.10, and in some
        // sandboxes, an error waits for the next datagram instead.
        let _ = set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE, 1);
        let interest = Interest::READABLE | Interest::PRIORITY;
        // SAFETY: the descriptor is the socket's own, which the `AsyncFd` keeps; it stays open and
        // the same as long as that lives, because nobody gets it but as a borrowed one.
        let registered = unsafe { AsyncFd::register_with_interest(socket, interest) };
        Ok(Self(registered.map_err(io::Error::from)?))
    }

    /// Ready while there may be a datagram or an error; otherwise the task is woken when there is.
    /// Whoever has taken all there was says so by [`Ready::clear`].
    pub(in crate::relay) fn poll(&self, cx: &mut Context<'_>) -> Poll<Ready<'_>> {
        match self.0.poll_read_ready(cx) {
            Poll::Ready(Ok(ready)) => Poll::Ready(Ready(ready)),
            // The runtime shuts down, and so will the task.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// That there may be something.
pub(in crate::relay) struct Ready<'a>(AsyncFdReadyGuard<'a, Socket>);

impl Ready<'_> {
    /// All that was there is taken: wait for the next. What has come since is not forgotten.
    pub(in crate::relay) fn clear(mut self) {
        self.0.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::UdpSocket;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::socket::{dead_peer, relay_socket};
    use super::super::{RecvBatch, drain_errors};
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn watched(local: &str) -> Watched {
        let socket = relay_socket(local.parse().expect("a test address"), 1 << 16);
        Watched::new(socket.expect("a relay socket")).expect("the runtime's watch")
    }

    async fn wait(watched: &Watched) {
        let ready = poll_fn(|cx| watched.poll(cx).map(drop));
        timeout(DEADLINE, ready).await.expect("the task is woken");
    }

    async fn clear(watched: &Watched) {
        poll_fn(|cx| watched.poll(cx).map(Ready::clear)).await;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(watched.poll(&mut cx).is_pending());
    }

    #[tokio::test]
    async fn a_task_is_woken_by_each_datagram() {
        let (watched, mut batch) = (watched("127.0.0.1:0"), RecvBatch::new());
        let address = socket2::SockRef::from(&watched.as_fd()).local_addr().expect("an address");
        let address = address.as_socket().expect("an IP address");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a sender");
        for _ in 0..3 {
            sender.send_to(b"x", address).expect("a send");
            wait(&watched).await;
            assert_eq!(batch.recv(watched.as_fd()).expect("a datagram"), 1);
            clear(&watched).await;
        }
    }

    #[tokio::test]
    async fn a_task_is_woken_by_an_error_alone() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let watched = watched(local);
            let (_dead, peer) = dead_peer(local);
            for _ in 0..3 {
                socket2::SockRef::from(&watched.as_fd())
                    .send_to(b"x", &peer.into())
                    .expect("a send to nobody");
                wait(&watched).await;
                assert_eq!(drain_errors(watched.as_fd(), drop), 1);
                clear(&watched).await;
            }
        }
    }
}
