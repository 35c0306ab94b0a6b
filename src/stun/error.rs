//! Why bytes are no message.

/// Why bytes were refused. Carries nothing, because it is counted and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the header has.
    #[error("shorter than its header")]
    TooShort,
    /// The two leading bits of a STUN message are not zero, or the magic cookie is another.
    #[error("not a STUN message")]
    NotStun,
    /// The length field is no multiple of four, or is not what follows the header.
    #[error("the length field is wrong")]
    Length,
    /// An attribute or its padding reaches over the end of the message.
    #[error("an attribute is cut off")]
    AttributeCut,
    /// The channel number is outside 0x4000 to 0x4FFF.
    #[error("the channel number is out of range")]
    ChannelNumber,
    /// An attribute that the message must have is not there.
    #[error("a required attribute is missing")]
    MissingAttribute,
    /// The value of an attribute has the wrong size or content.
    #[error("an attribute has a wrong value")]
    BadAttribute,
    /// An address family that is neither IPv4 nor IPv6.
    #[error("the address family is unknown")]
    AddressFamily,
    /// An attribute that must be understood is not.
    #[error("a comprehension-required attribute is unknown")]
    UnknownAttribute,
}
