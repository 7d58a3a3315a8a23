//! Keys that are sent with a slip of the pen around them, and the tokens of others that resemble
//! them: the first are claimed and refused, in every mode, and the second are foreign.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use http::{HeaderValue, Request, StatusCode};
use proptest::prelude::*;
use proptest::sample::select;
use support::{answer, status_and_text, world};
use tower_api_key::key::{Alphabet, KeyFormat};
use tower_api_key::{ApiKeyLayer, ApiKeys, Environment, KeySource, MemoryStore};

fn key() -> &'static str {
    &world().plaintexts["active"]
}

/// Layers that read keys from different places; the last two do not look at `Authorization` at all.
fn layers() -> &'static [(&'static str, ApiKeyLayer)] {
    static LAYERS: OnceLock<Vec<(&str, ApiKeyLayer)>> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let layer = || world().keys.layer();
        vec![
            ("default", layer()),
            ("Basic, too", layer().add_source(KeySource::basic())),
            ("only Basic", layer().sources([KeySource::basic()])),
            (
                "only ApiKey",
                layer().sources([KeySource::api_key_scheme()]),
            ),
            ("only a header", layer().sources([KeySource::x_api_key()])),
            (
                "only the query",
                layer().sources([KeySource::dangerous_query("key")]),
            ),
        ]
    })
}

fn asked(layer: &ApiKeyLayer, authorization: &[u8]) -> (StatusCode, String) {
    let request = Request::builder().uri("/v1").header(
        "authorization",
        HeaderValue::from_bytes(authorization).unwrap(),
    );
    status_and_text(layer, request.body(()).unwrap())
}

/// Holds a text to be ours and bad in strict and optional mode, wherever keys are read from.
fn hold_to_be_bad(authorization: &[u8]) -> Result<(), TestCaseError> {
    let shown = String::from_utf8_lossy(authorization);
    for (name, layer) in layers() {
        for layer in [layer.clone(), layer.clone().optional()] {
            let (status, body) = asked(&layer, authorization);
            prop_assert_eq!(status, StatusCode::UNAUTHORIZED, "{}: {}", name, shown);
            prop_assert!(body.contains("api_key_not_found"), "{}: {}", name, shown);
        }
    }
    Ok(())
}

/// Holds a text to be somebody else's: nobody asks, and the inner service gets it.
fn hold_to_be_foreign(layer: &ApiKeyLayer, authorization: &str) -> Result<(), TestCaseError> {
    let (status, body) = asked(layer, authorization.as_bytes());
    prop_assert_eq!(status, StatusCode::UNAUTHORIZED);
    prop_assert!(body.contains("missing_api_key"), "{}", authorization);
    let (status, body) = asked(&layer.clone().optional(), authorization.as_bytes());
    prop_assert_eq!(status, StatusCode::OK, "{}", authorization);
    prop_assert_eq!(body, format!("nobody /v1 authorization={authorization}"));
    Ok(())
}

fn in_some_case(text: &str, flips: u64) -> String {
    let flip = |(at, letter): (usize, char)| match flips >> (at % 64) & 1 {
        0 => letter.to_ascii_lowercase(),
        _ => letter.to_ascii_uppercase(),
    };
    text.chars().enumerate().map(flip).collect()
}

/// What stands before a key where a scheme should, and lets the key begin a word.
fn scheme() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        "Bearer ",
        "Bearer\t",
        "Bearer: ",
        "Bearer:",
        "Bearer Bearer ",
        "Bearer=",
        "Bearer, ",
        "Basic ",
        "ApiKey: ",
        "Api-Key ",
        "Token ",
        "Token token=",
        "Key ",
        "key=",
        "api_key=",
        "apikey:",
        "X-API-Key: ",
        "Authorization: Bearer ",
        "Digest ",
        "Negotiate ",
        "OAuth ",
        "AWS4-HMAC-SHA256 Credential=",
        "secret-token:",
        "Bearer\u{a0}",
        "Bearer\u{3000}",
    ]);
    prop_oneof![
        4 => (known, any::<u64>()).prop_map(|(scheme, flips)| in_some_case(scheme, flips)),
        1 => "[A-Za-z][A-Za-z0-9-]{0,12} ",
        1 => "[A-Za-z]{1,8} [a-z_]{1,12}=",
    ]
}

