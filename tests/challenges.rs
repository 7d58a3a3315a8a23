//! The challenges of a refusal, for all kinds of sources: read back as RFC 9110 §11.6.1 writes
//! them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;

use http::{Request, StatusCode};
use proptest::prelude::*;
use support::{answer, world};
use tower_api_key::{ApiKeyLayer, KeySource, Scope};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Bearer,
    ApiKey,
    Basic,
    Header(String),
    Query(String),
}

impl Source {
    fn made(&self) -> KeySource {
        match self {
            Self::Bearer => KeySource::bearer(),
            Self::ApiKey => KeySource::api_key_scheme(),
            Self::Basic => KeySource::basic(),
            Self::Header(name) => KeySource::header(name).unwrap(),
            Self::Query(name) => KeySource::dangerous_query(name),
        }
    }

    fn scheme(&self) -> Option<&'static str> {
        match self {
            Self::Bearer => Some("Bearer"),
            Self::ApiKey => Some("ApiKey"),
            Self::Basic => Some("Basic"),
            Self::Header(_) | Self::Query(_) => None,
        }
    }

    fn place(&self) -> Option<(String, String)> {
        let (place, name) = match self {
            Self::Header(name) => ("header", name),
            Self::Query(name) => ("query", name),
            _ => return None,
        };
        Some((place.to_owned(), name.clone()))
    }
}

/// Sources that differ from each other, in any order.
fn sources() -> impl Strategy<Value = Vec<Source>> {
    let source = prop_oneof![
        Just(Source::Bearer),
        Just(Source::ApiKey),
        Just(Source::Basic),
        "X-Acme-[!#$%&'*+.^_`|~A-Z-]{1,8}-Key".prop_map(Source::Header),
        "\\PC{1,12}".prop_map(Source::Query),
        "[ -~]{1,12}".prop_map(Source::Query),
        Just(Source::Query("a\"b\\c\r\n\u{7f}".to_owned())),
    ];
    proptest::collection::vec(source, 1..5).prop_map(|sources| {
        let mut different: Vec<Source> = Vec::new();
        for source in sources {
            if !different.contains(&source) {
                different.push(source);
            }
        }
        different
    })
}

#[derive(Debug)]
struct Challenge {
    scheme: String,
    parameters: BTreeMap<String, String>,
}

/// One challenge: a scheme, and parameters in quotes that need no escapes.
fn read(line: &str) -> Challenge {
    let (scheme, mut rest) = line.split_once(' ').unwrap();
    let mut parameters = BTreeMap::new();
    loop {
        let (name, behind) = rest.split_once("=\"").unwrap();
        let (value, behind) = behind.split_once('"').unwrap();
        assert!(
            value
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
        );
        assert!(
            parameters
                .insert(name.to_owned(), value.to_owned())
                .is_none()
        );
        match behind.strip_prefix(", ") {
            Some(more) => rest = more,
            None => break assert_eq!(behind, ""),
        }
    }
    Challenge {
        scheme: scheme.to_owned(),
        parameters,
    }
}

fn refused(layer: &ApiKeyLayer, request: Request<()>) -> (StatusCode, Vec<Challenge>) {
    let answer = answer(layer, request);
    let lines = answer.headers().get_all("www-authenticate").iter();
    let challenges = lines.map(|line| read(line.to_str().unwrap())).collect();
    (answer.status(), challenges)
}

fn layer(sources: &[Source], basic: bool) -> ApiKeyLayer {
    let layer = world().keys.layer();
    let layer = layer.sources(sources.iter().map(Source::made));
    if basic {
        layer.challenge_basic()
    } else {
        layer
    }
}

fn decoded(name: &str) -> String {
    let bytes = percent_encoding::percent_decode_str(name);
    bytes.decode_utf8().unwrap().into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_401_names_every_accepted_scheme_or_else_every_place(sources in sources(), basic: bool) {
        let (status, challenges) = refused(&layer(&sources, basic), Request::new(()));
        prop_assert_eq!(status, StatusCode::UNAUTHORIZED);
        // Basic opens a dialog in browsers: only if asked for, or if it is the only way in.
        let named = |source: &Source| *source != Source::Basic || basic || sources.len() == 1;
        let schemes: Vec<_> = sources.iter().filter(|source| named(source)).filter_map(Source::scheme).collect();
        let challenged: Vec<_> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
        if !schemes.is_empty() {
            prop_assert_eq!(challenged, schemes);
            return Ok(());
        }
        let mut told: Vec<_> = challenges.iter().map(|challenge| {
            let Challenge { scheme, parameters } = challenge;
            assert_eq!((scheme.as_str(), parameters["realm"].as_str()), ("ApiKey", "api"));
            let name = &parameters["name"];
            let name = if parameters["in"] == "query" { decoded(name) } else { name.clone() };
            (parameters["in"].clone(), name)
        }).collect();
        let mut places: Vec<_> = sources.iter().filter_map(Source::place).collect();
        told.sort();
        places.sort();
        prop_assert_eq!(told, places);
    }

    #[test]
    fn a_bad_key_is_an_invalid_token_only_in_the_bearer_challenge(sources in sources(), basic: bool) {
        let request = Request::builder().header("authorization", format!("Bearer {}", world().plaintexts["typo"]));
        let (status, challenges) = refused(&layer(&sources, basic), request.body(()).unwrap());
        prop_assert_eq!(status, StatusCode::UNAUTHORIZED);
        for challenge in challenges {
            let error = challenge.parameters.get("error").map(String::as_str);
            prop_assert_eq!(error, (challenge.scheme == "Bearer").then_some("invalid_token"));
        }
    }

    #[test]
    fn a_400_or_403_has_a_bearer_challenge_only_if_bearer_is_accepted(sources in sources(), basic: bool) {
        let has_bearer = sources.contains(&Source::Bearer);
        let key = &world().plaintexts["active"];
        let mut all = sources.clone();
        all.push(Source::Header("X-One-Key".to_owned()));
        let layer = layer(&all, basic);
        let twice = Request::builder().header("x-one-key", key).header("x-one-key", key);
        let (status, challenges) = refused(&layer, twice.body(()).unwrap());
        prop_assert_eq!(status, StatusCode::BAD_REQUEST);
        prop_assert_eq!(challenges.len(), usize::from(has_bearer));
        for challenge in challenges {
            prop_assert_eq!(challenge.scheme, "Bearer");
            prop_assert_eq!(&challenge.parameters["error"], "invalid_request");
        }
        let once = Request::builder().header("x-one-key", key);
        let scoped = layer.require(Scope::from_static("admin"));
        let (status, challenges) = refused(&scoped, once.body(()).unwrap());
        prop_assert_eq!(status, StatusCode::FORBIDDEN);
        prop_assert_eq!(challenges.len(), usize::from(has_bearer));
        for challenge in challenges {
            prop_assert_eq!(challenge.scheme, "Bearer");
            prop_assert_eq!(&challenge.parameters["error"], "insufficient_scope");
        }
    }
}
