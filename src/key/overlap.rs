//! Conflicts between formats: a key of one format could be taken for that of another.

use crate::key::alphabet::Alphabet;
use crate::key::format::{KeyBody, KeyFormat, KeyFormatError};

/// The bits of chance below which two formats conflict. An imported key that happens to begin like
/// an issued key is lost, which is accepted for at most one key in 2²⁸.
const RARE_BITS: f64 = 28.0;

/// Returns an error if a key of one format could be taken for a key of the other.
///
/// Two imported formats conflict only if one text could match both as a whole. An issued format,
/// however, claims all texts with its lead.
pub(super) fn check(one: &KeyFormat, other: &KeyFormat) -> Result<(), KeyFormatError> {
    let is_shorter = one.lead().len() <= other.lead().len();
    let (short, long) = if is_shorter {
        (one, other)
    } else {
        (other, one)
    };
    let Some(rest) = long.lead().strip_prefix(short.lead()) else {
        return Ok(()); // no text begins with both
    };
    if rest.is_empty() && (short.is_issued() || long.is_issued()) {
        return Err(KeyFormatError::SamePrefix(short.lead().to_owned()));
    }
    let (shorts, longs) = (KeyPattern::of(short), KeyPattern::of(long));
    if !shorts.may_begin_with(rest.as_bytes()) {
        return Ok(());
    }
    let may_be_alike = shorts.may_end_like(&longs);
    if short.is_issued() || long.is_issued() {
        // An imported key can begin with the issued lead by chance.
        let is_rare = short.is_issued() || shorts.bits(rest.len()) >= RARE_BITS;
        if is_rare && !may_be_alike {
            return Ok(());
        }
        return Err(KeyFormatError::Shadowed {
            shadowed: short.lead().to_owned(),
            by: long.lead().to_owned(),
        });
    }
    if !may_be_alike {
        return Ok(());
    }
    Err(KeyFormatError::Overlapping {
        one: short.lead().to_owned(),
        other: long.lead().to_owned(),
    })
}

/// The possible texts of the keys of a format.
struct KeyPattern {
    /// The length of the shortest whole key.
    shortest: usize,
    longest: usize,
    lead: usize,
    /// The characters after the lead.
    alphabet: Alphabet,
}

impl KeyPattern {
    fn of(format: &KeyFormat) -> Self {
        let lead = format.lead().len();
        let (alphabet, shortest, longest) = match format.body() {
            KeyBody::Issued { .. } => {
                let length = format.issued_length();
                (Alphabet::ALPHANUMERIC, length, length)
            }
            KeyBody::Imported {
                alphabet, length, ..
            } => (*alphabet, *length.start(), *length.end()),
        };
        Self {
            shortest: lead + shortest,
            longest: lead + longest,
            lead,
            alphabet,
        }
    }

    /// Returns whether a key may continue like this after its lead.
    fn may_begin_with(&self, rest: &[u8]) -> bool {
        self.lead + rest.len() <= self.longest
            && rest.iter().all(|byte| self.alphabet.contains(*byte))
    }

    /// Returns whether keys of both formats can have the same length, and the same characters after
    /// the longer lead. No key is a lead alone, so there is at least one such character.
    fn may_end_like(&self, other: &Self) -> bool {
        let shortest = self.shortest.max(other.shortest);
        shortest <= self.longest.min(other.longest) && self.alphabet.meets(other.alphabet)
    }

