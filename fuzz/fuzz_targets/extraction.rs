//! The whole layer against arbitrary requests: only the one key opens the door, only from where
//! keys are read, and it is gone behind the door.
//!
//! The oracle is written here from the documentation and shares no code with the crate.

#![no_main]

use std::convert::Infallible;
use std::sync::LazyLock;

use axum::extract::OriginalUri;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use libfuzzer_sys::{Corpus, fuzz_target};
use tower::{Layer, ServiceExt, service_fn};
use tower_api_key::http::ResponseBody;
use tower_api_key::{ApiKeyLayer, ApiKeys, Caller, IssuedKey, KeySource};

const KEY_HEADERS: [&str; 2] = ["x-api-key", "x-acme-api-key"];
const PARAMETER: &str = "api_key";
/// How far into `Authorization` a key that is not as it should be is surely seen. (Of Basic
/// credentials, not much more than the longest key is decoded.)
const NEAR: usize = 448;

/// The key itself.
const KEY: u8 = 0xff;
/// The key's first bytes; the byte behind this says how many.
const HEAD: u8 = 0xfe;
/// The key without its first bytes; the byte behind this says how many.
const TAIL: u8 = 0xfd;
/// The key with its letters in the other case.
const OTHER_CASE: u8 = 0xfc;
/// The key as Basic credentials hold it.
const USER_NAME: u8 = 0xf8;
/// What stands between two of these is put into base64.
const BASE64: u8 = 0xfb;
/// What stands between two of these is percent-encoded.
const PERCENT: u8 = 0xfa;
/// Takes back the byte before it, such as the padding of base64.
const ERASE: u8 = 0xf9;
/// One byte for each of these, from 0x80 on, so that the fuzzer need not find out how to spell them.
const WORDS: [&str; 13] = [
    "POST /v1",
    "\nAuthorization: Bearer ",
    "\nAuthorization: ApiKey ",
    "\nAuthorization: Basic ",
    "\nAuthorization: ",
    "\nX-API-Key: ",
    "\nX-Acme-Api-Key: ",
    "\nContent-Type:application/grpc",
    "\nProxy-Authorization: Bearer ",
    "\nCookie: api_key=",
    "?api_key=",
    "&api_key=",
    "&api%5Fkey=",
];

fuzz_target!(|input: &[u8]| -> Corpus {
    let door = &*DOOR;
    let Some(request) = request(&door.spliced(input)) else {
        return Corpus::Reject;
    };
    let (sent, ()) = request.clone().into_parts();
    let response = door
        .layer
        .layer(service_fn(inner_service))
        .oneshot(request)
        .now_or_never()
        .expect("a store in memory never waits");
    let Ok(mut response) = response;
    let seen = response.extensions_mut().remove::<Seen>();

    let readings = door.readings(&sent);
    let has = |wanted| readings.iter().any(|(_, reading)| *reading == wanted);
    // In two places, the very same key is one.
    let may_pass = has(Reading::Key) && !has(Reading::Ours);
    let must_pass = may_pass && !has(Reading::Unclear);
    match seen {
        Some(Seen(seen)) => {
            assert!(may_pass, "let through: {sent:?}");
            let keys = readings
                .iter()
                .filter(|(_, reading)| *reading == Reading::Key);
            let places: Vec<_> = keys.map(|(place, _)| *place).collect();
            door.check_admitted(&sent, &seen, &places);
            assert_eq!(response.status(), 200);
        }
        None => {
            assert!(!must_pass, "turned away: {sent:?}");
            door.check_refusal(&sent, response);
        }
    }
    Corpus::Keep
});

/// The layer, and the one key that opens it.
struct Door {
    layer: ApiKeyLayer,
    key: IssuedKey,
}

static DOOR: LazyLock<Door> = LazyLock::new(|| {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("acme").into_future();
    let key = key.now_or_never().expect("a store in memory never waits");
    let own_header = KeySource::header("X-Acme-Api-Key").expect("a good name");
    Door {
        layer: keys.layer().sources([
            KeySource::bearer(),
            KeySource::api_key_scheme(),
            KeySource::basic(),
            KeySource::x_api_key(),
            own_header,
            KeySource::dangerous_query(PARAMETER),
        ]),
        key: key.expect("a key is issued"),
    }
});

/// The request as the inner service saw it.
#[derive(Clone)]
struct Seen(Parts);

async fn inner_service(request: Request<()>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, ()) = request.into_parts();
    let mut response = Response::default();
    response.extensions_mut().insert(Seen(parts));
    Ok(response)
}

/// A request as HTTP/1 writes it. The first line may say only what follows the path `/v1`.
fn request(text: &[u8]) -> Option<Request<()>> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let mut request = Request::new(());
    match first.iter().position(|byte| *byte == b' ') {
        None => *request.uri_mut() = Uri::try_from([b"/v1", first].concat()).ok()?,
        Some(space) => {
            *request.method_mut() = Method::from_bytes(&first[..space]).ok()?;
            *request.uri_mut() = Uri::try_from(&first[space + 1..]).ok()?;
        }
    }
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(&line[colon + 1..]).ok()?;
        request.headers_mut().append(name, value);
    }
    let uri = OriginalUri(request.uri().clone());
    request.extensions_mut().insert(uri);
    Some(request)
}

