//! The writer that redacts: secrets that are split over writes, inner writers in trouble, and the
//! logs of a whole application.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "each suite uses its part")]
#[path = "support/canary.rs"]
mod canary;
mod support;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use canary::{Canary, Heard};
use proptest::prelude::*;
use tower_api_key::key::{Alphabet, KeyFormat};
use tower_api_key::redact::Redactor;
use tower_api_key::{ApiKeys, Environment};
use tracing::Level;

const SECRET: &str = "0123456789abcdefGHIJ";

fn redactor() -> Redactor {
    let custom = Alphabet::from_static("0af6b3a81e4-:\"");
    let imported =
        |lead, alphabet| KeyFormat::imported(lead, alphabet, 40..=48, Environment::LIVE).unwrap();
    let issued = |prefix| KeyFormat::new(prefix, Environment::LIVE).unwrap();
    Redactor::of([
        issued("sk_live"),
        issued("acme_2026_production"),
        imported("acme:", custom),
        imported("ab", Alphabet::HEX),
        imported("acme-", Alphabet::ALPHANUMERIC),
        imported("acme-", Alphabet::BASE64URL),
        imported("a+", Alphabet::from_static("0123456789abcdefABCDEF+/=:")),
        imported("xy", Alphabet::from_static("0123456789abcdef+/")),
    ])
    .add_name("x-acme-token")
}

