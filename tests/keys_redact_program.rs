//! `keys redact` as a process: from standard input to standard output.
//!
//! `cargo test` builds the examples, too. With `--test keys_redact_program`, build them before:
//! `cargo build --examples --features sqlite`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;

use std::io::{Read, Write};
use std::process::{Child, Output, Stdio};
use std::thread;

use programs::{failed, program};
use tower_api_key::Environment;
use tower_api_key::key::KeyFormat;

fn start() -> Child {
    start_with(&[])
}

fn start_with(arguments: &[&str]) -> Child {
    let mut command = program("keys");
    command.arg("redact").args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Runs it on a text.
fn redacted(text: &[u8]) -> Output {
    let mut process = start();
    let mut input = process.stdin.take().unwrap();
    let text = text.to_owned();
    let writing = thread::spawn(move || input.write_all(&text).unwrap());
    let output = process.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

fn key() -> String {
    let format = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    format.generate().unwrap().expose_secret().to_owned()
}

#[test]
fn keys_are_taken_out_and_all_other_bytes_are_copied() {
    let clean: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let output = redacted(&[&clean, key().as_bytes(), &clean, b" sk_live_01"].concat());
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let expected = [&clean, &b"sk_live_[REDACTED]"[..], &clean, b" sk_live_01"].concat();
    assert!(output.stdout == expected, "{} bytes", output.stdout.len());
    assert!(redacted(b"").stdout.is_empty());
}

/// A line comes out before the next one goes in.
#[test]
fn each_line_is_passed_on_at_once() {
    let mut process = start();
    let mut input = process.stdin.take().unwrap();
    let mut output = process.stdout.take().unwrap();
    for number in 0..3 {
        writeln!(input, "{number} {}", key()).unwrap();
        let mut line = [0; b"0 sk_live_[REDACTED]\n".len()];
        output.read_exact(&mut line).unwrap();
        assert_eq!(line, format!("{number} sk_live_[REDACTED]\n").as_bytes());
    }
    drop(input);
    assert!(process.wait().unwrap().success());
}

#[test]
fn it_ends_without_a_word_when_nobody_reads() {
    let mut process = start();
    drop(process.stdout.take().unwrap());
    let mut input = process.stdin.take().unwrap();
    // The pipe breaks at some time; until then, it may take some lines.
    while input.write_all(b"a line that nobody reads\n").is_ok() {}
    let output = process.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn the_formats_of_an_application_can_be_named() {
    let format = |prefix| KeyFormat::new(prefix, Environment::LIVE).unwrap();
    let [first, second] =
        ["acme_live", "acme_test"].map(|prefix| format(prefix).generate().unwrap());
    let text = format!("a {} b {}\n", first.expose_secret(), second.expose_secret());
    let run = |formats: &[&str]| {
        let mut process = start_with(formats);
        let mut input = process.stdin.take().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run(&[]), text, "they are unknown");
    let both = run(&["--format", "acme_live", "--format=acme_test=test"]);
    assert_eq!(both, "a acme_live_[REDACTED] b acme_test_[REDACTED]\n");
    let key = key();
    let wrong = program("keys").args(["redact", "--format", &key]).output();
    let error = failed(&wrong.unwrap(), 2);
    let secret = &key["sk_live_".len()..];
    assert!(
        error.contains("a prefix of --format") && !error.contains(secret),
        "{error}"
    );
}

#[test]
fn it_takes_no_arguments_and_opens_no_file() {
    let mut command = program("keys");
    let output = command
        .args(["redact", "--db", "/nowhere/keys.db"])
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let output = program("keys").args(["redact", &key()]).output().unwrap();
    let error = failed(&output, 2);
    assert!(!error.contains("sk_live_"), "{error}");
}
