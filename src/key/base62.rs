//! Base 62 (`0-9A-Za-z`): letters and digits only, so that a key survives URLs, shells and a double
//! click.

use zeroize::Zeroizing;

pub(crate) const DIGITS: &[u8; 62] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Returns the number of digits for any number of `bytes` bytes: `ceil(8 × bytes / log2 62)`.
///
/// The fraction is exact enough for up to 64 bytes; a test checks each length.
pub(crate) const fn width(bytes: usize) -> usize {
    (bytes * 13_436).div_ceil(10_000)
}

/// Appends the big-endian number in `bytes`, in exactly [`width`] digits.
pub(crate) fn encode_into(text: &mut String, bytes: &[u8]) {
    let mut number = Zeroizing::new(bytes.to_vec());
    let mut digits = Zeroizing::new(vec![0u8; width(bytes.len())]);
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u16;
        for byte in number.iter_mut() {
            let dividend = remainder << 8 | u16::from(*byte);
            *byte = u8::try_from(dividend / 62).unwrap_or(u8::MAX); // the remainder is below 62
            remainder = dividend % 62;
        }
        *digit = DIGITS[usize::from(remainder)];
    }
    text.extend(digits.iter().map(|&digit| char::from(digit)));
}

/// Returns the lowest six digits of a number, left-padded with `0`. A 32-bit number has no more.
pub(crate) fn six_digits(mut number: u64) -> [u8; 6] {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(bytes: &[u8]) -> String {
        let mut text = String::new();
        encode_into(&mut text, bytes);
        text
    }

    /// The inverse, by schoolbook multiplication; the carry that falls out at the top, if any.
    fn decode(text: &str, bytes: usize) -> (Vec<u8>, u32) {
        let mut number = vec![0u8; bytes];
        let mut lost = 0;
        for character in text.bytes() {
            let mut carry = (0..)
                .zip(DIGITS)
                .find(|(_, digit)| **digit == character)
                .unwrap()
                .0;
            for byte in number.iter_mut().rev() {
                carry += u32::from(*byte) * 62;
                *byte = (carry & 0xff) as u8;
                carry >>= 8;
            }
            lost |= carry;
        }
        (number, lost)
    }

    #[test]
    fn the_width_fits_the_largest_value_and_is_minimal() {
        for bytes in 16..=64 {
            let largest = vec![0xff; bytes];
            let text = encode(&largest);
            assert_eq!(
                decode(&text, bytes),
                (largest, 0),
                "{bytes} bytes do not fit"
            );
            assert_ne!(
                text.as_bytes()[0],
                b'0',
                "{bytes} bytes would fit in fewer digits"
            );
        }
    }

    proptest! {
        #[test]
        fn encoding_is_injective(bytes in proptest::collection::vec(any::<u8>(), 16..=64)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), width(bytes.len()));
            prop_assert_eq!(decode(&text, bytes.len()), (bytes, 0));
        }

        #[test]
        fn six_digits_hold_every_checksum(number: u32) {
            let text = six_digits(number.into());
            let (bytes, lost) = decode(std::str::from_utf8(&text).unwrap(), 4);
            prop_assert_eq!((bytes, lost), (number.to_be_bytes().to_vec(), 0));
        }
    }
}
