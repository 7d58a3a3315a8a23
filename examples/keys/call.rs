//! The arguments of the program.

use std::env;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tower_api_key::store::Actor;
use tower_api_key::{KeyId, Scope};

use crate::failure::{Failure, failure, usage};
use crate::rfc3339;

/// Each command, with the number of its arguments and with its options.
const COMMANDS: [(&str, usize, &[&str]); 17] = [
    ("issue", 1, ISSUE_OPTIONS),
    ("list", 0, LIST_OPTIONS),
    ("show", 1, &[]),
    ("update", 1, &["scope", "plan", "expires-in", "name"]),
    ("rotate", 1, &["grace", "compromised"]),
    ("suspend", 1, &[]),
    ("resume", 1, &[]),
    ("unthrottle", 1, &[]),
    ("revoke", 1, &["reason"]),
    ("revoke-all", 0, REVOKE_ALL_OPTIONS),
    ("retire-idle", 1, &["rotated-only", "account"]),
    ("purge", 0, &["dead-for"]),
    ("usage", 0, USAGE_OPTIONS),
    ("trail", 1, &[]),
    ("verify-trail", 0, &[]),
    ("scanner-rules", 1, &["format", "keyed"]),
    ("redact", 0, &["format"]),
];
const USAGE_OPTIONS: &[&str] = &["account", "environment", "days", "by-key", "by-lineage"];
const ISSUE_OPTIONS: &[&str] = &[
    "scope",
    "plan",
    "environment",
    "expires-in",
    "name",
    "idempotency-key",
    "reissue",
];
const LIST_OPTIONS: &[&str] = &[
    "account",
    "status",
    "expiring-in",
    "never-expires",
    "idle",
    "safe-to-remove",
];
const REVOKE_ALL_OPTIONS: &[&str] = &["account", "prefix", "issued-before", "reason"];
const COMMON_OPTIONS: &[&str] = &["db", "actor"];
/// The options that may be given several times.
const REPEATED: &[&str] = &["scope", "format"];
/// The options without a value.
const FLAGS: &[&str] = &[
    "reissue",
    "never-expires",
    "rotated-only",
    "by-key",
    "by-lineage",
    "keyed",
];

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// Days that no record has room for: until after the year 9999.
const MOST_DAYS: u64 = 3_000_000;

/// The arguments of the program.
pub(crate) struct Call {
    pub(crate) command: String,
    /// The account, the ID, the days or the scanner, if the command takes one.
    pub(crate) subject: String,
    options: Vec<(String, String)>,
    pub(crate) is_json: bool,
}

impl Call {
    /// Parses the arguments. Errors do not repeat words, since one may be a key.
    pub(crate) fn parse(arguments: Vec<String>) -> Result<Self, Failure> {
        let (mut words, mut options, mut is_json) = (Vec::new(), Vec::new(), false);
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix("--") else {
                words.push(argument);
                continue;
            };
            if option == "json" {
                is_json = true;
                continue;
            }
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (option, None),
            };
            let mut known = COMMANDS.iter().flat_map(|(_, _, options)| *options);
            if !known.any(|it| *it == name) && !COMMON_OPTIONS.contains(&name) {
                return Err(usage(format!("there is no option --{name}")));
            }
            if !REPEATED.contains(&name) && options.iter().any(|(given, _)| given == name) {
                return Err(usage(format!("--{name} is given twice")));
            }
            if FLAGS.contains(&name) {
                if value.is_some() {
                    return Err(usage(format!("--{name} takes no value")));
                }
                options.push((name.to_owned(), String::new()));
                continue;
            }
            let value = value.or_else(|| arguments.next().filter(|it| !it.starts_with("--")));
            let value = value.ok_or_else(|| usage(format!("--{name} needs a value")))?;
            options.push((name.to_owned(), value));
        }
        let mut words = words.into_iter();
        let command = words.next().ok_or_else(|| usage("a command is missing"))?;
        let known = COMMANDS.iter().find(|(name, ..)| *name == command);
        let (_, subjects, own) = known.ok_or_else(|| usage("there is no such command"))?;
        if words.len() != *subjects {
            let (needed, given) = (subjects, words.len());
            let counts = format!("arguments of {command}: {needed} needed, {given} given");
            return Err(usage(counts));
        }
        for (name, _) in &options {
            if !own.contains(&name.as_str()) && !COMMON_OPTIONS.contains(&name.as_str()) {
                return Err(usage(format!("{command} has no option --{name}")));
            }
        }
        Ok(Self {
            command,
            subject: words.next().unwrap_or_default(),
            options,
            is_json,
        })
    }

    pub(crate) fn options(&self, name: &str) -> impl Iterator<Item = &str> {
        let given = self.options.iter().filter(move |(it, _)| it == name);
        given.map(|(_, value)| value.as_str())
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options(name).next()
    }

    /// Returns whether an option without a value is given.
    pub(crate) fn is_set(&self, flag: &str) -> bool {
        self.option(flag).is_some()
    }

    /// The scopes that are given, if any.
    pub(crate) fn scopes(&self) -> Result<Option<Vec<Scope>>, Failure> {
        let scopes: Result<Vec<Scope>, _> = self.options("scope").map(str::parse).collect();
        Ok(Some(scopes.map_err(usage)?).filter(|scopes| !scopes.is_empty()))
    }

    /// The time that an option gives in days.
    pub(crate) fn days(&self, name: &str) -> Result<Option<Duration>, Failure> {
        let days = self.option(name);
        days.map(|days| parse_days(&format!("--{name}"), days))
            .transpose()
    }

    /// The time that the command itself takes in days.
    pub(crate) fn subject_days(&self) -> Result<Duration, Failure> {
        parse_days(&self.command, &self.subject)
    }

    /// The time that an option names.
    pub(crate) fn time(&self, name: &str) -> Result<Option<SystemTime>, Failure> {
        let Some(time) = self.option(name) else {
            return Ok(None);
        };
        let unknown = || usage(format!("--{name} takes a time like 2026-01-31T23:59:59Z"));
        rfc3339::parse(time).map(Some).ok_or_else(unknown)
    }

    pub(crate) fn id(&self) -> Result<KeyId, Failure> {
        Ok(self.subject.parse()?)
    }

    /// Who asks for the change.
    pub(crate) fn actor(&self) -> Actor {
        let named = self.option("actor").map(str::to_owned);
        named
            .or_else(system_user)
            .map_or_else(Actor::default, Actor::user)
    }
}

fn parse_days(of: &str, days: &str) -> Result<Duration, Failure> {
    let days = days.parse::<u64>();
    let days = days.map_err(|_| usage(format!("{of} takes a number of days")))?;
    if days > MOST_DAYS {
        return Err(failure(format!("{of} is given too many days")));
    }
    Ok(Duration::from_secs(days * DAY.as_secs()))
}

fn system_user() -> Option<String> {
    let from_id = || {
        let output = Command::new("id").arg("-un").output().ok()?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    let users = [env::var("USER").ok(), env::var("LOGNAME").ok()];
    let user = users.into_iter().flatten().find(|user| !user.is_empty());
    user.or_else(|| from_id().filter(|user| !user.is_empty()))
}
