//! The key of a budget in Redis.
//!
//! `tak:1:{home}:form:name:subject`, such as `tak:1:{a=acme}:w60000000:account_per_minute:a`. What
//! is in braces decides the slot of a cluster: all budgets of one account are in one.
//!
//! Together, all budgets have the home `t=tak`, after the prefix: those of services with different
//! prefixes are apart.
//!
//! The number after the prefix is the version of the layout. A version with another layout begins
//! anew, beside the budgets of the old one.

use std::fmt::Write;

use crate::key::quota::{Calendar, Quota, QuotaKind};
use crate::limit::charge::{Charge, Subject};
use sha2::{Digest, Sha256};

/// The longest part that is written as it is. A client may have chosen it.
const LONGEST: usize = 64;

/// Where budgets are: the prefix of their keys, and what decides their slots.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    prefix: String,
    /// All budgets have the same home.
    is_together: bool,
}

impl Placement {
    /// Places budgets by their homes, under a prefix.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            // Braces decide the slot: ours do.
            prefix: prefix.replace('{', "%7B").replace('}', "%7D"),
            is_together: false,
        }
    }

    /// Sets the prefix.
    pub(super) fn with_prefix(&self, prefix: &str) -> Self {
        Self {
            is_together: self.is_together,
            ..Self::new(prefix)
        }
    }

    /// Places all budgets into one slot.
    pub(super) fn together(self) -> Self {
        Self {
            is_together: true,
            ..self
        }
    }

    /// Writes the key of the budget of a charge.
    pub(super) fn key(&self, charge: &Charge<'_>) -> String {
        let mut key = String::with_capacity(self.prefix.len() + 128);
        for part in [&self.prefix, ":1:{"] {
            key.push_str(part);
        }
        if self.is_together {
            key.push_str("t=");
            key.push_str(&self.prefix);
        } else {
            push_home(&mut key, charge);
        }
        key.push_str("}:");
        push_form(&mut key, charge.quota());
        key.push(':');
        push(&mut key, charge.name().as_str());
        key.push(':');
        push_subject(&mut key, charge.subject());
        key
    }
}

/// Writes a key for a note in the slot of a budget.
pub(super) fn note(budget: &str, nonce: &str) -> String {
    let home = budget.split_inclusive('}').next().unwrap_or_default();
    format!("{home}:n:{nonce}")
}

/// Writes the home of a charge: the part of its key that decides the slot. It follows from the
/// subject, except for a key, whose budgets are where those of its account are.
fn push_home(key: &mut String, charge: &Charge<'_>) {
    match (charge.subject(), charge.home()) {
        (Subject::Account(account) | Subject::AccountIn(account, _), _)
        | (Subject::Key(_), Some(account)) => {
            key.push_str("a=");
            push(key, account);
        }
        (Subject::Key(id), None) => {
            let _ = write!(key, "k={id}"); // into memory
        }
        (Subject::Address(address), _) => {
            let _ = write!(key, "i={address}");
        }
        (Subject::Custom(subject), _) => {
            key.push_str("c=");
            push(key, subject);
        }
        (Subject::Global | Subject::UnknownAddress, _) => key.push('g'),
    }
}

fn push_subject(key: &mut String, subject: Subject<'_>) {
    match subject {
        Subject::Key(id) => {
            let _ = write!(key, "k={id}");
        }
        Subject::Account(account) => {
            key.push_str("a=");
            push(key, account);
        }
        Subject::AccountIn(account, environment) => {
            key.push_str("e=");
            push(key, environment.as_str());
            key.push('=');
            push(key, account);
        }
        Subject::Address(address) => {
            let _ = write!(key, "i={address}");
        }
        Subject::UnknownAddress => key.push('u'),
        Subject::Global => key.push('g'),
        Subject::Custom(subject) => {
            key.push_str("c=");
            push(key, subject);
        }
    }
}