/// What people and programs put around a key, on either side.
fn wrapper() -> impl Strategy<Value = (&'static str, &'static str)> {
    select(vec![
        ("<", ">"),
        ("[", "]"),
        ("{", "}"),
        ("(", ")"),
        ("{{", "}}"),
        ("${", "}"),
        ("\"", "\""),
        ("'", "'"),
        ("`", "`"),
        ("\\\"", "\\\""),
        ("\u{201c}", "\u{201d}"),
        ("\u{2018}", "\u{2019}"),
        ("\u{ab}", "\u{bb}"),
        ("\u{200b}", ""),
        ("", "\u{200b}"),
        ("\u{feff}", "\u{feff}"),
        ("\u{a0}", "\u{a0}"),
        ("\u{2060}", "\u{ad}"),
        ("\u{200e}", "\u{200f}"),
        ("\u{202f}", ""),
        (",", ","),
        (";", ";"),
        (":", ":"),
        ("", "."),
        ("", "="),
        ("", "-"),
        ("", "x"),
        ("-", ""),
        ("_", ""),
        ("/", ""),
        ("~.", ""),
        ("\\n", ""),
        ("\\t", "\\n"),
        ("\\x0a", ""),
        ("\\ufeff", ""),
        ("\\U0000feff", ""),
        ("\\u{feff}", ""),
        ("&quot;", "&quot;"),
        ("", " x"),
        ("\t", "\t"),
        ("%22", "%22"),
        ("%3C", "%3E"),
        ("%E2%80%8B", "%E2%80%8B"),
        ("$", "$"),
        ("%20", ""),
        ("%09", ""),
        ("%2520", ""),
        ("", "\\n"),
        ("", "%0A"),
        ("&", "&"),
        ("#", "#"),
    ])
}

/// Scheme names and what joins them, glued before the key.
fn glue() -> impl Strategy<Value = String> {
    let name = select(vec![
        "Bearer",
        "ApiKey",
        "Api-Key",
        "api_key",
        "X-API-Key",
        "Basic",
        "Token",
        "Key",
        "Access-Token",
        "Authorization",
    ]);
    let join = select(vec!["", "+", "%20", "%09", "-", "_", ".", "/", "=", ":"]);
    let one = (name, any::<u64>(), join);
    proptest::collection::vec(one, 1..4).prop_map(|glue| {
        let one = |(name, flips, join): (&str, u64, &str)| in_some_case(name, flips) + join;
        glue.into_iter().map(one).collect()
    })
}

/// Whether a line is the key as it should be sent, in one way or another.
fn is_right(line: &str) -> bool {
    let line = line.trim_matches([' ', '\t']);
    let (scheme, token) = line.split_once(' ').unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    ["bearer", "apikey"].contains(&scheme.as_str()) && token.trim_start_matches(' ') == key()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_key_wrapped_in_stray_characters_is_claimed_and_refused(
        scheme in scheme(), wrappers in proptest::collection::vec(wrapper(), 0..4),
    ) {
        let wrapped = wrappers.iter().fold(key().to_owned(), |inner, (open, close)| {
            format!("{open}{inner}{close}")
        });
        let line = format!("{scheme}{wrapped}");
        prop_assume!(!is_right(&line));
        hold_to_be_bad(line.as_bytes())?;
    }

    #[test]
    fn a_key_glued_to_a_scheme_or_blank_is_claimed_and_refused(glue in glue(), before in scheme()) {
        hold_to_be_bad(format!("{glue}{}", key()).as_bytes())?;
        hold_to_be_bad(format!("{before}{glue}{}", key()).as_bytes())?;
    }

    #[test]
    fn a_key_behind_non_token_bytes_is_claimed_and_refused(
        bytes in proptest::collection::vec(prop_oneof![0x80..=0xffu8, Just(b'<'), Just(b'\t')], 1..20),
        more in "[ -~]{0,20}",
    ) {
        let line = [b"Bearer ", &bytes[..], key().as_bytes(), more.as_bytes()].concat();
        prop_assume!(!is_right(&String::from_utf8_lossy(&line)));
        hold_to_be_bad(&line)?;
    }

    #[test]
    fn a_truncated_key_is_claimed_and_refused_like_a_whole_one(length in 16..49usize, wrapper in wrapper()) {
        let cut = &key()[.."sk_live_".len() + length];
        let (open, close) = wrapper;
        hold_to_be_bad(format!("Token <{open}{cut}{close}>").as_bytes())?;
    }

    #[test]
    fn a_key_inside_other_basic_credentials_is_claimed_and_refused(
        user in "[a-z@.]{0,12}", separator in select(vec![":", ": ", ":\u{200b}", " ", "::"]), more in "[a-z:]{0,9}",
    ) {
        let text = format!("{user}{separator}{}{more}", key());
        let standard = STANDARD.encode(&text);
        let is_a_key = user.is_empty() && separator.trim().is_empty() && more == ":";
        prop_assume!(!is_a_key);
        hold_to_be_bad(format!("Basic {standard}").as_bytes())?;
    }
}

