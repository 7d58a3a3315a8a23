//! Finds the one credential of a request, and hides it from the inner service.

pub(crate) mod basic;
pub(crate) mod query;
pub(crate) mod source;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use http::{Request, Uri};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::http::carriers::Carriers;
use crate::http::credential::basic::Basic;
use crate::http::credential::source::{KeySources, Scheme};
use crate::http::framework;
use crate::http::request_head::RequestHead;
use crate::http::trim;
use crate::key::format::KeyFormat;
use crate::key::formats::{KeyFormats, Position, Recognized};

/// The one credential of a request that is an API key of ours.
pub(crate) struct Credential<'r> {
    pub(crate) secret: SecretBytes<'r>,
    /// The places where the credential stands. The secret is the same in all of them.
    pub(crate) carriers: Carriers,
    /// The format of the credential. `None` if it is malformed: no such key exists.
    pub(crate) format: Option<&'r KeyFormat>,
}

/// The secret of a credential: a slice of the request, or decoded.
pub(crate) enum SecretBytes<'r> {
    Borrowed(&'r [u8]),
    Decoded(Zeroizing<Vec<u8>>),
}

impl SecretBytes<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }

    /// Compares in constant time.
    fn equals(&self, other: &[u8]) -> bool {
        self.as_bytes().ct_eq(other).into()
    }
}

/// The request carries two different keys, or repeats a header or parameter that must be single.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous;

