//! Rules by which secret scanners find keys.

mod detect_secrets;
mod github;
mod gitleaks;
mod pattern;
mod quote;
mod trufflehog;

use std::borrow::Borrow;

use crate::key::format::KeyFormat;
use crate::key::scanner::pattern::{LeftOut, Pattern};

/// The rules by which secret scanners find the keys of some formats.
///
/// Each method returns the text of a file. Write it anew when the formats change, and keep the rule
/// of a format for as long as its keys are in use. The chapter [`scanners`](crate::guide::scanners)
/// says how to give the file to each scanner, and what to do about a key that was found.
///
/// A rule finds whole keys, with nothing of a longer word around them, also behind escapes such as
/// `\n` and `%3D`. It does not find a key that is encoded, cut, or broken over lines.
///
/// Three kinds of formats are left out, and named in a comment:
///
/// - [publishable](KeyFormat::publishable) ones, whose keys are no secrets;
/// - imported ones whose lead has fewer than 3 characters, or none: digests of all kinds would be
///   found;
/// - imported ones with an empty alphabet, which have no keys.
///
/// ```
/// use tower_api_key::Environment;
/// use tower_api_key::key::{KeyFormat, ScannerRules};
///
/// let rules = ScannerRules::new([KeyFormat::new("acme_live", Environment::LIVE)?]);
/// let gitleaks = rules.gitleaks();
/// assert!(gitleaks.contains(r#"id = "api-key-acme-live""#));
/// assert!(gitleaks.contains(r"(acme_live_[0-9A-Za-z]{49})\b"));
/// # Ok::<(), tower_api_key::key::KeyFormatError>(())
/// ```
///
/// The rules of all formats of an [`ApiKeys`](crate::ApiKeys) are
/// [`ApiKeys::scanner_rules`](crate::ApiKeys::scanner_rules).
#[derive(Debug, Clone)]
pub struct ScannerRules {
    patterns: Vec<Pattern>,
    left_out: Vec<LeftOut>,
}

impl ScannerRules {
    /// Creates the rules for the keys of these formats. They hold no secret of a
    /// [keyed checksum](KeyFormat::keyed_checksum).
    pub fn new(formats: impl IntoIterator<Item = impl Borrow<KeyFormat>>) -> Self {
        let (mut patterns, mut left_out) = (Vec::<Pattern>::new(), Vec::new());
        for format in formats {
            match Pattern::of(format.borrow()) {
                Ok(mut pattern) => {
                    let is_taken = |name: &str| patterns.iter().any(|it| it.name == name);
                    pattern.name = first_free(&pattern.name, is_taken);
                    patterns.push(pattern);
                }
                Err(reason) => left_out.push(reason),
            }
        }
        Self { patterns, left_out }
    }

    /// Returns a configuration for gitleaks 8: `.gitleaks.toml`.
    ///
    /// It extends the rules that gitleaks has. To add its rules to another configuration, leave out
    /// its table `[extend]`. Keys of issued formats must have an entropy of 3 bits per character,
    /// which placeholders such as `acme_live_XXXX…` do not have.
    pub fn gitleaks(&self) -> String {
        gitleaks::rules(&self.patterns, &self.left_out)
    }

    /// Returns a configuration for TruffleHog 3, with a custom detector for each format.
    ///
    /// The detectors verify nothing: that would take an endpoint that is told each finding.
    pub fn trufflehog(&self) -> String {
        trufflehog::rules(&self.patterns, &self.left_out)
    }

    /// Returns custom patterns for GitHub's secret scanning, which are entered into a form.
    ///
    /// The text is YAML of the form that GitHub publishes examples in. Its test data match the
    /// patterns, so do not commit the text to a repository that is scanned.
    pub fn github(&self) -> String {
        github::rules(&self.patterns, &self.left_out)
    }

    /// Returns a plugin for detect-secrets 1: a Python file.
    ///
    /// A key whose plain checksum is wrong is a placeholder or a typo, and is not reported. A
    /// keyed checksum cannot be checked without its secret, so all texts of that format are.
    pub fn detect_secrets(&self) -> String {
        detect_secrets::rules(&self.patterns, &self.left_out)
    }
}

/// Returns the name, or the name with the first number that is free.
fn first_free(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_default()
}
