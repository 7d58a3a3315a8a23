//! The rules for secret scanners: each file is what the scanner reads, and finds exactly the keys.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use regex::bytes::{Regex, RegexBuilder};
use saphyr::{LoadableYamlNode, Yaml};
use tower_api_key::key::{Alphabet, ChecksumRing, KeyFormat, ScannerRules};
use tower_api_key::{ApiKeys, Environment, MemoryStore};

const VISIBLE: &str = "!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~";
const ALPHABETS: [&str; 6] = [
    "0123456789abcdef",
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_",
    "]^\\[-&~|'\"",
    "ab",
    "$.*+?(){}",
    VISIBLE,
];

fn live(prefix: &str) -> KeyFormat {
    KeyFormat::new(prefix, Environment::LIVE).unwrap()
}

fn hex(lead: &str) -> KeyFormat {
    KeyFormat::imported(lead, Alphabet::HEX, 40..=40, Environment::LIVE).unwrap()
}

/// What each scanner is told of one format.
struct Rule {
    gitleaks: toml::Table,
    /// By scanner, with the key as the only group.
    regexes: BTreeMap<&'static str, Regex>,
}

fn compiled(regex: &str) -> Regex {
    // As in RE2 and Hyperscan, a word is of ASCII characters.
    let mut regex = RegexBuilder::new(regex);
    regex.unicode(false).size_limit(1 << 26).build().unwrap()
}

fn rules(formats: &[KeyFormat]) -> Vec<Rule> {
    let rules = ScannerRules::new(formats);
    let gitleaks: toml::Table = rules.gitleaks().parse().unwrap();
    assert_eq!(gitleaks["extend"]["useDefault"].as_bool(), Some(true));
    let trufflehog = rules.trufflehog();
    let trufflehog = &Yaml::load_from_str(&trufflehog).unwrap()[0]["detectors"];
    let github = rules.github();
    let github = &Yaml::load_from_str(&github).unwrap()[0]["patterns"];
    let of_gitleaks = gitleaks.get("rules").map(|rules| rules.as_array().unwrap());
    let of_gitleaks = of_gitleaks.into_iter().flatten().cloned().enumerate();
    let rules: Vec<_> = of_gitleaks
        .map(|(at, gitleaks)| {
            let gitleaks: toml::Table = gitleaks.try_into().unwrap();
            assert_eq!(gitleaks["secretGroup"].as_integer(), Some(1));
            let (trufflehog, github) = (&trufflehog[at], &github[at]);
            assert_eq!(trufflehog["name"].as_str(), gitleaks["id"].as_str());
            let part = |name: &str| github["regex"][name].as_str().unwrap();
            let (start, end) = (part("start"), part("end"));
            let whole = format!("(?:{start})({})(?:{end})", part("pattern"));
            let sample = github["test"][0]["data"].as_str().unwrap();
            let regexes = BTreeMap::from([
                ("gitleaks", compiled(gitleaks["regex"].as_str().unwrap())),
                (
                    "trufflehog",
                    compiled(trufflehog["regex"]["key"].as_str().unwrap()),
                ),
                ("github", compiled(&whole)),
            ]);
            for (scanner, regex) in &regexes {
                assert_eq!(found(regex, sample), [sample], "{scanner}");
            }
            Rule { gitleaks, regexes }
        })
        .collect();
    assert_eq!(trufflehog.as_sequence().unwrap().len(), rules.len());
    assert_eq!(github.as_sequence().unwrap().len(), rules.len());
    rules
}

fn found(regex: &Regex, text: &str) -> Vec<String> {
    let found = regex.captures_iter(text.as_bytes());
    let key = |found: regex::bytes::Captures<'_>| {
        assert_eq!(found.len(), 2, "the key is the only group");
        String::from_utf8(found[1].to_vec()).unwrap()
    };
    found.map(key).collect()
}

fn find_all(rule: &Rule, text: &str, expected: &[&str]) {
    for (scanner, regex) in &rule.regexes {
        assert_eq!(found(regex, text), expected, "{scanner} in {text}");
    }
}

/// Shannon's entropy in bits per character, as gitleaks computes it.
fn entropy(text: &str) -> f64 {
    let mut counts = BTreeMap::<char, f64>::new();
    for character in text.chars() {
        *counts.entry(character).or_default() += 1.0;
    }
    let all: f64 = counts.values().sum();
    counts
        .values()
        .map(|it| -it / all * (it / all).log2())
        .sum()
}

