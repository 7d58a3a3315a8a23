//! The slots of a cluster, by which keys are spread over its servers.

/// The number of slots.
pub(super) const SLOTS: u16 = 16_384;

/// The polynomial of CRC-16/XMODEM.
const POLYNOMIAL: u16 = 0x1021;

/// The checksums of all bytes.
const CHECKSUMS: [u16; 256] = checksums();

/// Returns the slot of a key. What is in its first pair of braces decides, if that is not empty.
pub(super) fn slot_of(key: &str) -> u16 {
    let after = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'));
    let tag = after.map_or("", |(tag, _)| tag);
    let hashed = if tag.is_empty() { key } else { tag };
    checksum(hashed.as_bytes()) % SLOTS
}

/// Returns the CRC-16/XMODEM of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum: u16, byte| {
        let [high, low] = sum.to_be_bytes();
        u16::from_be_bytes([low, 0]) ^ CHECKSUMS[usize::from(high ^ byte)]
    })
}

const fn checksums() -> [u16; 256] {
    let mut sums = [0; 256];
    let mut byte: u16 = 0;
    while byte < 256 {
        let mut sum = byte << 8;
        let mut bit = 0;
        while bit < 8 {
            let carry = sum & 0x8000 != 0;
            sum <<= 1;
            if carry {
                sum ^= POLYNOMIAL;
            }
            bit += 1;
        }
        sums[byte as usize] = sum;
        byte += 1;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_slots_that_the_specification_names() {
        assert_eq!(checksum(b"123456789"), 0x31C3);
        assert_eq!(slot_of("123456789"), 0x31C3 % SLOTS);
        // As `CLUSTER KEYSLOT` says.
        for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("", 0)] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
        // The first pair of braces decides, unless nothing is in it.
        assert_eq!(slot_of("{foo}bar{baz}"), slot_of("foo"));
        assert_eq!(slot_of("a{{foo}}b"), slot_of("{foo"));
        assert_eq!(slot_of("a{foo"), checksum(b"a{foo") % SLOTS);
        assert_eq!(slot_of("a}{foo}"), slot_of("foo"));
        assert_eq!(slot_of("a{}{foo}"), checksum(b"a{}{foo}") % SLOTS);
    }
}
