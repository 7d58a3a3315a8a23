//! Find leaked keys with secret scanners.
//!
//! Keys get into code, configurations, logs and tickets. A secret scanner finds them there, if it
//! is told how they look. [`ScannerRules`] writes the rules of four scanners from the formats of
//! the keys:
//!
//! ```
//! use tower_api_key::key::KeyFormat;
//! use tower_api_key::{ApiKeys, Environment, MemoryStore};
//!
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .formats([KeyFormat::new("acme_live", Environment::LIVE)?])
//!     .build()?;
//! let rules = keys.scanner_rules();
//! let files = [
//!     (".gitleaks.toml", rules.gitleaks()),
//!     ("trufflehog.yaml", rules.trufflehog()),
//!     ("github.yaml", rules.github()),
//!     ("api_keys_plugin.py", rules.detect_secrets()),
//! ];
//! # assert!(files.iter().all(|(_, text)| text.contains("acme_live_")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The program `keys` writes the same for the prefixes that it is given:
//!
//! ```text
//! keys scanner-rules gitleaks --format acme_live --format acme_test=test > .gitleaks.toml
//! ```
//!
//! These are keys of the default length with the plain checksum; with `--keyed`, those with a keyed one.
//! For all others, write the rules in the application, as above: they know its formats.
//!
//! Choose a prefix of your own. Scanners have rules for `sk_live_`, and report it as a key of
//! another company.
//!
//! # What is found
//!
//! | format | found by | checked |
//! |---|---|---|
//! | issued | prefix, alphabet, length | the plain checksum, by detect-secrets only |
//! | issued, with a [keyed checksum] | the same | not at all: that takes the secret |
//! | imported, with a lead of at least 3 characters | lead, alphabet, length | not at all |
//! | imported, with a shorter lead or none | | |
//! | publishable | | |
//!
//! The last two have no rule. Without a lead, a key cannot be told from a digest, and each commit
//! has digests. A publishable key is no secret, and its findings would hide the others.
//!
//! A key is found whole, and between characters that are no letters, digits or `_`; also behind the
//! escapes `\n`, `\0`, `\u0022`, `\x22` and `%3D`, and behind colours such as `ESC[31m`. If an
//! imported key may have characters that are no letters, digits or `_`, one of `n`, `r`, `t` and the
//! like, or two hexadecimal digits, may also stand before it: the beginning of that escape may have
//! ended another key. A key in base64, in a picture or in an archive is
//! found as far as the scanner decodes it.
//!
//! Write the rules anew when the formats change, in the same change. Keep the rule of a format for
//! as long as its keys are in use: a key in an old commit is a leaked key.
//!
//! # gitleaks
//!
//! Put the file into the root of the repository as `.gitleaks.toml`, or name it with `--config`. It
//! extends the rules of gitleaks. Where a `.gitleaks.toml` is there already, append the tables
//! `[[rules]]` to it, without `[extend]`.
//!
//! # TruffleHog
//!
//! ```text
//! trufflehog git file://. --config=trufflehog.yaml --results=unverified
//! ```
//!
//! Findings are unverified, since there is nothing to verify them with. Do not point `verify` at a
//! public endpoint: it would be sent every finding, and be a place to try keys at.
//!
//! # GitHub
//!
//! Custom patterns need GitHub's secret protection. They are entered in the settings of an
//! organization (500 at most) or of a repository (100), under *Custom patterns*: the comments of
//! the file say which text goes into which field. Make a dry run, and then turn push protection on
//! for the pattern: it stops a key before it leaves the developer's machine.
//!
//! Do not commit the file to a repository that is scanned, since its test strings match the
//! patterns.
//!
//! If your keys are used by others than your own developers, apply for the [partner program].
//! GitHub then looks for your keys in all public repositories, and reports each one to an endpoint
//! of yours. It asks for a regular expression: take `pattern`.
//!
//! # detect-secrets
//!
//! ```text
//! detect-secrets scan -p api_keys_plugin.py \
//!     --disable-filter detect_secrets.filters.heuristic.is_indirect_reference \
//!     --disable-filter detect_secrets.filters.heuristic.is_likely_id_string > .secrets.baseline
//! ```
//!
//! The two filters take `Client('KEY')` and `client_id: KEY` for harmless. If imported keys are
//! UUIDs, begin with `$`, or begin and end with braces, the filters `is_potential_uuid`,
//! `is_prefixed_with_dollar_sign` and `is_templated_secret` drop them: disable these, too. The
//! baseline remembers
//! the path of the plugin, so keep the file in the repository. A text with a wrong checksum is a
//! typo or a placeholder, and is not reported.
//!
//! # What to do about a finding
//!
//! A key that was found is leaked, even in a private repository, and even if the commit was undone
//! at once. Do not only delete it.
//!
//! 1. Find its record. [`KeyDigest`] gives the id of the key, without sending it anywhere:
//!
//!    ```
//!    use tower_api_key::key::KeyDigest;
//!
//!    # #[tokio::main(flavor = "current_thread")]
//!    # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!    # let keys = tower_api_key::ApiKeys::in_memory();
//!    # let issued = keys.issue("globex").await?;
//!    # let found = issued.expose_secret();
//!    let id = KeyDigest::of(found).id();
//!    if let Some(record) = keys.find(&id).await? {
//!        println!("a key of {}: {}", record.account(), record.id());
//!    }
//!    # assert_eq!(id, issued.id());
//!    # Ok(())
//!    # }
//!    ```
//! 2. Replace or revoke it: the chapter [`rotation`](crate::guide::rotation) has a runbook for a
//!    leaked key. If the key is in nobody's records, it was never issued, or purged.
//! 3. Then remove it from the code, and from the history if others can read that.
//!
//! These rules are tried with detect-secrets 1.5.0 itself, and with the engines of the others, RE2
//! and Hyperscan: see `tests/scanners`.
//!
//! [`KeyDigest`]: crate::key::KeyDigest
//! [keyed checksum]: crate::key::KeyFormat::keyed_checksum
//! [`ScannerRules`]: crate::key::ScannerRules
//! [partner program]: https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partnership-program/secret-scanning-partner-program
