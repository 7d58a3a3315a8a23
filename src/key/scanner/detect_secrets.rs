//! A plugin for detect-secrets.

use crate::key::scanner::pattern::{LeftOut, Pattern, comments};
use crate::key::scanner::quote::python;

const HEAD: &str = "\
# Finds API keys with detect-secrets 1. Written by tower-api-key: write it anew when the formats
# change.
#
# detect-secrets leaves out what its filters take for harmless, such as Client('KEY') and
# client_id: KEY. These keys are found as well with
#   --disable-filter detect_secrets.filters.heuristic.is_indirect_reference
#   --disable-filter detect_secrets.filters.heuristic.is_likely_id_string
# and imported keys that are UUIDs, that begin with $, or that begin and end with { } or < >, with
#   --disable-filter detect_secrets.filters.heuristic.is_potential_uuid
#   --disable-filter detect_secrets.filters.heuristic.is_prefixed_with_dollar_sign
#   --disable-filter detect_secrets.filters.heuristic.is_templated_secret
";

const CODE: &str = r"
import re
import zlib

from detect_secrets.plugins.base import RegexBasedDetector

_DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'


def _has_right_checksum(body, length):
    secret, checksum = body[:length], body[length:]
    number, digits = zlib.crc32(secret.encode('ascii')), ''
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits == checksum
";

/// Returns the plugin.
pub(super) fn rules(patterns: &[Pattern], left_out: &[LeftOut]) -> String {
    let detectors: Vec<_> = patterns.iter().map(detector).collect();
    [HEAD, &comments(left_out), CODE, &detectors.concat()].concat()
}

fn detector(pattern: &Pattern) -> String {
    let class = pattern.name.replace('-', "_");
    let (name, regex) = (python(&pattern.name), python(&pattern.regex()));
    let head = format!(
        "

class {class}_detector(RegexBasedDetector):
    secret_type = {name}
    denylist = [re.compile({regex}, re.ASCII)]
"
    );
    let Some(secret) = pattern.checked_secret else {
        return head;
    };
    let lead = pattern.lead.len();
    let check = format!(
        "
    def analyze_string(self, string, **kwargs):
        for key in super().analyze_string(string, **kwargs):
            if _has_right_checksum(key[{lead}:], {secret}):
                yield key
"
    );
    head + &check
}
