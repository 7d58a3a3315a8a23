//! What the redactor takes out of a text, and what it leaves.
//!
//! Bytes above 0x7f stand for the words of [`WORDS`], so that the fuzzer finds texts that are nearly
//! secrets; the last of them stands for an issued key, which is new in each process.

#![no_main]

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tower_api_key::Environment;
use tower_api_key::key::{Alphabet, KeyFormat};
use tower_api_key::redact::Redactor;

const MARK: &[u8] = b"[REDACTED]";

const WORDS: [&str; 61] = [
    "sk_live_",
    "pk_test_",
    "rk_live_",
    "whsec_",
    "acme_2026_x_",
    "acme:",
    "ab",
    "sk",
    "_",
    "%5F",
    "%5f",
    "\\u005f",
    "%255F",
    "Bearer ",
    "basic",
    "ApiKey",
    "api_key",
    "X-API-Key: ",
    "authorization",
    "Token ",
    "?key=",
    "&",
    "=",
    "\\\"",
    "%20",
    "%2520",
    "%3D",
    "%2B",
    "%41",
    "\\n",
    "\\u0020",
    "\\/",
    "\u{1b}[31m",
    "\\x1b[0m",
    "[1;",
    "[REDACTED]",
    "Some(",
    "0af6b3a81f0e4a63",
    "0123456789abcdefGHIJ",
    "correct-horse-battery-staple",
    "eyJhbGciOiJIUzI1NiJ9",
    "é",
    "u00",
    "\u{1b}",
    "xwhsec_",
    "acme%3A",
    "acme\\:",
    "a+",
    "a%2B",
    "%2F",
    "\\/",
    "\\_",
    "rk_live_0123456789abcdef",
    "&quot;",
    "(",
    "b\"",
    "token=",
    "x-acme-token: ",
    "\u{1b}[38;2;255;100;100m",
    "[k",
    ":",
];

/// A secret has one of these before it, in lower case.
const SIGNS: [&[u8]; 20] = [
    b"_",
    b"%5f",
    b"%255f",
    b"\\u005f",
    b"\\x5f",
    b"\\_",
    b"acme:",
    b"acme%3a",
    b"acme%253a",
    b"acme\\u003a",
    b"acme\\:",
    b"a+",
    b"a%2b",
    b"token",
    b"ab",
    b"bearer",
    b"basic",
    b"key",
    b"authorization",
    b"api-key",
];

static FORMATS: LazyLock<[KeyFormat; 5]> = LazyLock::new(|| {
    let issued = |prefix| KeyFormat::new(prefix, Environment::LIVE).expect("a good prefix");
    let imported = |lead, alphabet| {
        let format = KeyFormat::imported(lead, alphabet, 40..=48, Environment::LIVE);
        format.expect("a good format")
    };
    [
        issued("sk_live"),
        issued("acme_2026_x"),
        imported("acme:", Alphabet::from_static("0af6b3a81e4-:\"")),
        imported("ab", Alphabet::HEX),
        imported("a+", Alphabet::from_static("0123456789abcdefGHIJ+/:")),
    ]
});
static REDACTOR: LazyLock<Redactor> = LazyLock::new(|| {
    let redactor = Redactor::of(FORMATS.iter().cloned());
    redactor.add_name("x-acme-token")
});
static KEY: LazyLock<String> = LazyLock::new(|| {
    let key = FORMATS[0].generate().expect("there is randomness");
    key.expose_secret().to_owned()
});

fuzz_target!(|input: &[u8]| {
    let [width, input @ ..] = input else { return };
    let text = text_of(input);
    let safe = REDACTOR.redact_bytes(&text);

    let secret = &KEY.as_bytes()["sk_live_".len()..];
    assert!(!contains(&safe, secret), "a key is left");
    assert_eq!(REDACTOR.redact_bytes(&safe), safe, "the second time");
    check_what_is_left(&text, &safe);

    let mut written = Vec::new();
    let mut writer = REDACTOR.writer(&mut written);
    for piece in text.chunks(usize::from(*width) + 1) {
        writer.write_all(piece).expect("a vector takes it");
    }
    drop(writer);
    assert_eq!(
        String::from_utf8_lossy(&written),
        String::from_utf8_lossy(&safe),
        "in pieces"
    );
});

/// The text that an input stands for.
fn text_of(input: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in input {
        match usize::from(*byte).checked_sub(0x80) {
            None => text.push(*byte),
            Some(at) if at < WORDS.len() => text.extend(WORDS[at].as_bytes()),
            Some(at) if at < 0x70 => text.push(*byte), // no UTF-8
            Some(_) => text.extend(KEY.as_bytes()),
        }
    }
    text
}

/// What is left is the text, but for runs of visible characters after a sign of a secret: follows
/// all ways in which marks may stand for parts of the text.
fn check_what_is_left(text: &[u8], safe: &[u8]) {
    let mut places = BTreeSet::from([0]);
    let mut at = 0;
    while at < safe.len() {
        if safe[at..].starts_with(MARK) {
            let behind = places.iter().flat_map(|place| after_mark(text, *place));
            places = behind.collect();
            at += MARK.len();
        } else {
            let is_same = |place: &usize| text.get(*place) == Some(&safe[at]);
            places = places
                .into_iter()
                .filter(is_same)
                .map(|it| it + 1)
                .collect();
            at += 1;
        }
    }
    assert!(places.contains(&text.len()), "something else is changed");
    assert!(contains(safe, MARK) || text == safe);
}

/// The places of the text where what a mark at this place stands for may end.
fn after_mark(text: &[u8], place: usize) -> Vec<usize> {
    let rest = &text[place..];
    let mut ends = Vec::new();
    if rest.starts_with(MARK) {
        ends.push(place + MARK.len());
    }
    let before = text[place.saturating_sub(512)..place].to_ascii_lowercase();
    if SIGNS.iter().any(|sign| contains(&before, sign)) {
        let run = rest
            .iter()
            .take_while(|byte| byte.is_ascii_graphic())
            .count();
        ends.extend(place + 1..=place + run);
    }
    ends
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