/// What stands around a key in what is encoded.
fn encoded_text() -> impl Strategy<Value = String> {
    let user = prop_oneof![4 => "[a-z@.]{0,12}", 1 => "[a-z]{200,300}"];
    let separator = select(vec![
        ":",
        ": ",
        ":\u{feff}",
        "\u{feff}",
        "\"",
        "<",
        "\n",
        ":\\n",
        ":-",
    ]);
    let end = select(vec!["", ":", "\n", ":x", "\"", "\u{200b}"]);
    (user, separator, end)
        .prop_map(|(user, separator, end)| format!("{user}{separator}{}{end}", key()))
}

/// Base64 as somebody may have written it.
fn badly_encoded() -> impl Strategy<Value = String> {
    let padding = select(vec!["=", "%3D", "%3d", "", "%253D"]);
    let alphabets = select(vec![STANDARD, URL_SAFE]);
    let ends = select(vec![
        ("", ""),
        ("\"", "\""),
        ("'", "'"),
        ("<", ">"),
        ("", ","),
        ("", ";"),
        ("\u{feff}", ""),
        ("\u{200b}", "\u{200b}"),
        ("%22", "%22"),
        ("\t", ""),
        ("", " x"),
    ]);
    let folded = proptest::option::of((1..9usize, select(vec![" ", "\t", ",", "\" \"", "%0A"])));
    (alphabets, padding, ends, folded, 0..3u8, encoded_text()).prop_map(
        |(alphabet, padding, (open, close), folded, more, text)| {
            let encoded = match more {
                0 => alphabet.encode(&text),
                1 => alphabet.encode(alphabet.encode(&text)),
                // As some shells do.
                _ => alphabet.encode(
                    text.encode_utf16()
                        .flat_map(u16::to_le_bytes)
                        .collect::<Vec<_>>(),
                ),
            };
            let encoded = match folded {
                Some((width, fold)) => {
                    let lines = encoded.as_bytes().chunks(width * 4);
                    lines
                        .map(String::from_utf8_lossy)
                        .collect::<Vec<_>>()
                        .join(fold)
                }
                None => encoded,
            };
            format!("{open}{}{close}", encoded.replace('=', padding))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_key_in_badly_encoded_basic_credentials_is_claimed_and_refused(
        scheme in select(vec![
            "Basic ", "basic\t", "BASIC: ", "Basic", "Basic:", "Basic Basic ", "Authorization: Basic ",
            "Bearer Basic ", "\"Basic ", "Basic=", "\u{feff}Basic ", "Basic%20", "Basic\u{feff}",
        ]),
        credentials in badly_encoded(),
    ) {
        hold_to_be_bad(format!("{scheme}{credentials}").as_bytes())?;
    }

    #[test]
    fn a_base64_encoded_key_is_claimed_and_refused_under_any_scheme(
        before in scheme(), alphabet in select(vec![STANDARD, URL_SAFE, URL_SAFE_NO_PAD]), twice: bool,
        end in select(vec!["", ":", "\n", "x"]),
    ) {
        let encoded = alphabet.encode(format!("{}{end}", key()));
        let encoded = if twice { alphabet.encode(encoded) } else { encoded };
        let is_right = before.eq_ignore_ascii_case("basic ") && end == ":" && !twice;
        prop_assume!(!is_right);
        hold_to_be_bad(format!("{before}{encoded}").as_bytes())?;
    }
}

const PART: &str = "[A-Za-z0-9_-]{1,60}";

/// A part of a token in which something that looks like a key stands, but not at the start.
fn part_with_a_lead() -> impl Strategy<Value = String> {
    // No scheme's name begins so.
    (
        "[ZQ0-9][A-Za-z0-9_-]{0,40}",
        select(vec!["sk_live_", "sk_test_"]),
        "[A-Za-z0-9]{16,60}",
    )
        .prop_map(|(before, lead, after)| format!("{before}{lead}{after}"))
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![3 => PART, 1 => part_with_a_lead()]
}

fn jwt() -> impl Strategy<Value = String> {
    let header = select(vec!["HS256", "RS256", "ES256", "none"]);
    let header = header.prop_map(|algorithm| {
        URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#))
    });
    let payload = prop_oneof![
        part(),
        "[ -~]{1,80}".prop_map(|claims| URL_SAFE_NO_PAD.encode(claims)),
        // The lead may even begin a part.
        "[A-Za-z0-9]{16,50}".prop_map(|secret| format!("sk_live_{secret}")),
    ];
    (header, payload, "[A-Za-z0-9_-]{22,60}")
        .prop_map(|(header, payload, signature)| format!("{header}.{payload}.{signature}"))
}

fn opaque() -> impl Strategy<Value = String> {
    prop_oneof![
        part_with_a_lead(),
        "[A-Za-z0-9._~+/-]{1,80}={0,2}",
        proptest::collection::vec(any::<u8>(), 1..200).prop_map(|bytes| STANDARD.encode(bytes)),
        "sk_liv[A-Za-z0-9]{16,40}",
        "sk-live-[A-Za-z0-9]{16,40}",
    ]
}

fn foreign() -> impl Strategy<Value = String> {
    let scheme = select(vec![
        "Bearer",
        "bearer",
        "DPoP",
        "Token",
        "Negotiate",
        "GNAP",
        "PrivateToken",
    ]);
    let digest = ("[a-z]{1,8}", "[a-f0-9]{32}", "[A-Za-z0-9+/]{20,40}={0,2}", "[a-f0-9]{64}").prop_map(
        |(user, nonce, opaque, response)| format!(
            "Digest username=\"{user}\", realm=\"api\", uri=\"/v1\", nonce=\"{nonce}\", nc=00000001, \
             cnonce=\"{nonce}\", qop=auth, response=\"{response}\", opaque=\"{opaque}\", algorithm=SHA-256"
        ),
    );
    let sigv4 = ("[A-Z0-9]{16}", "20[0-9]{6}", "[a-f0-9]{64}").prop_map(|(id, date, signature)| {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIA{id}/{date}/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature={signature}"
        )
    });
    let hawk = ("[a-z0-9]{32}", "[A-Za-z0-9+/]{43}=").prop_map(|(id, mac)| {
        format!("Hawk id=\"{id}\", ts=\"1353832234\", nonce=\"j4h3g2\", mac=\"{mac}\"")
    });
    let basic = ("[a-z]{1,9}", "[ -~]{0,30}").prop_map(|(user, password)| {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    });
    prop_oneof![
        (scheme.clone(), jwt()).prop_map(|(scheme, token)| format!("{scheme} {token}")),
        (scheme, opaque()).prop_map(|(scheme, token)| format!("{scheme} {token}")),
        jwt(),
        digest,
        sigv4,
        hawk,
        basic,
    ]
}

/// Layers with formats that tell little of a key: other schemes' parameters look like it.
fn layers_of_bare_keys() -> &'static [ApiKeyLayer] {
    static LAYERS: OnceLock<Vec<ApiKeyLayer>> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let alphabets = [Alphabet::HEX, Alphabet::ALPHANUMERIC, Alphabet::BASE64URL];
        let layer = |alphabet| {
            // Shorter than issued keys, of which no text may be one, too.
            let bare = KeyFormat::imported("", alphabet, 32..=56, Environment::LIVE).unwrap();
            let live = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
            let keys = ApiKeys::builder(MemoryStore::new());
            let keys = keys
                .formats([live, bare.dangerous_in_authorization()])
                .build();
            keys.unwrap().layer()
        };
        alphabets.map(layer).to_vec()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn foreign_credentials_are_never_claimed(authorization in foreign()) {
        for (_, layer) in layers() {
            hold_to_be_foreign(layer, &authorization)?;
        }
    }

    #[test]
    fn foreign_credentials_are_never_claimed_as_keys_without_a_lead(
        authorization in foreign().prop_filter("a token of one part may be a key", |line| {
            line.contains('"') || line.contains(", ") || line.matches('.').count() == 2
        }),
    ) {
        for layer in layers_of_bare_keys() {
            hold_to_be_foreign(layer, &authorization)?;
        }
    }
}

