//! Redaction of text and JSON: what is found, in which dress, and that nothing else is changed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use regex::Regex;
use serde_json::{Value, json};
use tower_api_key::key::{Alphabet, KeyDigest, KeyFormat};
use tower_api_key::redact::Redactor;
use tower_api_key::{ApiKeys, Environment, MemoryStore};

const SECRET: &str = "0123456789abcdefGHIJ";

fn issued(prefix: &str) -> KeyFormat {
    KeyFormat::new(prefix, Environment::LIVE).unwrap()
}

fn imported(lead: &str, alphabet: Alphabet, length: usize) -> KeyFormat {
    KeyFormat::imported(lead, alphabet, length..=length, Environment::LIVE).unwrap()
}

fn key() -> String {
    issued("sk_live")
        .generate()
        .unwrap()
        .expose_secret()
        .to_owned()
}

/// Checks that a text becomes another one, and that this is final.
#[track_caller]
fn becomes(redactor: &Redactor, text: &str, expected: &str) {
    let safe = redactor.redact(text);
    assert_eq!(safe, expected, "of {text}");
    assert_eq!(redactor.redact(&safe), expected, "the second time");
}

/// Checks that a text is not changed, and that nothing is allocated for it.
#[track_caller]
fn stays(redactor: &Redactor, text: &str) {
    let safe = redactor.redact(text);
    assert!(matches!(safe, Cow::Borrowed(_)), "{text} became {safe}");
    assert_eq!(safe, text);
}

#[test]
fn an_issued_key_is_redacted_in_every_dress() {
    let key = key();
    let redactor = Redactor::new();
    for dress in [
        "§",
        "the key §.",
        "<§>, (§), \"§\", '§', `§`, [§], {§}",
        "GET /reports?api_key=§&page=2 HTTP/1.1",
        "GET /reports?a=1&apiKey=§#top",
        "/keys/§/revoke",
        "https://§@example.com/, https://u:§@example.com/",
        "callback=https%3A%2F%2Fexample.com%2F%3Fkey%3D§%26page%3D2",
        "a%20§, %2520§, a+§",
        "x=§;y=§,z=§|§",
        r#"{"key":"§","nested":"{\"key\":\"§\"}","twice":"\\\"§\\\""}"#,
        r"a\n§\t§\r\n§\u0020§\x20§\0§",
        r#"Config { key: Some("§"), url: "a\n§" }"#,
        "Authorization: Bearer §",
        "authorization: apikey §",
        r#"{"authorization": "Bearer §", "x-api-key": "§"}"#,
        r#"HeaderValue("Bearer §")"#,
        "-H 'X-API-Key: §'",
        "\u{1b}[31m§\u{1b}[0m",
        r"\x1b[1;31m§\x1b[0m \u{1b}[3m§\u{1b}[0m \u001b[m§",
        "\u{1b}[3mkey\u{1b}[0m\u{1b}[2m=\u{1b}[0m§",
        "\u{1b}[1;38;2;255;100;100m§\u{1b}[0m \u{1b}[38:2::255:100:100m§ [1;38;2;255;100;100m§",
        "<b>&quot;§&quot;</b> b\"§\" ApiKey(\"§\")",
        "é § ключ§\u{feff}§\u{200b}",
        "sk_live_§ prefix_§ §_suffix -§- .§. ~§~ §/§",
        "glued: word§ 9§ Bearer§ key§",
    ] {
        let expected = dress.replace('§', "sk_live_[REDACTED]");
        becomes(&redactor, &dress.replace('§', &key), &expected);
    }
    let escaped = key.replace('_', "%5f");
    becomes(&redactor, &escaped, "sk%5flive%5f[REDACTED]");
    let escaped = key.replace('_', "\\u005f");
    becomes(&redactor, &escaped, "sk\\u005flive\\u005f[REDACTED]");
    let escaped = format!("`{}`", key.replace('_', "\\_")); // Markdown
    becomes(&redactor, &escaped, "`sk\\_live\\_[REDACTED]`");
    // Leads that end with the last digit of an underscore's escape hide no such escape.
    let hidden = Redactor::of([issued("sk_live"), imported("5F", Alphabet::HEX, 40)]);
    let escaped = key.replace('_', "%5F");
    becomes(&hidden, &escaped, "sk%5Flive%5F[REDACTED]");
}

