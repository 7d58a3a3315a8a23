//! The examples `keys` and `quickstart` as programs that share a file, each in a process of its
//! own.
//!
//! `cargo test` builds the examples, too. With `--test keys_program`, build them before:
//! `cargo build --examples --features sqlite`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;
#[path = "../examples/support/rfc3339.rs"]
mod rfc3339;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use programs::{Folder, failed, is_time, names, program, texts};
use serde_json::{Value, json};
use tower_api_key::ManagedKeyStore;
use tower_api_key::key::KeyDigest;
use tower_api_key::store::{KeyUsage, SqliteStore, UsageBatch, UsagePeriod};

/// The longest wait for a process to know of a change.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running quickstart, which is killed in the end.
struct Quickstart {
    process: Child,
    /// What it printed before its address.
    keys: Vec<String>,
    address: String,
    rest: Lines<BufReader<ChildStdout>>,
}

impl Quickstart {
    fn start(file: Option<&Path>) -> Self {
        let mut command = program("quickstart");
        if let Some(file) = file {
            command.env("KEYS_DB", file);
        }
        command.env("PORT", "0").stderr(Stdio::null());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = process.stdout.take().unwrap();
        let mut started = Self {
            process,
            keys: Vec::new(),
            address: String::new(),
            rest: BufReader::new(output).lines(),
        };
        for line in started.rest.by_ref() {
            let line = line.unwrap();
            if let Some(address) = line.strip_prefix("listening on http://") {
                address.clone_into(&mut started.address);
                break;
            }
            started.keys.push(line);
        }
        assert!(!started.address.is_empty(), "it prints its address");
        started
    }

    /// The key that was printed with a name.
    fn key(&self, name: &str) -> String {
        let mut lines = self.keys.iter().map(|line| line.split_whitespace());
        let mut line = lines
            .find(|line| line.clone().next() == Some(name))
            .unwrap();
        line.nth(1).unwrap().to_owned()
    }

    /// The status of the answer to a request with a key.
    fn ask(&self, key: &str) -> u16 {
        let answer = self.answer(key);
        let status = answer.split(' ').nth(1).unwrap();
        status.parse().unwrap()
    }

