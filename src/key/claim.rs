//! Detection of keys with a typo around them: malformed, and never passed on as foreign.

use crate::key::format::KeyFormat;
use crate::key::formats::KeyFormats;
use crate::key::token::{is_connector, is_token_byte};

/// The number of bytes that are searched. A longer search would let strangers cause work.
const REACH: usize = 4096;

impl KeyFormats {
    /// Returns whether a text contains a key of ours, or most of one.
    ///
    /// A key is found at the start of a run of token characters, or after glue: a scheme's name
    /// (`BearerKEY`), a connector (`-KEY`), an encoded blank (`Bearer%20KEY`) or a printed escape
    /// (`\nKEY`). Brackets, quotes and invisible characters end a run. Within a run, text that
    /// looks like a key is a part of somebody else's token.
    pub(crate) fn is_claimed_in(&self, text: &[u8]) -> bool {
        let near = &text[..text.len().min(REACH)];
        let mut at = 0;
        while at < near.len() {
            let run = &near[at..];
            if self.begins(run) {
                return true;
            }
            let behind = match near[..at].last() {
                Some(b'%') => after_encoded_separator(run),
                Some(b'\\') => after_escape(run),
                _ => None,
            };
            if behind.is_some_and(|behind| self.begins(behind)) {
                return true;
            }
            let length = run.iter().take_while(|byte| is_token_byte(**byte)).count();
            at += length.max(1);
        }
        self.iter().any(|format| format.is_alone_in(text))
    }

