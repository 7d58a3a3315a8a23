//! Sets of formats, and recognition of credentials.

use std::cmp::Reverse;

use crate::key::environment::Environment;
use crate::key::format::{KeyFormat, KeyFormatError};
use crate::key::overlap;

/// A set of formats that are accepted together, such as live, test and a company's old one.
///
/// A key belongs to the imported format that it matches as a whole. An issued format claims every
/// text with its lead; only formats with a longer lead are tried before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFormats {
    /// The formats in the given order: the first of an environment is the default for issuing.
    given: Box<[KeyFormat]>,
    /// Indices into `given`, longest lead first; a format without a lead is last.
    by_lead: Box<[usize]>,
}

impl KeyFormats {
    /// Creates a set of formats, if no key can belong to two of them.
    pub(crate) fn new(
        formats: impl IntoIterator<Item = KeyFormat>,
    ) -> Result<Self, KeyFormatError> {
        let given: Box<[KeyFormat]> = formats.into_iter().collect();
        if given.is_empty() {
            return Err(KeyFormatError::Empty);
        }
        let mut by_lead: Box<[usize]> = (0..given.len()).collect();
        by_lead.sort_by_key(|&at| (Reverse(given[at].lead().len()), given[at].lead()));
        for (at, one) in given.iter().enumerate() {
            for other in &given[..at] {
                overlap::check(one, other)?;
            }
        }
        Ok(Self { given, by_lead })
    }

    /// Returns the formats in the given order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyFormat> {
        self.given.iter()
    }

    /// Returns the index of one of these formats.
    pub(crate) fn index_of(&self, format: &KeyFormat) -> usize {
        let is_same = |given: &KeyFormat| std::ptr::eq(given, format);
        self.given.iter().position(is_same).unwrap_or_default()
    }

    /// Returns the format at an index.
    pub(crate) fn at(&self, index: usize) -> &KeyFormat {
        &self.given[index]
    }

    /// Recognizes a credential.
    pub(crate) fn recognize(&self, credential: &[u8], position: Position) -> Recognized<'_> {
        let mut is_claimed = false;
        for format in self.by_lead.iter().map(|&at| &self.given[at]) {
            let Some(rest) = credential.strip_prefix(format.lead().as_bytes()) else {
                continue;
            };
            if position == Position::Authorization && !format.is_read_from_authorization() {
                continue;
            }
            if format.body_matches(rest) {
                return Recognized::WellFormed(format);
            }
            if format.is_issued() {
                return Recognized::Malformed;
            }
            // A credential with our lead claims to be ours; without a lead, only a full match does.
            is_claimed |= !format.lead().is_empty();
        }
        match position {
            Position::Authorization if !is_claimed => Recognized::Foreign,
            Position::Authorization | Position::Dedicated => Recognized::Malformed,
        }
    }
}

/// Creates the formats `sk_live` and `sk_test`.
impl Default for KeyFormats {
    fn default() -> Self {
        Self {
            given: Box::new([
                KeyFormat::issued("sk_live_", Environment::LIVE),
                KeyFormat::issued("sk_test_", Environment::TEST),
            ]),
            by_lead: Box::new([0, 1]),
        }
    }
}

/// The position of a credential in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// In `Authorization`, under a scheme that other credentials use, too.
    Authorization,
    /// In a place that is meant for our keys.
    Dedicated,
}

