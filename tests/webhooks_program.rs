//! The example `webhooks` tells the truth, or it fails.
//!
//! `cargo test` builds the examples, too. With `--test webhooks_program`, build them before:
//! `cargo build --examples --features sqlite,webhook`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;

use std::fs;

use programs::{Folder, program};

#[test]
fn a_delivery_that_fails_is_made_again_and_handled_once() {
    let folder = Folder::new();
    let mut program = program("webhooks");
    // A proxy of the environment is not used.
    let nowhere = "http://127.0.0.1:1";
    program
        .env("TMPDIR", folder.path())
        .env("http_proxy", nowhere);
    let output = program.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "the temporary folder is gone");

    let shown = String::from_utf8(output.stdout).unwrap();
    let mut rest = shown.as_str();
    for line in [
        "acme registers http://127.0.0.1:",
        "api_key.rotated arrives as ",
        "verify it: 1; handled; the answer is 500 Internal Server Error",
        "api_key.rotated arrives as ",
        "verify it: 1; known already; the answer is 204 No Content",
        "The secret is rotated.",
        "verify it: 2; handled; the answer is 204 No Content",
        "delivered, attempts: 1\n",
        "delivered, attempts: 2\n        the last failure: the endpoint answered 500\n",
    ] {
        let (_, after) = rest
            .split_once(line)
            .unwrap_or_else(|| panic!("{line}: {shown}"));
        rest = after;
    }
    assert_eq!(shown.matches("; handled;").count(), 2, "{shown}");
    for secret in ["whsec_", "sk_live_"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let widest = shown.lines().map(str::len).max();
    assert!(widest < Some(100), "{shown}");
}
