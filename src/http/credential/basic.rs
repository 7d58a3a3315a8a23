//! `Authorization: Basic base64(USER:PASSWORD)` (RFC 7617), with a key as the user or the password.

use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::engine::{DecodePaddingMode, Engine as _};
use zeroize::Zeroizing;

use crate::key::format::MAX_KEY_LENGTH;

/// The longest user name before a key, in bytes.
const LONGEST_NAME: usize = 64;

/// The longest encoding that can hold a name, a colon and a key.
const LONGEST: usize = (LONGEST_NAME + 1 + MAX_KEY_LENGTH).div_ceil(3) * 4;

/// Accepts encodings that RFC 7617 forbids, so that a badly encoded key is recognized as a key.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Decoded Basic credentials.
pub(crate) struct Basic {
    decoded: Zeroizing<Vec<u8>>,
    colon: Option<usize>,
    exact: bool,
}

impl Basic {
    /// Decodes no more than a user name, a colon and a key can need. `None` if nothing can be
    /// decoded.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let whole = encoded.len() <= LONGEST;
        let head = if whole { encoded } else { &encoded[..LONGEST] };
        let mut decoded = Zeroizing::new(vec![0; LONGEST / 4 * 3]);
        let standard = STANDARD.decode_slice(head, &mut decoded);
        let length = standard
            .clone()
            .or_else(|_| LENIENT.decode_slice(head, &mut decoded))
            .ok()?;
        decoded.truncate(length);
        let colon = decoded.iter().position(|byte| *byte == b':');
        Some(Self {
            exact: whole && standard.is_ok() && colon.is_some(),
            decoded,
            colon,
        })
    }

    /// Returns the text before the first colon, or the beginning of that text.
    pub(crate) fn user_id(&self) -> &[u8] {
        &self.decoded[..self.colon.unwrap_or(self.decoded.len())]
    }

    /// Returns the text after the first colon, or the beginning of that text; `None` without a
    /// colon.
    pub(crate) fn password(&self) -> Option<&[u8]> {
        self.colon.map(|colon| &self.decoded[colon + 1..])
    }

    /// Returns whether the credentials are well encoded, and have a colon.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_rfc_7617_are_decoded() {
        let aladdin = Basic::decode(b"QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert_eq!(aladdin.user_id(), b"Aladdin");
        assert_eq!(aladdin.password(), Some(&b"open sesame"[..]));
        assert!(aladdin.is_exact());
        let test = Basic::decode("dGVzdDoxMjPCow==".as_bytes()).unwrap();
        assert_eq!(test.user_id(), b"test");
    }

    #[test]
    fn only_standard_padded_base64_is_exact() {
        assert!(
            Basic::decode(&STANDARD.encode("key:").into_bytes())
                .unwrap()
                .is_exact()
        );
        for bad in [
            "a2V5Og",
            "a2V5Og=",
            "a2V5Og== ",
            "a2V5Oh==",
            "a2V5\tOg==",
            "%%%%",
            "a2V5-_8=",
        ] {
            let basic = Basic::decode(bad.as_bytes());
            assert!(basic.is_none_or(|basic| !basic.is_exact()), "{bad:?}");
        }
        // Badly encoded, and yet known for what it is.
        for bad in ["a2V5Og", "a2V5Og=", "a2V5Oh=="] {
            assert_eq!(Basic::decode(bad.as_bytes()).unwrap().user_id(), b"key");
        }
    }

    #[test]
    fn overlong_credentials_are_decoded_only_up_to_the_limit() {
        let long = STANDARD.encode("k".repeat(65_536) + ":");
        let basic = Basic::decode(long.as_bytes()).unwrap();
        assert!(basic.user_id().len() <= LONGEST / 4 * 3);
        assert!(!basic.is_exact());
        let longest = STANDARD.encode("k".repeat(MAX_KEY_LENGTH) + ":");
        assert!(Basic::decode(longest.as_bytes()).unwrap().is_exact());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            Basic::decode(&bytes);
        }

        #[test]
        fn a_key_with_an_empty_password_round_trips(key in "[!-9;-~]{1,512}") {
            let basic = Basic::decode(STANDARD.encode(format!("{key}:")).as_bytes()).unwrap();
            prop_assert!(basic.is_exact());
            prop_assert_eq!(basic.user_id(), key.as_bytes());
        }
    }
}