#[test]
fn all_of_a_damaged_key_is_redacted() {
    let redactor = Redactor::new();
    for length in 0..=SECRET.len() {
        let text = format!("=sk_live_{}", &SECRET[..length]);
        match length {
            16.. => becomes(&redactor, &text, "=sk_live_[REDACTED]"),
            _ => stays(&redactor, &text),
        }
    }
    let key = key();
    let mut mistyped = key.clone();
    mistyped.replace_range(20..21, if &key[20..21] == "a" { "b" } else { "a" });
    becomes(&redactor, &mistyped, "sk_live_[REDACTED]");
    let long = format!("{key}{key}andMore");
    becomes(&redactor, &long, "sk_live_[REDACTED]_live_[REDACTED]");
}

/// A whole key has a checksum, and is found inside of words, too.
#[test]
fn inside_of_a_word_only_a_whole_key_is_redacted() {
    let redactor = Redactor::new();
    becomes(
        &redactor,
        &format!("word{}", key()),
        "wordsk_live_[REDACTED]",
    );
    becomes(&redactor, &format!("1{}x", key()), "1sk_live_[REDACTED]");
    stays(&redactor, &format!("disk_live_{SECRET}"));
    stays(&redactor, &format!("risk_test_{}", "0af6".repeat(8)));
    let format = issued("sk").without_checksum();
    let key = format.generate().unwrap();
    let short = Redactor::of([format]);
    becomes(
        &short,
        &format!("ta{}", key.expose_secret()),
        "task_[REDACTED]",
    );
    stays(&short, "task_0123456789abcdef");
    becomes(&short, "ta-sk_0123456789abcdef", "ta-sk_[REDACTED]");
}

/// Keys without a checksum stand beside each other, and the first one hides the second lead.
#[test]
fn the_second_of_two_glued_keys_is_redacted() {
    let redactor = Redactor::of([imported("acme:", Alphabet::HEX, 40)]);
    let stripe = format!("pk_live_{SECRET}rk_live_{SECRET}sk_test_{SECRET}");
    let expected = "pk_live_[REDACTED]_live_[REDACTED]_test_[REDACTED]";
    becomes(&redactor, &stripe, expected);
    let hex = "0af6".repeat(10);
    let twice = format!("acme:{hex}acme:{hex}");
    becomes(&redactor, &twice, "acme:[REDACTED]:[REDACTED]");
    stays(&redactor, &format!("rk_live_short_disk_live_{SECRET}"));
    stays(
        &redactor,
        &format!("list[disk_live_{SECRET}, a[i]disk_live_{SECRET}"),
    );
}

/// The dresses of a key with characters that URLs, JSON and Markdown escape, in lead and body.
#[test]
fn an_imported_key_is_redacted_in_escapes() {
    let body = "Ab+/-_9:".repeat(5);
    let alphabet = Alphabet::ALPHANUMERIC;
    let all = Alphabet::from_static(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_+/:",
    );
    let escaped = |text: &str, form: &dyn Fn(char) -> String| -> String {
        let escape = |it: char| {
            if it.is_ascii_alphanumeric() {
                it.to_string()
            } else {
                form(it)
            }
        };
        text.chars().map(escape).collect()
    };
    let forms: [&dyn Fn(char) -> String; 7] = [
        &|it| it.to_string(),
        &|it| format!("%{:02X}", it as u32),
        &|it| format!("%{:02x}", it as u32),
        &|it| format!("%25{:02X}", it as u32),
        &|it| format!("\\u{:04x}", it as u32),
        &|it| format!("\\x{:02x}", it as u32),
        &|it| format!("\\{it}"),
    ];
    for lead in [
        "acme:",
        "acme-",
        "ac/me::",
        "acme-live_",
        "a+c.me=",
        "acme5",
    ] {
        let redactor = Redactor::of([imported(lead, all, body.len())]);
        let plain = Redactor::of([imported(lead, alphabet, 40)]);
        for form in forms {
            let safe = escaped(lead, form);
            let key = safe.clone() + &escaped(&body, form);
            for dress in [
                "§",
                "?a=§&b=c",
                "\"§\"",
                "a%20§ b",
                "a\\n§\\u0022 b",
                "word, (§)",
            ] {
                let expected = dress.replace('§', &format!("{safe}[REDACTED]"));
                becomes(&redactor, &dress.replace('§', &key), &expected);
            }
            let key = safe.clone() + &"0aF6".repeat(10);
            becomes(&plain, &key, &format!("{safe}[REDACTED]"));
        }
    }
}

