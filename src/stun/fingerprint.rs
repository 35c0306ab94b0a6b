//! FINGERPRINT: a CRC-32 that tells STUN from other packets (RFC 8489, section 14.7).

/// The value of FINGERPRINT behind `message`, whose length field already counts the attribute.
pub(super) fn value(message: &[u8]) -> u32 {
    let crc = message
        .iter()
        .fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)]);
    !crc ^ XOR_VALUE
}

/// The ASCII of `STUN`, so that a packet with a plain CRC-32 of its own is told apart.
const XOR_VALUE: u32 = 0x5354_554E;

/// The CRC-32 of ITU V.42, reflected, one byte at a time.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    #[test]
    fn the_check_value_of_the_crc_catalogue_holds() {
        assert_eq!(super::value(b"123456789"), 0xCBF4_3926 ^ 0x5354_554E);
    }
}
