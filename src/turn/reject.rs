//! Why a request is refused: every reason once, with its STUN error code and the words that an
//! authenticated client reads. Strangers read the code only.

use std::net::SocketAddr;

use crate::metrics::{Code, Limit};
use crate::stun::{Writer, attr};

/// The refusal of a request; it becomes the error response in one place, [`super::server`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reject {
    pub(super) why: Why,
    /// The limit that bit, if one did: counted beside the refusal.
    pub(super) limit: Option<Limit>,
    /// What UNKNOWN-ATTRIBUTES lists.
    pub(super) unknown: Vec<u16>,
    /// What ALTERNATE-SERVER says, once or twice.
    pub(super) alternates: Vec<SocketAddr>,
}

impl From<Why> for Reject {
    fn from(why: Why) -> Self {
        Self { why, limit: None, unknown: Vec::new(), alternates: Vec::new() }
    }
}

impl Reject {
    pub(super) fn limit(why: Why, limit: Limit) -> Self {
        Self { limit: Some(limit), ..Self::from(why) }
    }

    pub(super) fn alternates(alternates: Vec<SocketAddr>) -> Self {
        Self { alternates, ..Self::from(Why::TryAlternate) }
    }

    /// Adds its attributes to an answer; `domain` is the name in the certificates of the
    /// alternates, for a client that is to know it.
    pub(super) fn write(&self, mut writer: Writer, domain: Option<&str>) -> Writer {
        if !self.unknown.is_empty() {
            writer = writer.unknown_attributes(&self.unknown);
        }
        for server in &self.alternates {
            writer = writer.address(attr::ALTERNATE_SERVER, *server);
        }
        match domain.filter(|_| !self.alternates.is_empty()) {
            Some(domain) => writer.attribute(attr::ALTERNATE_DOMAIN, domain.as_bytes()),
            None => writer,
        }
    }

    pub(super) fn unknown_attributes(unknown: Vec<u16>) -> Self {
        Self { unknown, ..Self::from(Why::UnknownAttribute) }
    }
}

