//! Keys in base64 with a slip: ours and bad, as they are in clear text.

use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use crate::key::claim::after_glue;
use crate::key::formats::KeyFormats;
use crate::key::token::is_of_token;

/// So much of a text is looked at, which is decoded up to four times.
const REACH: usize = 2048;

/// A shorter run encodes no lead with 16 characters behind it.
const SHORTEST: usize = 22;

/// So much of a run is decoded to see whether it begins with a key: as much as the longest one
/// takes.
const BEGINNING: usize = 1024;

impl KeyFormats {
    /// Returns whether a key of ours stands in a text in base64.
    ///
    /// What a run of base64 encodes may begin with a key, under whatever scheme. Basic credentials
    /// may have one anywhere: behind the name `Basic`, all that is no base64 is left out, such as
    /// quotes, commas, blanks and padding in any form. Either may be encoded twice.
    ///
    /// What others send is never ours by this: a part of a JWT encodes JSON, which does not begin
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

    /// Returns whether base64 encodes a text that begins with a key, or with slips and a key.
    fn begins_in(&self, run: &[u8]) -> bool {
        let mut decoded = decoded(run[..run.len().min(BEGINNING)].iter());
        self.begins_after_slips(&decoded) || {
            decode_again(&mut decoded);
            self.begins_after_slips(&decoded)
        }
    }

    /// Returns whether a text begins with a key behind blanks, quotes and the like, and names of
    /// schemes.
    fn begins_after_slips(&self, text: &[u8]) -> bool {
        let mut rest = after_slips(text);
        loop {
            // Not `begins`, which goes through the glue itself: together they would take the
            // square.
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

    /// Returns whether a key stands in what is encoded behind the name `Basic`, where that is the
    /// scheme.
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
        // A word of another kind may stand in between, so that the encoding begins at any of four
        // places.
        (0..4).any(|begin| {
            let mut decoded = decoded(run.clone().skip(begin));
            self.is_claimed_in(&decoded) || self.begins_encoded_in(&decoded) || {
                decode_again(&mut decoded);
                self.is_claimed_in(&decoded)
            }
        })
    }
}

/// Returns what stands behind characters that no token has, such as blanks, quotes and byte order
/// marks. A brace begins JSON, which is somebody else's.
fn after_slips(text: &[u8]) -> &[u8] {
    let slips = text
        .iter()
        .take_while(|byte| !is_of_token(**byte) && **byte != b'{');
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

/// Decodes base64 without padding; what is none is left out.
fn decoded<'r>(run: impl Iterator<Item = &'r u8> + Clone) -> Zeroizing<Vec<u8>> {
    // As large as it will be, so that no part of a secret is left where it grew.
    let mut text = Zeroizing::new(Vec::with_capacity(run.clone().count() * 3 / 4 + 1));
    let mut decoder = Decoder::default();
    text.extend(run.filter_map(|byte| decoder.next(*byte)));
    text
}

/// Decodes what was decoded, in its place.
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

/// The bits of base64 that make no whole byte yet.
#[derive(Default)]
struct Decoder {
    bits: u32,
    count: u32,
}

impl Decoder {
    /// Takes a character, and gives the byte that it completes. Zero bytes are left out: some
    /// shells encode UTF-16.
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

/// Replaces `%3D` and the like.
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
    fn words_before_the_encoding_hide_no_key() {
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
    fn behind_other_schemes_only_the_beginning_counts() {
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
        fn it_is_decoded_as_the_standard_has_it(bytes in proptest::collection::vec(1..=255u8, 0..100)) {
            let encoded = STANDARD.encode(&bytes);
            prop_assert_eq!(&*decoded(encoded.as_bytes().iter()), &bytes);
            let mut twice = STANDARD.encode(encoded).into_bytes();
            decode_again(&mut twice);
            decode_again(&mut twice);
            prop_assert_eq!(twice, bytes);
        }

        #[test]
        fn any_bytes_are_looked_through_without_panic(bytes: Vec<u8>) {
            let formats = KeyFormats::default();
            for text in [&bytes[..], &[b"Basic ", &bytes[..]].concat()] {
                prop_assert!(!formats.is_claimed_encoded_in(text));
            }
        }
    }
}
