//! The one credential of a request: found, and hidden.

use http::Request;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use zeroize::Zeroizing;

use crate::framework;
use crate::key::format::KeyFormat;
use crate::key::formats::{KeyFormats, Place, Recognized};
use crate::request::basic::Basic;
use crate::request::head::RequestHead;
use crate::request::query;
use crate::source::{Carrier, KeySources, Scheme};

/// The one credential of a request that is meant for us.
pub(crate) struct Credential<'r> {
    pub(crate) text: Text<'r>,
    pub(crate) carrier: Carrier,
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
}

/// The request carries two keys, or a header twice that must be single.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ambiguous;

impl KeySources {
    /// Finds the one credential that is meant for us, if there is any.
    ///
    /// All places are looked at: two keys are an error, never a silent pick.
    pub(crate) fn find<'r>(
        &self,
        head: RequestHead<'r>,
        formats: &'r KeyFormats,
    ) -> Result<Option<Credential<'r>>, Ambiguous> {
        let mut found = None;
        // Most requests have few headers: to pass by all of them is faster than to look for one.
        for (name, line) in head.headers {
            let Some(carrier) = self.carrier(name) else {
                continue;
            };
            if is_repeated(head.headers, name) {
                return Err(Ambiguous);
            }
            let line = trim(line.as_bytes());
            let credential = match carrier {
                Carrier::Authorization => self.in_authorization(line, formats),
                _ if line.is_empty() => None,
                _ => Some(own(Text::Borrowed(line), carrier, formats)),
            };
            at_most_one(&mut found, credential)?;
        }
        for (at, parameter) in self.parameters.iter().enumerate() {
            let credential = one(query::values(head.uri, parameter))?
                .filter(|value| !value.is_empty())
                .map(|value| Text::Decoded(query::decode(value)))
                .map(|text| own(text, Carrier::Query(at), formats));
            at_most_one(&mut found, credential)?;
        }
        Ok(found)
    }

    /// What a header would carry, if it is one that carries keys.
    #[inline]
    fn carrier(&self, name: &HeaderName) -> Option<Carrier> {
        if name == AUTHORIZATION {
            return (!self.schemes.is_empty()).then_some(Carrier::Authorization);
        }
        let header = self.headers.iter().position(|header| header.name == name);
        header.map(Carrier::Header)
    }

    fn in_authorization<'r>(
        &self,
        line: &'r [u8],
        formats: &'r KeyFormats,
    ) -> Option<Credential<'r>> {
        let found = self.under_a_scheme(line, formats);
        if found.is_some() {
            return found;
        }
        // Not as it should be written, but ours: never to be passed on as somebody else's.
        formats.is_claimed_in(line).then_some(Credential {
            text: Text::Borrowed(line),
            carrier: Carrier::Authorization,
            format: None,
        })
    }

    fn under_a_scheme<'r>(
        &self,
        line: &'r [u8],
        formats: &'r KeyFormats,
    ) -> Option<Credential<'r>> {
        // credentials = auth-scheme 1*SP token68: no tab, and nothing else between the two.
        let end = line.iter().position(|byte| *byte == b' ');
        let (scheme, rest) = line.split_at(end.unwrap_or(line.len()));
        let token = &rest[rest.iter().take_while(|byte| **byte == b' ').count()..];
        let scheme = Scheme::from_name(scheme).filter(|scheme| self.schemes.contains(scheme))?;
        if token.is_empty() {
            return None;
        }
        match scheme {
            Scheme::Bearer => shared(Text::Borrowed(token), formats),
            Scheme::ApiKey => Some(own(Text::Borrowed(token), Carrier::Authorization, formats)),
            Scheme::Basic => in_basic(&Basic::decode(token)?, formats),
        }
    }

    /// Takes a credential out of the request, so that nothing behind the layer sees it.
    pub(crate) fn hide<B>(&self, request: &mut Request<B>, carrier: Carrier) {
        match carrier {
            Carrier::Authorization => drop(request.headers_mut().remove(AUTHORIZATION)),
            Carrier::Header(at) => drop(request.headers_mut().remove(&self.headers[at].name)),
            Carrier::Query(at) => {
                let parameter = &self.parameters[at];
                let strip = |uri: &mut http::Uri| {
                    *uri = query::without(uri, parameter).unwrap_or_else(|| {
                        crate::trace::query_dropped();
                        query::without_all(uri)
                    });
                };
                strip(request.uri_mut());
                if let Some(kept) = framework::kept_uri(request.extensions_mut()) {
                    strip(kept);
                }
            }
        }
    }

    /// Marks a credential that stays in the request, so that `Debug` does not print it.
    pub(crate) fn mark_sensitive(&self, headers: &mut HeaderMap, carrier: Carrier) {
        let name = match carrier {
            Carrier::Authorization => &AUTHORIZATION,
            Carrier::Header(at) => &self.headers[at].name,
            Carrier::Query(_) => return,
        };
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

/// A credential in a place that is made for our keys: whatever it is, it is ours to judge.
fn own<'r>(text: Text<'r>, carrier: Carrier, formats: &'r KeyFormats) -> Credential<'r> {
    let format = match formats.recognize(text.as_bytes(), Place::Own) {
        Recognized::WellFormed(format) => Some(format),
        Recognized::Malformed | Recognized::Foreign => None,
    };
    Credential {
        text,
        carrier,
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
        carrier: Carrier::Authorization,
        format,
    })
}

/// A key is the user-id, and the password is empty; anywhere else it is ours and bad.
fn in_basic<'r>(basic: &Basic, formats: &'r KeyFormats) -> Option<Credential<'r>> {
    let text = Text::Decoded(Zeroizing::new(basic.user_id().to_vec()));
    let found = shared(text, formats);
    if found.is_some() && basic.is_exact() {
        return found;
    }
    let ours = found.is_some() || formats.is_claimed_in(basic.decoded());
    ours.then(|| Credential {
        text: Text::Decoded(Zeroizing::default()),
        carrier: Carrier::Authorization,
        format: None,
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
fn at_most_one<T>(found: &mut Option<T>, another: Option<T>) -> Result<(), Ambiguous> {
    if another.is_none() {
        return Ok(());
    }
    if found.is_some() {
        return Err(Ambiguous);
    }
    *found = another;
    Ok(())
}

/// Without spaces and tabs around it: HTTP's optional white space, and nothing else.
fn trim(bytes: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(is_text).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}
