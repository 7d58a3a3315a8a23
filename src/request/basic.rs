//! `Authorization: Basic base64(KEY:)` (RFC 7617): the key is the user-id, and the password empty.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::key::format::MAX_KEY_LENGTH;

/// The longest encoding that can hold a key and its colon.
const LONGEST: usize = (MAX_KEY_LENGTH + 1).div_ceil(3) * 4;

/// What Basic credentials hold, if they can be decoded at all.
pub(crate) struct Basic {
    user_id: Zeroizing<Vec<u8>>,
    exact: bool,
}

impl Basic {
    /// Decodes at most as much as a key could need.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let whole = encoded.len() <= LONGEST;
        let head = if whole { encoded } else { &encoded[..LONGEST] };
        let mut decoded = Zeroizing::new([0u8; LONGEST / 4 * 3]);
        let length = STANDARD.decode_slice(head, &mut decoded[..]).ok()?;
        let decoded = &decoded[..length];
        let colon = decoded.iter().position(|byte| *byte == b':');
        Some(Self {
            user_id: Zeroizing::new(decoded[..colon.unwrap_or(length)].to_vec()),
            exact: whole && colon.is_some_and(|colon| colon + 1 == length),
        })
    }

    /// What stands before the first colon, or the beginning of it.
    pub(crate) fn into_user_id(self) -> Zeroizing<Vec<u8>> {
        self.user_id
    }

    /// Whether there is nothing but a user-id and its colon.
    pub(crate) fn is_only_user_id(&self) -> bool {
        self.exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_vectors_of_the_rfc() {
        let aladdin = Basic::decode(b"QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert_eq!(aladdin.user_id.as_slice(), b"Aladdin");
        assert!(!aladdin.is_only_user_id());
        let test = Basic::decode("dGVzdDoxMjPCow==".as_bytes()).unwrap();
        assert_eq!(test.user_id.as_slice(), b"test");
    }

    #[test]
    fn only_standard_padded_base64_is_read() {
        assert!(
            Basic::decode(&STANDARD.encode("key:").into_bytes())
                .unwrap()
                .is_only_user_id()
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
            assert!(Basic::decode(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_decoded_only_so_far() {
        let long = STANDARD.encode("k".repeat(65_536) + ":");
        let basic = Basic::decode(long.as_bytes()).unwrap();
        assert!(basic.user_id.len() <= MAX_KEY_LENGTH + 3);
        assert!(!basic.is_only_user_id());
        let longest = STANDARD.encode("k".repeat(MAX_KEY_LENGTH) + ":");
        assert!(Basic::decode(longest.as_bytes()).unwrap().is_only_user_id());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            Basic::decode(&bytes);
        }

        #[test]
        fn a_key_with_an_empty_password_comes_back(key in "[!-9;-~]{1,512}") {
            let basic = Basic::decode(STANDARD.encode(format!("{key}:")).as_bytes()).unwrap();
            prop_assert!(basic.is_only_user_id());
            prop_assert_eq!(basic.user_id.as_slice(), key.as_bytes());
        }
    }
}