/// An inner writer that follows a script, and then accepts everything.
#[derive(Default)]
struct Scripted {
    script: VecDeque<Result<usize, ErrorKind>>,
    written: Vec<u8>,
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match self.script.pop_front() {
            Some(step) => step?.min(bytes.len()),
            None => bytes.len(),
        };
        self.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes pieces, and returns what the inner writer got.
fn written(redactor: &Redactor, pieces: &[&[u8]]) -> Vec<u8> {
    let mut inner = Vec::new();
    let mut writer = redactor.writer(&mut inner);
    for piece in pieces {
        writer.write_all(piece).unwrap();
    }
    drop(writer);
    inner
}

/// Returns what the inner writer has while the text goes on.
fn written_so_far(text: &str) -> String {
    let mut writer = redactor().writer(Vec::new());
    writer.write_all(text.as_bytes()).unwrap();
    writer.flush().unwrap();
    String::from_utf8(writer.get_ref().clone()).unwrap()
}

fn issued_key() -> String {
    let format = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    format.generate().unwrap().expose_secret().to_owned()
}

#[test]
fn a_secret_that_is_split_at_any_byte_is_found() {
    let key = issued_key();
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP-mB92K27uhb";
    let hex = "0af6".repeat(10);
    for text in [
        format!("a {key} b"),
        format!("{key}{key}"),
        format!("word{key}, {key}"),
        format!("disk_live_{SECRET}{SECRET}"),
        format!("a%20sk%5Flive%5F{SECRET}\\nsk\\u005flive\\u005f{SECRET} b"),
        format!("\u{1b}[31m{key}\u{1b}[0m \\x1b[1;31msk_live_{SECRET}\\x1b[0m"),
        format!("Bearer {jwt}, Bearer {key}.and-more Bearer acme_2026_production_x"),
        format!("Authorization: Token {jwt}\r\nX-Api-Key: Some(\"{jwt}\")"),
        "Basic dXNlcjpwYXNz/+%2B\\/%3D== b, whsec_KNj6cCc%2F0BMZt1OcB0dP4cyhq3cG\\u003d= b".into(),
        "Bearer well-known-in-the-whole-industry-of-bad-news, and-in-more-than-that-since-long"
            .into(),
        format!("?key={hex}&api_key%3D{hex}%26 acme:{hex}\":0 ab{hex} ab{hex}0123456789 ab{hex}g"),
        "clean text, %20 \\ \\u %".into(),
        format!("pk_live_{SECRET}rk_live_{SECRET}sk_test_{SECRET} acme:{hex}acme:{hex}"),
        format!(
            "acme%3A{hex} acme\\u003a{hex} acme-{}%2D{hex} a%2B%2F\\/{hex}",
            &hex[..20]
        ),
        format!(
            "xy%2f%2F{} xy\\u002f{hex} xy{hex}%2F%2f%2f%2f%2f%2f%2f%2f%2f",
            &hex[4..]
        ),
        format!("X-API-Key: acme-{SECRET}_:b, X-API-Key: a+{SECRET}:{hex} ?x-acme-token={jwt}"),
        format!("\u{1b}[1;38;2;255;100;100msk_live_{SECRET}, [k disk_live_{SECRET}"),
        format!("Authorization: Token token=\"{jwt}\", ApiKey(b\"{jwt}\") api_key=&quot;{jwt}"),
    ] {
        let redactor = redactor();
        let text = text.as_bytes();
        let whole = redactor.redact_bytes(text);
        for at in 0..=text.len() {
            for behind in [1, 7, 40] {
                let end = (at + behind).min(text.len());
                let pieces = [&text[..at], &text[at..end], &text[end..]];
                let written = written(&redactor, &pieces);
                let written = String::from_utf8_lossy(&written);
                assert_eq!(written, String::from_utf8_lossy(&whole), "split at {at}");
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(written(&redactor, &bytes), *whole);
    }
}

#[test]
fn only_what_may_be_a_part_of_a_secret_is_held_back() {
    for text in [
        "a whole line\n",
        "Continue? [y/N] ",
        "Building........",
        "a word",
        "sk_live_",
        "Authorization: Bearer ",
        "https://example.com/?page=2&api_key=",
        "0af6b3a81f0e4a639b9e6f1d4c1e2a77",
        "C:\\Users\\somebody",
        "100 %",
    ] {
        assert_eq!(written_so_far(text), text);
    }
    for (text, passed) in [
        ("a sk_live_01", "a sk_live_"),
        ("a sk_live_0123456789abcde", "a sk_live_"),
        ("a sk_live_0123456789abcdef", "a sk_live_[REDACTED]"),
        ("ask_live_0123456789abcdef", "ask_live_"),
        ("Bearer ab", "Bearer "),
        ("Bearer well-known-in-the-industry", "Bearer "),
        ("Bearer sk_li", "Bearer "),
        ("x-api-key: \"correct-horse", "x-api-key: \""),
        (
            "x-api-key: \"correct-horse-battery",
            "x-api-key: \"[REDACTED]",
        ),
        ("x-api-key: \"short\"", "x-api-key: \"short\""),
    ] {
        assert_eq!(written_so_far(text), passed, "of {text}");
    }
}

#[test]
fn a_text_without_end_is_passed_on_in_bounded_memory() {
    let redactor = redactor();
    let piece = "0aF6".repeat(1_000);
    for (begin, expected) in [
        ("Bearer ", "Bearer [REDACTED]"),
        ("sk_live_", "sk_live_[REDACTED]"),
    ] {
        let mut writer = redactor.writer(Vec::new());
        writer.write_all(begin.as_bytes()).unwrap();
        for _ in 0..1_000 {
            writer.write_all(piece.as_bytes()).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(writer.get_ref(), expected.as_bytes());
    }
    for piece in [
        &piece, "_", "sk_live_", "xwhsec_", "xy%2F", "%20", "Bearer ", "\\", "a_", "[1;",
    ] {
        let mut writer = redactor.writer(Vec::new());
        for count in 1..=5_000 {
            writer.write_all(piece.as_bytes()).unwrap();
            let held = count * piece.len() - writer.get_ref().len();
            assert!(held <= 1_024, "{held} bytes are held of {piece}");
        }
        writer.finish().unwrap();
        assert_eq!(writer.get_ref().len(), 5_000 * piece.len());
    }
}

#[test]
fn flush_and_finish_differ_in_what_is_held_back() {
    let mut writer = redactor().writer(Vec::new());
    writer.write_all(b"sk_live_0123").unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.get_ref(), b"sk_live_");
    writer.write_all(b"456789abcdefGHIJ").unwrap();
    writer.finish().unwrap();
    writer.finish().unwrap();
    assert_eq!(writer.get_ref(), b"sk_live_[REDACTED]");
    // Another text, which does not go on with the key.
    writer.write_all(b"GHIJ sk_live_0123").unwrap();
    writer.finish().unwrap();
    assert_eq!(writer.get_ref(), b"sk_live_[REDACTED]GHIJ sk_live_0123");
}

#[test]
fn bytes_that_are_no_text_are_the_same() {
    let mut bytes: Vec<u8> = (0..=255).collect();
    bytes.extend((0..=255).rev());
    assert_eq!(written(&redactor(), &[&bytes]), bytes);
    let key = issued_key();
    let around = [b"\xff\x00", key.as_bytes(), b"\x80\xfe"].concat();
    assert_eq!(
        redactor().redact_bytes(&around),
        &b"\xff\x00sk_live_[REDACTED]\x80\xfe"[..]
    );
}

#[test]
fn a_full_inner_writer_takes_nothing_the_second_time_and_loses_nothing() {
    let line = format!("the key {} is wrong\n", issued_key());
    let mut inner = Scripted::default();
    inner.script.extend([
        Ok(3),
        Err(ErrorKind::WouldBlock),
        Err(ErrorKind::WouldBlock),
    ]);
    inner.script.extend([
        Err(ErrorKind::WouldBlock),
        Ok(0),
        Err(ErrorKind::Interrupted),
    ]);
    let mut writer = redactor().writer(inner);
    assert_eq!(
        writer.write(line.as_bytes()).unwrap(),
        line.len(),
        "it is taken"
    );
    let full = writer.write(b"more").unwrap_err();
    assert_eq!(full.kind(), ErrorKind::WouldBlock, "nothing is taken");
    assert_eq!(writer.flush().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(writer.flush().unwrap_err().kind(), ErrorKind::WriteZero);
    assert_eq!(writer.get_ref().written, b"the");
    writer.write_all(b"more\n").unwrap();
    let expected = "the key sk_live_[REDACTED] is wrong\nmore\n";
    assert_eq!(writer.get_ref().written, expected.as_bytes());
}

#[test]
fn a_writer_whose_inner_one_panicked_does_not_call_it_again() {
    struct Panics(usize);
    impl Write for Panics {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            panic!("call {}", self.0)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let write = || {
        let mut writer = redactor().writer(Panics(0));
        writer.write_all(b"a line\n")
    };
    let panicked = std::panic::catch_unwind(write).unwrap_err(); // a second panic would abort
    assert_eq!(panicked.downcast_ref::<String>().unwrap(), "call 1");
}

#[test]
fn debug_shows_nothing_of_the_text() {
    let mut writer = redactor().writer(Vec::new());
    writer.write_all(b"sk_live_0123456789").unwrap();
    let shown = format!("{writer:?}");
    assert!(
        !shown.contains("0123") && !shown.contains("48, 49"),
        "{shown}"
    );
}

/// An error with a key in its text.
#[derive(Debug)]
struct Refused(String, Option<Box<Refused>>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is refused", self.0)
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|error| error as _)
    }
}

/// Says a key in all the ways that an application may.
fn say(key: &str) {
    let span = tracing::info_span!("request", url = format!("/?api_key={key}"), key = %key);
    let _entered = span.enter();
    tracing::info!(key, "a field");
    tracing::info!(?key, url = %format!("https://{key}@example.com/"), "fields");
    tracing::warn!("a message with {key} in it");
    tracing::warn!(
        "{{\"authorization\":\"Bearer {key}\",\"body\":{:?}}}",
        format!("\"{key}\"\n")
    );
    let error = Refused(
        key.to_owned(),
        Some(Box::new(Refused(key.to_owned(), None))),
    );
    let shown: &dyn std::error::Error = &error;
    tracing::error!(error = shown, ?error, "an error with its cause");
    let headers = http::Request::builder()
        .header("x-api-key", key)
        .header("authorization", key);
    tracing::debug!(headers = ?headers.headers_ref(), "a dump");
    let truncated: String = key.chars().take(30).collect();
    tracing::debug!(
        "Authorization: Basic {}",
        STANDARD.encode(truncated.clone() + ":")
    );
    tracing::debug!(truncated, "a part");
}

/// Invariant 2 for what an application logs by itself, in front of the layer, too.
#[tokio::test]
async fn invariant_2_no_key_passes_the_writer_into_the_logs_of_an_application() {
    let keys = ApiKeys::in_memory();
    let key = keys.issue("acme").await.unwrap();
    let canary = Canary::of(key.expose_secret());
    for is_coloured in [false, true] {
        let [heard, unredacted] = [Heard::default(), Heard::default()];
        for (redactor, heard) in [
            (Some(keys.redactor()), heard.clone()),
            (None, unredacted.clone()),
        ] {
            let make = move || -> Box<dyn Write> {
                match &redactor {
                    Some(redactor) => Box::new(redactor.writer(heard.clone())),
                    None => Box::new(heard.clone()),
                }
            };
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(Level::TRACE)
                .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
                .with_ansi(is_coloured)
                .with_writer(make);
            let _guard = tracing::subscriber::set_default(subscriber.finish());
            say(key.expose_secret());
        }
        let text = heard.text();
        let line = text.lines().find(|line| canary.sings_in(line));
        assert_eq!(line, None, "a key was heard");
        assert!(unredacted.text().matches(key.expose_secret()).count() >= 20);
        for expected in [
            "a field",
            "an error with its cause",
            "a dump",
            "sk_live_[REDACTED]",
            "Basic [REDACTED]",
        ] {
            assert!(text.contains(expected), "not heard: {expected} in {text}");
        }
        assert_eq!(text.lines().count(), unredacted.text().lines().count());
    }
}

/// Texts that are nearly secrets, in pieces.
fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let words = prop::sample::select(vec![
        "sk_live_",
        "sk_live_0123456789abcdef",
        "acme:",
        "whsec_",
        "ab",
        "sk",
        "_",
        "%5F",
        "\\u005f",
        "Bearer ",
        "basic",
        "Authorization: x ",
        "api_key",
        "?key=",
        "=",
        "\"",
        "\\\"",
        "%20",
        "%3D",
        "\\n",
        "\n",
        " ",
        "\u{1b}[31m",
        "[1;",
        "[REDACTED]",
        "Z",
        "é",
        "0af6b3a81f0e4a63",
        "+/",
        "&",
        "correct-horse-battery",
        "%",
        "\\",
        "u00",
        "2",
        "eyJhbGciOiJIUzI1NiJ9",
        "authorization: AWS4-HMAC-",
        "SHA256",
        "m",
        "acme_2026_",
        "acme-",
        "acme%3A",
        "acme\\:",
        "a+",
        "a%2B",
        "xy",
        "%2F",
        "%2f%2f%2f%2f%2f%2f%2f%2f",
        "\\/",
        "\\_",
        "xwhsec_",
        "rk_live_0123456789abcdef",
        "&quot;",
        "(",
        "b\"",
        "token=",
        "x-acme-token: ",
        "\u{1b}[38;2;255;100;100m",
        "[k",
        "0123456789abcdef0123456789abcdefABCDEF",
    ]);
    let piece = prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => "[a-f0-9]{0,60}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..24)
}

/// How many texts each property is tried with; `PROPTEST_CASES` sets another number.
fn cases() -> u32 {
    ProptestConfig::default().cases.max(1_000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn pieces_are_redacted_as_the_whole_text_is(pieces in pieces(), width in 1..50usize) {
        let redactor = redactor();
        let text = pieces.concat();
        let whole = redactor.redact_bytes(&text);
        let parts: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(&written(&redactor, &parts), &*whole);
        let parts: Vec<&[u8]> = text.chunks(width).collect();
        prop_assert_eq!(&written(&redactor, &parts), &*whole);
    }

    /// Nothing is lost, repeated or let out, however the inner writer behaves.
    #[test]
    fn trouble_of_the_inner_writer_changes_nothing(
        pieces in pieces(),
        script in prop::collection::vec(prop_oneof![
            4 => (1..20usize).prop_map(Ok),
            1 => Just(Err(ErrorKind::Interrupted)),
            1 => Just(Err(ErrorKind::WouldBlock)),
            1 => Just(Err(ErrorKind::Other)),
        ], 0..100),
    ) {
        let redactor = redactor();
        let script = script.into();
        let mut writer = redactor.writer(Scripted { script, ..Scripted::default() });
        let mut taken = Vec::new();
        for mut piece in pieces.iter().map(Vec::as_slice) {
            while !piece.is_empty() {
                if let Ok(count) = writer.write(piece) {
                    taken.extend_from_slice(&piece[..count]);
                    piece = &piece[count..];
                }
            }
        }
        while writer.finish().is_err() {}
        prop_assert_eq!(&taken, &pieces.concat());
        prop_assert_eq!(&writer.get_ref().written, &*redactor.redact_bytes(&taken));
    }
}
