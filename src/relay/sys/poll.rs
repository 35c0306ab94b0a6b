//! Waiting for sockets: epoll, and the eventfd by which another thread ends the wait.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::calls::{Call, made};

/// One socket that has something for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct Event {
    /// What [`Poll::add`] was told.
    pub(in crate::relay) token: u64,
    /// Whether an error is pending on the socket.
    pub(in crate::relay) error: bool,
}

/// An epoll descriptor, level-triggered: what is not read now is reported again.
#[derive(Debug)]
pub(in crate::relay) struct Poll {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event]>,
}

impl Poll {
    /// One wait reports at most `events`, at least one; the next reports the rest.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(in crate::relay) fn new(events: usize) -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened above and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; events.max(1)];
        Ok(Self { epoll, events: events.into() })
    }

    /// Reports `socket` as `token` whenever it is readable. Closing the socket removes it.
    ///
    /// # Errors
    /// When the kernel has no memory or no watch left.
    pub(in crate::relay) fn add(&self, socket: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: both descriptors are open for the length of the call, which reads the event.
        let result = unsafe {
            let (epoll, fd) = (self.epoll.as_raw_fd(), socket.as_raw_fd());
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until something is readable or `timeout` is over, rounded up to a millisecond, and
    /// returns how many events [`Poll::event`] knows. A signal ends the wait with none.
    ///
    /// # Errors
    /// Only a fault of ours, such as a closed descriptor.
    pub(in crate::relay) fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        let rounded_up = timeout + Duration::from_nanos(999_999);
        let timeout_ms = i32::try_from(rounded_up.as_millis()).unwrap_or(i32::MAX);
        let events_max = i32::try_from(self.events.len()).unwrap_or(i32::MAX);
        made(Call::Wait);
        // SAFETY: the kernel writes at most as many events as the slice is long.
        let count = unsafe {
            let events = self.events.as_mut_ptr();
            libc::epoll_wait(self.epoll.as_raw_fd(), events, events_max, timeout_ms)
        };
        match usize::try_from(count) {
            Ok(count) => Ok(count),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    /// Event `index` of the last wait.
    pub(in crate::relay) fn event(&self, index: usize) -> Event {
        let event = self.events[index];
        Event { token: event.u64, error: event.events & libc::EPOLLERR as u32 != 0 }
    }
}

/// Ends another thread's [`Poll::wait`].
#[derive(Debug)]
pub(in crate::relay) struct Wake(File);

impl Wake {
    /// # Errors
    /// When no descriptor is left.
    pub(in crate::relay) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was opened above and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// Makes the descriptor readable until [`Wake::clear`]. Never blocks; a full counter is
    /// readable already.
    pub(in crate::relay) fn wake(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Forgets all wakes so far.
    pub(in crate::relay) fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::sync::Arc;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_readable_socket_is_reported_until_it_is_read() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut poll = Poll::new(8).expect("epoll");
        poll.add(socket.as_fd(), 7).expect("a watch");
        assert_eq!(poll.wait(Duration::ZERO).expect("a wait"), 0);
        let address = socket.local_addr().expect("an address");
        socket.send_to(b"x", address).expect("a send to itself");
        for _ in 0..2 {
            assert_eq!(poll.wait(LONG).expect("a wait"), 1);
            assert_eq!(poll.event(0), Event { token: 7, error: false });
        }
        socket.recv_from(&mut [0; 8]).expect("the datagram");
        assert_eq!(poll.wait(Duration::ZERO).expect("a wait"), 0);
    }

    #[test]
    fn another_thread_ends_the_wait() {
        let wake = Arc::new(Wake::new().expect("eventfd"));
        let mut poll = Poll::new(8).expect("epoll");
        poll.add(wake.as_fd(), 1).expect("a watch");
        let other = Arc::clone(&wake);
        let thread = std::thread::spawn(move || {
            other.wake();
            other.wake();
        });
        assert_eq!(poll.wait(LONG).expect("a wait"), 1);
        thread.join().expect("the other thread");
        wake.clear();
        assert_eq!(poll.wait(Duration::ZERO).expect("a wait"), 0);
    }
}