fn any_issued() -> impl Strategy<Value = KeyFormat> {
    let prefix = "[A-Za-z0-9]{1,10}(_[A-Za-z0-9]{1,9}){0,2}";
    (prefix, 16..=64usize, 0..3u8).prop_map(|(prefix, bytes, checksum)| {
        let format = live(&prefix).secret_bytes(bytes).unwrap();
        match checksum {
            0 => format,
            1 => format.without_checksum(),
            _ => format.keyed_checksum(&ChecksumRing::new(&[7; 32]).unwrap()),
        }
    })
}

proptest! {
    #[test]
    fn an_issued_key_is_found_as_it_is(format in any_issued()) {
        let key = format.generate().unwrap();
        let key = key.expose_secret();
        let rule = &rules(&[format])[0];
        for text in [
            "K", "key=K", "\"K\"", "{\"key\":\"K\"}", "a\\nK\\n", "a\\u0022K\\u0022", "?key%3DK&a=b",
            "Bearer K", "\\x22K\\x22", "\\0K\\0", "\u{1b}[1;31mK\u{1b}[0m", "\\x1b[38:5:9mK\\x1b[0m",
            "https://u:K@a.example/", "(K)", "K.", "-K-", "--key=K\n", "é K é",
        ] {
            find_all(rule, &text.replace('K', key), &[key]);
        }
        // Rules whose boundaries take no character find keys beside each other.
        for scanner in ["gitleaks", "trufflehog"] {
            prop_assert_eq!(found(&rule.regexes[scanner], &format!("{key},{key}")), [key, key]);
        }
        let least = rule.gitleaks["entropy"].as_float().unwrap();
        prop_assert!(entropy(key) > least + 0.3, "{}", entropy(key));
    }

    #[test]
    fn what_is_no_issued_key_is_not_found(format in any_issued(), at: Index) {
        let key = format.generate().unwrap();
        let key = key.expose_secret();
        let (prefix, body) = key.split_at(format.prefix().len() + 1);
        let rule = &rules(&[format])[0];
        let at = at.index(body.len() - 1);
        for text in [
            key[..key.len() - 1].to_owned(),
            format!("{key}0"),
            format!("{key}_"),
            format!("x{key}"),
            format!("_{key}"),
            format!("x_{key}"),
            format!("{prefix}{}-{}", &body[..at], &body[at + 1..]),
            body.to_owned(),
            format!("{}-{body}", prefix.trim_end_matches('_')),
        ] {
            find_all(rule, &text, &[]);
        }
    }

    #[test]
    fn an_imported_key_is_found_whatever_its_characters_are(
        lead in "[!-~]{3,32}",
        characters in select(ALPHABETS.to_vec()),
        shortest in 1..40usize,
        more in 0..20usize,
        length: Index,
        body: [Index; 60],
    ) {
        let length = shortest + length.index(more + 1);
        let character = |at: &Index| char::from(*at.get(characters.as_bytes()));
        let body: String = body.iter().take(length).map(character).collect();
        let alphabet = Alphabet::from_static(characters);
        let lengths = shortest..=shortest + more;
        let format = KeyFormat::dangerous_guessable(&lead, alphabet, lengths, Environment::LIVE);
        let rule = &rules(&[format.unwrap()])[0];
        let key = format!("{lead}{body}");
        for text in ["K", " K ", "\nK\n", "a K\tb"] {
            find_all(rule, &text.replace('K', &key), &[&key]);
        }
        prop_assert!(rule.gitleaks.get("entropy").is_none());
        let keyword = rule.gitleaks["keywords"][0].as_str().unwrap();
        prop_assert!(key.to_ascii_lowercase().contains(keyword));
    }
}

#[test]
fn an_imported_key_is_found_only_as_a_whole() {
    let rule = &rules(&[hex("acme-")])[0];
    let key = format!("acme-{}", "0af6".repeat(10));
    find_all(rule, &format!("key: '{key}'"), &[&key]);
    let digest = "0af6".repeat(10);
    let longer = format!("{key}0");
    for text in [
        &key[..key.len() - 1],
        &longer,
        &format!("x{key}"),
        &key.to_uppercase(),
        &key.replace("acme-", "acme_"),
        &key.replace("acme-", "acne-"),
        &digest,
    ] {
        find_all(rule, text, &[]);
    }
    let wide = KeyFormat::imported("acme:", Alphabet::BASE64URL, 20..=22, Environment::LIVE);
    let rule = &rules(&[wide.unwrap()])[0];
    for (length, is_key) in [(19, false), (20, true), (22, true), (23, false)] {
        let key = format!("acme:{}", "-_a0".repeat(6).get(..length).unwrap());
        let expected: &[&str] = if is_key { &[&key] } else { &[] };
        find_all(rule, &format!("\"{key}\""), expected);
    }
}

