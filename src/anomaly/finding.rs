//! Findings of detectors, and the alerts that they make together.

use std::fmt;

use serde_json::{Map, Value};

use crate::anomaly::severity::Severity;
use crate::key::digest::KeyId;
use crate::key::text::beginning;

/// The most facts of a finding, and the longest text of one, in bytes.
const MOST_FACTS: usize = 16;
const LONGEST: usize = 256;

/// The most bytes of the facts of an alert, as JSON, and the most findings and detectors that it names:
/// an event that no store can keep would never be told.
const MOST_BYTES: usize = 6 << 10;
const MOST_NAMED: usize = 32;

/// An anomaly that a detector has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub(super) severity: Severity,
    pub(super) facts: Map<String, Value>,
}

impl Finding {
    /// Creates a finding of a severity.
    pub fn new(severity: Severity) -> Self {
        Self {
            severity,
            facts: Map::new(),
        }
    }

    /// Adds a fact for the alert. There may be 16 facts, of 256 bytes each; what is longer is cut,
    /// and further facts are left out. The facts of all findings of an alert may have 6 KiB
    /// together, as JSON. Do not add secrets.
    #[must_use]
    pub fn fact(self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        self.with(name.into(), beginning(&value, LONGEST).into())
    }

    pub(super) fn with(mut self, name: impl Into<String>, value: Value) -> Self {
        if self.facts.len() < MOST_FACTS {
            let name = name.into();
            self.facts
                .insert(beginning(&name, LONGEST).to_owned(), value);
        }
        self
    }
}

/// A finding with its detector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub(super) detector: String,
    /// The text that tells it from others of the detector, such as a country.
    pub(super) detail: String,
    pub(super) finding: Finding,
}

/// An alert about a key: what was found, and how severe it is altogether.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alert {
    pub(crate) key: KeyId,
    pub(crate) severity: Severity,
    pub(super) found: Vec<Found>,
    /// The detectors that found something shortly before, which raises the severity.
    pub(super) after: Vec<Box<str>>,
    /// `None` if it is not known.
    pub(crate) hourly_average: Option<f64>,
}

impl Alert {
    /// Returns the facts for an event.
    pub(crate) fn facts(&self) -> Vec<(&'static str, Value)> {
        let mut room = MOST_BYTES;
        let found = self.found.iter().take(MOST_NAMED).map(|found| {
            let mut facts = found.finding.facts.clone();
            facts.retain(|name, value| {
                let size = Value::from(name.as_str()).to_string().len() + value.to_string().len();
                let is_kept = size <= room;
                room -= if is_kept { size } else { 0 };
                is_kept
            });
            facts.insert("detector".to_owned(), found.detector.as_str().into());
            let severity = found.finding.severity.as_str();
            facts.insert("severity".to_owned(), severity.into());
            Value::Object(facts)
        });
        let mut facts = vec![
            ("severity", self.severity.as_str().into()),
            ("findings", found.collect()),
        ];
        if !self.after.is_empty() {
            let after = self.after.iter().take(MOST_NAMED);
            let after = after.map(|name| Value::from(&**name));
            facts.push(("after", after.collect()));
        }
        facts
    }

    /// Returns the names of the detectors, for logs and reasons.
    pub(crate) fn detectors(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        let found = self.found.iter().map(|found| found.detector.as_str());
        for name in found.chain(self.after.iter().map(|name| &**name)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    }

    /// Returns what tells each finding from others about the key.
    pub(crate) fn identities(&self) -> impl Iterator<Item = String> {
        let found = self.found.iter();
        found.map(|found| format!("{} {}", found.detector, found.detail))
    }

    /// Returns what tells the alert from other alerts about the key.
    pub(crate) fn identity(&self) -> String {
        self.identities().collect::<Vec<_>>().join("; ")
    }
}