    /// Returns whether a text begins with a key, or with glue and a key.
    pub(super) fn begins(&self, text: &[u8]) -> bool {
        let mut rest = text;
        loop {
            if self.iter().any(|format| format.claims(rest)) {
                return true;
            }
            match after_glue(rest) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
    }
}

impl KeyFormat {
    /// Returns whether a text is one whole key without a prefix, surrounded by nothing but typos.
    ///
    /// Nothing else may occur in the text: without a prefix, the key cannot be told from a digest
    /// or a signature that is a parameter of another scheme.
    fn is_alone_in(&self, text: &[u8]) -> bool {
        if !self.lead().is_empty() || !self.is_read_from_authorization() || text.len() > REACH {
            return false;
        }
        let Some(last) = text.iter().rposition(|byte| self.body_may_have(*byte)) else {
            return false;
        };
        let mut rest = &text[..=last];
        loop {
            if self.body_matches(rest) {
                return true;
            }
            rest = match (after_glue(rest), rest.split_first()) {
                (Some(behind), _) => behind,
                (None, Some((first, behind))) if !self.body_may_have(*first) => behind,
                _ => return false,
            };
        }
    }
}

/// Returns the text after one piece of glue: a connector, including `+` for a blank, or a scheme's
/// name and its connectors.
pub(super) fn after_glue(text: &[u8]) -> Option<&[u8]> {
    /// Names of schemes, headers and parameters that people write before a key. A name stands
    /// before its own prefixes.
    const NAMES: [&str; 31] = [
        "access-token",
        "access_token",
        "accesstoken",
        "api-key",
        "api_key",
        "api-token",
        "api_token",
        "apikey",
        "apitoken",
        "authorization",
        "auth",
        "basic",
        "bearer",
        "digest",
        "dpop",
        "gnap",
        "hawk",
        "hmac",
        "hoba",
        "jwt",
        "key",
        "negotiate",
        "ntlm",
        "oauth",
        "password",
        "privatetoken",
        "secret",
        "token",
        "vapid",
        "x-api-key",
        "x_api_key",
    ];
    let (first, behind) = text.split_first()?;
    let initial = first.to_ascii_lowercase();
    match initial {
        _ if is_connector(*first) => return Some(behind),
        b'a' | b'b' | b'd' | b'g' | b'h' | b'j' | b'k' | b'n' | b'o' | b'p' | b's' | b't'
        | b'v' | b'x' => {}
        // Exit early for nearly all runs, since a stranger may send thousands of them.
        _ => return None,
    }
    let is_here = |name: &str| {
        name.as_bytes()[0] == initial
            && text.len() > name.len()
            && text[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    };
    let name = NAMES.into_iter().find(|name| is_here(name))?;
    let behind = &text[name.len()..];
    let connectors = behind.iter().take_while(|byte| is_connector(**byte));
    Some(&behind[connectors.count()..])
}

/// Returns the text after a percent-encoded byte that ends a run, such as a blank. `text` begins
/// after the `%`. (The `%` may itself be encoded once more.)
fn after_encoded_separator(text: &[u8]) -> Option<&[u8]> {
    if let Some(behind) = text.strip_prefix(b"u") {
        return after_hex(behind, 4); // %u200B, as JavaScript once wrote it
    }
    let (digits, behind) = text.split_first_chunk::<2>()?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?;
    match byte {
        b'%' => after_encoded_separator(behind).or(Some(behind)),
        _ => (!byte.is_ascii_alphanumeric()).then_some(behind),
    }
}

/// Returns the text after a printed escape, such as `\n`, `\x0a` or `\ufeff`. `text` begins after
/// the `\`.
fn after_escape(text: &[u8]) -> Option<&[u8]> {
    let octal = text.iter().take_while(|byte| matches!(byte, b'0'..=b'7'));
    match octal.take(3).count() {
        0 => {}
        digits => return Some(&text[digits..]),
    }
    let (letter, behind) = text.split_first()?;
    match letter {
        b'a' | b'b' | b'e' | b'f' | b'n' | b'r' | b't' | b'v' => Some(behind),
        b'x' => after_hex(behind, 2),
        b'u' => after_hex(behind, 4),
        b'U' => after_hex(behind, 8),
        _ => None,
    }
}

/// Returns the text after this number of hexadecimal digits.
fn after_hex(text: &[u8], digits: usize) -> Option<&[u8]> {
    let (code, behind) = text.split_at_checked(digits)?;
    code.iter().all(u8::is_ascii_hexdigit).then_some(behind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::alphabet::Alphabet;
    use crate::key::environment::Environment;
    use proptest::prelude::*;

    const SECRET: &str = "0123456789abcdefGHIJ";

    fn issued() -> KeyFormats {
        let format = |prefix| KeyFormat::new(prefix, Environment::LIVE).unwrap();
        KeyFormats::new([format("sk_live"), format("sk_test")]).unwrap()
    }

    fn imported(lead: &str, alphabet: Alphabet) -> KeyFormat {
        KeyFormat::imported(lead, alphabet, 32..=32, Environment::LIVE).unwrap()
    }

    #[test]
    fn a_lead_with_at_least_sixteen_key_characters_is_claimed() {
        for length in 0..=SECRET.len() {
            let text = format!("Token \"sk_live_{}\"", &SECRET[..length]);
            assert_eq!(
                issued().is_claimed_in(text.as_bytes()),
                length >= 16,
                "{text}"
            );
        }
    }

    #[test]
    fn an_imported_key_is_claimed_only_if_complete() {
        let formats = KeyFormats::new([imported("acme:", Alphabet::HEX)]).unwrap();
        let key = format!("acme:{}", "0af6".repeat(8));
        for length in 0..=key.len() {
            let text = format!("Token <{}>", &key[..length]);
            let is_whole = length == key.len();
            assert_eq!(formats.is_claimed_in(text.as_bytes()), is_whole, "{text}");
        }
    }

    /// A digest or a signature may begin like a short lead.
    #[test]
    fn an_imported_key_inside_a_longer_run_is_not_claimed() {
        let lead =
            |lead| KeyFormat::imported(lead, Alphabet::HEX, 40..=40, Environment::LIVE).unwrap();
        let formats = KeyFormats::new([lead("a"), lead("ab")]).unwrap();
        for length in 0..80 {
            for begins in ["a", "ab"] {
                let hex = format!("{begins}{}", "0af6".repeat(20));
                let hex = &hex[..length.max(2)];
                let text = format!("AWS4-HMAC-SHA256 Signature={hex}, nonce=\"{hex}\"");
                let is_whole = [41, 42].contains(&hex.len()) && hex.len() - 40 <= begins.len();
                let is_whole = is_whole && (hex.len() == 41 || begins == "ab");
                assert_eq!(formats.is_claimed_in(text.as_bytes()), is_whole, "{text}");
            }
        }
    }

    #[test]
    fn the_search_ends_after_four_kibibytes() {
        let text = |before| format!("{}sk_live_{}", " ".repeat(before), &SECRET[..16]);
        let last = REACH - "sk_live_".len() - 16;
        assert!(issued().is_claimed_in(text(last).as_bytes()));
        assert!(!issued().is_claimed_in(text(last + 1).as_bytes()));
    }

    #[test]
    fn a_key_without_a_lead_is_claimed_only_if_enabled_and_only_alone() {
        let careful = KeyFormats::new([imported("", Alphabet::HEX)]).unwrap();
        let enabled = imported("", Alphabet::HEX).dangerous_in_authorization();
        let enabled = KeyFormats::new([enabled]).unwrap();
        let key = "0af6".repeat(8);
        for slip in [
            "<K>",
            "Bearer \"K\"",
            "Token K",
            "BearerK",
            "key=K,",
            "\u{200b}K\u{feff}",
        ] {
            let text = slip.replace('K', &key);
            assert!(enabled.is_claimed_in(text.as_bytes()), "{text}");
            assert!(!careful.is_claimed_in(text.as_bytes()), "{text}");
        }
        for foreign in [
            "Digest nonce=\"K\", opaque=\"K\"",
            "K.K",
            "K K",
            "aK",
            "Hawk mac=\"K\"",
        ] {
            let text = foreign.replace('K', &key);
            assert!(!enabled.is_claimed_in(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_searched_without_panic(bytes: Vec<u8>, piece in "[+%=<a-f0-9 ]{0,9}(key|BEARER|api_key|sk_live_)*") {
            let enabled = imported("", Alphabet::HEX).dangerous_in_authorization();
            let all = KeyFormats::new([enabled, imported("acme:", Alphabet::HEX)]).unwrap();
            for text in [&bytes[..], piece.as_bytes(), &[piece.as_bytes(), &bytes].concat()] {
                issued().is_claimed_in(text);
                prop_assert!(!all.is_claimed_in(text) || text.len() >= 32);
            }
        }
    }
}
