//! Issues, lists, suspends and revokes the keys in a file, from the command line.
//!
//! `cargo run --features sqlite --example keys -- --db keys.db issue acme --scope reports:read`
//! issues a key; `--help` lists the commands. Processes that use the file, such as the example
//! `quickstart` with `KEYS_DB=keys.db`, know of each change within a second.
//!
//! The exit status is 0; or 1 after an error, or for a broken trail; or 2 for wrong usage.

#[path = "support/audit_key.rs"]
mod audit_key;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tower_api_key::key::{FieldChange, FieldValue, KeyStatus};
use tower_api_key::manage::ChangeError;
use tower_api_key::store::{
    Actor, ActorKind, KeyQuery, KeyState, ListedKey, Paging, SqliteStore, TrailQuery, TrailRecord,
};
use tower_api_key::{ApiKeys, Environment, KeyId, KeyRecord};

const USAGE: &str = "\
usage: keys --db FILE COMMAND

  issue ACCOUNT [--scope S]... [--plan P] [--environment E] [--expires-in DAYS] [--name N]
  list [--account A] [--status S]
  show ID
  suspend ID
  resume ID
  revoke ID [--reason R]
  trail ID
  verify-trail

options of every command:
  --db FILE      the file of the keys (default: KEYS_DB); created if it is missing
  --actor NAME   who asks for the change, for the trail (default: the system's user)
  --json         print one JSON value

A status is live, active, deprecated, not_yet_active, suspended, expired or revoked; a live key is
active or deprecated. The audit key is KEYS_AUDIT_KEY (64 hex digits), or else in FILE.audit-key.
";

/// Each command, with the number of its arguments and with its options.
const COMMANDS: [(&str, usize, &[&str]); 8] = [
    ("issue", 1, ISSUE_OPTIONS),
    ("list", 0, &["account", "status"]),
    ("show", 1, &[]),
    ("suspend", 1, &[]),
    ("resume", 1, &[]),
    ("revoke", 1, &["reason"]),
    ("trail", 1, &[]),
    ("verify-trail", 0, &[]),
];
const ISSUE_OPTIONS: &[&str] = &["scope", "plan", "environment", "expires-in", "name"];
const COMMON_OPTIONS: &[&str] = &["db", "actor"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("keys: {}", on_one_line(&failure.message));
            ExitCode::from(failure.status)
        }
    }
}

/// Runs the program. Returns whether all is well; `false` is a broken trail.
async fn run() -> Result<bool, Failure> {
    let arguments = env::args_os().skip(1).map(OsString::into_string);
    let arguments: Result<Vec<String>, _> = arguments.collect();
    let arguments = arguments.map_err(|_| usage("an argument is not UTF-8"))?;
    if arguments.iter().any(|it| it == "--help" || it == "-h") {
        print(USAGE)?;
        return Ok(true);
    }
    let call = Call::parse(arguments)?;
    let database = Database::open(&call).await?;
    let output = database.run(&call).await;
    database.store.close().await;
    let output = output?;
    if call.is_json {
        print(&format!("{}\n", output.json))?;
    } else {
        print(&output.text)?;
    }
    Ok(output.is_ok)
}

/// An error: its text, and the exit status.
struct Failure {
    status: u8,
    message: String,
}

fn failure(message: impl Display) -> Failure {
    Failure {
        status: 1,
        message: message.to_string(),
    }
}

fn usage(message: impl Display) -> Failure {
    Failure {
        status: 2,
        message: format!("{message} (--help shows the usage)"),
    }
}

/// An error with all its causes.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        failure(message)
    }
}

/// The arguments of the program.
struct Call {
    command: String,
    /// The account or the ID, if the command takes one.
    subject: String,
    options: Vec<(String, String)>,
    is_json: bool,
}

