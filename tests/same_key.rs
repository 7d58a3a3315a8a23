//! The very same key in several places, as software development kits send it: one credential.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use support::{Answered, answer, at_once, create_in, imported, percent_encoded, text, world};
use tower_api_key::key::{Alphabet, KeyFormat};
use tower_api_key::{ApiKeyLayer, ApiKeys, Environment, KeySource, MemoryStore};

/// A place that a key is sent in; of the first three, one request has at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Bearer,
    ApiKey,
    Basic,
    Header(&'static str),
    Query(&'static str),
}

const PLACES: [Place; 7] = [
    Place::Bearer,
    Place::ApiKey,
    Place::Basic,
    Place::Header("x-api-key"),
    Place::Header("x-acme-api-key"),
    Place::Query("api_key"),
    Place::Query("k\u{fc}y"),
];

impl Place {
    fn is_in_authorization(self) -> bool {
        self <= Self::Basic
    }

    fn source(self) -> KeySource {
        match self {
            Self::Bearer => KeySource::bearer(),
            Self::ApiKey => KeySource::api_key_scheme(),
            Self::Basic => KeySource::basic(),
            Self::Header(name) => KeySource::header(name).unwrap(),
            Self::Query(name) => KeySource::dangerous_query(name),
        }
    }
}

/// Two places or more, each a line or a parameter of its own.
fn several() -> impl Strategy<Value = Vec<Place>> {
    subsequence(PLACES.to_vec(), 2..=PLACES.len())
        .prop_filter("Authorization is there once", |places| {
            places
                .iter()
                .filter(|place| place.is_in_authorization())
                .count()
                < 2
        })
        .prop_shuffle()
}

fn request(sent: &[(Place, &str)]) -> Request<()> {
    let mut request = Request::builder().method("POST");
    let mut query = vec!["a=1".to_owned()];
    for (place, text) in sent {
        let (name, value) = match place {
            Place::Bearer => ("authorization", format!("Bearer {text}")),
            Place::ApiKey => ("authorization", format!("apikey  {text}")),
            Place::Basic => {
                let basic = STANDARD.encode(format!("{text}:"));
                ("authorization", format!("Basic {basic}"))
            }
            Place::Header(name) => (*name, format!(" {text}\t")),
            Place::Query(name) => {
                let [name, text] = [name, text].map(|text| percent_encoded(text.as_bytes()));
                query.push(format!("{name}={text}"));
                continue;
            }
        };
        request = request.header(name, value);
    }
    let uri = format!("/v1?{}", query.join("&"));
    request.uri(uri).body(()).unwrap()
}

fn everywhere(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer.sources(PLACES.map(Place::source))
}

fn body(answer: Answered) -> String {
    at_once(text(answer))
}

fn vary(answer: &Answered) -> BTreeSet<String> {
    let lines = answer.headers().get_all("vary").iter();
    lines
        .map(|line| line.to_str().unwrap().to_owned())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_same_key_in_several_places_counts_once_and_is_removed_from_all(places in several()) {
        let key = world().plaintexts["active"].as_str();
        let sent: Vec<_> = places.iter().map(|place| (*place, key)).collect();
        let answer = answer(&everywhere(world().keys.layer()), request(&sent));
        prop_assert_eq!(answer.status(), StatusCode::OK);
        // One of two places at least is not protected by Authorization.
        prop_assert_eq!(&answer.headers()["cache-control"], "private");
        let headers = places.iter().filter_map(|place| match place {
            Place::Header(name) => Some((*name).to_owned()),
            _ => None,
        });
        prop_assert_eq!(vary(&answer), headers.collect());
        prop_assert_eq!(body(answer), "acme /v1?a=1");
    }

    #[test]
    fn the_same_bad_key_in_several_places_is_one_bad_key(
        places in several(), bad in select(vec!["typo", "unknown", "junk", "revoked"]),
    ) {
        let key = world().plaintexts[bad].as_str();
        let sent: Vec<_> = places.iter().map(|place| (*place, key)).collect();
        let answer = answer(&everywhere(world().keys.layer()), request(&sent));
        prop_assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn a_different_key_in_another_place_is_ambiguous(
        places in several(), different in any::<Index>(), at in any::<Index>(), byte in b'0'..=b'9',
    ) {
        let key = world().plaintexts["active"].as_str();
        let mut another = key.to_owned();
        let at = "sk_live_".len() + at.index(key.len() - "sk_live_".len());
        another.replace_range(at..=at, &char::from(byte).to_string());
        prop_assume!(another != key);
        let mut sent: Vec<_> = places.iter().map(|place| (*place, key)).collect();
        let different = different.index(sent.len());
        sent[different].1 = &another;
        let answer = answer(&everywhere(world().keys.layer()), request(&sent));
        prop_assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_repeated_header_line_or_parameter_is_ambiguous(
        places in several(), repeated in any::<Index>(),
    ) {
        let key = world().plaintexts["active"].as_str();
        let mut sent: Vec<_> = places.iter().map(|place| (*place, key)).collect();
        sent.push(sent[repeated.index(sent.len())]);
        let answer = answer(&everywhere(world().keys.layer()), request(&sent));
        prop_assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn the_key_is_removed_from_each_of_many_headers(count in 1..90usize, sent in subsequence((0..90usize).collect::<Vec<_>>(), 1..90)) {
        let name = |at: usize| format!("x-key-{at}");
        let sources = (0..count).map(|at| KeySource::header(&name(at)).unwrap());
        let layer = world().keys.layer().sources(sources);
        let mut request = Request::builder();
        let sent: Vec<_> = sent.into_iter().filter(|at| *at < count).collect();
        prop_assume!(!sent.is_empty());
        for at in &sent {
            request = request.header(name(*at), &world().plaintexts["active"]);
        }
        let answer = layer_names(&layer, request.body(()).unwrap());
        prop_assert_eq!(answer, Vec::<HeaderName>::new());
    }
}

/// The names of the headers that the inner service sees of an admitted request.
fn layer_names(layer: &ApiKeyLayer, request: Request<()>) -> Vec<HeaderName> {
    use tower::{Layer, ServiceExt, service_fn};
    let inner = service_fn(async |request: Request<()>| {
        let names: Vec<_> = request.headers().keys().cloned().collect();
        let mut response = Response::new(Full::<bytes::Bytes>::default());
        response.extensions_mut().insert(names);
        Ok::<_, std::convert::Infallible>(response)
    });
    let mut answer = at_once(layer.layer(inner).oneshot(request)).unwrap();
    answer.extensions_mut().remove().unwrap()
}

#[test]
fn a_bare_key_is_removed_from_authorization_if_sent_elsewhere_too() {
    let hex = KeyFormat::imported("", Alphabet::HEX, 32..=32, Environment::LIVE).unwrap();
    let store = MemoryStore::new();
    let keys = ApiKeys::builder(store.clone())
        .formats([KeyFormat::new("sk_live", Environment::LIVE).unwrap(), hex])
        .build()
        .unwrap();
    let key = "0123456789abcdef0123456789abcdef";
    create_in(&store, imported(key));
    let layer = everywhere(keys.layer());
    for place in [Place::Bearer, Place::Basic] {
        let sent = [(place, key), (Place::Header("x-api-key"), key)];
        assert_eq!(body(answer(&layer, request(&sent))), "acme /v1?a=1");
        let other = "ffffffffffffffffffffffffffffffff";
        let sent = [(place, other), (Place::Header("x-api-key"), key)];
        let seen = body(answer(&layer, request(&sent)));
        assert!(seen.starts_with("acme /v1?a=1 authorization="), "{seen}");
    }
}
