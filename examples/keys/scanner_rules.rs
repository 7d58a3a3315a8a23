//! The rules by which secret scanners find keys. No database is opened for them.

use serde_json::json;
use tower_api_key::key::{ChecksumRing, KeyFormat, ScannerRules};
use tower_api_key::{ApiKeys, Environment};

use crate::call::Call;
use crate::failure::{Failure, failure, usage};
use crate::output::Output;

pub(crate) fn scanner_rules(call: &Call) -> Result<Output, Failure> {
    let mut formats = formats(call)?;
    if call.is_set("keyed") {
        // Whatever the secret: a scanner does not have it, and rules hold none.
        let ring = ChecksumRing::new(&[0; 32]).map_err(|error| failure(error.to_string()))?;
        formats = formats
            .iter()
            .map(|it| it.clone().keyed_checksum(&ring))
            .collect();
    }
    let rules = match &formats[..] {
        [] => ApiKeys::in_memory().scanner_rules(), // the formats of this program
        formats => ScannerRules::new(formats),
    };
    let text = match call.subject.as_str() {
        "gitleaks" => rules.gitleaks(),
        "trufflehog" => rules.trufflehog(),
        "github" => rules.github(),
        "detect-secrets" => rules.detect_secrets(),
        _ => {
            return Err(usage(
                "scanner-rules takes gitleaks, trufflehog, github or detect-secrets",
            ));
        }
    };
    let json = json!({ "scanner": call.subject, "rules": text });
    Ok(Output::new(json, text))
}

/// Returns the formats that are named, if any.
pub(crate) fn formats(call: &Call) -> Result<Vec<KeyFormat>, Failure> {
    call.options("format").map(format).collect()
}

/// Parses `PREFIX` or `PREFIX=ENVIRONMENT`. Errors do not repeat it, since it may be a key.
fn format(text: &str) -> Result<KeyFormat, Failure> {
    let (prefix, environment) = text.split_once('=').unwrap_or((text, "live"));
    let environment: Environment = environment
        .parse()
        .map_err(|_| usage("an environment of --format is 1 to 32 of a-z, 0-9, '-' and '_'"))?;
    KeyFormat::new(prefix, environment)
        .map_err(|_| usage("a prefix of --format is 1 to 32 letters, digits and '_' between them"))
}
