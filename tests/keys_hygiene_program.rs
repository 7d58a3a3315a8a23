//! The example `keys`: requests that are repeated, and keys that are idle, unlimited or dead.
//!
//! `cargo test` builds the examples, too. With `--test keys_hygiene_program`, build them before:
//! `cargo build --examples --features sqlite`.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;

use std::fs;
use std::time::{Duration, SystemTime};

use programs::{Folder, names, program, texts};
use serde_json::{Value, json};
use tower_api_key::clock::ManualClock;
use tower_api_key::key::KeyDigest;
use tower_api_key::store::{Actor, AuditKey, KeyUsage, SqliteStore, UsageBatch, UsagePeriod};
use tower_api_key::{ApiKeys, KeyId, ManagedKeyStore};

const DAY: Duration = Duration::from_secs(86_400);

/// The keys in the file of a folder, for what happened in the past.
struct Past {
    clock: ManualClock,
    store: SqliteStore,
    keys: ApiKeys,
}

impl Past {
    async fn new(folder: &Folder, ago: Duration) -> Self {
        folder.text(&["verify-trail"]); // creates the file and its audit key
        let digits = fs::read_to_string(folder.audit_key_file()).unwrap();
        let audit_key = AuditKey::from_hex(&digits).unwrap();
        let store = SqliteStore::open(folder.file()).await.unwrap();
        let store = store.audit_key(audit_key);
        let clock = ManualClock::at(SystemTime::now() - ago);
        let keys = ApiKeys::builder(store.clone()).clock(clock.clone());
        Self {
            clock,
            store,
            keys: keys.build().unwrap(),
        }
    }

    async fn issue(&self, name: &str, life: Option<Duration>) -> KeyId {
        let issue = self.keys.issue("acme").name(name).expires_in(life);
        issue.await.unwrap().id()
    }

    async fn record_use(&self, id: KeyId, ago: Duration) {
        let at = SystemTime::now() - ago;
        let mut usage = KeyUsage::new(id, "acme", UsagePeriod::Day(1)).used_at(at);
        usage.used.as_mut().unwrap().last_address = Some("192.0.2.7".parse().unwrap());
        let node = *KeyDigest::of(&id.to_string()).id().as_bytes();
        let batch = UsageBatch::new(node, 1, [usage]).unwrap();
        self.store.record_usage(&batch).await.unwrap();
    }
}

