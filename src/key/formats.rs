//! The formats that are accepted together, and what a credential is to them.

use std::cmp::Reverse;

use crate::key::environment::Environment;
use crate::key::format::{KeyFormat, KeyFormatError};
use crate::key::overlap;

/// The formats that are accepted together, such as live, test and a company's old one.
///
/// The imported format that a text wholly matches is taken. An issued format claims every text
/// that begins with its lead, and no other format is asked about it but one with a longer lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyFormats {
    /// As they were given: the first of an environment is the one that is issued by default.
    given: Box<[KeyFormat]>,
    /// Indices into `given`, longest lead first; a format without a lead is last.
    by_lead: Box<[usize]>,
}

impl KeyFormats {
    /// Creates a set of formats of which no key belongs to two.
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

    /// The formats, in the order in which they were given.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeyFormat> {
        self.given.iter()
    }

    /// Where one of these formats stands among them.
    pub(crate) fn place_of(&self, format: &KeyFormat) -> usize {
        let is_it = |given: &KeyFormat| std::ptr::eq(given, format);
        self.given.iter().position(is_it).unwrap_or_default()
    }

    /// The format at a place.
    pub(crate) fn at(&self, place: usize) -> &KeyFormat {
        &self.given[place]
    }

    /// What a credential is to us.
    pub(crate) fn recognize(&self, credential: &[u8], place: Place) -> Recognized<'_> {
        let mut is_claimed = false;
        for format in self.by_lead.iter().map(|&at| &self.given[at]) {
            let Some(rest) = credential.strip_prefix(format.lead().as_bytes()) else {
                continue;
            };
            if place == Place::Authorization && !format.is_read_from_authorization() {
                continue;
            }
            if format.body_matches(rest) {
                return Recognized::WellFormed(format);
            }
            if format.is_issued() {
                return Recognized::Malformed;
            }
            // A lead is a claim to be ours; without one, there is only the shape to tell.
            is_claimed |= !format.lead().is_empty();
        }
        match place {
            Place::Authorization if !is_claimed => Recognized::Foreign,
            Place::Authorization | Place::Own => Recognized::Malformed,
        }
    }
}

/// `sk_live` and `sk_test`.
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

/// Where a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `Authorization`, under a scheme that we share with others.
    Authorization,
    /// Where nothing but a key of ours is expected.
    Own,
}

/// What a credential is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recognized<'f> {
    /// Written as the keys of this format are.
    WellFormed(&'f KeyFormat),
    /// Meant as one of our keys, and not one.
    Malformed,
    /// Somebody else's.
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
    fn a_set_is_not_empty_and_begins_differently() {
        let twice = KeyFormats::new([live("sk"), live("sk").without_checksum()]).unwrap_err();
        assert_eq!(twice, KeyFormatError::SamePrefix("sk_".to_owned()));
        assert_eq!(KeyFormats::new([]).unwrap_err(), KeyFormatError::Empty);
    }

    #[test]
    fn no_format_claims_the_keys_that_another_issues() {
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
    fn the_default_set_is_what_its_constructors_make() {
        let test = KeyFormat::new("sk_test", Environment::TEST).unwrap();
        assert_eq!(KeyFormats::default(), formats([live("sk_live"), test]));
    }

    #[test]
    fn the_longest_prefix_wins_and_nothing_falls_through_it() {
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
            set.recognize(claimed.as_bytes(), Place::Own),
            Recognized::Malformed
        );
        let key = short.generate().unwrap();
        let recognized = set.recognize(key.expose_secret().as_bytes(), Place::Own);
        assert_eq!(recognized, Recognized::WellFormed(&short));
    }

    #[test]
    fn of_imported_formats_the_one_that_wholly_matches_is_taken() {
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
            let recognized = set.recognize(key.as_bytes(), Place::Own);
            assert_eq!(recognized, Recognized::WellFormed(format), "{key}");
        }
        let none = format!("ab{}", "0".repeat(38));
        for place in [Place::Own, Place::Authorization] {
            assert_eq!(set.recognize(none.as_bytes(), place), Recognized::Malformed);
        }
        let overlap = KeyFormats::new([uuid, imported("", Alphabet::HEX, 36)]).unwrap_err();
        assert!(matches!(overlap, KeyFormatError::Overlapping { .. }));
    }

    #[test]
    fn a_format_without_a_lead_claims_nothing_in_authorization_unless_told() {
        let bare = KeyFormat::imported("", Alphabet::HEX, 32..=64, Environment::LIVE).unwrap();
        let told = bare.clone().dangerous_in_authorization();
        let token = b"0123456789abcdef0123456789abcdef";
        let careful = formats([bare.clone()]);
        let found = Recognized::WellFormed(&bare);
        assert_eq!(careful.recognize(token, Place::Own), found);
        assert_eq!(
            careful.recognize(token, Place::Authorization),
            Recognized::Foreign
        );
        let set = formats([told.clone()]);
        let found = Recognized::WellFormed(&told);
        assert_eq!(set.recognize(token, Place::Authorization), found);
        assert_eq!(
            set.recognize(b"a.jwt.token", Place::Authorization),
            Recognized::Foreign
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_recognized_without_panic(bytes: Vec<u8>) {
            let bare = KeyFormat::imported("", Alphabet::HEX, 32..=64, Environment::LIVE).unwrap();
            let set = formats([live("sk"), live("sk_live"), bare]);
            for place in [Place::Own, Place::Authorization] {
                let recognized = set.recognize(&bytes, place);
                prop_assert!(!matches!(recognized, Recognized::WellFormed(_)));
            }
        }
    }
}
