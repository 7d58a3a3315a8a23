//! Rules for gitleaks.

use crate::key::scanner::pattern::{LeftOut, Pattern, comments};
use crate::key::scanner::quote::toml;

const HEAD: &str = "\
# Finds API keys with gitleaks 8. Written by tower-api-key: write it anew when the formats change.
";

const EXTEND: &str = r#"
title = "API keys"

# Leave this out where the rules are added to another configuration.
[extend]
useDefault = true
"#;

/// Returns the configuration.
pub(super) fn rules(patterns: &[Pattern], left_out: &[LeftOut]) -> String {
    let rules: Vec<_> = patterns.iter().map(rule).collect();
    [HEAD, &comments(left_out), EXTEND, &rules.concat()].concat()
}

fn rule(pattern: &Pattern) -> String {
    let mut lines = vec![
        "\n[[rules]]".to_owned(),
        format!("id = {}", toml(&pattern.name)),
        format!("description = {}", toml(&pattern.description())),
        format!("regex = {}", toml(&pattern.regex())),
        "secretGroup = 1".to_owned(),
        // Keywords are searched for in a text that was made lower-case.
        format!("keywords = [{}]", toml(&pattern.lead.to_ascii_lowercase())),
        format!("tags = [\"api-key\", {}]", toml(&pattern.environment)),
    ];
    if pattern.is_issued {
        lines.push("entropy = 3.0".to_owned());
    }
    lines.join("\n") + "\n"
}
