//! The one credential of a request: found, and hidden.

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
use crate::key::formats::{KeyFormats, Place, Recognized};

/// The one credential of a request that is meant for us.
pub(crate) struct Credential<'r> {
    pub(crate) text: Text<'r>,
    /// Where it stands; in more than one place if each says the same.
    pub(crate) carriers: Carriers,
    /// The format that it is written in. If there is none, there is no such key.
    pub(crate) format: Option<&'r KeyFormat>,
}

/// What a credential says: where it stands in the request, or decoded.
pub(crate) enum Text<'r> {
    Borrowed(&'r [u8]),
    Decoded(Zeroizing<Vec<u8>>),
}

impl Text<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }

    /// Compares in constant time, as all that may hold a secret.
    fn is(&self, other: &[u8]) -> bool {
        self.as_bytes().ct_eq(other).into()
    }
}

/// The request carries two different keys, or a header or parameter twice that must be single.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous;

impl KeySources {
    /// Finds the one credential that is meant for us, if there is any.
    ///
    /// All places are looked at: two different keys are an error, never a silent pick. The very
    /// same text in two places is one credential.
    pub(crate) fn find<'r>(
        &self,
        head: RequestHead<'r>,
        formats: &'r KeyFormats,
    ) -> Result<Option<Credential<'r>>, Ambiguous> {
        let mut found = None;
        let mut unclaimed = None;
        // Most requests have few headers: to pass by all of them is faster than to look for one.
        for (name, line) in head.headers {
            let Some(carrier) = self.carrier(name) else {
                continue;
            };
            // Of an Authorization that is not looked at, only what is claimed counts.
            let is_looked_at = || carrier != Carriers::AUTHORIZATION || !self.schemes.is_empty();
            if is_repeated(head.headers, name) && is_looked_at() {
                return Err(Ambiguous);
            }
            let line = trim(line.as_bytes());
            let credential = if carrier == Carriers::AUTHORIZATION {
                let credential = self.in_authorization(line, formats);
                if credential.is_none() {
                    unclaimed = Some(line);
                }
                credential
            } else if line.is_empty() {
                None
            } else {
                Some(own(Text::Borrowed(line), carrier, formats))
            };
            at_most_one(&mut found, credential)?;
        }
        for (at, parameter) in self.parameters.iter().enumerate() {
            let credential = one(query::values(head.uri, parameter))?
                .filter(|value| !value.is_empty())
                .map(|value| Text::Decoded(query::decode(value)))
                .map(|text| own(text, Carriers::parameter(at), formats));
            at_most_one(&mut found, credential)?;
        }
        // A key without a lead is not told from a user's token, unless it stands elsewhere, too.
        if let (Some(found), Some(line)) = (&mut found, unclaimed)
            && self.says(line, &found.text)
        {
            found.carriers = found.carriers.and(Carriers::AUTHORIZATION);
        }
        Ok(found)
    }

    /// Returns what a header would carry a credential as, if it is one that carries keys.
    #[inline]
    fn carrier(&self, name: &HeaderName) -> Option<Carriers> {
        if name == AUTHORIZATION {
            return Some(Carriers::AUTHORIZATION);
        }
        let header = self.headers.iter().position(|header| header.name == name);
        header.map(Carriers::header)
    }

    /// Returns whether `Authorization` says a text, under a scheme that is looked at.
    fn says(&self, line: &[u8], text: &Text<'_>) -> bool {
        match self.split(line) {
            Some((Sent::Basic, token)) => Basic::decode(token).is_some_and(|basic| {
                let at = basic.is_exact().then(|| self.basic_places(&basic));
                at.is_some_and(|places| places.into_iter().flatten().any(|at| text.is(at)))
            }),
            Some((sent, token)) => self.is_looked_at(sent) && text.is(token),
            None => false,
        }
    }

    /// Returns whether a header is there that is made for keys, also if it is empty.
    pub(crate) fn have_a_header_in(&self, headers: &HeaderMap) -> bool {
        let mut made_for_keys = self.headers.iter();
        made_for_keys.any(|header| headers.contains_key(&header.name))
    }

    /// Lists the parameters for keys that are in a URL, also those that are empty or repeated.
    pub(crate) fn parameters_of(&self, uri: &Uri) -> Carriers {
        let places = self.parameters.iter().enumerate();
        places
            .filter(|(_, parameter)| query::values(uri, parameter).next().is_some())
            .map(|(at, _)| Carriers::parameter(at))
            .fold(Carriers::NONE, Carriers::and)
    }

    /// Finds what is ours in `Authorization`, which others use, too.
    ///
    /// A key under a scheme that is not looked at, or with a slip around it, is ours and bad: it is
    /// never to be passed on as somebody else's.
    fn in_authorization<'r>(
        &self,
        line: &'r [u8],
        formats: &'r KeyFormats,
    ) -> Option<Credential<'r>> {
        let bad = || Credential {
            text: Text::Borrowed(line),
            carriers: Carriers::AUTHORIZATION,
            format: None,
        };
        if let Some((sent, token)) = self.split(line) {
            let is_looked_at = self.is_looked_at(sent);
            let found = match sent {
                Sent::ApiKey | Sent::Own if is_looked_at => {
                    Some(own(Text::Borrowed(token), Carriers::AUTHORIZATION, formats))
                }
                Sent::Bearer | Sent::ApiKey | Sent::Own => shared(Text::Borrowed(token), formats),
                Sent::Basic => {
                    Basic::decode(token).and_then(|basic| self.in_basic(&basic, formats))
                }
            };
            if found.is_some() {
                return if is_looked_at { found } else { Some(bad()) };
            }
        }
        (formats.is_claimed_in(line) || formats.is_claimed_encoded_in(line)).then(bad)
    }

    /// Splits `Authorization` into a scheme that keys are sent under, and what stands behind it.
    #[inline]
    fn split<'r>(&self, line: &'r [u8]) -> Option<(Sent, &'r [u8])> {
        // credentials = auth-scheme 1*SP token68: no tab, and nothing else between the two.
        let end = line.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = line.split_at(end);
        let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
        let sent = match Scheme::from_name(scheme) {
            Some(Scheme::Bearer) => Sent::Bearer,
            Some(Scheme::ApiKey) => Sent::ApiKey,
            Some(Scheme::Basic) => Sent::Basic,
            _ if self.has_own(scheme) => Sent::Own,
            _ => return None,
        };
        // White space at the end of a header is none of it, so there is a token.
        Some((sent, token))
    }

    #[inline]
    fn is_looked_at(&self, sent: Sent) -> bool {
        match sent {
            Sent::Bearer => self.schemes.contains(&Scheme::Bearer),
            Sent::ApiKey => self.schemes.contains(&Scheme::ApiKey),
            Sent::Basic => self.has_basic(),
            Sent::Own => true,
        }
    }

    /// Finds the key in Basic credentials: alone as the user name, or as the password, as far as
    /// that is looked at. A key anywhere else in them is ours and bad.
    fn in_basic<'r>(&self, basic: &Basic, formats: &'r KeyFormats) -> Option<Credential<'r>> {
        let decoded = |text: &[u8]| Text::Decoded(Zeroizing::new(text.to_vec()));
        let all = [Some(basic.user_id()), basic.password()];
        let mut keys = all.into_iter().flatten();
        // Others that are ours stand in it with a slip, and are found as such.
        let first = keys.find_map(|text| shared(decoded(text), formats))?;
        let has_second = keys.any(|text| shared(decoded(text), formats).is_some());
        let places = self.basic_places(basic);
        let is_here = |at: &[u8]| first.text.is(at);
        let is_in_place = places.into_iter().flatten().any(is_here);
        if basic.is_exact() && !has_second && is_in_place {
            return Some(first);
        }
        Some(Credential {
            text: Text::Decoded(Zeroizing::default()),
            carriers: Carriers::AUTHORIZATION,
            format: None,
        })
    }

    /// Returns where a key is looked for in Basic credentials: the user name of an empty password,
    /// and the password.
    fn basic_places<'b>(&self, basic: &'b Basic) -> [Option<&'b [u8]>; 2] {
        let is_alone = basic.password().is_some_and(<[u8]>::is_empty);
        let user = self.schemes.contains(&Scheme::Basic) && is_alone;
        let password = self.schemes.contains(&Scheme::BasicPassword) && !is_alone;
        [
            user.then(|| basic.user_id()),
            password.then(|| basic.password()).flatten(),
        ]
    }

    /// Takes a credential out of the request, so that nothing behind the layer sees it.
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
            if let Some(kept) = framework::kept_uri(request.extensions_mut()) {
                strip(kept);
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
enum Sent {
    Bearer,
    ApiKey,
    Basic,
    /// One of the application's own, which is looked at.
    Own,
}

/// A credential in a place that is made for our keys: whatever it is, it is ours to judge.
fn own<'r>(text: Text<'r>, carriers: Carriers, formats: &'r KeyFormats) -> Credential<'r> {
    let format = match formats.recognize(text.as_bytes(), Place::Own) {
        Recognized::WellFormed(format) => Some(format),
        Recognized::Malformed | Recognized::Foreign => None,
    };
    Credential {
        text,
        carriers,
        format,
    }
}

/// A credential under a scheme that we share: ours only if it begins as our keys do.
fn shared<'r>(text: Text<'r>, formats: &'r KeyFormats) -> Option<Credential<'r>> {
    let format = match formats.recognize(text.as_bytes(), Place::Authorization) {
        Recognized::WellFormed(format) => Some(format),
        Recognized::Malformed => None,
        Recognized::Foreign => return None,
    };
    Some(Credential {
        text,
        carriers: Carriers::AUTHORIZATION,
        format,
    })
}

/// Whether a header that must be single is there more than once.
#[inline]
fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    // Where no name is there twice, this one is not.
    headers.len() != headers.keys_len() && headers.get_all(name).iter().nth(1).is_some()
}

fn one<T>(values: impl IntoIterator<Item = T>) -> Result<Option<T>, Ambiguous> {
    let mut values = values.into_iter();
    let first = values.next();
    match values.next() {
        Some(_) => Err(Ambiguous),
        None => Ok(first),
    }
}

/// Notes what was found in one more place.
#[inline]
fn at_most_one<'r>(
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
    if !first.text.is(another.text.as_bytes()) {
        return Err(Ambiguous);
    }
    first.carriers = first.carriers.and(another.carriers);
    Ok(())
}
