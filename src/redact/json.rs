//! Redaction of JSON values.

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;

use serde_json::{Map, Value};

use crate::redact::search::Search;
use crate::redact::text;

/// Redacts all strings in a value, and the names of all fields. A name that announces a credential
/// reaches into the arrays and objects below it, but for the ids in them. It keeps a list of what is left to
/// do, since recursion over a deep value would overflow the stack.
pub(super) fn redact(search: &Search, value: &mut Value) {
    let mut left = vec![(value, false)];
    while let Some((value, is_named)) = left.pop() {
        match value {
            Value::String(string) => {
                if let Cow::Owned(safe) = text::redact(search, string, is_named) {
                    *string = safe;
                }
            }
            Value::Array(items) => left.extend(items.iter_mut().map(|item| (item, is_named))),
            Value::Object(fields) => {
                redact_names(search, fields);
                let is_named = |name: &str| {
                    search.words().names_credential(name.as_bytes()) || is_named && !is_id(name)
                };
                let fields = fields.iter_mut();
                left.extend(fields.map(|(name, value)| (value, is_named(name))));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Returns whether a field has an id, such as `id` and `key_id`.
fn is_id(name: &str) -> bool {
    name == "id" || name.ends_with("_id")
}

/// Redacts the names of fields. A name that exists already gets a number.
fn redact_names(search: &Search, fields: &mut Map<String, Value>) {
    let safe = |name: &str| match text::redact(search, name, false) {
        Cow::Owned(safe) => Some(safe),
        Cow::Borrowed(_) => None,
    };
    if !fields.keys().any(|name| safe(name).is_some()) {
        return;
    }
    // Keep the last numbers: to count from 1 again for each name would be quadratic.
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for (name, value) in mem::take(fields) {
        let name = safe(&name).unwrap_or(name);
        if !fields.contains_key(&name) {
            fields.insert(name, value);
            continue;
        }
        let number = numbers.entry(name.clone()).or_insert(1);
        let numbered = loop {
            *number += 1;
            let numbered = format!("{name} ({number})");
            if !fields.contains_key(&numbered) {
                break numbered;
            }
        };
        fields.insert(numbered, value);
    }
}