/// Where the end of a key takes a character away, the next key is found all the same.
#[test]
fn imported_keys_beside_each_other_are_found() {
    let base64 = Alphabet::from_static("0123456789abcdefGHIJ+/=");
    for (lead, alphabet, body) in [
        ("acme-", Alphabet::BASE64URL, "-_a0"),
        ("acme:", base64, "+/a0"),
        ("$acme-", Alphabet::BASE64URL, "-_a0"),
        ("$acme", Alphabet::HEX, "0af6"),
        ("nacme-", Alphabet::BASE64URL, "-_a0"),
    ] {
        let format = KeyFormat::imported(lead, alphabet, 40..=40, Environment::LIVE);
        let rule = &rules(&[format.unwrap()])[0];
        let key = format!("{lead}{}", body.repeat(10));
        for text in [
            "K,K",
            "K K",
            "\"K\",\"K\"",
            "K\\nK",
            "K\\tK\\r",
            "K%20K",
            "K%0AK",
            "K\\u0022K",
            "K\\x20K",
            "K\\0K",
            "\u{1b}[31mK\u{1b}[31mK",
            "\\x1b[31mK\\x1b[31mK",
        ] {
            let text = text.replace('K', &key);
            for scanner in ["gitleaks", "trufflehog"] {
                let found = found(&rule.regexes[scanner], &text);
                assert_eq!(found, [key.as_str(), &key], "{scanner} in {text}");
            }
        }
        find_all(rule, &format!("x{key} 12 {key}"), &[&key]);
    }
}

#[test]
fn what_scanners_cannot_tell_or_should_not_is_left_out_and_named() {
    let empty = Alphabet::from_static("");
    let formats = [
        live("acme_live"),
        live("acme_pub").publishable(),
        hex(""),
        hex("ab"),
        KeyFormat::dangerous_guessable("none-", empty, 9..=9, Environment::LIVE).unwrap(),
    ];
    let found = rules(&formats);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].gitleaks["id"].as_str(), Some("api-key-acme-live"));
    let rules = ScannerRules::new(&formats);
    for text in [
        rules.gitleaks(),
        rules.trufflehog(),
        rules.github(),
        rules.detect_secrets(),
    ] {
        let named: Vec<_> = text
            .lines()
            .filter(|it| it.starts_with("# Left out: "))
            .collect();
        assert_eq!(named.len(), 4, "{text}");
        assert!(named[0].contains("acme_pub_") && named[0].contains("publishable"));
        assert!(named[1].contains("without a prefix"));
        assert!(named[2].contains(" ab ") && named[2].contains("digests"));
    }
    assert!(
        self::rules(&formats[1..]).is_empty(),
        "and the files are valid"
    );
}

#[test]
fn each_rule_has_a_name_of_its_own() {
    let formats = [
        live("acme"),
        live("Acme"),
        live("a_1"),
        live("a1"),
        hex("acme-"),
        KeyFormat::imported("acme-", Alphabet::HEX, 64..=64, Environment::LIVE).unwrap(),
        hex("$$$"),
    ];
    let rules = rules(&formats);
    let ids = rules
        .iter()
        .map(|rule| rule.gitleaks["id"].as_str().unwrap());
    let ids: Vec<_> = ids.collect();
    let expected = [
        "api-key-acme",
        "api-key-acme-2",
        "api-key-a-1",
        "api-key-a1",
        "api-key-acme-3",
        "api-key-acme-4",
        "api-key-",
    ];
    assert_eq!(ids, expected);
    let plugin = ScannerRules::new(&formats).detect_secrets();
    let classes = plugin.lines().filter(|line| line.starts_with("class "));
    let classes: BTreeSet<_> = classes.collect();
    assert_eq!(classes.len(), formats.len());
}

#[test]
fn only_a_plain_checksum_is_checked_by_the_plugin() {
    let checks = |format: KeyFormat| {
        let plugin = ScannerRules::new([format]).detect_secrets();
        plugin.contains("if _has_right_checksum(key[10:], 43)")
    };
    let ring = ChecksumRing::new(&[7; 32]).unwrap();
    assert!(checks(live("acme_live")));
    assert!(!checks(live("acme_live").without_checksum()));
    assert!(!checks(live("acme_live").keyed_checksum(&ring)));
    assert!(!checks(
        live("acme_live").keyed_checksum(&ring.dangerous_accept_unkeyed())
    ));
}

#[test]
fn the_rules_of_keys_are_those_of_their_formats() {
    let formats = [live("acme_live"), hex("acme-")];
    let keys = ApiKeys::builder(MemoryStore::new()).formats(formats.clone());
    let rules = keys.build().unwrap().scanner_rules();
    assert_eq!(rules.gitleaks(), ScannerRules::new(&formats).gitleaks());
}