impl KeySources {
    /// Finds the one credential that is an API key of ours, if there is any.
    ///
    /// All places are searched. Two different keys are an error; none is picked silently. The same
    /// text in two places is one credential.
    pub(crate) fn find<'r>(
        &self,
        head: RequestHead<'r>,
        formats: &'r KeyFormats,
    ) -> Result<Option<Credential<'r>>, Ambiguous> {
        let mut found = None;
        let mut unclaimed = None;
        // Most requests have few headers: iterating over all is faster than looking up one by one.
        for (name, line) in head.headers {
            let Some(carrier) = self.carrier(name) else {
                continue;
            };
            // An `Authorization` that is no key source counts only if it holds a key.
            let is_source = || carrier != Carriers::AUTHORIZATION || !self.schemes.is_empty();
            if is_repeated(head.headers, name) && is_source() {
                return Err(Ambiguous);
            }
            let line = trim(line.as_bytes());
            let credential = if carrier == Carriers::AUTHORIZATION {
                let credential = self.find_in_authorization(line, formats);
                if credential.is_none() {
                    unclaimed = Some(line);
                }
                credential
            } else if line.is_empty() {
                None
            } else {
                Some(dedicated_credential(
                    SecretBytes::Borrowed(line),
                    carrier,
                    formats,
                ))
            };
            merge(&mut found, credential)?;
        }
        for (at, parameter) in self.parameters.iter().enumerate() {
            let credential = at_most_one(query::values(head.uri, parameter))?
                .filter(|value| !value.is_empty())
                .map(|value| SecretBytes::Decoded(query::decode(value)))
                .map(|secret| dedicated_credential(secret, Carriers::parameter(at), formats));
            merge(&mut found, credential)?;
        }
        // A key without a prefix cannot be told from a user's token, unless another place holds it,
        // too.
        if let (Some(found), Some(line)) = (&mut found, unclaimed)
            && self.authorization_holds(line, &found.secret)
        {
            found.carriers = found.carriers.and(Carriers::AUTHORIZATION);
        }
        Ok(found)
    }

    /// Returns the place that a header stands for, if keys are read from the header.
    fn carrier(&self, name: &HeaderName) -> Option<Carriers> {
        if name == AUTHORIZATION {
            return Some(Carriers::AUTHORIZATION);
        }
        let header = self.headers.iter().position(|header| header.name == name);
        header.map(Carriers::header)
    }

    /// Returns whether `Authorization` holds this secret, under a scheme that is a key source.
    fn authorization_holds(&self, line: &[u8], secret: &SecretBytes<'_>) -> bool {
        match self.split(line) {
            Some((SentScheme::Basic, token)) => Basic::decode(token).is_some_and(|basic| {
                let parts = basic.is_exact().then(|| self.basic_positions(&basic));
                parts.is_some_and(|parts| parts.into_iter().flatten().any(|it| secret.equals(it)))
            }),
            Some((scheme, token)) => self.is_source(scheme) && secret.equals(token),
            None => false,
        }
    }

    /// Returns whether the request has a header that is meant for keys, even an empty one.
    pub(crate) fn have_a_header_in(&self, headers: &HeaderMap) -> bool {
        let mut made_for_keys = self.headers.iter();
        made_for_keys.any(|header| headers.contains_key(&header.name))
    }

    /// Returns the parameters for keys that a URL has, including empty and repeated ones.
    pub(crate) fn parameters_of(&self, uri: &Uri) -> Carriers {
        let parameters = self.parameters.iter().enumerate();
        parameters
            .filter(|(_, parameter)| query::values(uri, parameter).next().is_some())
            .map(|(at, _)| Carriers::parameter(at))
            .fold(Carriers::NONE, Carriers::and)
    }

    /// Finds a key in `Authorization`, which carries other credentials, too.
    ///
    /// A key under a scheme that is no key source, or with a typo around it, is malformed, never
    /// foreign: it is not passed on as somebody else's credential.
    fn find_in_authorization<'r>(
        &self,
        line: &'r [u8],
        formats: &'r KeyFormats,
    ) -> Option<Credential<'r>> {
        let bad = || Credential {
            secret: SecretBytes::Borrowed(line),
            carriers: Carriers::AUTHORIZATION,
            format: None,
        };
        if let Some((scheme, token)) = self.split(line) {
            let is_source = self.is_source(scheme);
            let found = match scheme {
                SentScheme::ApiKey | SentScheme::Custom if is_source => Some(dedicated_credential(
                    SecretBytes::Borrowed(token),
                    Carriers::AUTHORIZATION,
                    formats,
                )),
                SentScheme::Bearer | SentScheme::ApiKey | SentScheme::Custom => {
                    authorization_credential(SecretBytes::Borrowed(token), formats)
                }
                SentScheme::Basic => {
                    Basic::decode(token).and_then(|basic| self.find_in_basic(&basic, formats))
                }
            };
            if found.is_some() {
                return if is_source { found } else { Some(bad()) };
            }
        }
        (formats.is_claimed_in(line) || formats.is_claimed_encoded_in(line)).then(bad)
    }

    /// Splits `Authorization` into a scheme that can carry keys, and the text after it.
    fn split<'r>(&self, line: &'r [u8]) -> Option<(SentScheme, &'r [u8])> {
        // credentials = auth-scheme 1*SP token68: no tab, and nothing else between the two.
        let end = line.iter().position(|byte| *byte == b' ')?;
        let (name, rest) = line.split_at(end);
        let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
        let scheme = match Scheme::from_name(name) {
            Some(Scheme::Bearer) => SentScheme::Bearer,
            Some(Scheme::ApiKey) => SentScheme::ApiKey,
            Some(Scheme::Basic) => SentScheme::Basic,
            _ if self.has_custom_scheme(name) => SentScheme::Custom,
            _ => return None,
        };
        // The header was trimmed, so a token follows the spaces.
        Some((scheme, token))
    }

    fn is_source(&self, scheme: SentScheme) -> bool {
        match scheme {
            SentScheme::Bearer => self.schemes.contains(&Scheme::Bearer),
            SentScheme::ApiKey => self.schemes.contains(&Scheme::ApiKey),
            SentScheme::Basic => self.has_basic(),
            SentScheme::Custom => true,
        }
    }

    /// Finds the key in Basic credentials: as the user name before an empty password, or as the
    /// password, depending on the sources. A key anywhere else in them is malformed, never foreign.
    fn find_in_basic<'r>(&self, basic: &Basic, formats: &'r KeyFormats) -> Option<Credential<'r>> {
        let decoded = |text: &[u8]| SecretBytes::Decoded(Zeroizing::new(text.to_vec()));
        let all = [Some(basic.user_id()), basic.password()];
        let mut keys = all.into_iter().flatten();
        // A key in any other position is surrounded by a typo, and is found as malformed.
        let first = keys.find_map(|text| authorization_credential(decoded(text), formats))?;
        let has_second =
            keys.any(|text| authorization_credential(decoded(text), formats).is_some());
        let positions = self.basic_positions(basic);
        let is_here = |part: &[u8]| first.secret.equals(part);
        let is_in_position = positions.into_iter().flatten().any(is_here);
        if basic.is_exact() && !has_second && is_in_position {
            return Some(first);
        }
        Some(Credential {
            secret: SecretBytes::Decoded(Zeroizing::default()),
            carriers: Carriers::AUTHORIZATION,
            format: None,
        })
    }

    /// Returns the positions in Basic credentials where a key is read: the user name if the
    /// password is empty, and the password.
    fn basic_positions<'b>(&self, basic: &'b Basic) -> [Option<&'b [u8]>; 2] {
        let is_alone = basic.password().is_some_and(<[u8]>::is_empty);
        let user = self.schemes.contains(&Scheme::Basic) && is_alone;
        let password = self.schemes.contains(&Scheme::BasicPassword) && !is_alone;
        [
            user.then(|| basic.user_id()),
            password.then(|| basic.password()).flatten(),
        ]
    }

    /// Removes a credential from the request, so that nothing behind the layer sees it.
    pub(crate) fn hide<B>(&self, request: &mut Request<B>, carriers: Carriers) {
        if carriers.include(Carriers::AUTHORIZATION) {
            request.headers_mut().remove(AUTHORIZATION);
        }
        if !carriers.go_beyond_authorization() {
            return;
        }
        for header in self.headers_in(carriers) {
            request.headers_mut().remove(&header.name);
        }
        for parameter in self.parameters_in(carriers) {
            let strip = |uri: &mut Uri| {
                *uri = query::without(uri, parameter).unwrap_or_else(|| {
                    crate::util::trace::query_dropped();
                    query::without_all(uri)
                });
            };
            strip(request.uri_mut());
            if let Some(uri) = framework::original_uri(request.extensions_mut()) {
                strip(uri);
            }
        }
    }

    /// Marks a credential that stays in the request, so that `Debug` does not print it.
    pub(crate) fn mark_sensitive(&self, headers: &mut HeaderMap, carriers: Carriers) {
        let authorization = carriers.include(Carriers::AUTHORIZATION);
        let authorization = authorization.then_some(&AUTHORIZATION);
        let others = self.headers_in(carriers).map(|header| &header.name);
        for name in authorization.into_iter().chain(others) {
            if let Some(value) = headers.get_mut(name) {
                value.set_sensitive(true);
            }
        }
    }
}

