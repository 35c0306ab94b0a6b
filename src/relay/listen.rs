//! The sockets that clients send to: one per listen address and worker, sharing the port.
//!
//! All are bound before the first worker starts and none joins or leaves while it runs, so that
//! the kernel leads a five-tuple to the same worker always.

use std::net::SocketAddr;

use socket2::Socket;

use super::sys::{SocketOptions, share_port, udp_listener, was_address_in_use};
use super::{Error, Options};

/// The listening sockets of a relay that is about to start.
pub(super) struct Listeners {
    /// What was bound, with real ports, in the order of the options.
    pub(super) addresses: Vec<SocketAddr>,
    /// One list per worker, in the order of the addresses.
    pub(super) per_worker: Vec<Vec<(Socket, SocketAddr)>>,
}

impl Listeners {
    /// Binds every address of `options` once for every worker.
    ///
    /// # Errors
    /// [`Error::InUse`] when somebody else has a port, [`Error::Bind`] otherwise.
    pub(super) fn bind(options: &Options) -> Result<Self, Error> {
        let workers = options.workers.max(1);
        let mut listeners =
            Self { addresses: Vec::new(), per_worker: (0..workers).map(|_| Vec::new()).collect() };
        for &asked in &options.listen {
            listeners.bind_shared(canonical(asked), options.of_clients())?;
        }
        if workers > 1 {
            listeners.discard_early();
        }
        Ok(listeners)
    }

    fn bind_shared(&mut self, asked: SocketAddr, options: SocketOptions) -> Result<(), Error> {
        let failed = |error| Error::bind(asked, error);
        let mut address = asked;
        let workers = self.per_worker.len();
        for (index, sockets) in self.per_worker.iter_mut().enumerate() {
            let socket = udp_listener(address, index > 0, options).map_err(failed)?;
            if index == 0 {
                let bound = socket.local_addr().map_err(failed)?;
                address = bound.as_socket().map_or(asked, canonical);
                self.addresses.push(address);
                if workers > 1 {
                    share_port(&socket).map_err(failed)?;
                }
            }
            sockets.push((socket, address));
        }
        Ok(())
    }

    /// Throws away what arrived while fewer sockets than workers shared a port: it may lie at the
    /// wrong worker. Clients send again.
    fn discard_early(&self) {
        for (socket, _) in self.per_worker.iter().flatten() {
            let mut byte = [std::mem::MaybeUninit::uninit(); 1];
            for _ in 0..EARLY_MAX {
                if socket.recv(&mut byte).is_err() {
                    break;
                }
            }
        }
    }
}

impl Error {
    fn bind(address: SocketAddr, error: std::io::Error) -> Self {
        if was_address_in_use(&error) {
            Self::InUse { address }
        } else {
            Self::Bind { address, source: error }
        }
    }
}

/// An IPv4-mapped address as IPv4, for an IPv6 socket takes no IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}

/// The most datagrams thrown away per socket: under a flood the start goes on all the same.
const EARLY_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn options(listen: &[&str], workers: usize) -> Options {
        let listen = listen.iter().map(|text| text.parse().expect("a test address")).collect();
        Options { listen, workers, ..Options::default() }
    }

    #[test]
    fn every_worker_gets_a_share_of_the_clients() {
        let listeners = Listeners::bind(&options(&["127.0.0.1:0"], 4)).expect("listeners");
        let mut received = [0; 4];
        for _ in 0..256 {
            let client = UdpSocket::bind("127.0.0.1:0").expect("a client");
            client.send_to(b"x", listeners.addresses[0]).expect("a send");
        }
        for (sockets, received) in listeners.per_worker.iter().zip(&mut received) {
            assert_eq!(sockets[0].1, listeners.addresses[0]);
            let mut byte = [std::mem::MaybeUninit::uninit(); 1];
            while sockets[0].0.recv(&mut byte).is_ok() {
                *received += 1;
            }
        }
        assert_eq!(received.iter().sum::<i32>(), 256);
        assert!(received.iter().all(|count| *count > 16), "{received:?}");
    }

    #[test]
    fn a_second_relay_on_the_port_is_refused_in_one_sentence() {
        for workers in [1, 3] {
            let first = Listeners::bind(&options(&["127.0.0.1:0"], workers)).expect("listeners");
            let here = first.addresses[0];
            let second = options(&[&here.to_string()], workers);
            let refused = Listeners::bind(&second).err().expect("the port is taken");
            let sentence = format!(
                "bind udp://{here}: Address already in use; is another turncast or TURN server \
                 running? `ss -lunp` shows who has the port"
            );
            assert_eq!(refused.to_string(), sentence);
        }
    }

    #[test]
    fn an_address_that_is_not_ours_is_named() {
        let refused = Listeners::bind(&options(&["203.0.113.77:0"], 1)).err().expect("refused");
        assert_eq!(refused.to_string(), "bind udp://203.0.113.77:0");
        assert!(std::error::Error::source(&refused).is_some());
    }
}