/// What the documentation makes of what stands in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Nothing,
    /// Byte for byte the key.
    Key,
    /// Meant for us, and not the key, or sent twice: nothing beside it may help.
    Ours,
    /// Somebody else's, such as a user's token: it neither helps nor harms.
    Foreign,
    /// Broken base64, or something like a key within other text: either answer is right.
    Unclear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Authorization,
    Header(&'static str),
    Query,
}

impl Door {
    fn secret(&self) -> &[u8] {
        self.key.expose_secret().as_bytes()
    }

    fn readings(&self, sent: &Parts) -> [(Place, Reading); 4] {
        let [first, second] = KEY_HEADERS;
        [
            (Place::Authorization, self.in_authorization(&sent.headers)),
            (Place::Header(first), self.in_header(&sent.headers, first)),
            (Place::Header(second), self.in_header(&sent.headers, second)),
            (Place::Query, self.in_query(&sent.uri)),
        ]
    }

    fn in_authorization(&self, headers: &HeaderMap) -> Reading {
        let lines: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
        let line = match lines[..] {
            [] => return Reading::Nothing,
            [line] => stripped(line.as_bytes()),
            _ => return Reading::Ours,
        };
        let scheme = line.split(|byte| *byte == b' ').next().unwrap_or(line);
        let token = &line[scheme.len()..];
        let token = &token[token.iter().take_while(|byte| **byte == b' ').count()..];
        match &scheme.to_ascii_lowercase()[..] {
            b"bearer" | b"apikey" if token == self.secret() => Reading::Key,
            b"basic" if token == self.as_user_name().as_bytes() => Reading::Key,
            b"bearer" if begins_as_ours(token) => Reading::Ours,
            b"apikey" if !token.is_empty() => Reading::Ours,
            b"basic" => match STANDARD.decode(token) {
                Ok(text) if begins_as_ours(&text) => Reading::Ours,
                Ok(text) => self.not_as_it_should_be(&text),
                Err(_) if self.not_as_it_should_be(line) == Reading::Ours => Reading::Ours,
                Err(_) => Reading::Unclear,
            },
            _ => self.not_as_it_should_be(line),
        }
    }

    /// The key at the start of what could be a token is ours, even where it is not written as it
    /// should be.
    fn not_as_it_should_be(&self, text: &[u8]) -> Reading {
        let ours = (0..text.len().min(NEAR)).any(|at| {
            let begins_a_token = at == 0 || !goes_on_in_a_token(text[at - 1]);
            begins_a_token && text[at..].starts_with(self.secret())
        });
        if ours {
            Reading::Ours
        } else if (0..text.len()).any(|at| begins_as_ours(&text[at..])) {
            Reading::Unclear
        } else {
            Reading::Foreign
        }
    }

    /// Canonical base64 writes a text in one way only, so there is nothing to decode.
    fn as_user_name(&self) -> String {
        STANDARD.encode(format!("{}:", self.key.expose_secret()))
    }

    fn in_header(&self, headers: &HeaderMap, name: &str) -> Reading {
        let lines: Vec<_> = headers.get_all(name).iter().collect();
        match lines[..] {
            [] => Reading::Nothing,
            [line] => self.own(stripped(line.as_bytes())),
            _ => Reading::Ours,
        }
    }

    fn in_query(&self, uri: &Uri) -> Reading {
        let named: Vec<_> = pairs(uri).filter(|pair| is_parameter(pair)).collect();
        match named[..] {
            [] => Reading::Nothing,
            [pair] => self.own(&percent_decoded(name_and_value(pair).1.as_bytes())),
            _ => Reading::Ours,
        }
    }

    fn own(&self, text: &[u8]) -> Reading {
        if text.is_empty() {
            Reading::Nothing
        } else if text == self.secret() {
            Reading::Key
        } else {
            Reading::Ours
        }
    }

    /// Behind the door there is the caller, the request as it was sent, and no key in its places.
    fn check_admitted(&self, sent: &Parts, seen: &Parts, places: &[Place]) {
        let caller = Caller::of(&seen.extensions).expect("a caller");
        assert_eq!((caller.account(), caller.key_id()), ("acme", self.key.id()));
        let original = seen.extensions.get::<OriginalUri>().expect("axum's copy");

        assert_eq!(seen.method, sent.method);
        let mut headers = sent.headers.clone();
        let mut query = sent.uri.query().map(str::to_owned);
        for place in places {
            match place {
                Place::Authorization => drop(headers.remove(AUTHORIZATION)),
                Place::Header(name) => drop(headers.remove(*name)),
                Place::Query => {
                    let kept: Vec<_> = pairs(&sent.uri)
                        .filter(|pair| !is_parameter(pair))
                        .collect();
                    query = (!kept.is_empty()).then(|| kept.join("&"));
                }
            }
        }
        assert_eq!(seen.headers, headers);
        for uri in [&seen.uri, &original.0] {
            assert_eq!(uri.scheme(), sent.uri.scheme());
            assert_eq!(uri.authority(), sent.uri.authority());
            assert_eq!(uri.path(), sent.uri.path());
            assert_eq!(uri.query(), query.as_deref());
        }
    }