    /// Returns the number of bits in this number of characters.
    fn bits(&self, characters: usize) -> f64 {
        let characters = u32::try_from(characters).unwrap_or(u32::MAX);
        self.alphabet.bits_per_character() * f64::from(characters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::alphabet::Alphabet;
    use crate::key::environment::Environment;
    use crate::key::formats::{KeyFormats, Position, Recognized};
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::collections::BTreeSet;

    /// A format, and what these tests know of it.
    #[derive(Debug, Clone)]
    struct Model {
        format: KeyFormat,
        lead: String,
        /// Characters, shortest and longest body of an imported format.
        imported: Option<(&'static [u8], usize, usize)>,
    }

    const ALPHABETS: [&str; 7] = [
        "a",
        "ab",
        "01",
        "ab01_",
        "0123456789abcdef",
        "0123456789abcdef-",
        "_-",
    ];

    fn any_imported() -> impl Strategy<Value = Model> {
        (
            "[ab_-]{0,4}",
            select(ALPHABETS.to_vec()),
            1..8usize,
            0..4usize,
        )
            .prop_map(|(lead, characters, shortest, more)| {
                let alphabet = Alphabet::from_static(characters);
                let length = shortest..=shortest + more;
                let format =
                    KeyFormat::dangerous_guessable(&lead, alphabet, length, Environment::LIVE);
                Model {
                    format: format.unwrap(),
                    lead,
                    imported: Some((characters.as_bytes(), shortest, shortest + more)),
                }
            })
    }

    fn any_issued() -> impl Strategy<Value = Model> {
        (
            select(vec!["a", "b", "ab", "a_b", "a_0", "ba"]),
            any::<bool>(),
        )
            .prop_map(|(prefix, checksum)| {
                let format = KeyFormat::new(prefix, Environment::LIVE).unwrap();
                let plain = format.clone().without_checksum();
                Model {
                    format: if checksum { format } else { plain },
                    lead: format!("{prefix}_"),
                    imported: None,
                }
            })
    }

    fn any_set() -> impl Strategy<Value = Vec<Model>> {
        let model = prop_oneof![4 => any_imported(), 1 => any_issued()];
        proptest::collection::vec(model, 1..6)
    }

    /// The characters that may stand at each place of a key of so many, or of what a format claims
    /// of the keys that begin with another's lead.
    fn places(model: &Model, other: &Model, length: usize) -> Option<Vec<BTreeSet<u8>>> {
        let all: BTreeSet<u8> = (0x21..=0x7e).collect();
        let letters = || {
            all.iter()
                .copied()
                .filter(u8::is_ascii_alphanumeric)
                .collect()
        };
        let body = length.checked_sub(model.lead.len())?;
        let mut places: Vec<BTreeSet<u8>> = model.lead.bytes().map(|byte| [byte].into()).collect();
        match model.imported {
            Some((_, shortest, longest)) if body < shortest || longest < body => return None,
            Some((characters, ..)) => {
                places.resize(length, characters.iter().copied().collect());
            }
            None => {
                places.resize(other.lead.len().clamp(places.len(), length), letters());
                places.resize(length, all);
            }
        }
        Some(places)
    }

    /// A text that is a key of both formats, or a key of one that the other claims.
    fn witness(one: &Model, other: &Model) -> Option<String> {
        if one.imported.is_none() && other.imported.is_none() {
            return (one.lead == other.lead).then(|| one.lead.clone());
        }
        // The imported keys of these tests are shorter than issued ones, so none that begins like
        // those, and goes on, is as long: only an issued lead that is longer claims them.
        for (issued, imported) in [(one, other), (other, one)] {
            let is_longer = imported.lead.len() > issued.lead.len();
            if issued.imported.is_none() && imported.imported.is_some() && is_longer {
                return None;
            }
        }
        (0..24).find_map(|length| {
            let (ones, others) = (places(one, other, length)?, places(other, one, length)?);
            let mut both = ones.iter().zip(&others);
            both.try_fold(String::new(), |text, (one, other)| {
                let common = one.intersection(other).next()?;
                Some(text + char::from(*common).encode_utf8(&mut [0; 4]))
            })
        })
    }

    fn set(models: &[Model]) -> Result<KeyFormats, KeyFormatError> {
        KeyFormats::new(models.iter().map(|model| model.format.clone()))
    }

    /// Keys of each format, also such as begin with the lead of another.
    fn keys(models: &[Model], random: &[u8]) -> Vec<String> {
        let mut keys = Vec::new();
        for model in models {
            let Some((characters, shortest, longest)) = model.imported else {
                keys.push(model.format.generate().unwrap().expose_secret().to_owned());
                continue;
            };
            let mut random = random.iter().cycle().copied().map(usize::from);
            for lead in models.iter().map(|other| &other.lead).chain([&model.lead]) {
                for length in model.lead.len() + shortest..=model.lead.len() + longest {
                    let mut key = if lead.starts_with(&model.lead) {
                        lead
                    } else {
                        &model.lead
                    }
                    .clone();
                    while key.len() < length {
                        let at = random.next().unwrap() % characters.len();
                        key.push(char::from(characters[at]));
                    }
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// `secrets.token_urlsafe(32)`, as many services have issued keys.
    #[test]
    fn imported_keys_that_rarely_collide_with_issued_ones_are_accepted() {
        let imported = |characters, length| {
            KeyFormat::imported("", characters, length, Environment::LIVE).unwrap()
        };
        let issued = |prefix| KeyFormat::new(prefix, Environment::LIVE).unwrap();
        let urlsafe = || imported(Alphabet::BASE64URL, 43..=43);
        for prefix in ["sk_live", "acme", "acme_live"] {
            assert!(KeyFormats::new([issued(prefix), urlsafe()]).is_ok());
        }
        // One in 4,096 would be lost.
        assert!(KeyFormats::new([issued("a"), urlsafe()]).is_err());
        // One text could match both.
        let any_length = imported(Alphabet::BASE64URL, 20..=90);
        assert!(KeyFormats::new([issued("acme_live"), any_length]).is_err());
        let words = imported(Alphabet::ALPHANUMERIC, 20..=90);
        assert!(KeyFormats::new([issued("acme_live"), words]).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn a_set_is_refused_exactly_if_a_text_could_match_two_formats(models in any_set()) {
            let pairs = models.iter().enumerate();
            let earlier = |(at, one)| models[..at].iter().map(move |other| (one, other));
            let mut pairs = pairs.flat_map(earlier);
            let found = pairs.find_map(|(one, other)| Some((one, other, witness(one, other)?)));
            let built = set(&models);
            let Some((one, other, text)) = found else {
                prop_assert!(built.is_ok(), "{:?}", built);
                return Ok(());
            };
            prop_assert!(built.is_err(), "{text} is claimed by two");
            for model in [one, other] {
                let is_its = model.imported.is_none() && text.starts_with(&model.lead);
                prop_assert!(is_its || model.format.matches(&text), "{}", text);
            }
        }

        #[test]
        fn each_key_is_recognized_by_its_own_format(
            models in any_set(), random in proptest::collection::vec(any::<u8>(), 16),
        ) {
            let Ok(set) = set(&models) else { return Ok(()) };
            for key in keys(&models, &random) {
                for model in models.iter().filter(|model| model.format.matches(&key)) {
                    let expected = Recognized::WellFormed(&model.format);
                    prop_assert_eq!(set.recognize(key.as_bytes(), Position::Dedicated), expected, "{}", key);
                    if !model.lead.is_empty() {
                        let found = set.recognize(key.as_bytes(), Position::Authorization);
                        prop_assert_eq!(found, expected, "{}", key);
                    }
                }
            }
        }

        #[test]
        fn an_unmatched_text_with_a_lead_is_malformed_and_any_other_foreign(
            models in any_set(), at: prop::sample::Index, rest in "[ab01_.-]{0,12}",
        ) {
            let Ok(set) = set(&models) else { return Ok(()) };
            let text = format!("{}{rest}", at.get(&models).lead);
            if models.iter().any(|model| model.format.matches(&text)) {
                return Ok(());
            }
            let claims = |lead: &str| !lead.is_empty() && text.starts_with(lead);
            let is_claimed = models.iter().any(|model| claims(&model.lead));
            let expected = if is_claimed { Recognized::Malformed } else { Recognized::Foreign };
            prop_assert_eq!(set.recognize(text.as_bytes(), Position::Authorization), expected);
            prop_assert_eq!(set.recognize(text.as_bytes(), Position::Dedicated), Recognized::Malformed);
        }
    }
}
