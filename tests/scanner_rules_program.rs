//! The example `keys`: the rules for secret scanners.
//!
//! `cargo test` builds the examples, too. With `--test scanner_rules_program`, build them before:
//! `cargo build --examples --features sqlite`.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;

use programs::{Folder, failed, program};
use serde_json::Value;
use tower_api_key::key::{ChecksumRing, KeyFormat, ScannerRules};
use tower_api_key::{ApiKeys, Environment};

/// A key where a prefix belongs.
const KEY: &str = "sk_live_0123456789abcdefghijABCDEFGHIJ0123456789abc0uCPlr";

/// What the program prints without a database.
fn printed(arguments: &[&str]) -> String {
    let output = program("keys").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_rules_of_each_scanner_are_printed_without_a_database() {
    let rules = ApiKeys::in_memory().scanner_rules();
    for (scanner, expected) in [
        ("gitleaks", rules.gitleaks()),
        ("trufflehog", rules.trufflehog()),
        ("github", rules.github()),
        ("detect-secrets", rules.detect_secrets()),
    ] {
        let text = printed(&["scanner-rules", scanner]);
        assert!(text.contains("sk_live_") && text.contains("sk_test_"));
        assert_eq!(text, expected);
    }
    let folder = Folder::new();
    folder.text(&["scanner-rules", "gitleaks"]);
    assert!(
        !folder.file().exists(),
        "a file that is named is not created"
    );
}

#[test]
fn the_formats_of_an_application_can_be_named() {
    let format = |prefix, environment| KeyFormat::new(prefix, environment).unwrap();
    let formats = [
        format("acme_live", Environment::LIVE),
        format("acme_test", Environment::TEST),
    ];
    let arguments = [
        "scanner-rules",
        "gitleaks",
        "--format",
        "acme_live",
        "--format=acme_test=test",
    ];
    let expected = ScannerRules::new(&formats).gitleaks();
    assert_eq!(printed(&arguments), expected);
    let json: Value =
        serde_json::from_str(&printed(&[&arguments[..], &["--json"]].concat())).unwrap();
    assert_eq!(json["rules"], expected.as_str());
    assert_eq!(json["scanner"], "gitleaks");
}

#[test]
fn an_unknown_scanner_or_a_wrong_format_is_wrong_usage() {
    for (arguments, words) in [
        (&["scanner-rules"][..], "1 needed, 0 given"),
        (
            &["scanner-rules", "grep"],
            "gitleaks, trufflehog, github or detect-secrets",
        ),
        (
            &["scanner-rules", "github", "--format", "acme-"],
            "a prefix of --format",
        ),
        (
            &["scanner-rules", "github", "--format", "acme=Live!"],
            "an environment of --format",
        ),
        (
            &["scanner-rules", "github", "--format", KEY],
            "a prefix of --format",
        ),
    ] {
        let output = program("keys").args(arguments).output().unwrap();
        let error = failed(&output, 2);
        assert!(
            error.contains(words) && !error.contains(&KEY[8..20]),
            "{error}"
        );
    }
}

/// A plugin that checked the plain checksum would drop keys with a keyed one.
#[test]
fn keys_with_a_keyed_checksum_are_found_without_a_check() {
    let ring = ChecksumRing::new(&[7; 32]).unwrap();
    let format = KeyFormat::new("acme_live", Environment::LIVE).unwrap();
    let expected = ScannerRules::new([format.keyed_checksum(&ring)]).detect_secrets();
    let arguments = ["scanner-rules", "detect-secrets", "--format", "acme_live"];
    let keyed = printed(&[&arguments[..], &["--keyed"]].concat());
    assert_eq!(keyed, expected);
    assert_ne!(printed(&arguments), expected);
}
