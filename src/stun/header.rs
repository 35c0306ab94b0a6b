//! The first twenty bytes of a STUN message: type, length, magic cookie, transaction id.
//!
//! ```text
//!  0                   1                   2                   3
//! +---+---------------------------+-------------------------------+
//! |0 0|  method and class (14)    |  length of what follows (16)  |
//! +---+---------------------------+-------------------------------+
//! |                    magic cookie 0x2112_A442                   |
//! +---------------------------------------------------------------+
//! |                    transaction id (96)                        |
//! +---------------------------------------------------------------+
//! ```
//! The type's bits are `00 M11..M7 C1 M6..M4 C0 M3..M0` (RFC 8489, section 5).

use std::fmt;

/// The magic cookie in every header (RFC 8489, section 5).
pub const MAGIC_COOKIE: u32 = 0x2112_A442;

/// The size of the header (RFC 8489, section 5).
pub const HEADER_BYTES: usize = 20;

/// What joins an answer to its request; random, chosen by whoever asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The class of a message (RFC 8489, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// An answer: done.
    Success,
    /// An answer: refused, with an ERROR-CODE.
    Error,
}

/// The method of a message: 12 bits (RFC 8489, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Method(u16);

impl Method {
    /// Binding (RFC 8489, section 18.2).
    pub const BINDING: Self = Self(0x001);
    /// Allocate (RFC 8656, section 17).
    pub const ALLOCATE: Self = Self(0x003);
    /// Refresh (RFC 8656, section 17).
    pub const REFRESH: Self = Self(0x004);
    /// Send, an indication only (RFC 8656, section 17).
    pub const SEND: Self = Self(0x006);
    /// Data, an indication only (RFC 8656, section 17).
    pub const DATA: Self = Self(0x007);
    /// CreatePermission (RFC 8656, section 17).
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// ChannelBind (RFC 8656, section 17).
    pub const CHANNEL_BIND: Self = Self(0x009);
    /// Connect (RFC 6062, section 6.1).
    pub const CONNECT: Self = Self(0x00A);
    /// ConnectionBind (RFC 6062, section 6.1).
    pub const CONNECTION_BIND: Self = Self(0x00B);
    /// ConnectionAttempt, an indication only (RFC 6062, section 6.1).
    pub const CONNECTION_ATTEMPT: Self = Self(0x00C);

    /// The method of this number; bits above the twelfth are cut off.
    pub const fn new(number: u16) -> Self {
        Self(number & 0x0FFF)
    }

    /// The number, at most 0x0FFF.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::BINDING => "Binding",
            Self::ALLOCATE => "Allocate",
            Self::REFRESH => "Refresh",
            Self::SEND => "Send",
            Self::DATA => "Data",
            Self::CREATE_PERMISSION => "CreatePermission",
            Self::CHANNEL_BIND => "ChannelBind",
            Self::CONNECT => "Connect",
            Self::CONNECTION_BIND => "ConnectionBind",
            Self::CONNECTION_ATTEMPT => "ConnectionAttempt",
            Self(number) => return write!(f, "{number:#05x}"),
        })
    }
}

/// The first two bytes of a header.
pub(super) const fn message_type(class: Class, method: Method) -> u16 {
    let class = match class {
        Class::Request => 0x000,
        Class::Indication => 0x010,
        Class::Success => 0x100,
        Class::Error => 0x110,
    };
    let Method(m) = method;
    (m & 0x000F) | (m & 0x0070) << 1 | (m & 0x0F80) << 2 | class
}

/// The class within the first two bytes of a header.
pub(super) const fn class_of(message_type: u16) -> Class {
    match message_type & 0x0110 {
        0x000 => Class::Request,
        0x010 => Class::Indication,
        0x100 => Class::Success,
        _ => Class::Error,
    }
}

/// The method within the first two bytes of a header.
pub(super) const fn method_of(message_type: u16) -> Method {
    let t = message_type;
    Method((t & 0x000F) | (t >> 1 & 0x0070) | (t >> 2 & 0x0F80))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_type_comes_back_as_its_class_and_method() {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            for number in 0..=0x0FFF {
                let written = message_type(class, Method::new(number));
                assert!(written < 0x4000);
                assert_eq!(class_of(written), class);
                assert_eq!(method_of(written).number(), number);
            }
        }
    }

    #[test]
    fn message_types_are_those_of_the_rfc() {
        assert_eq!(message_type(Class::Request, Method::BINDING), 0x0001);
        assert_eq!(message_type(Class::Success, Method::BINDING), 0x0101);
        assert_eq!(message_type(Class::Error, Method::ALLOCATE), 0x0113);
        assert_eq!(message_type(Class::Indication, Method::DATA), 0x0017);
    }

    #[test]
    fn a_method_prints_as_its_name_or_number() {
        assert_eq!(format!("{:?}", Method::CHANNEL_BIND), "ChannelBind");
        assert_eq!(format!("{:?}", Method::new(0xABC)), "0xabc");
    }
}
