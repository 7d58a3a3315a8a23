//! Custom patterns for GitHub's secret scanning.

use crate::key::scanner::pattern::{LeftOut, Pattern, before, comments};
use crate::key::scanner::quote::{yaml, yaml_list};

const HEAD: &str = "\
# Finds API keys with GitHub's secret scanning. Written by tower-api-key: write it anew when the
# formats change. Enter each pattern as a custom pattern of the organization or the repository:
#   name    Pattern name
#   pattern Secret format
#   start   Before secret (more options)
#   end     After secret (more options)
#   data    Test string: it looks like a key, and is none
# GitHub allows 500 custom patterns for an organization and 100 for a repository.
";

/// Returns the patterns.
pub(super) fn rules(patterns: &[Pattern], left_out: &[LeftOut]) -> String {
    let list = yaml_list(patterns.iter().map(entry));
    [
        HEAD,
        &comments(left_out),
        "name: 'API keys'\npatterns:",
        &list,
    ]
    .concat()
}

fn entry(pattern: &Pattern) -> String {
    let name = yaml(&pattern.description());
    let kind = yaml(&pattern.name.replace('-', "_"));
    let (key, sample) = (yaml(&pattern.key()), yaml(&pattern.sample()));
    let (before, after) = (yaml(&before()), yaml(&pattern.after()));
    format!(
        "  - name: {name}
    type: {kind}
    regex:
      version: 0.1
      pattern: {key}
      start: {before}
      end: {after}
    test:
      - data: {sample}
        start_offset: 0
        end_offset: -1
"
    )
}
