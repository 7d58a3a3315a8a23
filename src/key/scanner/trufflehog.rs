//! Custom detectors for TruffleHog.

use crate::key::scanner::pattern::{LeftOut, Pattern, comments};
use crate::key::scanner::quote::{yaml, yaml_list};

const HEAD: &str = "\
# Finds API keys with TruffleHog 3. Written by tower-api-key: write it anew when the formats change.
# Nothing is verified, so findings are reported as unverified.
";

/// Returns the configuration.
pub(super) fn rules(patterns: &[Pattern], left_out: &[LeftOut]) -> String {
    let list = yaml_list(patterns.iter().map(detector));
    [HEAD, &comments(left_out), "detectors:", &list].concat()
}

fn detector(pattern: &Pattern) -> String {
    let (name, description) = (yaml(&pattern.name), pattern.description());
    let (keyword, regex) = (yaml(&pattern.lead), yaml(&pattern.regex()));
    format!(
        "  # {description}
  - name: {name}
    keywords:
      - {keyword}
    regex:
      key: {regex}
"
    )
}
