//! Reads a key from the URL's query, and removes it.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

use crate::key::format::MAX_KEY_LENGTH;

/// Returns the values of a parameter as they are written, one for each occurrence.
pub(crate) fn values<'q>(uri: &'q Uri, parameter: &str) -> impl Iterator<Item = &'q str> {
    pairs(uri).filter_map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        is_named(name, parameter).then_some(value)
    })
}

/// Decodes percent-encoding. A value that is too long for a key is cut, and is still no key.
pub(crate) fn decode(value: &str) -> Zeroizing<Vec<u8>> {
    let head = &value.as_bytes()[..value.len().min(3 * (MAX_KEY_LENGTH + 1))];
    // Allocate the whole capacity at once: growing would leave a copy of the secret behind.
    let mut decoded = Zeroizing::new(Vec::with_capacity(head.len()));
    decoded.extend(percent_decode(head));
    decoded
}

/// Returns the URI without a parameter, and otherwise as it was written. `None` if the rest is no
/// valid URI.
pub(crate) fn without(uri: &Uri, parameter: &str) -> Option<Uri> {
    let mut stripped = String::with_capacity(uri.path().len() + uri.query().map_or(0, str::len));
    stripped.push_str(uri.path());
    let mut separator = '?';
    for pair in pairs(uri) {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        if !is_named(name, parameter) {
            stripped.push(separator);
            stripped.push_str(pair);
            separator = '&';
        }
    }
    replace(uri, &stripped)
}

/// Returns the URI without its query.
pub(crate) fn without_all(uri: &Uri) -> Uri {
    replace(uri, uri.path()).unwrap_or_default()
}

fn replace(uri: &Uri, path_and_query: &str) -> Option<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().into_iter().flat_map(|query| query.split('&'))
}

/// Returns whether a name is the parameter's, once decoded like a form. The inner service would
/// decode the name in the same way.
fn is_named(written: &str, parameter: &str) -> bool {
    let spaced = if written.contains('+') {
        Cow::Owned(written.replace('+', " "))
    } else {
        Cow::Borrowed(written)
    };
    percent_decode(spaced.as_bytes()).eq(parameter.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn the_parameter_is_removed_and_the_rest_stays_as_written() {
        for (before, after) in [
            ("/v1?api_key=K", "/v1"),
            ("/v1?a=1&api_key=K&b=%20+2", "/v1?a=1&b=%20+2"),
            ("/v1?api_key=K&a", "/v1?a"),
            ("/v1?api%5Fkey=K&&a=", "/v1?&a="),
            ("/v1?api_key", "/v1"),
            ("/v1?my_api_key=K&API_KEY=K", "/v1?my_api_key=K&API_KEY=K"),
            ("https://host:8443/v1?api_key=K", "https://host:8443/v1"),
        ] {
            assert_eq!(
                without(&uri(before), "api_key").unwrap(),
                uri(after),
                "{before}"
            );
        }
    }

    #[test]
    fn every_occurrence_of_the_parameter_is_found() {
        let uri = uri("/?api_key=a&x=api_key&api%5fkey=b&api_key=");
        assert_eq!(values(&uri, "api_key").collect::<Vec<_>>(), ["a", "b", ""]);
        assert_eq!(decode("sk%5Flive").as_slice(), b"sk_live");
        assert!(decode(&"%41".repeat(100_000)).len() <= MAX_KEY_LENGTH + 1);
    }

    proptest! {
        #[test]
        fn a_removed_parameter_has_no_occurrence_left(query in "[a-c&=%0-9+_]{0,40}", name in "[a-c_]{1,2}") {
            let uri = uri(&format!("/path?{query}"));
            let stripped = without(&uri, &name).expect("a part of a URI is a URI");
            prop_assert_eq!(values(&stripped, &name).count(), 0);
            prop_assert_eq!(stripped.path(), "/path");
        }
    }
}