/// Defines [`Why`]: each reason, its code, its words.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:ident $number:literal, $text:literal;)*) => {
        /// A reason of refusal. A test sees every one of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Why { $($(#[$doc])* $variant,)* }

        impl Why {
            #[cfg(test)]
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The label under which it is counted.
            pub(super) const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// The number in ERROR-CODE.
            pub(super) const fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The reason phrase.
            pub(super) const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// An Allocate request that another server shall answer.
    TryAlternate = TryAlternate 300, "try the alternate server";
    /// A request without MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256.
    NoIntegrity = Unauthenticated 401, "authenticate first";
    /// Integrity without USERNAME and USERHASH, without REALM, or without NONCE.
    IncompleteCredential = BadRequest 400, "username, realm or nonce is missing";
    /// One of them is longer than may be, no text, or no hash.
    MalformedCredential = BadRequest 400, "username, realm or nonce is malformed";
    /// PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS are not what was offered with the nonce.
    PasswordAlgorithms = BadRequest 400, "the password algorithms are not those offered";
    /// Unknown user, wrong password, wrong realm, expired or revoked: one answer for all.
    WrongCredential = Unauthenticated 401, "wrong credential";
    /// A right credential with a nonce that is not ours or too old.
    StaleNonce = StaleNonce 438, "stale nonce";
    /// A comprehension-required attribute that is not understood.
    UnknownAttribute = UnknownAttribute 420, "unknown attribute";
    /// An attribute whose value has the wrong size or content.
    BadAttribute = BadRequest 400, "malformed attribute";
    /// PADDING beside RESPONSE-PORT.
    PaddingConflict = BadRequest 400, "padding and a response port exclude each other";
    /// A request that needs an allocation, without one.
    NoAllocation = AllocationMismatch 437, "no allocation";
    /// An Allocate request where an allocation is.
    AllocationExists = AllocationMismatch 437, "there is an allocation already";
    /// Another username than the allocation was made with.
    OtherUsername = WrongCredentials 441, "the allocation belongs to another username";
    /// An Allocate request without REQUESTED-TRANSPORT.
    TransportMissing = BadRequest 400, "requested transport is missing";
    /// A REQUESTED-TRANSPORT that is not UDP, nor TCP where that is relayed.
    TransportUnsupported = UnsupportedTransport 442, "this transport is not relayed";
    /// An Allocate request for TCP over UDP.
    TcpOverUdp = BadRequest 400, "TCP is relayed for clients over TCP and TLS only";
    /// An Allocate request for TCP with EVEN-PORT, RESERVATION-TOKEN or DONT-FRAGMENT.
    TcpConflict = BadRequest 400, "an attribute is for UDP only";
    /// An Allocate request for TCP by the holder of a grant.
    TcpOfGrant = Forbidden 403, "this credential is for UDP only";
    /// A Connect request without a TCP allocation.
    NoTcpAllocation = AllocationMismatch 437, "no TCP allocation";
    /// A ChannelBind request for a TCP allocation.
    ChannelOverTcp = Forbidden 403, "a TCP allocation has no channels";
    /// A Connect request to a peer that there is a connection to.
    ConnectionExists = ConnectionExists 446, "there is a connection to this peer already";
    /// No connection to the peer came about, or not in time.
    ConnectFailed = ConnectionFailed 447, "the peer cannot be connected";
    /// As many connections as there may be.
    ConnectionsFull = InsufficientCapacity 508, "too many connections";
    /// A ConnectionBind request over UDP, or from a client that has an allocation.
    NoDataConnection = BadRequest 400, "this cannot become a data connection";
    /// A ConnectionBind request without a CONNECTION-ID.
    ConnectionIdMissing = BadRequest 400, "connection id is missing";
    /// A CONNECTION-ID that no connection waits under.
    ConnectionUnknown = BadRequest 400, "no connection waits under this id";
    /// No relay address of the family that was asked for.
    FamilyUnsupported = AddressFamilyNotSupported 440, "no relay address of this family";
    /// An Allocate request from an address of a tunnel.
    ClientTunneled = Forbidden 403, "no relay for the address of a tunnel";
    /// RESERVATION-TOKEN beside EVEN-PORT or a family.
    TokenConflict = BadRequest 400, "a reservation token stands alone";
    /// A RESERVATION-TOKEN that is unknown, was used, or has expired.
    TokenUnknown = InsufficientCapacity 508, "nothing is reserved under this token";
    /// REQUESTED-ADDRESS-FAMILY beside ADDITIONAL-ADDRESS-FAMILY.
    FamilyConflict = BadRequest 400, "two attributes name an address family";
    /// ADDITIONAL-ADDRESS-FAMILY of anything but IPv6.
    AdditionalFamily = BadRequest 400, "the additional address family can be IPv6 only";
    /// EVEN-PORT with a reservation beside ADDITIONAL-ADDRESS-FAMILY.
    PairConflict = BadRequest 400, "a reserved port and a second family exclude each other";
    /// A Refresh for another family than that of the allocation.
    FamilyMismatch = PeerFamilyMismatch 443, "the allocation has another address family";
    /// The user or the grant has as many allocations as it may.
    QuotaReached = QuotaReached 486, "allocation quota reached";
    /// The relay has as many allocations as it may.
    AllocationsFull = InsufficientCapacity 508, "the relay is full";
    /// No relay port is free, or each one that was tried belongs to another process.
    NoPort = InsufficientCapacity 508, "no relay port is free";
    /// No descriptor or memory for a relay socket.
    NoDescriptor = InsufficientCapacity 508, "no relay socket is free";
    /// The relay address cannot be bound.
    RelayUnavailable = InsufficientCapacity 508, "the relay address is unavailable";
    /// A request that must name a peer and does not.
    PeerMissing = BadRequest 400, "peer address is missing";
    /// A peer of another family than the relayed address.
    PeerFamily = PeerFamilyMismatch 443, "the peer has another address family";
    /// A peer that the policy denies.
    PeerForbidden = Forbidden 403, "the peer is not allowed";
    /// A peer that was not signaled to the holder of the grant.
    PeerOutOfScope = Forbidden 403, "the peer is outside the credential's scope";
    /// The allocation has as many permissions as it may.
    PermissionsFull = InsufficientCapacity 508, "too many permissions";
    /// The allocation has added as many peers lately as it may.
    PeersTooFast = InsufficientCapacity 508, "too many new peers in a minute";
    /// The allocation has as many channels as it may.
    ChannelsFull = InsufficientCapacity 508, "too many channels";
    /// A ChannelBind without CHANNEL-NUMBER.
    ChannelMissing = BadRequest 400, "channel number is missing";
    /// A channel number outside 0x4000 to 0x4FFF.
    ChannelRange = BadRequest 400, "channel number out of range";
    /// The channel is bound to another peer.
    ChannelTaken = BadRequest 400, "the channel is bound to another peer";
    /// The peer is bound to another channel.
    PeerTaken = BadRequest 400, "the peer is bound to another channel";
}