/// A scheme that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SentScheme {
    Bearer,
    ApiKey,
    Basic,
    /// A scheme of the application's own that is a key source.
    Custom,
}

/// Creates a credential from a place that is meant for our keys: any text there is either a key of
/// ours or malformed.
fn dedicated_credential<'r>(
    secret: SecretBytes<'r>,
    carriers: Carriers,
    formats: &'r KeyFormats,
) -> Credential<'r> {
    let format = match formats.recognize(secret.as_bytes(), Position::Dedicated) {
        Recognized::WellFormed(format) => Some(format),
        Recognized::Malformed | Recognized::Foreign => None,
    };
    Credential {
        secret,
        carriers,
        format,
    }
}

/// Creates a credential from `Authorization`, which carries foreign credentials, too: the text is
/// ours only if it begins as our keys do.
fn authorization_credential<'r>(
    secret: SecretBytes<'r>,
    formats: &'r KeyFormats,
) -> Option<Credential<'r>> {
    let format = match formats.recognize(secret.as_bytes(), Position::Authorization) {
        Recognized::WellFormed(format) => Some(format),
        Recognized::Malformed => None,
        Recognized::Foreign => return None,
    };
    Some(Credential {
        secret,
        carriers: Carriers::AUTHORIZATION,
        format,
    })
}

/// Returns whether a header that must be single occurs more than once.
fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    // If no name occurs twice, this one does not.
    headers.len() != headers.keys_len() && headers.get_all(name).iter().nth(1).is_some()
}

fn at_most_one<T>(values: impl IntoIterator<Item = T>) -> Result<Option<T>, Ambiguous> {
    let mut values = values.into_iter();
    let first = values.next();
    match values.next() {
        Some(_) => Err(Ambiguous),
        None => Ok(first),
    }
}

/// Merges a credential of one more place into the one found so far.
fn merge<'r>(
    found: &mut Option<Credential<'r>>,
    another: Option<Credential<'r>>,
) -> Result<(), Ambiguous> {
    let Some(another) = another else {
        return Ok(());
    };
    let Some(first) = found else {
        *found = Some(another);
        return Ok(());
    };
    if !first.secret.equals(another.secret.as_bytes()) {
        return Err(Ambiguous);
    }
    first.carriers = first.carriers.and(another.carriers);
    Ok(())
}