/// Writes what must be separate of the quotas under one name: the kind, and the period of a window,
/// whose uses a shorter window would forget too early.
fn push_form(key: &mut String, quota: Quota) {
    let _ = match quota.kind() {
        QuotaKind::Window { period } => write!(key, "w{period}"),
        QuotaKind::Rate { .. } => write!(key, "r"),
        QuotaKind::Calendar(Calendar::Day) => write!(key, "d"),
        QuotaKind::Calendar(Calendar::Month) => write!(key, "m"),
    };
}

/// Writes a part. The characters that separate parts are escaped, and a long part is hashed.
fn push(key: &mut String, part: &str) {
    if part.len() > LONGEST {
        key.push('#');
        for byte in Sha256::digest(part.as_bytes()).iter().take(16) {
            let _ = write!(key, "{byte:02x}");
        }
        return;
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if part.bytes().all(is_plain) {
        key.push_str(part);
        return;
    }
    for character in part.chars() {
        match character {
            '{' | '}' | ':' | '%' | '=' | '#' => {
                let _ = write!(key, "%{:02X}", u32::from(character));
            }
            control if control.is_control() => {
                let _ = write!(key, "%{:02X}", u32::from(control));
            }
            other => key.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::key::digest::KeyId;
    use crate::key::environment::Environment;
    use crate::limit::charge::LimitName;

    /// Returns what is in the braces of the key of a charge.
    fn home(charge: &Charge<'_>) -> String {
        let key = Placement::new("tak").key(charge);
        let (_, rest) = key.split_once('{').unwrap();
        rest.split_once('}').unwrap().0.to_owned()
    }

    #[test]
    fn different_budgets_have_different_keys_and_those_of_an_account_one_home() {
        let long = "x".repeat(300);
        let longer = "x".repeat(301);
        let texts = [
            "", "a", "{a}", "a{b}", "}", "{", "a:b", "a%3Ab", "%", "=", "a=b", "#", "é", "\0",
            "a\u{7f}", &long, &longer,
        ];
        let mut keys = BTreeSet::new();
        let mut count = 0;
        for name in texts {
            let name = LimitName::new(name);
            for text in texts {
                let subjects = [
                    Subject::Account(text),
                    Subject::AccountIn(text, &Environment::LIVE),
                    Subject::AccountIn(text, &Environment::TEST),
                    Subject::Custom(text),
                ];
                for subject in subjects {
                    let charge = Charge::new(&name, subject, Quota::per_minute(1), 1);
                    assert!(!home(&charge).is_empty());
                    let key = Placement::new("tak").key(&charge);
                    assert_eq!(key.matches(['{', '}']).count(), 2, "{key}");
                    assert!(key.len() < 400);
                    keys.insert(key);
                    count += 1;
                }
                // Keys of different accounts may share a subject of the application's own.
                let shared = Charge::new(&name, Subject::Custom(text), Quota::per_minute(1), 1);
                assert_eq!(home(&shared), home(&shared.with_home("acme")));
            }
        }
        assert_eq!(keys.len(), count);
        let name = LimitName::new("key_per_minute");
        let key = Subject::Key(KeyId::from_bytes([1; 16]));
        let charge = Charge::new(&name, key, Quota::per_minute(1), 1);
        assert_eq!(home(&charge.with_home("acme")), "a=acme");
    }

    #[test]
    fn budgets_together_have_the_home_of_their_prefix() {
        let (name, quota) = (LimitName::new("l"), Quota::per_minute(1));
        let key =
            |placement: &Placement, subject| placement.key(&Charge::new(&name, subject, quota, 1));
        let together = Placement::new("a{b}").together();
        let keys = [Subject::Global, Subject::Account("acme")].map(|it| key(&together, it));
        assert_eq!(keys[0], "a%7Bb%7D:1:{t=a%7Bb%7D}:w60000000000:l:g");
        assert_eq!(keys[1], "a%7Bb%7D:1:{t=a%7Bb%7D}:w60000000000:l:a=acme");
        let other = Placement::new("tak").together().with_prefix("a{b}");
        assert_eq!(key(&other, Subject::Global), keys[0]);
        let note = note(&keys[1], "f00");
        assert_eq!(note, "a%7Bb%7D:1:{t=a%7Bb%7D}:n:f00");
    }
}