#[test]
fn a_bearer_token_with_our_prefix_is_claimed_however_short() {
    for (name, layer) in layers() {
        for token in [
            "sk_live_",
            "sk_live_x",
            "sk_test_0123456789abcde",
            "sk_live_\u{200b}",
        ] {
            let (status, body) = asked(
                &layer.clone().optional(),
                format!("Bearer {token}").as_bytes(),
            );
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {token}");
            assert!(body.contains("api_key_not_found"), "{name}: {token}");
        }
    }
}

#[test]
fn a_malformed_key_beside_a_key_is_ambiguous_and_a_token_is_not() {
    let (_, layer) = &layers()[0];
    let asked = |authorization: String| {
        let request = Request::builder().header("x-api-key", key());
        let request = request
            .header("authorization", authorization)
            .body(())
            .unwrap();
        answer(layer, request).status()
    };
    assert_eq!(asked(world().fill("Bearer {jwt}")), StatusCode::OK);
    assert_eq!(
        asked(format!("Bearer <{}>", key())),
        StatusCode::BAD_REQUEST
    );
}

#[test]
fn two_lines_of_an_unread_authorization_pass_unless_they_hold_a_key() {
    let (_, layer) = layers()
        .iter()
        .find(|(name, _)| *name == "only a header")
        .unwrap();
    let asked = |second: String| {
        let request = Request::builder().header("x-api-key", key());
        let request = request.header("authorization", "Negotiate abc");
        let request = request.header("authorization", second).body(()).unwrap();
        answer(layer, request).status()
    };
    assert_eq!(asked(world().fill("Bearer {jwt}")), StatusCode::OK);
    assert_eq!(
        asked(format!("Bearer {}", world().plaintexts["admin"])),
        StatusCode::BAD_REQUEST
    );
}
