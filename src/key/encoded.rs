//! Detection of keys in base64, with or without a typo: malformed, as in clear text.

use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use crate::key::claim::after_glue;
use crate::key::formats::KeyFormats;
use crate::key::token::is_token_byte;

/// The number of bytes that are searched. They are decoded up to four times.
const REACH: usize = 2048;

/// The minimum length of a run. A shorter one cannot encode a prefix and 16 characters.
const SHORTEST: usize = 22;

/// The number of bytes of a run that are decoded to find a key at its beginning: enough for the
/// longest key.
const BEGINNING: usize = 1024;

impl KeyFormats {
    /// Returns whether a text contains a key of ours in base64.
    ///
    /// Under any scheme, a run of base64 may encode a text that begins with a key. Basic
    /// credentials may have a key anywhere: after the name `Basic`, everything that is not base64
    /// is skipped, such as quotes, commas, blanks and padding of any form. In both cases, the
    /// encoding may be doubled.
    ///
    /// Other credentials are not affected: the parts of a JWT encode JSON, which does not begin
    /// with a key.
    pub(crate) fn is_claimed_encoded_in(&self, text: &[u8]) -> bool {
        let near = &text[..text.len().min(REACH)];
        let unescaped = near.contains(&b'%').then(|| percent_decoded(near));
        let near = unescaped.as_deref().map_or(near, Vec::as_slice);
        self.begins_encoded_in(near) || self.is_claimed_in_basic(near)
    }

    /// Returns whether a run of base64 encodes a text that begins with a key.
    fn begins_encoded_in(&self, text: &[u8]) -> bool {
        let runs = text.split(|byte| sextet(*byte).is_none());
        let mut runs = runs.filter(|run| run.len() >= SHORTEST);
        runs.any(|run| {
            self.begins_in(run) || after_glue(run).is_some_and(|run| self.begins_in(run))
        })
    }

    /// Returns whether base64 encodes a text that begins with a key, perhaps after typos.
    fn begins_in(&self, run: &[u8]) -> bool {
        let mut decoded = decoded(run[..run.len().min(BEGINNING)].iter());
        self.begins_after_slips(&decoded) || {
            decode_again(&mut decoded);
            self.begins_after_slips(&decoded)
        }
    }

    /// Returns whether a text begins with a key, after any blanks, quotes and the like, and names
    /// of schemes.
    fn begins_after_slips(&self, text: &[u8]) -> bool {
        let mut rest = after_slips(text);
        loop {
            // Do not call `begins`, which skips glue itself: the cost would be quadratic.
            if self.iter().any(|format| format.claims(rest)) {
                return true;
            }
            match after_glue(rest) {
                Some(behind) => {
                    let joins = |byte: &&u8| matches!(byte, b' ' | b'\t' | b':' | b'=');
                    let joined = behind.iter().take_while(joins).count();
                    rest = &behind[joined..];
                }
                None => return false,
            }
        }
    }

    /// Returns whether Basic credentials contain a key in base64.
    fn is_claimed_in_basic(&self, text: &[u8]) -> bool {
        const NAME: &[u8] = b"basic";
        let mut is_basic = false;
        let mut behind = after_slips(text);
        loop {
            let name = behind.get(..NAME.len());
            if name.is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
                is_basic = true;
                behind = after_slips(&behind[NAME.len()..]);
            } else if let Some(next) = after_glue(behind).filter(|_| !is_basic) {
                behind = after_slips(next);
            } else {
                break;
            }
        }
        if !is_basic {
            return false;
        }
        let run = behind.iter();
        let run = run.filter(|byte| sextet(**byte).is_some());
        // Another word may stand before the encoding, so try all four alignments of base64.
        (0..4).any(|begin| {
            let mut decoded = decoded(run.clone().skip(begin));
            self.is_claimed_in(&decoded) || self.begins_encoded_in(&decoded) || {
                decode_again(&mut decoded);
                self.is_claimed_in(&decoded)
            }
        })
    }
}

/// Skips characters that no token has, such as blanks, quotes and byte order marks. A brace is not
/// skipped: it begins JSON, which is never ours.
fn after_slips(text: &[u8]) -> &[u8] {
    let slips = text
        .iter()
        .take_while(|byte| !is_token_byte(**byte) && **byte != b'{');
    &text[slips.count()..]
}

