//! The example `lifecycle` tells the truth, or it fails.
//!
//! `cargo test` builds the examples, too. With `--test lifecycle_program`, build them before:
//! `cargo build --examples --features sqlite`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn the_story_of_a_key_is_true_to_its_end_and_leaves_nothing_behind() {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/lifecycle_program-…
    let built = test.parent().and_then(Path::parent).unwrap();
    let folder = format!("tower-api-key-story-{}", std::process::id());
    let folder = std::env::temp_dir().join(folder);
    fs::create_dir(&folder).unwrap();
    let mut program = Command::new(built.join("examples").join("lifecycle"));
    program.env("TMPDIR", &folder).env_remove("KEYS_AUDIT_KEY");
    let output = program.stdin(Stdio::null()).output();
    let left = fs::read_dir(&folder).unwrap().count();
    fs::remove_dir_all(&folder).unwrap();

    let output = output.expect("build it with cargo build --examples --features sqlite");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(left, 0, "the temporary file is gone");
    let story = String::from_utf8(output.stdout).unwrap();
    let mut rest = story.as_str();
    for line in [
        "2026-03-02 09:00  An operator issues a key to acme.",
        "X-Key-Status: active",
        "2026-06-01 09:00  Dana of acme rotates the key.",
        "X-Key-Status: deprecated",
        "Deprecation: @1780304400",
        "Sunset: Wed, 01 Jul 2026 09:00:00 GMT",
        "X-RateLimit-Remaining: 0",
        "429 Too Many Requests",
        "2026-07-01 09:00  The grace is over.",
        "401 Unauthorized",
        "api_key_expired",
        "insufficient_scope",
        "201 Created",
        "api_key_revoked",
        "2 keys and 5 records are verified",
    ] {
        let (_, after) = rest
            .split_once(line)
            .unwrap_or_else(|| panic!("{line}: {story}"));
        rest = after;
    }
    let widest = story.lines().map(str::len).max();
    assert!(widest < Some(100), "{story}");
}