    /// A refusal says so, how to do better, and nothing that the caller sent.
    fn check_refusal(&self, sent: &Parts, response: Response<ResponseBody<Empty<Bytes>>>) {
        let (head, body) = response.into_parts();
        let body = body.collect().now_or_never().expect("a body at hand");
        let body = body.expect("a whole body").to_bytes();
        if is_grpc(sent) {
            assert_eq!(head.status, 200);
            let status = head.headers["grpc-status"].as_bytes();
            assert!(status == b"3" || status == b"16", "grpc-status {status:?}");
        } else {
            assert!(matches!(head.status.as_u16(), 400 | 401), "{}", head.status);
            // Bearer is accepted, and can also say what is wrong with a 400 (RFC 6750 §3.1).
            assert!(head.headers.contains_key(WWW_AUTHENTICATE));
        }
        assert_eq!(head.headers[CACHE_CONTROL], "no-store");
        let values = head.headers.values().map(HeaderValue::as_bytes);
        for text in values.chain([&body[..]]) {
            let repeated = text
                .windows(self.secret().len())
                .any(|it| it == self.secret());
            assert!(!repeated, "the key is in the answer");
        }
    }

    /// The input with its markers replaced.
    fn spliced(&self, input: &[u8]) -> Vec<u8> {
        let in_base64 = |text| STANDARD.encode::<Vec<u8>>(text).into_bytes();
        let text = encoded_between(BASE64, input, in_base64, |part| {
            encoded_between(PERCENT, part, percent_encoded, |part| self.expanded(part))
        });
        let mut spliced = Vec::new();
        for byte in text {
            match byte {
                ERASE => drop(spliced.pop()),
                byte => spliced.push(byte),
            }
        }
        spliced
    }

    fn expanded(&self, input: &[u8]) -> Vec<u8> {
        let key = self.secret();
        let mut text = Vec::new();
        let mut bytes = input.iter();
        while let Some(byte) = bytes.next() {
            let mut at = || bytes.next().map_or(0, |at| usize::from(*at) % key.len());
            match *byte {
                KEY => text.extend(key),
                HEAD => text.extend(&key[..at()]),
                TAIL => text.extend(&key[at()..]),
                OTHER_CASE => text.extend(key.iter().map(other_case)),
                USER_NAME => text.extend(self.as_user_name().bytes()),
                byte => match WORDS.get(usize::from(byte).wrapping_sub(0x80)) {
                    Some(word) => text.extend(word.bytes()),
                    None => text.push(byte),
                },
            }
        }
        text
    }
}

/// The input with each second part between two markers encoded.
fn encoded_between(
    marker: u8,
    input: &[u8],
    encode: impl Fn(Vec<u8>) -> Vec<u8>,
    expand: impl Fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let mut text = Vec::new();
    for (at, part) in input.split(|byte| *byte == marker).enumerate() {
        let part = expand(part);
        text.extend(if at % 2 == 1 { encode(part) } else { part });
    }
    text
}

fn percent_encoded(text: Vec<u8>) -> Vec<u8> {
    let encoded = text.iter().map(|byte| format!("%{byte:02X}"));
    String::from_iter(encoded).into_bytes()
}

fn other_case(byte: &u8) -> u8 {
    if byte.is_ascii_alphabetic() {
        byte ^ 0x20
    } else {
        *byte
    }
}

fn begins_as_ours(text: &[u8]) -> bool {
    text.starts_with(b"sk_live_") || text.starts_with(b"sk_test_")
}

/// The characters of a token (token68, RFC 9110) but `=`, behind which there is none.
fn goes_on_in_a_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte)
}

fn stripped(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn is_grpc(sent: &Parts) -> bool {
    let Some(content_type) = sent.headers.get(CONTENT_TYPE) else {
        return false;
    };
    let content_type = content_type.as_bytes().to_ascii_lowercase();
    let is_its_type = content_type == b"application/grpc"
        || content_type.starts_with(b"application/grpc+")
        || content_type.starts_with(b"application/grpc;");
    sent.method == Method::POST && is_its_type
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().into_iter().flat_map(|query| query.split('&'))
}

fn name_and_value(pair: &str) -> (&str, &str) {
    match pair.find('=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, ""),
    }
}

/// As a form is read: `+` is a space.
fn is_parameter(pair: &str) -> bool {
    let name = name_and_value(pair).0.replace('+', " ");
    percent_decoded(name.as_bytes()) == PARAMETER.as_bytes()
}

fn percent_decoded(mut text: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut decoded = Vec::new();
    while let [byte, rest @ ..] = text {
        text = rest;
        decoded.push(match rest {
            [high, low, behind @ ..] if *byte == b'%' => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => {
                    text = behind;
                    (high * 16 + low) as u8
                }
                _ => *byte,
            },
            _ => *byte,
        });
    }
    decoded
}