/// The result of recognizing a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recognized<'f> {
    /// A key in this format.
    WellFormed(&'f KeyFormat),
    /// Text that is meant as a key of ours, but is none.
    Malformed,
    /// A credential of somebody else.
    Foreign,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::alphabet::Alphabet;
    use proptest::prelude::*;

    fn formats(formats: impl IntoIterator<Item = KeyFormat>) -> KeyFormats {
        KeyFormats::new(formats).unwrap()
    }

    fn live(prefix: &str) -> KeyFormat {
        KeyFormat::new(prefix, Environment::LIVE).unwrap()
    }

    #[test]
    fn an_empty_set_or_a_repeated_prefix_is_refused() {
        let twice = KeyFormats::new([live("sk"), live("sk").without_checksum()]).unwrap_err();
        assert_eq!(twice, KeyFormatError::SamePrefix("sk_".to_owned()));
        assert_eq!(KeyFormats::new([]).unwrap_err(), KeyFormatError::Empty);
    }

    #[test]
    fn a_format_that_claims_another_formats_issued_keys_is_refused() {
        let imported = |lead, length| {
            let length = length..=length;
            KeyFormat::imported(lead, Alphabet::HEX, length, Environment::LIVE).unwrap()
        };
        // As long as an issued key, which may begin so, too.
        let error = KeyFormats::new([live("acme"), imported("acme_1", 48)]).unwrap_err();
        assert!(error.to_string().contains("\"acme_1\""), "{error}");
        formats([live("acme"), imported("acme_1", 47)]);
        // No issued secret has a `_` or a `-` in it.
        formats([live("acme"), live("acme_1"), imported("acme_-", 48)]);
    }

    #[test]
    fn the_default_set_equals_one_built_by_the_constructors() {
        let test = KeyFormat::new("sk_test", Environment::TEST).unwrap();
        assert_eq!(KeyFormats::default(), formats([live("sk_live"), test]));
    }

    #[test]
    fn the_longest_prefix_wins_without_fallback() {
        let short = live("sk").without_checksum();
        // A text that this format alone would accept, so it cannot stand beside the one that claims
        // it.
        let old = KeyFormat::imported("", Alphabet::BASE64URL, 20..=90, Environment::LIVE).unwrap();
        let claimed = format!("sk_live_{}", "A".repeat(43));
        assert!(old.matches(&claimed));
        let lost = KeyFormats::new([old, live("sk_live")]).unwrap_err();
        assert!(lost.to_string().contains("\"sk_live_\""), "{lost}");

        let old = KeyFormat::imported("", Alphabet::ALPHANUMERIC, 20..=90, Environment::LIVE);
        let set = formats([old.unwrap(), short.clone(), live("sk_live")]);
        assert_eq!(
            set.recognize(claimed.as_bytes(), Position::Dedicated),
            Recognized::Malformed
        );
        let key = short.generate().unwrap();
        let recognized = set.recognize(key.expose_secret().as_bytes(), Position::Dedicated);
        assert_eq!(recognized, Recognized::WellFormed(&short));
    }

    #[test]
    fn the_imported_format_that_matches_completely_is_chosen() {
        let imported = |lead, alphabet, length: usize| {
            KeyFormat::imported(lead, alphabet, length..=length, Environment::LIVE).unwrap()
        };
        let [a, ab] = ["a", "ab"].map(|lead| imported(lead, Alphabet::HEX, 40));
        let [short, long] = [32, 64].map(|length| imported("", Alphabet::HEX, length));
        let uuid = imported("", Alphabet::UUID, 36);
        let set = formats([&a, &ab, &short, &long, &uuid].map(Clone::clone));
        for (key, format) in [
            (format!("ab{}", "0".repeat(39)), &a),
            (format!("ab{}", "0".repeat(40)), &ab),
            (format!("ab{}", "0".repeat(30)), &short),
            (format!("ab{}", "0".repeat(62)), &long),
            ("ab000000-0000-4000-8000-000000000000".to_owned(), &uuid),
        ] {
            let recognized = set.recognize(key.as_bytes(), Position::Dedicated);
            assert_eq!(recognized, Recognized::WellFormed(format), "{key}");
        }
        let none = format!("ab{}", "0".repeat(38));
        for position in [Position::Dedicated, Position::Authorization] {
            assert_eq!(
                set.recognize(none.as_bytes(), position),
                Recognized::Malformed
            );
        }
        let overlap = KeyFormats::new([uuid, imported("", Alphabet::HEX, 36)]).unwrap_err();
        assert!(matches!(overlap, KeyFormatError::Overlapping { .. }));
    }

    #[test]
    fn a_format_without_a_lead_claims_nothing_in_authorization_by_default() {
        let bare = KeyFormat::imported("", Alphabet::HEX, 32..=64, Environment::LIVE).unwrap();
        let enabled = bare.clone().dangerous_in_authorization();
        let token = b"0123456789abcdef0123456789abcdef";
        let careful = formats([bare.clone()]);
        let found = Recognized::WellFormed(&bare);
        assert_eq!(careful.recognize(token, Position::Dedicated), found);
        assert_eq!(
            careful.recognize(token, Position::Authorization),
            Recognized::Foreign
        );
        let set = formats([enabled.clone()]);
        let found = Recognized::WellFormed(&enabled);
        assert_eq!(set.recognize(token, Position::Authorization), found);
        assert_eq!(
            set.recognize(b"a.jwt.token", Position::Authorization),
            Recognized::Foreign
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_recognized_without_panic(bytes: Vec<u8>) {
            let bare = KeyFormat::imported("", Alphabet::HEX, 32..=64, Environment::LIVE).unwrap();
            let set = formats([live("sk"), live("sk_live"), bare]);
            for position in [Position::Dedicated, Position::Authorization] {
                let recognized = set.recognize(&bytes, position);
                prop_assert!(!matches!(recognized, Recognized::WellFormed(_)));
            }
        }
    }
}