    /// The whole answer to a request with a key.
    fn answer(&self, key: &str) -> String {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let address = &self.address;
        let request = format!(
            "GET /v1/whoami HTTP/1.1\r\nhost: {address}\r\nx-api-key: {key}\r\n\
             connection: close\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Stops it as Ctrl-C does.
    fn interrupt(mut self) {
        let id = self.process.id().to_string();
        let mut kill = Command::new("kill");
        assert!(kill.args(["-INT", &id]).status().unwrap().success());
        until("the service to stop", || {
            self.process.try_wait().unwrap().is_some()
        });
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until something holds, and prints for how long.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "too long a wait for {what}");
        sleep(Duration::from_millis(25)); // 300 refusals in a minute are throttled
    }
    println!("waited {:?} for {what}", start.elapsed());
}

#[test]
fn a_service_follows_what_the_program_changes_and_survives_restarts() {
    let folder = Folder::new();
    let service = Quickstart::start(Some(&folder.file()));
    assert_eq!(service.keys.len(), 8, "{:?}", service.keys);
    let [active, revoked, suspended] = ["active", "revoked", "suspended"].map(|it| service.key(it));
    assert_eq!(service.ask(&active), 200);
    assert_ne!(service.ask(&revoked), 200);
    assert_ne!(service.ask(&suspended), 200);

    let issued = folder.json(&["issue", "acme", "--scope", "reports:read"]);
    let key = issued["key"].as_str().unwrap();
    let id = issued["key_id"].as_str().unwrap();
    until("an issued key", || service.ask(key) == 200);
    folder.text(&["suspend", id]);
    until("a suspension", || service.ask(key) != 200);
    folder.text(&["resume", id]);
    until("its end", || service.ask(key) == 200);
    until("a recorded use", || {
        is_time(&folder.json(&["show", id])["last_used_at"])
    });
    folder.text(&["revoke", id, "--reason", "leaked"]);
    until("a revocation", || service.ask(key) != 200);

    drop(service); // killed
    for _ in 0..2 {
        let again = Quickstart::start(Some(&folder.file()));
        let listed = folder.json(&["list"]);
        let listed = listed.as_array().unwrap();
        assert_eq!(listed.len(), 9);
        let told = listed.iter().map(|key| {
            let told = ["key_id", "account", "status"].map(|name| key[name].as_str().unwrap());
            told.join(" ")
        });
        let lines = again.keys.iter();
        let lines = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(lines.eq(told), "{:?}", again.keys);
        assert_eq!(again.ask(&active), 200);
        assert_ne!(again.ask(&revoked), 200);
        assert_ne!(again.ask(key), 200);
        again.interrupt();
    }
    assert_eq!(folder.json(&["verify-trail"]), json!({ "ok": true }));
}

#[test]
fn a_service_follows_rotations_updates_and_a_containment() {
    let folder = Folder::new();
    let service = Quickstart::start(Some(&folder.file()));
    let others = service.key("expiring"); // of another account
    let issued = folder.json(&["issue", "acme", "--scope", "reports:read"]);
    let [old, id] = texts(&issued, ["key", "key_id"]);
    until("an issued key", || service.ask(old) == 200);
    assert!(!service.answer(old).contains("\r\ndeprecation: "));

    let rotated = folder.json(&["rotate", id, "--grace", "7"]);
    let [new, new_id] = texts(&rotated, ["key", "key_id"]);
    until("the new key", || service.ask(new) == 200);
    assert!(service.answer(new).contains("\r\nx-key-status: active\r\n"));
    until("the deprecation of the old key", || {
        let answer = service.answer(old);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        answer.contains("\r\nx-key-status: deprecated\r\n")
    });
    let answer = service.answer(old);
    let sunset = rfc3339::parse(rotated["old"]["expires_at"].as_str().unwrap());
    let sunset = httpdate::fmt_http_date(sunset.unwrap());
    let headers = ["deprecation: @".to_owned(), format!("sunset: {sunset}\r\n")];
    for header in headers {
        assert!(answer.contains(&format!("\r\n{header}")), "{answer}");
    }

    folder.json(&["update", new_id, "--scope", "reports:write"]);
    until("an update", || {
        service
            .answer(new)
            .contains(r#""scopes":["reports:write"]"#)
    });

    let replaced = folder.json(&["rotate", new_id, "--compromised", "leaked"]);
    let [last] = texts(&replaced, ["key"]);
    until("the end of a compromised key", || service.ask(new) == 401);
    until("the key in its place", || service.ask(last) == 200);
    assert_eq!(service.ask(old), 200, "its grace goes on");

    let [active, admin] = ["active", "admin"].map(|name| service.key(name));
    let contained = folder.json(&["revoke-all", "--account", "acme"]);
    let refused = [old, last, &active, &admin];
    assert_eq!(contained, json!({ "revoked": refused.len() + 2 })); // and "test" and "limited"
    until("a containment", || {
        refused.iter().all(|key| service.ask(key) == 401)
    });
    assert_eq!(service.ask(&others), 200);
    assert_eq!(folder.json(&["verify-trail"]), json!({ "ok": true }));
}

#[test]
fn without_a_file_each_start_issues_keys() {
    let [first, second] = [(); 2].map(|()| Quickstart::start(None));
    for service in [&first, &second] {
        assert_eq!(service.keys.len(), 8);
        assert_eq!(service.ask(&service.key("active")), 200);
    }
    assert_eq!(second.ask(&first.key("active")), 401);
    first.interrupt();
}

#[test]
fn json_has_the_fields_that_scripts_rely_on() {
    let folder = Folder::new();
    let arguments = [
        "issue",
        "acme",
        "--scope",
        "reports:read",
        "--scope=reports:write",
        "--plan",
        "pro",
        "--environment",
        "test",
        "--expires-in",
        "90",
        "--name",
        "nightly export",
        "--actor",
        "ops@example.com",
    ];
    let issued = folder.json(&arguments);
    assert_eq!(names(&issued), ["account", "expires_at", "key", "key_id"]);
    assert_eq!(issued["account"], "acme");
    assert!(is_time(&issued["expires_at"]));
    let key = issued["key"].as_str().unwrap();
    assert!(key.starts_with("sk_test_"), "{key}");
    let id = issued["key_id"].as_str().unwrap();
    let forever = folder.json(&["issue", "globex"]);
    assert_eq!(forever["expires_at"], Value::Null);

    let list = folder.json(&["list", "--account", "acme"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    let listed = &list[0];
    let wanted = [
        ("key_id", json!(id)),
        ("account", json!("acme")),
        ("status", json!("active")),
        ("prefix", json!("sk_test")),
        ("scopes", json!(["reports:read", "reports:write"])),
        ("expires_at", issued["expires_at"].clone()),
        ("last_used_at", Value::Null),
        ("plan", json!("pro")),
        ("name", json!("nightly export")),
        ("environment", json!("test")),
    ];
    for (name, value) in wanted {
        assert_eq!(listed.get(name), Some(&value), "{name}");
    }
    assert!(is_time(&listed["created_at"]));
    assert_eq!(folder.json(&["show", id]), *listed);

    for (command, status) in [
        ("suspend", "suspended"),
        ("resume", "active"),
        ("unthrottle", "active"),
    ] {
        let changed = folder.json(&[command, id]);
        let wanted = json!({ "key_id": id, "account": "acme", "status": status });
        assert_eq!(changed, wanted);
        let found = folder.json(&["list", "--status", status]);
        let mut found = found.as_array().unwrap().iter();
        assert!(found.any(|it| it["key_id"] == id));
    }
    let revoked = folder.json(&["revoke", id, "--reason", "leaked"]);
    assert_eq!(revoked["status"], "revoked");
    assert_eq!(folder.json(&["show", id])["revoked"]["reason"], "leaked");
    for (status, count) in [
        ("revoked", 1),
        ("live", 1),
        ("active", 1),
        ("deprecated", 0),
        ("expired", 0),
        ("suspended", 0),
        ("not_yet_active", 0),
    ] {
        let found = folder.json(&["list", "--status", status]);
        assert_eq!(found.as_array().unwrap().len(), count, "{status}");
    }

    let trail = folder.json(&["trail", id]);
    let told: Vec<_> = trail.as_array().unwrap().iter().collect();
    let fields = ["action", "actor", "at", "diff", "reason", "seq", "version"];
    let actions = ["issued", "suspended", "resumed", "revoked"];
    assert_eq!(told.len(), actions.len());
    for (number, (record, action)) in (1..).zip(told.into_iter().zip(actions)) {
        assert_eq!(names(record), fields);
        assert_eq!(record["seq"], number);
        assert_eq!(record["version"], number);
        assert_eq!(record["action"], format!("api_key.{action}"));
        assert!(is_time(&record["at"]));
        let is_issue = number == 1;
        let actor = if is_issue {
            "ops@example.com"
        } else {
            "tester"
        };
        assert_eq!(record["actor"], actor);
        let fields = record["diff"].as_array().unwrap();
        let is_change = |it| names(it) == ["after", "before", "field"];
        assert!(!fields.is_empty() && fields.iter().all(is_change));
    }
    assert_eq!(trail[0]["reason"], Value::Null);
    assert_eq!(trail[3]["reason"], "leaked");
}

#[test]
fn an_update_changes_what_is_named() {
    let folder = Folder::new();
    let issued = folder.json(&[
        "issue",
        "acme",
        "--scope",
        "reports:read",
        "--name",
        "export",
    ]);
    let [id] = texts(&issued, ["key_id"]);
    let before = folder.json(&["show", id]);
    let arguments = ["update", id, "--plan", "pro", "--expires-in", "400"];
    let updated = folder.json(&arguments);
    let wanted = json!({ "key_id": id, "account": "acme", "status": "active" });
    assert_eq!(updated, wanted);
    let after = folder.json(&["show", id]);
    assert!(is_time(&after["expires_at"]));
    let mut expected = before;
    expected["plan"] = "pro".into();
    expected["expires_at"] = after["expires_at"].clone();
    expected["version"] = 2.into();
    assert_eq!(after, expected);

    // Scopes replace those that the key has.
    let arguments = [
        "--scope", "a", "--scope", "b", "--name", "weekly", "--actor", "ops",
    ];
    folder.json(&[&["update", id][..], &arguments].concat());
    let after = folder.json(&["show", id]);
    assert_eq!(
        (&after["scopes"], &after["name"]),
        (&json!(["a", "b"]), &json!("weekly"))
    );
    // What is so already is no change.
    folder.json(&["update", id, "--name", "weekly"]);
    let trail = folder.json(&["trail", id]);
    assert_eq!(trail.as_array().unwrap().len(), 3);
    assert_eq!(
        texts(&trail[2], ["action", "actor"]),
        ["api_key.updated", "ops"]
    );
    assert_eq!(
        folder.json(&["update", id, "--expires-in", "0"])["status"],
        "expired"
    );
}

#[test]
fn a_rotation_has_the_new_key_and_the_end_of_the_old_one() {
    let folder = Folder::new();
    let issue = || folder.json(&["issue", "acme", "--scope", "reports:read"]);
    let rotate = |id: &str, options: &[&str]| {
        let rotated = folder.json(&[&["rotate", id][..], options].concat());
        assert_eq!(names(&rotated), ["key", "key_id", "old"]);
        assert_eq!(names(&rotated["old"]), ["expires_at", "key_id"]);
        assert_eq!(rotated["old"]["key_id"], id);
        let [key, new_id] = texts(&rotated, ["key", "key_id"]);
        assert!(key.starts_with("sk_live_") && new_id != id, "{rotated}");
        let [old, new] = [id, new_id].map(|id| folder.json(&["show", id]));
        assert_eq!(old["expires_at"], rotated["old"]["expires_at"]);
        assert_eq!(
            (&old["rotated_to"], &new["rotated_from"]),
            (&json!(new_id), &json!(id))
        );
        assert_eq!(
            (&old["scopes"], &new["status"]),
            (&new["scopes"], &json!("active"))
        );
        old
    };
    let days = |old: &Value| {
        let [start, end] = texts(old, ["rotated_at", "expires_at"]);
        let [start, end] = [start, end].map(|time| rfc3339::parse(time).unwrap());
        end.duration_since(start).unwrap().as_secs_f64() / 86_400.0
    };
    for (options, expected) in [
        (&[][..], 30.0),
        (&["--grace", "7"], 7.0),
        (&["--grace", "0"], 0.0),
    ] {
        let issued = issue();
        let old = rotate(issued["key_id"].as_str().unwrap(), options);
        assert!((days(&old) - expected).abs() < 0.001, "{old}");
        let status = if expected > 0.0 {
            "deprecated"
        } else {
            "expired"
        };
        assert_eq!(old["status"], status);
    }
    let issued = issue();
    let [id] = texts(&issued, ["key_id"]);
    let old = rotate(id, &["--compromised", "leaked"]);
    assert_eq!(
        (&old["status"], &old["expires_at"]),
        (&json!("revoked"), &Value::Null)
    );
    assert_eq!(old["revoked"]["reason"], "leaked");
    let trail = folder.json(&["trail", id]);
    assert_eq!(
        texts(&trail[1], ["action", "actor"]),
        ["api_key.rotated", "tester"]
    );

    // Only the last key of a chain is rotated.
    let issued = issue();
    let [id] = texts(&issued, ["key_id"]);
    let old = rotate(id, &[]);
    let error = folder.error(&["rotate", id], 1);
    assert!(
        error.contains(old["rotated_to"].as_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_containment_revokes_the_keys_that_meet_all_options() {
    let folder = Folder::new();
    let revoked = |options: &[&str]| {
        let contained = folder.json(&[&["revoke-all"][..], options].concat());
        assert_eq!(names(&contained), ["revoked"]);
        contained["revoked"].as_u64().unwrap()
    };
    for account in ["acme", "globex"] {
        for environment in ["live", "test"] {
            folder.json(&["issue", account, "--environment", environment]);
        }
    }
    let future = ["--issued-before", "2999-12-31T23:59:59.5Z"];
    assert_eq!(revoked(&["--account", "nobody"]), 0);
    assert_eq!(revoked(&["--issued-before", "2020-01-31T23:59:59Z"]), 0);
    let options = [
        "--account",
        "acme",
        "--prefix",
        "sk_test",
        "--reason",
        "leaked",
    ];
    assert_eq!(revoked(&[&options[..], &future].concat()), 1);
    assert_eq!(
        revoked(&["--account", "acme"]),
        1,
        "the other one is revoked already"
    );
    assert_eq!(revoked(&["--prefix", "sk_live"]), 1);
    let list = folder.json(&["list", "--status", "live"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        texts(&list[0], ["account", "prefix"]),
        ["globex", "sk_test"]
    );
    assert_eq!(
        folder.text(&[&["revoke-all"][..], &future].concat()),
        "keys revoked: 1\n"
    );
    assert_eq!(revoked(&future), 0);
    let leaked = folder.json(&["list", "--account", "acme"]);
    let reasons = leaked.as_array().unwrap().iter();
    let reasons: Vec<_> = reasons.map(|key| &key["revoked"]["reason"]).collect();
    assert!(reasons.contains(&&json!("leaked")), "{reasons:?}");
    assert_eq!(folder.json(&["verify-trail"]), json!({ "ok": true }));
}

#[test]
fn times_are_parsed_exactly_or_not_at_all() {
    let second = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for (text, time) in [
        ("1970-01-01T00:00:00Z", second(0)),
        ("2000-02-29T00:00:00Z", second(951_782_400)),
        ("2024-06-30T23:59:59Z", second(1_719_791_999)),
        ("9999-12-31T23:59:59Z", second(253_402_300_799)),
    ] {
        assert_eq!(rfc3339::parse(text), Some(time), "{text}");
        assert_eq!(rfc3339::format(time), text);
        for (fraction, nanoseconds) in [("0", 0), ("5", 500_000_000), ("000000001", 1)] {
            let with_fraction = text.replace('Z', &format!(".{fraction}Z"));
            let expected = time + Duration::from_nanos(nanoseconds);
            assert_eq!(
                rfc3339::parse(&with_fraction),
                Some(expected),
                "{with_fraction}"
            );
        }
    }
    for day in 0..40_000 {
        let time = second(day * 86_400 + day); // at another second of each day
        assert_eq!(rfc3339::parse(&rfc3339::format(time)), Some(time));
    }
    for no in [
        "",
        "Z",
        "2026-01-31",
        "2026-01-31T23:59:59",
        "2026-01-31 23:59:59Z",
        "2026-01-31T23:59:59z",
        "2026-01-31T23:59:59+00:00",
        "2026-01-31T23:59:59.Z",
        "2026-01-31T23:59:59.+5Z",
        "2026-01-31T23:59:59.1234567890Z",
        "2026-01-31T23:59:60Z",
        "2026-01-31T23:60:00Z",
        "2026-01-31T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-01-32T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "+026-01-31T23:59:59Z",
        "2026-1-031T23:59:59Z",
        "2026-01-31T23:59:5éZ",
        "２026-01-31T23:59:59Z",
    ] {
        assert_eq!(rfc3339::parse(no), None, "{no}");
    }
}

#[test]
fn people_read_columns_and_see_a_key_once() {
    let folder = Folder::new();
    let issued = folder.text(&["issue", "acme", "--name", "two\nlines\u{1b}[31m"]);
    let key = issued.lines().next().unwrap();
    assert!(
        key.starts_with("sk_live_") && !key.contains(' '),
        "{issued}"
    );
    assert!(issued.contains("only time"), "{issued}");
    let id = issued.split_whitespace().nth(3).unwrap();

    let rotated = folder.text(&["rotate", id, "--grace", "7"]);
    let new = rotated.lines().next().unwrap();
    assert!(new.starts_with("sk_live_") && new != key, "{rotated}");
    assert!(rotated.contains("only time"), "{rotated}");
    assert!(
        rotated.contains(&format!("{id} works until 20")),
        "{rotated}"
    );
    let replaced = rotated.split_whitespace().nth(3).unwrap();
    let replaced = folder.text(&["rotate", replaced, "--compromised", "leaked"]);
    assert!(replaced.contains(" is revoked"), "{replaced}");
    let updated = folder.text(&["update", id, "--plan", "pro"]);
    assert_eq!(updated, format!("{id} is deprecated\n"));

    let [secret, new_secret] = [key, new].map(|key| key.rsplit('_').next().unwrap());
    let mut printed = rotated.replace(new, "") + &replaced;
    for command in [
        "suspend",
        "resume",
        "unthrottle",
        "show",
        "trail",
        "revoke",
        "list",
    ] {
        let arguments: &[&str] = if command == "list" {
            &[command]
        } else {
            &[command, id]
        };
        printed += &folder.text(arguments);
        printed += &folder.json(arguments).to_string();
    }
    printed += &folder.text(&["verify-trail"]);
    assert!(
        printed.contains(id) && printed.contains("tester"),
        "{printed}"
    );
    assert!(printed.contains("ok: 3 keys, 9 records"), "{printed}");
    assert!(printed.contains("two lines [31m"), "{printed}");
    for secret in [secret, new_secret] {
        assert!(!printed.contains(secret), "a key is in what is printed");
    }
    let verifier = ["verifier: - -> (hidden)", "\"verifier\""];
    assert!(
        verifier.iter().all(|it| printed.contains(it)),
        "the trail names it, without a value"
    );

    // A key in the wrong place is not repeated.
    for arguments in [
        &["show", key][..],
        &["list", key],
        &[key],
        &["issue", "acme", key],
    ] {
        let output = folder.run(arguments);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!error.contains(secret), "{error}");
    }

    let list = folder.text(&["list"]);
    let lines: Vec<_> = list.lines().collect();
    assert_eq!(lines[0].find("ACCOUNT"), lines[1].find("acme"));
    assert_eq!(lines[0].find("STATUS"), lines[1].find("active"));
}

#[test]
fn invariant_12_an_edit_of_the_file_is_found() {
    let folder = Folder::new();
    let issued = folder.json(&["issue", "acme"]);
    folder.text(&["verify-trail"]);
    folder.sql("UPDATE api_key_keys SET account = 'globex'");
    for arguments in [&["verify-trail", "--json"][..], &["--json", "verify-trail"]] {
        let output = folder.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(names(&told), ["broken", "ok"]);
        assert_eq!(told["ok"], false);
        let wanted = json!([{ "key_id": issued["key_id"], "version": 1, "fault": "key_edited" }]);
        assert_eq!(told["broken"], wanted);
    }
    let output = folder.run(&["verify-trail"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("edited behind the trail")
    );
}

#[test]
fn the_audit_key_stays_the_same() {
    let folder = Folder::new();
    folder.text(&["issue", "acme"]);
    let file = folder.audit_key_file();
    let digits = fs::read_to_string(&file).unwrap();
    assert_eq!(digits.trim_end().len(), 64);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let with_key = |digits: &str| {
        let mut command = program("keys");
        command.env("KEYS_AUDIT_KEY", digits).arg("verify-trail");
        command.env("KEYS_DB", folder.file()).output().unwrap()
    };
    assert!(with_key(digits.trim_end()).status.success());
    assert_eq!(with_key(&"0".repeat(64)).status.code(), Some(1));
    let long = "0".repeat(65);
    for malformed in ["", "00", "+", &"x".repeat(64), &"é".repeat(32), &long] {
        assert!(failed(&with_key(malformed), 1).contains("64 hex digits"));
    }

    // Another key would break the trail, so none is made for a trail that has one.
    fs::remove_file(&file).unwrap();
    let error = folder.error(&["issue", "acme"], 1);
    assert!(error.contains("KEYS_AUDIT_KEY"), "{error}");
    // What changes nothing needs none.
    assert_eq!(folder.json(&["list"]).as_array().unwrap().len(), 1);
    folder.text(&["usage"]);
    assert!(!file.exists());
    fs::write(&file, "short").unwrap();
    assert!(folder.error(&["verify-trail"], 1).contains("64 hex digits"));
    fs::write(&file, digits).unwrap();
    folder.text(&["verify-trail"]);
    assert_eq!(folder.json(&["list"]).as_array().unwrap().len(), 1);
}

#[test]
fn programs_that_create_a_file_at_once_agree_on_its_audit_key() {
    let folder = Folder::new();
    let started = (0..6).map(|number| {
        let mut command = program("keys");
        command.arg("--db").arg(folder.file());
        let account = format!("account-{number}");
        command.args(["issue", &account]).stdout(Stdio::null());
        command.spawn().unwrap()
    });
    for mut process in started.collect::<Vec<_>>() {
        assert!(process.wait().unwrap().success());
    }
    folder.text(&["verify-trail"]);
    assert_eq!(folder.json(&["list"]).as_array().unwrap().len(), 6);
    let files = fs::read_dir(folder.path())
        .unwrap()
        .map(|it| it.unwrap().file_name());
    let drafts = files.filter(|name| name.to_str().unwrap().contains("draft"));
    assert_eq!(drafts.count(), 0);
}

#[test]
fn errors_are_one_line_and_tell_wrong_usage_apart() {
    let folder = Folder::new();
    let nobody = "0".repeat(32);
    for arguments in [
        &["show", &nobody][..],
        &["suspend", &nobody],
        &["resume", &nobody],
        &["unthrottle", &nobody],
        &["revoke", &nobody],
        &["trail", &nobody, "--json"],
        &["update", &nobody, "--plan", "pro"],
        &["update", "nobody", "--plan", "pro"],
        &["rotate", &nobody],
        &["rotate", &nobody, "--grace", "18446744073709551615"],
        &["update", &nobody, "--expires-in", "18446744073709551615"],
        &["show", "nobody"],
        &["issue", ""],
        &["issue", "acme", "--environment", "staging"],
        &["issue", "acme", "--expires-in", "0"],
        &["issue", "acme", "--expires-in", "18446744073709551615"],
        &["issue", &"a".repeat(256)],
        &["issue", "acme", "--actor", &"a".repeat(256)],
        &["usage", "--days", "18446744073709551615"],
    ] {
        folder.error(arguments, 1);
    }
    for arguments in [
        &[][..],
        &["destroy"],
        &["show"],
        &["show", &nobody, &nobody],
        &["list", "acme"],
        &["list", "--reason", "none"],
        &["list", "--status", "fine"],
        &["list", "--account"],
        &["list", "--account", "--json"],
        &["list", "--account", "a", "--account", "b"],
        &["--unknown", "list"],
        &["issue", "acme", "--expires-in", "soon"],
        &["issue", "acme", "--expires-in", "-1"],
        &["update", &nobody],
        &["update", &nobody, "--scope", "two words"],
        &["update", &nobody, "--expires-in", "soon"],
        &["update", &nobody, "--environment", "test"],
        &["rotate"],
        &["rotate", &nobody, "--grace", "a week"],
        &["rotate", &nobody, "--grace", "7", "--compromised", "leaked"],
        &["revoke-all"],
        &["revoke-all", "--reason", "leaked"],
        &["revoke-all", "acme"],
        &["revoke-all", "--issued-before", "yesterday"],
        &["revoke-all", "--issued-before", "2026-02-30T00:00:00Z"],
        &["issue", "acme", "--scope", "two words"],
        &["issue", "acme", "--environment", "UPPER"],
        &["usage", "acme"],
        &["usage", "--days", "0"],
        &["usage", "--environment", "Live!"],
        &["usage", "--days", "a week"],
        &["usage", "--days", "-7"],
        &["usage", "--by-key", "--by-lineage"],
        &["usage", "--by-key=yes"],
        &["usage", "--status", "live"],
        &["list", "--by-key"],
    ] {
        let error = folder.error(arguments, 2);
        assert!(error.contains("--help"), "{error}");
    }
    assert!(failed(&program("keys").arg("list").output().unwrap(), 2).contains("KEYS_DB"));
    let mut nowhere = program("keys");
    nowhere.args(["--db", "/nonexistent/folder/keys.db", "list"]);
    let error = failed(&nowhere.output().unwrap(), 1);
    assert!(error.contains("/nonexistent/folder/keys.db"), "{error}");
    let help = program("keys").arg("--help").output().unwrap();
    assert!(help.status.success());
    assert!(
        String::from_utf8(help.stdout)
            .unwrap()
            .starts_with("usage: keys")
    );
    assert_eq!(folder.json(&["list"]), json!([]));
}

/// Returns today, in days since 1970, of which enough is left for a test.
fn today() -> u32 {
    let seconds = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let day = Duration::from_secs(86_400).as_secs();
    while seconds() % day > day - 60 {
        sleep(Duration::from_secs(1)); // nobody can set the clock of another process
    }
    u32::try_from(seconds() / day).unwrap()
}

fn date(day: u32) -> String {
    rfc3339::format(UsagePeriod::Day(day).begins_at())[..10].to_owned()
}

/// The usage of a key on a day: the requests that were allowed, limited and refused.
fn used(key: &str, account: &str, day: u32, counts: [u64; 3]) -> KeyUsage {
    let mut usage = KeyUsage::new(key.parse().unwrap(), account, UsagePeriod::Day(day));
    let [allowed, limited, refused] = counts;
    usage.counts.allowed = allowed;
    usage.counts.limited = limited;
    usage.counts.refused = refused;
    usage
}

/// Records usage in the file, as a worker does.
fn record(folder: &Folder, usage: impl IntoIterator<Item = KeyUsage>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(folder.file()).await.unwrap();
        store.migrate().await.unwrap();
        let batch = UsageBatch::new([7; 16], 1, usage).unwrap();
        store.record_usage(&batch).await.unwrap();
        store.close().await;
    });
}

/// The id of a key that is not in the store: usage is kept after its key was deleted.
fn deleted(key: &str) -> String {
    KeyDigest::of(key).id().to_string()
}

#[test]
fn usage_is_a_table_by_day_with_bars_in_which_gaps_are_seen() {
    let (folder, today) = (Folder::new(), today());
    let id = deleted("a");
    let mut week_ago = used(&id, "acme", today - 6, [70, 9, 1]);
    week_ago.environment = Some("live".parse().unwrap());
    week_ago.counts.units = [("requests".to_owned(), 70), ("tokens".to_owned(), -3)].into();
    let mut refund = used(&id, "acme", today - 1, [0; 3]);
    refund.counts.units = [("tokens".to_owned(), -9)].into();
    record(
        &folder,
        [
            used(&id, "acme", today - 7, [1_000, 0, 0]),
            week_ago,
            used(&id, "acme", today - 4, [18, 1, 1]),
            used(&id, "globex", today - 4, [0, 0, 40]),
            refund,
            used(&id, "acme", today, [1, 0, 0]),
        ],
    );
    let [d6, d5, d4, d3, d2, d1, d0] = [6, 5, 4, 3, 2, 1, 0].map(|days| date(today - days));
    let [longest, half, quarter] = [40, 20, 10].map(|length| "#".repeat(length));
    let expected = format!(
        "\
DAY         ACCOUNT  ENVIRONMENT  ALLOWED  LIMITED  REFUSED  UNITS                  REQUESTS
{d6}  acme     live         70       9        1        requests=70 tokens=-3  {longest}
{d5}
{d4}  acme     -            18       1        1                               {quarter}
{d4}  globex   -            0        0        40                              {half}
{d3}
{d2}
{d1}  acme     -            0        0        0        tokens=-9
{d0}  acme     -            1        0        0                               #
"
    );
    assert_eq!(folder.text(&["usage"]), expected);
    assert_eq!(folder.text(&["usage", "--days", "7"]), expected);

    let of_two_days = folder.text(&["usage", "--days", "2", "--account", "acme"]);
    assert_eq!(of_two_days.lines().count(), 3, "{of_two_days}");
    assert!(
        of_two_days.trim_end().ends_with(&longest),
        "1 request is the most now: {of_two_days}"
    );
    let with_more = folder.text(&["usage", "--days", "8"]);
    assert_eq!(with_more.lines().count(), expected.lines().count() + 1);
    let of_another = folder.text(&["usage", "--account", "globex"]);
    assert!(!of_another.contains("acme"), "{of_another}");
    assert_eq!(of_another.lines().count(), 1 + 7, "{of_another}");
    let live = folder.text(&["usage", "--environment", "live"]);
    assert_eq!(live.lines().count(), 1 + 7, "a bar for each day: {live}");
    assert!(
        live.contains("tokens=-3") && !live.contains("globex"),
        "{live}"
    );
    let forever = folder.text(&["usage", "--days", "3000000"]);
    assert!(forever.contains("\n1970-01-01\n"), "it ends there");
}

#[test]
fn usage_as_json_has_the_fields_that_scripts_rely_on() {
    let (folder, today) = (Folder::new(), today());
    let id = deleted("a");
    let mut usage = used(&id, "acme", today - 2, [3, 2, 1]);
    usage.environment = Some("test".parse().unwrap());
    usage.counts.units = [("tokens".to_owned(), -3)].into();
    record(&folder, [used(&id, "acme", today, [1, 0, 0]), usage]);
    let by_account = json!([
        {
            "day": date(today - 2), "account": "acme", "key_id": null, "environment": "test",
            "allowed": 3, "limited": 2, "refused": 1, "units": { "tokens": -3 },
        },
        {
            "day": date(today), "account": "acme", "key_id": null, "environment": null,
            "allowed": 1, "limited": 0, "refused": 0, "units": {},
        },
    ]);
    assert_eq!(folder.json(&["usage"]), by_account);
    for detail in ["--by-key", "--by-lineage"] {
        let mut by_key = by_account.clone();
        for row in by_key.as_array_mut().unwrap() {
            row["key_id"] = json!(id);
        }
        assert_eq!(folder.json(&["usage", detail]), by_key, "{detail}");
    }
}

#[test]
fn usage_of_a_key_goes_on_under_its_lineage_when_it_is_rotated() {
    let (folder, today) = (Folder::new(), today());
    let issued = folder.json(&["issue", "acme"]);
    let [first] = texts(&issued, ["key_id"]);
    let rotated = folder.json(&["rotate", first]);
    let [second] = texts(&rotated, ["key_id"]);
    let mut of_second = used(second, "acme", today, [5, 0, 0]);
    of_second.lineage = Some(first.parse().unwrap());
    record(&folder, [used(first, "acme", today, [2, 0, 0]), of_second]);

    let told = |detail: &str| {
        let rows = folder.json(&["usage", "--days", "1", detail]);
        let rows = rows.as_array().unwrap().iter().map(|row| {
            let [id] = texts(row, ["key_id"]);
            (id.to_owned(), row["allowed"].as_u64().unwrap())
        });
        rows.collect::<Vec<_>>()
    };
    assert_eq!(told("--by-lineage"), [(first.to_owned(), 7)]);
    let mut by_key = [(first.to_owned(), 2), (second.to_owned(), 5)];
    by_key.sort();
    assert_eq!(told("--by-key"), by_key);
    let table = folder.text(&["usage", "--by-key"]);
    assert!(table.lines().next().unwrap().contains("KEY ID"), "{table}");
    assert!(table.contains(first) && table.contains(second), "{table}");
    let table = folder.text(&["usage", "--by-lineage"]);
    assert!(table.contains(first) && !table.contains(second), "{table}");
}

#[test]
fn usage_without_a_key_or_an_account_has_dashes() {
    let (folder, today) = (Folder::new(), today());
    let id = deleted("a");
    let mut of_account = used(&id, "acme", today, [2, 0, 0]);
    (of_account.key, of_account.lineage) = (None, None);
    let mut of_nobody = of_account.clone();
    of_nobody.account = None;
    of_nobody.counts.allowed = 4;
    record(&folder, [of_account, of_nobody]);

    let table = folder.text(&["usage", "--by-key", "--days", "1"]);
    let cells = table.lines().skip(1).map(|line| {
        let cells: Vec<_> = line.split_whitespace().collect();
        cells[1..5].join(" ")
    });
    let mut cells: Vec<_> = cells.collect();
    cells.sort();
    assert_eq!(cells, ["- - - 4", "acme - - 2"]);
    let rows = folder.json(&["usage", "--by-key"]);
    let rows = rows.as_array().unwrap();
    let nobody = rows.iter().find(|row| row["allowed"] == 4).unwrap();
    assert_eq!([&nobody["account"], &nobody["key_id"]], [&Value::Null; 2]);
    let of_account = folder.json(&["usage", "--account", "acme"]);
    assert_eq!(of_account.as_array().unwrap().len(), 1);
}

#[test]
fn usage_of_odd_names_cannot_control_a_terminal() {
    let (folder, today) = (Folder::new(), today());
    let account = "two\nlines\u{1b}[31m";
    let mut usage = used(&deleted("a"), account, today, [1, 0, 0]);
    usage.counts.units = [("a\rb\u{9b}c".to_owned(), 1)].into();
    record(&folder, [usage]);
    for detail in ["--by-key", "--by-lineage", "--days=7"] {
        let table = folder.text(&["usage", detail, "--account", account]);
        let mut shown = table.chars().filter(|it| *it != '\n');
        assert!(!shown.any(char::is_control), "{table:?}");
        assert_eq!(table.lines().count(), 1 + 7, "{table}");
        assert!(table.contains("two lines [31m"), "{table}");
        assert!(table.contains("a b c=1"), "{table}");
    }
    let rows = folder.json(&["usage", "--account", account]);
    assert_eq!(rows[0]["account"], account);
}

#[test]
fn usage_of_an_empty_file_is_days_without_any() {
    let (folder, today) = (Folder::new(), today());
    assert_eq!(folder.json(&["usage"]), json!([]));
    let table = folder.text(&["usage", "--days", "3"]);
    let lines: Vec<_> = table.lines().skip(1).collect();
    assert_eq!(lines, [2, 1, 0].map(|days| date(today - days)));
    let of_nobody = folder.json(&["usage", "--account", "nobody"]);
    assert_eq!(of_nobody, json!([]));
}