impl Call {
    /// Parses the arguments. Errors do not repeat words, since one may be a key.
    fn parse(arguments: Vec<String>) -> Result<Self, Failure> {
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
            if name != "scope" && options.iter().any(|(given, _)| given == name) {
                return Err(usage(format!("--{name} is given twice")));
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

    fn options(&self, name: &str) -> impl Iterator<Item = &str> {
        let given = self.options.iter().filter(move |(it, _)| it == name);
        given.map(|(_, value)| value.as_str())
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options(name).next()
    }

    fn id(&self) -> Result<KeyId, Failure> {
        Ok(self.subject.parse()?)
    }

    /// Who asks for the change.
    fn actor(&self) -> Actor {
        let named = self.option("actor").map(str::to_owned);
        named
            .or_else(system_user)
            .map_or_else(Actor::default, Actor::user)
    }
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

/// What a command prints, in both forms.
struct Output {
    json: Value,
    text: String,
    is_ok: bool,
}

impl Output {
    fn new(json: impl Into<Value>, text: String) -> Self {
        Self {
            json: json.into(),
            text,
            is_ok: true,
        }
    }
}

struct Database {
    keys: ApiKeys,
    /// Clones share their connections. The trail is verified by the store itself.
    store: SqliteStore,
}

impl Database {
    async fn open(call: &Call) -> Result<Self, Failure> {
        let file = call.option("db").map(OsString::from);
        let file = file.or_else(|| env::var_os("KEYS_DB"));
        let file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
        let file = file.ok_or_else(|| usage("name a file with --db, or in KEYS_DB"))?;
        let store = SqliteStore::open(&file).await?;
        store.migrate().await?;
        let audit_key = audit_key::audit_key(&store, &file).await;
        let store = store.audit_key(audit_key.map_err(failure)?);
        let keys = ApiKeys::builder(store.clone()).build()?;
        Ok(Self { keys, store })
    }

    async fn run(&self, call: &Call) -> Result<Output, Failure> {
        match call.command.as_str() {
            "issue" => self.issue(call).await,
            "list" => self.list(call).await,
            "show" => self.show(call.id()?).await,
            "suspend" => {
                let suspended = self.keys.suspend(call.id()?).by(call.actor()).await?;
                Ok(self.changed(&suspended))
            }
            "resume" => {
                let resumed = self.keys.resume(call.id()?).by(call.actor()).await?;
                Ok(self.changed(&resumed))
            }
            "revoke" => {
                let mut revoke = self.keys.revoke(call.id()?).by(call.actor());
                if let Some(reason) = call.option("reason") {
                    revoke = revoke.reason(reason);
                }
                Ok(self.changed(&revoke.await?))
            }
            "trail" => self.trail(call.id()?).await,
            _ => self.verify_trail().await,
        }
    }

    async fn issue(&self, call: &Call) -> Result<Output, Failure> {
        let scopes = call.options("scope").map(str::parse);
        let scopes: Vec<_> = scopes.collect::<Result<_, _>>().map_err(usage)?;
        let mut issue = self.keys.issue(&call.subject).by(call.actor());
        issue = issue.scopes(scopes);
        if let Some(plan) = call.option("plan") {
            issue = issue.plan(plan);
        }
        if let Some(name) = call.option("name") {
            issue = issue.name(name);
        }
        if let Some(environment) = call.option("environment") {
            issue = issue.environment(environment.parse().map_err(usage)?);
        }
        if let Some(days) = call.option("expires-in") {
            let days = days.parse::<u64>();
            let days = days.map_err(|_| usage("--expires-in takes a number of days"))?;
            issue = issue.expires_in(Duration::from_secs(days.saturating_mul(86_400)));
        }
        let issued = issue.await?;
        let (key, record) = (issued.expose_secret(), issued.record());
        let json = json!({
            "key": key,
            "key_id": record.id().to_string(),
            "account": record.account(),
            "expires_at": record.expires_at().map(rfc3339),
        });
        let facts = aligned([
            ["key id".to_owned(), record.id().to_string()],
            ["account".to_owned(), record.account().to_owned()],
            ["expires".to_owned(), time_or("never", record.expires_at())],
        ]);
        let note = "This is the only time that the key is shown: the file has a hash of it.";
        Ok(Output::new(json, format!("{key}\n\n{facts}\n{note}\n")))
    }

    async fn list(&self, call: &Call) -> Result<Output, Failure> {
        let account = call.option("account").map(str::to_owned);
        let mut query = KeyQuery::new().with_account(account);
        let mut only = None;
        if let Some(status) = call.option("status") {
            let state = STATES.into_iter().find(|state| state.as_str() == status);
            if state.is_none() {
                only = Some(status.parse::<KeyStatus>().map_err(usage)?); // of those that are live
            }
            query = query.with_state(state.unwrap_or(KeyState::Live), self.keys.now());
        }
        let mut listed = self.read_list(&query).await?;
        listed.retain(|key| only.is_none_or(|only| self.status(&key.record) == only));
        let json: Value = listed.iter().map(|key| object(self.facts(key))).collect();
        let rows = listed.iter().map(|key| {
            let record = &key.record;
            [
                record.id().to_string(),
                record.account().to_owned(),
                self.status(record).to_string(),
                record.prefix().unwrap_or("-").to_owned(),
                time_or("-", record.created_at()),
                time_or("never", record.expires_at()),
                time_or("never", key.last_used_at),
                record.scopes().to_string(),
            ]
        });
        Ok(Output::new(json, with_header(LIST, rows)))
    }

    async fn read_list(&self, query: &KeyQuery) -> Result<Vec<ListedKey>, Failure> {
        let mut listed = Vec::new();
        let mut paging = Paging::first(Paging::MOST);
        loop {
            let page = self.keys.list(query, &paging).await?;
            listed.extend(page.items);
            let Some(next) = page.next else {
                return Ok(listed);
            };
            paging = paging.after(next);
        }
    }

    async fn show(&self, id: KeyId) -> Result<Output, Failure> {
        let key = self.keys.find_listed(&id).await?;
        let facts = self.facts(&key.ok_or(ChangeError::NotFound(id))?);
        let rows = facts.iter().map(|(name, value)| {
            let text = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                Value::Array(texts) => {
                    let texts: Vec<_> = texts.iter().filter_map(Value::as_str).collect();
                    texts.join(" ")
                }
                Value::Object(fields) if fields.is_empty() => String::new(),
                value => value.to_string(),
            };
            [name.replace('_', " "), text]
        });
        let rows = rows.filter(|[_, text]| !text.is_empty());
        let text = aligned(rows);
        Ok(Output::new(object(facts), text))
    }

    fn changed(&self, record: &KeyRecord) -> Output {
        let (id, status) = (record.id().to_string(), self.status(record).as_str());
        let text = format!("{id} is {status}\n");
        let json = json!({ "key_id": id, "account": record.account(), "status": status });
        Output::new(json, text)
    }

    async fn trail(&self, id: KeyId) -> Result<Output, Failure> {
        let query = TrailQuery::new().with_key(id);
        let mut records = Vec::new();
        let mut paging = Paging::first(Paging::MOST);
        loop {
            let page = self.keys.trail(&query, &paging).await?;
            records.extend(page.items);
            let Some(next) = page.next else { break };
            paging = paging.after(next);
        }
        if records.is_empty() {
            return Err(ChangeError::NotFound(id).into());
        }
        let json: Value = (1..).zip(&records).map(trail_json).collect();
        let rows = (1..).zip(&records).map(|(seq, record)| {
            let changes: Vec<String> = record.changes.iter().map(ToString::to_string).collect();
            [
                seq.to_string(),
                rfc3339(record.at),
                record.action.to_string(),
                record.origin.actor.to_string(),
                record.version.to_string(),
                record.origin.reason.clone().unwrap_or("-".to_owned()),
                changes.join("; "),
            ]
        });
        Ok(Output::new(json, with_header(TRAIL, rows)))
    }

    async fn verify_trail(&self) -> Result<Output, Failure> {
        let report = self.store.verify_trail().await?;
        if report.is_ok() {
            let text = format!("ok: {} keys, {} records\n", report.keys, report.records);
            return Ok(Output::new(json!({ "ok": true }), text));
        }
        let broken = report.broken.iter().map(|it| {
            json!({
                "key_id": it.key.to_string(),
                "version": it.version,
                "fault": it.fault.as_str(),
            })
        });
        let json = json!({ "ok": false, "broken": broken.collect::<Value>() });
        let lines = report.broken.iter().map(|it| [it.to_string()]);
        Ok(Output {
            is_ok: false,
            ..Output::new(json, aligned(lines))
        })
    }

    fn status(&self, record: &KeyRecord) -> KeyStatus {
        self.keys.lifecycle(record).status()
    }

    /// All that is known of a key, without its verifier.
    fn facts(&self, key: &ListedKey) -> Vec<(&'static str, Value)> {
        let record = &key.record;
        let time = |at: Option<SystemTime>| Value::from(at.map(rfc3339));
        let suspended = record.suspended().map(
            |it| json!({ "at": rfc3339(it.at), "until": time(it.until), "reason": it.reason }),
        );
        let throttled = record.throttled().map(|it| {
            let quota = it.quota.to_string();
            json!({ "quota": quota, "until": rfc3339(it.until), "reason": it.reason })
        });
        let revoked = record.revoked();
        let revoked = revoked.map(|it| json!({ "at": rfc3339(it.at), "reason": it.reason }));
        let successor = record.rotated_to();
        let limits = record.limits().iter();
        let limits: Value = limits.map(|(name, it)| (&**name, it.to_string())).collect();
        vec![
            ("key_id", record.id().to_string().into()),
            ("account", record.account().into()),
            ("organization", record.organization().into()),
            ("name", record.name().into()),
            ("status", self.status(record).as_str().into()),
            ("prefix", record.prefix().into()),
            (
                "environment",
                record.environment().map(Environment::as_str).into(),
            ),
            ("scopes", texts(record.scopes().iter())),
            ("plan", record.plan().into()),
            ("limits", limits),
            ("networks", record.networks().list().map(texts).into()),
            ("origins", record.origins().list().map(texts).into()),
            ("metadata", json!(record.metadata())),
            ("created_at", time(record.created_at())),
            ("not_before", time(record.not_before())),
            ("expires_at", time(record.expires_at())),
            ("first_used_at", time(key.first_used_at)),
            ("last_used_at", time(key.last_used_at)),
            ("suspended", suspended.into()),
            ("throttled", throttled.into()),
            ("revoked", revoked.into()),
            (
                "rotated_from",
                record.rotated_from().map(|id| id.to_string()).into(),
            ),
            (
                "rotated_to",
                successor.map(|it| it.successor.to_string()).into(),
            ),
            ("rotated_at", time(successor.map(|it| it.at))),
            ("version", record.version().into()),
        ]
    }
}

const LIST: [&str; 8] = [
    "KEY ID",
    "ACCOUNT",
    "STATUS",
    "PREFIX",
    "CREATED",
    "EXPIRES",
    "LAST USED",
    "SCOPES",
];
const TRAIL: [&str; 7] = [
    "SEQ", "AT", "ACTION", "ACTOR", "VERSION", "REASON", "CHANGES",
];
const STATES: [KeyState; 5] = [
    KeyState::Live,
    KeyState::NotYetActive,
    KeyState::Suspended,
    KeyState::Expired,
    KeyState::Revoked,
];

fn trail_json((seq, record): (u64, &TrailRecord)) -> Value {
    let value = |value: &FieldValue| match value {
        FieldValue::Unset => Value::Null,
        value => value.to_string().into(),
    };
    let difference = |it: &FieldChange| {
        let (before, after) = (value(&it.before), value(&it.after));
        json!({ "field": it.field, "before": before, "after": after })
    };
    let actor = &record.origin.actor;
    json!({
        "seq": seq,
        "at": rfc3339(record.at),
        "action": record.action.as_str(),
        "actor": if actor.kind == ActorKind::User { actor.id.clone() } else { actor.to_string() },
        "version": record.version,
        "reason": record.origin.reason,
        "diff": record.changes.iter().map(difference).collect::<Value>(),
    })
}

fn object(facts: Vec<(&'static str, Value)>) -> Value {
    facts.into_iter().collect()
}

fn texts<T: Display>(items: impl IntoIterator<Item = T>) -> Value {
    items.into_iter().map(|it| it.to_string()).collect()
}

fn time_or(absent: &str, at: Option<SystemTime>) -> String {
    at.map_or_else(|| absent.to_owned(), rfc3339)
}

/// Formats a time of the years 1970 to 9999, which are all that records have, in RFC 3339.
fn rfc3339(at: SystemTime) -> String {
    let date = httpdate::fmt_http_date(at); // Sun, 30 Jun 2024 23:59:59 GMT
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = months.find(&date[8..11]).unwrap_or_default() / 3 + 1;
    let (year, day, time) = (&date[12..16], &date[5..7], &date[17..25]);
    format!("{year}-{month:02}-{day}T{time}Z")
}

/// Formats rows in aligned columns. A text with a line break or another control character cannot
/// look like something else.
fn aligned<const COLUMNS: usize>(rows: impl IntoIterator<Item = [String; COLUMNS]>) -> String {
    let rows = rows
        .into_iter()
        .map(|row| row.map(|cell| on_one_line(&cell)));
    let rows: Vec<_> = rows.collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells.map(|(it, width)| format!("{it:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text += "\n";
    }
    text
}

fn with_header<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    aligned([header.map(str::to_owned)].into_iter().chain(rows))
}

fn on_one_line(text: &str) -> String {
    let shown = |it: char| if it.is_control() { ' ' } else { it };
    text.chars().map(shown).collect()
}

/// Prints to standard output. If nobody reads it, that is an error and no panic.
fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