#[test]
fn of_several_formats_with_one_lead_the_longest_key_is_redacted() {
    let short = imported("acme-", Alphabet::ALPHANUMERIC, 40);
    let long = imported("acme-", Alphabet::BASE64URL, 64);
    let other = imported("acme-live_", Alphabet::BASE64URL, 64);
    let body = format!("{SECRET}-{SECRET}_{SECRET}-9");
    for formats in [vec![short.clone(), long.clone()], vec![long, short]] {
        let redactor = Redactor::of(formats);
        becomes(&redactor, &format!("acme-{body}"), "acme-[REDACTED]");
    }
    let redactor = Redactor::of([issued("live"), other]);
    becomes(
        &redactor,
        &format!("acme-live_{body}"),
        "acme-live_[REDACTED]",
    );
    // A whole key, whose lead could begin a word, and a longer run.
    let letters = imported("ve_a", Alphabet::HEX, 40);
    let redactor = Redactor::of([letters, imported("ve_", Alphabet::BASE64URL, 64)]);
    becomes(
        &redactor,
        &format!("ve_a{}.", "0af6".repeat(10)),
        "ve_[REDACTED].",
    );
}

/// A long run is searched in parts, which secrets may straddle.
#[test]
fn secrets_in_a_run_of_any_length_are_found() {
    let redactor = Redactor::new();
    for length in 0..1_100 {
        let run = "x-".repeat(length / 2) + &"-".repeat(length % 2);
        for (secret, safe) in [
            (format!("-sk_live_{SECRET}"), "-sk_live_[REDACTED]"),
            (
                format!("%20sk%5Flive%5F{SECRET}"),
                "%20sk%5Flive%5F[REDACTED]",
            ),
            (
                format!("%20Bearer%20{SECRET}%20"),
                "%20Bearer%20[REDACTED]%20",
            ),
        ] {
            let expected = format!("{run}{safe}-{run}{safe}");
            assert_eq!(
                redactor.redact(&format!("{run}{secret}-{run}{secret}")),
                expected
            );
        }
    }
}

#[test]
fn what_is_no_secret_stays() {
    let redactor = Redactor::of([issued("acme_live"), issued("k")]);
    let id = KeyDigest::of(&key()).id();
    for text in [
        "",
        "the bearer of bad news, Bearer authentication, basic functionality-tests",
        "Bearer, Basic, ApiKey, Authorization: none",
        "Authorization: Bearer",
        "Authorization: Bearer sk_live_…",
        "Bearer [REDACTED], x-api-key: [REDACTED], sk_live_[REDACTED]",
        "bearer well-known-in-the-whole-industry",
        "api_key=missing api_key: null apiKey=\"\" x-api-key: <none>",
        "?key=page&key=2&keys=0123456789abcdef0123",
        "key=0123456789abcdef0123 monkey: 0123456789abcdef0123",
        "sk_live_ sk_live_short sk_live_<key> sk_live_{} $sk_live_KEY",
        "sk_prod_0123456789abcdef0123",
        "trace_id=0af6b3a81f0e4a639b9e6f1d4c1e2a77",
        "0af6b3a8-1f0e-4a63-9b9e-6f1d4c1e2a77",
        "2026-11-28T14:03:45.123456Z  INFO tower_api_key::middleware: API key accepted",
        "================ ---------------- ................ ////////////////",
        r"C:\Users\somebody\AppData\Local\Temp\a_rather_long_name.log",
        "%20%20%20%20%20%20%20%20%20%20 \\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\",
        &format!("key_id={id} KeyId({id}) \"key_id\":\"{id}\" /keys/{id} API key {id}"),
    ] {
        stays(&redactor, text);
    }
}