/// Returns the value of a character of base64, in the standard or the URL-safe alphabet.
fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// Decodes base64 without padding, and skips all other characters.
fn decoded<'r>(run: impl Iterator<Item = &'r u8> + Clone) -> Zeroizing<Vec<u8>> {
    // Allocate the final size: growing would leave a copy of the secret behind.
    let mut text = Zeroizing::new(Vec::with_capacity(run.clone().count() * 3 / 4 + 1));
    let mut decoder = Decoder::default();
    text.extend(run.filter_map(|byte| decoder.next(*byte)));
    text
}

/// Decodes a decoded text again, in place.
fn decode_again(text: &mut Vec<u8>) {
    let mut decoder = Decoder::default();
    let mut length = 0;
    for at in 0..text.len() {
        if let Some(byte) = decoder.next(text[at]) {
            text[length] = byte;
            length += 1;
        }
    }
    text[length..].fill(0);
    text.truncate(length);
}

/// A decoder of base64, with the bits that do not form a whole byte yet.
#[derive(Default)]
struct Decoder {
    bits: u32,
    count: u32,
}

impl Decoder {
    /// Takes a character, and returns the byte that it completes, if any. Zero bytes are dropped,
    /// since some shells encode UTF-16.
    fn next(&mut self, character: u8) -> Option<u8> {
        self.bits = self.bits << 6 | u32::from(sextet(character)?);
        if self.count < 2 {
            self.count += 6;
            return None;
        }
        self.count -= 2;
        let [.., byte] = (self.bits >> self.count).to_be_bytes();
        (byte != 0).then_some(byte)
    }
}

/// Decodes `%3D` and the like.
fn percent_decoded(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(percent_decode(text).count()));
    decoded.extend(percent_decode(text));
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    const KEY: &str = "sk_live_0123456789abcdefGHIJ";

    #[test]
    fn words_before_the_encoded_text_do_not_hide_a_key() {
        for word in [
            "",
            "a",
            "ab",
            "auth=",
            "user",
            "Basic",
            "Basic-Auth ",
            "=== ",
        ] {
            let encoded = STANDARD.encode(format!("somebody:{KEY}"));
            let text = format!("Basic {word}{encoded}");
            let claimed = KeyFormats::default().is_claimed_encoded_in(text.as_bytes());
            assert!(claimed, "{text}");
        }
    }

    #[test]
    fn under_other_schemes_only_a_key_at_the_start_is_claimed() {
        let claimed = |text: &str| {
            let text = format!("Bearer {}", STANDARD.encode(text));
            KeyFormats::default().is_claimed_encoded_in(text.as_bytes())
        };
        assert!(claimed(KEY));
        assert!(claimed(&format!("Bearer-{KEY}")));
        assert!(claimed(&format!("\u{feff}\"Bearer {KEY}")));
        assert!(!claimed(&format!(r#"{{"key":"{KEY}"}}"#)));
        let json = STANDARD.encode(format!(r#"{{"key":"{KEY}"}}"#));
        for foreign in [
            format!("OAuth realm=\"Basic API\", oauth_token=\"{json}\""),
            format!("Digest username=\"basic-user\", opaque=\"{json}\""),
            format!("Bearer eyJraWQiOiJhYWFQWkonIn0.{json}.basic{json}"),
        ] {
            assert!(
                !KeyFormats::default().is_claimed_encoded_in(foreign.as_bytes()),
                "{foreign}"
            );
        }
    }

    proptest! {
        #[test]
        fn standard_base64_decodes_to_the_original_bytes(bytes in proptest::collection::vec(1..=255u8, 0..100)) {
            let encoded = STANDARD.encode(&bytes);
            prop_assert_eq!(&*decoded(encoded.as_bytes().iter()), &bytes);
            let mut twice = STANDARD.encode(encoded).into_bytes();
            decode_again(&mut twice);
            decode_again(&mut twice);
            prop_assert_eq!(twice, bytes);
        }

        #[test]
        fn any_bytes_are_searched_without_panic(bytes: Vec<u8>) {
            let formats = KeyFormats::default();
            for text in [&bytes[..], &[b"Basic ", &bytes[..]].concat()] {
                prop_assert!(!formats.is_claimed_encoded_in(text));
            }
        }
    }
}