/// The names of the keys that a list has, in alphabetical order.
fn listed(folder: &Folder, options: &[&str]) -> Vec<String> {
    let list = folder.json(&[&["list"], options].concat());
    let keys = list.as_array().unwrap().iter();
    let mut names: Vec<_> = keys
        .map(|key| key["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn a_repeated_issue_is_told_in_plain_words() {
    let folder = Folder::new();
    let issue = [
        "issue",
        "acme",
        "--name",
        "export",
        "--idempotency-key",
        "order 7",
    ];
    let issued = folder.json(&issue);
    let [id, key] = texts(&issued, ["key_id", "key"]);
    let secret = key.rsplit('_').next().unwrap();
    for (options, words) in [
        (
            &[][..],
            &["already issued", "cannot be shown again", "--reissue"][..],
        ),
        (&["--reissue"], &["less than a minute ago", "try again in "]),
        (&["--plan", "pro"], &["another request"]),
        (&["--plan", "pro", "--reissue"], &["another request"]),
    ] {
        let error = folder.error(&[&issue, options].concat(), 1);
        assert!(error.contains(id) && !error.contains(secret), "{error}");
        for words in words {
            assert!(error.contains(words), "{error}");
        }
    }
    assert_eq!(listed(&folder, &[]), ["export"]);
    // Another actor, and another account, have requests of their own.
    folder.json(&[&issue[..], &["--actor", "ops"]].concat());
    folder.json(&["issue", "globex", "--idempotency-key", "order 7"]);
    assert_eq!(folder.json(&["list"]).as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_lost_key_is_issued_again_unless_somebody_has_it() {
    let folder = Folder::new();
    let past = Past::new(&folder, Duration::from_secs(120)).await;
    let request = async |text: &str| {
        let issue = past.keys.issue("acme").by(Actor::user("tester"));
        issue.idempotency_key(text).await.unwrap().id().to_string()
    };
    let (lost, used) = (request("lost").await, request("used").await);
    let id = used.parse().unwrap();
    past.record_use(id, Duration::from_secs(100)).await;
    let issue = |text, options: &[&'static str]| {
        let words = ["issue", "acme", "--idempotency-key", text];
        [&words, options].concat()
    };

    let reissued = folder.json(&issue("lost", &["--reissue"]));
    assert_eq!(names(&reissued), ["account", "expires_at", "key", "key_id"]);
    let [id] = texts(&reissued, ["key_id"]);
    assert_ne!(id, lost);
    let replaced = folder.json(&["show", &lost]);
    assert_eq!(replaced["status"], "revoked");
    let error = folder.error(&issue("lost", &[]), 1);
    assert!(error.contains(id) && !error.contains(&lost), "{error}");
    let error = folder.error(&issue("used", &["--reissue"]), 1);
    assert!(
        error.contains(&used) && error.contains("has been used"),
        "{error}"
    );

    // One that has ended is not issued again, and the advice is another one.
    folder.text(&["revoke", id]);
    let error = folder.error(&issue("lost", &["--reissue"]), 1);
    assert!(
        error.contains(id) && error.contains("another --idempotency-key"),
        "{error}"
    );
    assert_eq!(folder.json(&["verify-trail"]), json!({ "ok": true }));
}

#[tokio::test]
async fn lists_find_what_expires_what_never_does_and_what_is_idle() {
    let folder = Folder::new();
    let past = Past::new(&folder, 60 * DAY).await;
    past.issue("unused", None).await;
    past.issue("soon", Some(65 * DAY)).await;
    past.issue("late", Some(365 * DAY)).await;
    let used = past.issue("used", None).await;
    past.record_use(used, DAY).await;
    let rotated = past.issue("rotated", None).await;
    let revoked = past.issue("revoked", None).await;
    past.keys.revoke(revoked).await.unwrap();
    past.clock.advance(20 * DAY);
    let rotate = past.keys.rotate(rotated).grace(50 * DAY).name("successor");
    let successor = rotate.await.unwrap().id();
    past.record_use(successor, DAY).await;

    for (options, expected) in [
        (&["--expiring-in", "7"][..], &["soon"][..]),
        (&["--expiring-in", "14"], &["rotated", "soon"]),
        (
            &["--expiring-in", "14", "--status", "deprecated"],
            &["rotated", "soon"],
        ),
        (&["--expiring-in", "14", "--status", "active"], &[]),
        (&["--expiring-in", "0"], &[]),
        (&["--never-expires"], &["successor", "unused", "used"]),
        (&["--never-expires", "--status", "revoked"], &["revoked"]),
        (&["--idle", "30"], &["late", "rotated", "soon", "unused"]),
        (&["--idle", "30", "--status", "revoked"], &["revoked"]),
        (&["--idle", "30", "--never-expires"], &["unused"]),
        (&["--idle", "30", "--expiring-in", "7"], &["soon"]),
        (&["--idle", "61"], &[]),
        (&["--idle", "3000000"], &[]),
        (&["--safe-to-remove", "30"], &["rotated"]),
        (
            &["--safe-to-remove", "30", "--expiring-in", "14"],
            &["rotated"],
        ),
        (&["--safe-to-remove", "61"], &[]),
        (&["--safe-to-remove", "30", "--account", "globex"], &[]),
    ] {
        assert_eq!(listed(&folder, options), expected, "{options:?}");
    }
    let all = listed(&folder, &["--expiring-in", "3000000"]);
    assert_eq!(all, ["late", "rotated", "soon"]);

    for (options, words) in [
        (&["--expiring-in", "7", "--never-expires"][..], "expiring"),
        (&["--safe-to-remove", "7", "--never-expires"], "rotated"),
        (&["--safe-to-remove", "7", "--idle", "7"], "idle"),
        (&["--safe-to-remove", "7", "--status", "revoked"], "live"),
        (&["--expiring-in", "7", "--status", "expired"], "live"),
    ] {
        let error = folder.error(&[&["list"], options].concat(), 2);
        assert!(
            error.contains(words) && error.contains("leave --"),
            "{error}"
        );
    }

    let id = used.to_string();
    let shown = folder.json(&["show", &id]);
    assert_eq!(shown["last_address"], "192.0.2.7");
    assert_eq!(
        folder.json(&["list", "--status", "revoked"])[0]["last_address"],
        Value::Null
    );
    let text = folder.text(&["show", &id]);
    assert!(text.contains("last address   192.0.2.7"), "{text}");
    let text = folder.text(&["list", "--never-expires"]);
    let column = text.find("LAST ADDRESS").unwrap();
    let cells = text.lines().skip(1).map(|line| line[column..].trim_end());
    let mut cells: Vec<_> = cells.map(|it| it.split(' ').next().unwrap()).collect();
    cells.sort_unstable();
    assert_eq!(cells, ["-", "192.0.2.7", "192.0.2.7"]);
}

#[tokio::test]
async fn idle_keys_are_retired_and_dead_ones_purged() {
    let folder = Folder::new();
    let past = Past::new(&folder, 60 * DAY).await;
    let idle = past.issue("idle", None).await.to_string();
    let used = past.issue("used", None).await;
    past.record_use(used, DAY).await;
    let rotated = past.issue("rotated", None).await;
    let rotate = past.keys.rotate(rotated).grace(90 * DAY).name("successor");
    past.record_use(rotate.await.unwrap().id(), DAY).await;
    let revoked = past.issue("revoked", None).await;
    past.clock.advance(DAY);
    past.keys.revoke(revoked).await.unwrap();
    past.issue("expired", Some(10 * DAY)).await;

    let retire = |options: &[&str]| folder.json(&[&["retire-idle"], options].concat());
    let none = json!({ "retired": 0 });
    assert_eq!(
        retire(&["30", "--rotated-only", "--account", "globex"]),
        none
    );
    let one = json!({ "retired": 1 });
    assert_eq!(retire(&["30", "--account", "acme", "--rotated-only"]), one);
    assert_eq!(retire(&["30", "--rotated-only"]), none);
    assert_eq!(retire(&["61"]), none);
    assert_eq!(folder.text(&["retire-idle", "30"]), "keys retired: 1\n");
    assert_eq!(
        listed(&folder, &["--status", "live"]),
        ["successor", "used"]
    );
    let trail = folder.json(&["trail", &idle]);
    assert_eq!(
        texts(&trail[1], ["action", "actor"]),
        ["api_key.retired", "tester"]
    );
    // It expired, and can be brought back.
    assert_eq!(folder.json(&["show", &idle])["status"], "expired");
    folder.text(&["update", &idle, "--expires-in", "9"]);
    assert_eq!(folder.json(&["show", &idle])["status"], "deprecated");
    assert_eq!(retire(&["30"]), none, "it was just changed");

    let purge = |days| folder.json(&["purge", "--dead-for", days]);
    for days in ["3000000", "60"] {
        assert_eq!(purge(days), json!({ "purged": 0 }));
    }
    assert_eq!(purge("30"), json!({ "purged": 2 }));
    assert_eq!(
        folder.text(&["purge", "--dead-for", "30"]),
        "keys purged: 0\n"
    );
    assert_eq!(
        listed(&folder, &[]),
        ["idle", "rotated", "successor", "used"]
    );
    let id = revoked.to_string();
    folder.error(&["show", &id], 1);
    let trail = folder.json(&["trail", &id]);
    let last = trail.as_array().unwrap().last().unwrap();
    assert_eq!(
        texts(last, ["action", "actor"]),
        ["api_key.purged", "tester"]
    );
    assert_eq!(folder.json(&["verify-trail"]), json!({ "ok": true }));
}

#[test]
fn errors_are_one_line_and_tell_wrong_usage_apart() {
    let folder = Folder::new();
    for arguments in [
        &["issue", "acme", "--idempotency-key", ""][..],
        &["retire-idle", "0"],
        &["retire-idle", "3000001"],
        &["list", "--idle", "18446744073709551615"],
        &["purge", "--dead-for", "3000001"],
    ] {
        folder.error(arguments, 1);
    }
    for arguments in [
        &["issue", "acme", "--reissue"][..],
        &["issue", "acme", "--idempotency-key"],
        &[
            "issue",
            "acme",
            "--idempotency-key",
            "a",
            "--reissue",
            "--reissue",
        ],
        &["issue", "acme", "--idempotency-key", "a", "--reissue=yes"],
        &["list", "--never-expires=30"],
        &["list", "--expiring-in", "soon"],
        &["list", "--idle"],
        &["list", "--safe-to-remove", "-1"],
        &["list", "--rotated-only"],
        &["retire-idle"],
        &["retire-idle", "a month"],
        &["retire-idle", "30", "30"],
        &["retire-idle", "30", "--never-expires"],
        &["purge"],
        &["purge", "30"],
        &["purge", "--dead-for", "long"],
        &["purge", "--dead-for", "30", "--account", "acme"],
    ] {
        let error = folder.error(arguments, 2);
        assert!(error.contains("--help"), "{error}");
    }
    let help = program("keys").arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for word in [
        "--idempotency-key TEXT",
        "--reissue",
        "--expiring-in DAYS",
        "--never-expires",
        "--idle DAYS",
        "--safe-to-remove DAYS",
        "retire-idle DAYS",
        "--rotated-only",
        "purge --dead-for DAYS",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
}