#[test]
fn well_known_shapes_are_redacted() {
    let redactor = Redactor::of([issued("acme_live")]);
    for lead in ["sk", "pk", "rk"] {
        for kind in ["live", "test"] {
            let lead = format!("{lead}_{kind}_");
            let text = format!("stripe: {lead}51H8{SECRET} is no key");
            becomes(
                &redactor,
                &text,
                &format!("stripe: {lead}[REDACTED] is no key"),
            );
        }
    }
    for secret in [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_KNj6cCc/0BMZt1OcB0dP4cyhq3cGgBlPvKKgEIzR12M=",
        "whsec_KNj6cCc%2F0BMZt1OcB0dP4cyhq3cGgBlPvKKgEIzR12M%3D",
        "whsec_KNj6cCc\\/0BMZt1OcB0dP4cyhq3cGgBlPvKKgEIzR12M\\u003D",
    ] {
        becomes(&redactor, &format!("<{secret}>"), "<whsec_[REDACTED]>");
    }
}

#[test]
fn credentials_after_schemes_and_names_are_redacted() {
    let redactor = Redactor::new();
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let basic = STANDARD.encode("user:pass/ü?>~");
    let hex = "0af6b3a81f0e4a639b9e6f1d4c1e2a77";
    let opaque = "correct-horse-battery-staple";
    for (text, expected) in [
        (
            format!("Authorization: Bearer {jwt}"),
            "Authorization: Bearer [REDACTED]",
        ),
        (format!("BEARER {jwt}."), "BEARER [REDACTED]"),
        (format!("bEaReR\t{jwt}, next"), "bEaReR\t[REDACTED], next"),
        (format!("Bearer%20{jwt}&a=1"), "Bearer%20[REDACTED]&a=1"),
        (format!(r#""Bearer {jwt}""#), r#""Bearer [REDACTED]""#),
        (format!("Bearer: \"{jwt}\""), "Bearer: \"[REDACTED]\""),
        (
            format!("\u{1b}[31mBearer {jwt}\u{1b}[0m"),
            "\u{1b}[31mBearer [REDACTED]\u{1b}[0m",
        ),
        (format!("basic {basic};"), "basic [REDACTED];"),
        (
            format!("Basic {}", basic.replace('/', "\\/")),
            "Basic [REDACTED]",
        ),
        (
            format!("Basic {}", basic.replace('=', "%3D").replace('+', "%2b")),
            "Basic [REDACTED]",
        ),
        (format!("ApiKey {hex}"), "ApiKey [REDACTED]"),
        (format!("Api-Key {hex}"), "Api-Key [REDACTED]"),
        (
            format!("X-API-Key: {hex}\r\nAccept: */*"),
            "X-API-Key: [REDACTED]\r\nAccept: */*",
        ),
        (
            format!("X-Acme-Api-Key: {opaque}"),
            "X-Acme-Api-Key: [REDACTED]",
        ),
        (
            format!("authorization: {opaque}"),
            "authorization: [REDACTED]",
        ),
        (
            format!("Authorization: Token {opaque}"),
            "Authorization: Token [REDACTED]",
        ),
        (
            format!("Proxy-Authorization: Basic {opaque}"),
            "Proxy-Authorization: Basic [REDACTED]",
        ),
        (
            format!("{{\"x-api-key\": \"{hex}\"}}"),
            "{\"x-api-key\": \"[REDACTED]\"}",
        ),
        (
            format!(r#"{{\"x-api-key\":[\"{hex}\"]}}"#),
            r#"{\"x-api-key\":[\"[REDACTED]\"]}"#,
        ),
        (
            format!("api_key: Some(\"{opaque}\")"),
            "api_key: Some(\"[REDACTED]\")",
        ),
        (
            format!("/?api_key={hex}&page=2"),
            "/?api_key=[REDACTED]&page=2",
        ),
        (format!("/?a=1&apiKey={hex}"), "/?a=1&apiKey=[REDACTED]"),
        (format!("/?key={hex}#top"), "/?key=[REDACTED]#top"),
        (
            format!("%3Fapi_key%3D{hex}%26page"),
            "%3Fapi_key%3D[REDACTED]%26page",
        ),
        (
            format!("\u{1b}[3mapi_key\u{1b}[0m\u{1b}[2m=\u{1b}[0m{hex}"),
            "\u{1b}[3mapi_key\u{1b}[0m\u{1b}[2m=\u{1b}[0m[REDACTED]",
        ),
        (
            format!("Bearer sk_live_{SECRET}.more-of-it"),
            "Bearer sk_live_[REDACTED]",
        ),
    ] {
        becomes(&redactor, &text, expected);
    }
}

#[test]
fn credentials_in_quotes_brackets_and_parameters_are_redacted() {
    let redactor = Redactor::new();
    let hex = "0af6b3a81f0e4a639b9e6f1d4c1e2a77";
    let opaque = "correct-horse-battery-staple";
    for (text, expected) in [
        (
            "Authorization: Token token=\"§\"",
            "Authorization: Token token=\"[REDACTED]\"",
        ),
        (
            "Authorization: OAuth oauth_token=\"§\"",
            "Authorization: OAuth oauth_token=\"[REDACTED]\"",
        ),
        ("x-api-key: b\"§\"", "x-api-key: b\"[REDACTED]\""),
        (
            "{\"x-api-key\": String(\"§\")}",
            "{\"x-api-key\": String(\"[REDACTED]\")}",
        ),
        (
            "x-api-key=&quot;§&quot;",
            "x-api-key=&quot;[REDACTED]&quot;",
        ),
        (
            "\u{1b}[3mapi_key\u{1b}[0m\u{1b}[2m=\u{1b}[0m\u{1b}[1;38;2;255;100;100m§",
            "\u{1b}[3mapi_key\u{1b}[0m\u{1b}[2m=\u{1b}[0m\u{1b}[1;38;2;255;100;100m[REDACTED]",
        ),
        ("acme_api_key=§", "acme_api_key=[REDACTED]"),
        (
            "\"acme_api_key\": \"§\"",
            "\"acme_api_key\": \"[REDACTED]\"",
        ),
        ("x_api_key: §", "x_api_key: [REDACTED]"),
        ("HTTP_X_API_KEY: §", "HTTP_X_API_KEY: [REDACTED]"),
    ] {
        becomes(&redactor, &text.replace('§', opaque), expected);
    }
    let debug = format!("ApiKey(\"{hex}\")");
    becomes(&redactor, &debug, "ApiKey(\"[REDACTED]\")");
    let named = format!("acme_api_key: {hex}");
    becomes(&redactor, &named, "acme_api_key: [REDACTED]");
    // The target of a log of this crate, or of another one.
    stays(
        &redactor,
        "DEBUG tower_api_key: something-happened-in-the-middle",
    );
    stays(
        &redactor,
        "DEBUG tower_api_key::middleware_and_more_of_it: ok",
    );
    stays(
        &redactor,
        "DEBUG max_api_key: something-happened-in-the-middle",
    );
    // The name of a scheme is no credential, and a signature is good for one request.
    let signed = "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1";
    stays(&redactor, &format!("{signed}, Signature={hex}"));
}

#[test]
fn keys_of_imported_formats_are_redacted() {
    let hex = "0af6".repeat(10);
    let dashed = Redactor::of([imported("acme-", Alphabet::HEX, 40)]);
    becomes(&dashed, &format!("<acme-{hex}>"), "<acme-[REDACTED]>");
    becomes(&dashed, &format!("acme-{}", &hex[..16]), "acme-[REDACTED]");
    becomes(&dashed, &format!("acme-{hex}XYZ"), "acme-[REDACTED]");
    stays(&dashed, &format!("acme-{} macme-{hex}", &hex[..15]));
    let colon = Redactor::of([imported("acme:", Alphabet::from_static("0af6!"), 64)]);
    becomes(&colon, &format!("a acme:{hex}!!0 b"), "a acme:[REDACTED] b");
    // A digest may begin with such a lead.
    let letters = Redactor::of([imported("ab", Alphabet::HEX, 40)]);
    becomes(&letters, &format!("(ab{hex})"), "(ab[REDACTED])");
    stays(&letters, &format!("ab{hex}0 xab{hex} ab{}", &hex[1..]));
    let short = KeyFormat::dangerous_guessable("pin:", Alphabet::HEX, 4..=6, Environment::LIVE);
    let short = Redactor::of([short.unwrap()]);
    becomes(&short, "a pin:0af6 b", "a pin:[REDACTED] b");
    stays(&short, "a pin:0af b");
    // Without a lead, only what stands before tells a key from a digest.
    let bare = Redactor::of([imported("", Alphabet::HEX, 40)]);
    stays(&bare, &format!("sha1 {hex}"));
    becomes(&bare, &format!("X-API-Key: {hex}"), "X-API-Key: [REDACTED]");
}

/// After a name, the alphabets and lengths of formats count, with a lead and without one.
#[test]
fn all_of_an_imported_key_is_redacted_after_a_name() {
    let hex = "0af6".repeat(8);
    let with_colon =
        Alphabet::from_static("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-:");
    let led = Redactor::of([imported("acme-", with_colon, 40)]);
    let text = "X-API-Key: acme-0123456789abcdef:SECRET, b";
    becomes(&led, text, "X-API-Key: acme-[REDACTED], b");
    becomes(&led, &text[11..], "acme-[REDACTED], b");
    let bare = |lengths| KeyFormat::imported("", with_colon, lengths, Environment::LIVE);
    let redactor = Redactor::of([bare(30..=65).unwrap()]);
    for text in [
        format!("{hex}:{hex}"),
        format!("client42:{SECRET}"),
        format!("a%3A{hex}%3a{hex}"),
    ] {
        becomes(
            &redactor,
            &format!("X-API-Key: {text}, b"),
            "X-API-Key: [REDACTED], b",
        );
        becomes(
            &redactor,
            &format!("?api_key={text}&b"),
            "?api_key=[REDACTED]&b",
        );
        let mut json = json!({"x-api-key": text});
        redactor.redact_json(&mut json);
        assert_eq!(json, json!({"x-api-key": "[REDACTED]"}));
    }
    stays(&redactor, &format!("{hex}:{hex} client42:{SECRET}"));
    let short =
        KeyFormat::dangerous_guessable("", Alphabet::ALPHANUMERIC, 12..=12, Environment::LIVE);
    let short = Redactor::of([short.unwrap()]);
    becomes(&short, "X-API-Key: Ab3dEf6hIj9l", "X-API-Key: [REDACTED]");
    stays(&short, "X-API-Key: Ab3dEf6hIj9");
}

#[test]
fn a_name_that_is_added_announces_credentials() {
    let redactor = Redactor::new().add_name("X-Acme-Token").add_name("");
    let opaque = "correct-horse-battery-staple";
    for (text, expected) in [
        ("x-acme-token: §", "x-acme-token: [REDACTED]"),
        (
            "{\"X-ACME-TOKEN\":\"§\"}",
            "{\"X-ACME-TOKEN\":\"[REDACTED]\"}",
        ),
        ("HTTP_X_ACME_TOKEN=§", "HTTP_X_ACME_TOKEN=[REDACTED]"),
        ("?x_acme_token=§&page=2", "?x_acme_token=[REDACTED]&page=2"),
    ] {
        becomes(&redactor, &text.replace('§', opaque), expected);
        stays(&Redactor::new(), &text.replace('§', opaque));
    }
    stays(
        &redactor,
        &format!("max-acme-token: {opaque} token: {opaque}"),
    );
    stays(&redactor, &format!("fox-acme-token: {opaque} a: {opaque}"));
    let mut json = json!({"x-acme-token": opaque, "other": opaque});
    redactor.redact_json(&mut json);
    assert_eq!(json, json!({"x-acme-token": "[REDACTED]", "other": opaque}));
}

#[tokio::test]
async fn the_redactor_of_keys_knows_their_formats() {
    let keys = ApiKeys::builder(MemoryStore::new());
    let keys = keys.formats([issued("acme_live")]).build().unwrap();
    let key = keys.issue("acme").await.unwrap();
    let redactor = keys.redactor();
    becomes(&redactor, key.expose_secret(), "acme_live_[REDACTED]");
    becomes(
        &keys.to_read_only().redactor(),
        key.expose_secret(),
        "acme_live_[REDACTED]",
    );
    assert!(format!("{redactor:?}").contains("acme_live_"));
}

#[test]
fn json_is_redacted_in_strings_and_in_names() {
    let key = key();
    let redactor = Redactor::new();
    let hex = "0af6b3a81f0e4a639b9e6f1d4c1e2a77";
    let mut value = json!({
        "text": format!("a {key} b"),
        "list": [key, 1, 2.5, null, true, "clean", {"deep": [key]}],
        "authorization": "Token correct-horse-battery-staple",
        "Authorization": format!("Bearer {key}"),
        "x-api-key": [hex, "short"],
        "acmeApiKey": "correct-horse-battery-staple",
        "key_id": hex,
        "number": 12_345_678_901_234_567_890_u64,
    });
    redactor.redact_json(&mut value);
    let mut below = json!({"api_key": {
        "id": hex, "key_id": hex, "secret": hex, "list": [{"of": hex}], "authorization": [[hex]],
    }});
    redactor.redact_json(&mut below);
    let expected = json!({"api_key": {
        "id": hex, "key_id": hex, "secret": "[REDACTED]", "list": [{"of": "[REDACTED]"}],
        "authorization": [["[REDACTED]"]],
    }});
    assert_eq!(below, expected);
    let expected = json!({
        "text": "a sk_live_[REDACTED] b",
        "list": [
            "sk_live_[REDACTED]", 1, 2.5, null, true, "clean", {"deep": ["sk_live_[REDACTED]"]}
        ],
        "authorization": "Token [REDACTED]",
        "Authorization": "Bearer sk_live_[REDACTED]",
        "x-api-key": ["[REDACTED]", "short"],
        "acmeApiKey": "[REDACTED]",
        "key_id": hex,
        "number": 12_345_678_901_234_567_890_u64,
    });
    assert_eq!(value, expected);
    redactor.redact_json(&mut value);
    assert_eq!(value, expected);
}

#[test]
fn no_field_is_lost_when_names_become_the_same() {
    let mut value = json!({key(): 1, key(): 2, key(): 3, "sk_live_[REDACTED] (2)": 4});
    Redactor::new().redact_json(&mut value);
    let fields = value.as_object().unwrap();
    let mut numbers: Vec<_> = fields.values().map(|it| it.as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(
        fields
            .keys()
            .all(|name| name.starts_with("sk_live_[REDACTED]"))
    );
}

#[test]
fn a_deep_value_overflows_no_stack() {
    let mut value = Value::String(key());
    for depth in 0..200_000 {
        value = match depth % 2 {
            0 => Value::Array(vec![value]),
            _ => Value::Object([("a".to_owned(), value)].into_iter().collect()),
        };
    }
    Redactor::new().redact_json(&mut value);
    // Dropping it as a whole would overflow the stack.
    loop {
        value = match value {
            Value::Array(mut items) => items.pop().unwrap(),
            Value::Object(mut fields) => fields["a"].take(),
            other => break assert_eq!(other, "sk_live_[REDACTED]"),
        };
    }
}

/// Pieces of which texts are made that are nearly secrets.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => prop::sample::select(vec![
            "sk_live_", "pk_test_", "acme:", "whsec_", "sk", "_", "%5F", "\\u005f", "Bearer ",
            "xwhsec_", "acme%3A", "acme\\:", "%2F", "\\/", "\\_", "&quot;", "(", "b\"", "token=",
            "\u{1b}[38;2;255;100;100m", "rk_live_0123456789abcdef", "[k", "x-acme-token: ", "{", "}",
            "basic", "ApiKey", "api_key", "x-api-key: ", "authorization", "key", "?key=", "=", ":",
            "\"", "\\\"", "%20", "%3D", "\\n", "\n", " ", "\u{1b}[31m", "[1;", "[REDACTED]", "Some(",
            "Z", "é", "0af6b3a81f0e4a63", "correct-horse-battery", "%", "\\", "u00", "2", "5", "F",
            "eyJhbGciOiJIUzI1NiJ9", "+", "/", "&", "m",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,20}",
        1 => "[a-zA-Z0-9]{0,40}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn redactor() -> Redactor {
    let custom = Alphabet::from_static("0af6b3a81e4-:\"");
    Redactor::of([
        issued("sk_live"),
        issued("acme_2026_x"),
        imported("acme:", custom, 40),
    ])
}

/// How many texts each property is tried with; `PROPTEST_CASES` sets another number.
fn cases() -> u32 {
    ProptestConfig::default().cases.max(1_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn every_issued_key_is_found_in_any_text(before in pieces(), behind in pieces(), any: String) {
        let redactor = redactor();
        let key = key();
        let secret = &key["sk_live_".len()..];
        for text in [format!("{before}{key}{behind}"), format!("{any}{key}{behind}{any}{key}")] {
            let safe = redactor.redact(&text);
            prop_assert!(!safe.contains(secret), "{} became {}", text, safe);
        }
    }

    #[test]
    fn a_second_redaction_changes_nothing(text in pieces()) {
        let redactor = redactor();
        let safe = redactor.redact(&text);
        prop_assert_eq!(&redactor.redact(&safe), &safe);
    }

    /// What is left is the text, in order; and what is taken out is a run of characters of secrets.
    #[test]
    fn nothing_but_secrets_is_changed(text in pieces()) {
        let safe = redactor().redact(&text).into_owned();
        let mark = regex::escape("[REDACTED]");
        let pattern = regex::escape(&safe).replace(&mark, &format!("(?:{mark}|[!-~]+)"));
        let pattern = Regex::new(&format!("^{pattern}$")).unwrap();
        prop_assert!(pattern.is_match(&text), "{} became {}", text, safe);
        prop_assert!(safe == text || safe.matches("[REDACTED]").count() > text.matches("[REDACTED]").count());
    }

    /// A second opinion on plain text: no escapes, no words, and a prefix of its own. A lead that
    /// begins in a key needs no boundary.
    #[test]
    fn keys_in_plain_text_are_those_of_a_regular_expression(text in "(acme_2026_x_|sk_live_|[a-zA-Z0-9]{9,20}|[-_. <\"/é]){0,12}") {
        let key = Regex::new("(acme_2026_x_|sk_live_)([a-zA-Z0-9]{16,})").unwrap();
        let (mut expected, mut copied, mut last, mut from) = (String::new(), 0, 0..0, 0);
        while let Some(found) = key.captures_at(&text, from) {
            let (lead, body) = (found.get(1).unwrap(), found.get(2).unwrap());
            let is_glued = text[..lead.start()].ends_with(|it: char| it.is_ascii_alphanumeric());
            from = lead.start() + 1;
            if is_glued && !last.contains(&lead.start()) {
                continue;
            }
            expected += &text[copied..body.start()];
            expected += "[REDACTED]";
            (copied, from, last) = (body.end(), body.start(), body.range());
        }
        expected += &text[copied..];
        prop_assert_eq!(redactor().redact(&text), expected);
    }

    #[test]
    fn text_without_leads_and_words_is_borrowed(text in "[^_%\\\\:=]*") {
        let text = text.to_lowercase().replace("bearer", "").replace("basic", "");
        let text = text.replace("apikey", "").replace("api-key", "");
        prop_assert!(matches!(redactor().redact(&text), Cow::Borrowed(_)));
    }
}
