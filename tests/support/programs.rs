//! The program `keys` on a file of its own, for tests.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "each suite uses its part"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tower_api_key::store::sqlx::{self, Connection, SqliteConnection};

/// A program of the examples, without what it must not get from whoever runs the tests.
pub fn program(name: &str) -> Command {
    let test = std::env::current_exe().unwrap(); // target/debug/deps/…
    let built = test.parent().and_then(Path::parent).unwrap();
    let program = built.join("examples").join(name);
    let is_built = program.is_file();
    assert!(
        is_built,
        "build {name} with cargo build --examples --features sqlite"
    );
    let mut command = Command::new(program);
    for name in ["KEYS_DB", "KEYS_AUDIT_KEY", "RUST_LOG", "LOGNAME"] {
        command.env_remove(name);
    }
    command.env("USER", "tester").stdin(Stdio::null());
    command
}

/// A folder that is removed in the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-api-key-program-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("keys.db")
    }

    pub fn audit_key_file(&self) -> PathBuf {
        self.0.join("keys.db.audit-key")
    }

    /// Runs `keys` on the file.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program("keys");
        command.arg("--db").arg(self.file()).args(arguments);
        command.output().unwrap()
    }

    /// Runs `keys`, which succeeds, and returns what it prints.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Runs `keys`, which fails, and returns the line that it prints.
    pub fn error(&self, arguments: &[&str], status: i32) -> String {
        failed(&self.run(arguments), status)
    }

    /// Changes the file behind the library's back.
    pub fn sql(&self, statement: &'static str) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let file = self.file();
            let mut connection = SqliteConnection::connect(file.to_str().unwrap())
                .await
                .unwrap();
            let done = sqlx::query(statement).execute(&mut connection).await;
            assert_eq!(done.unwrap().rows_affected(), 1, "{statement}");
            connection.close().await.unwrap();
        });
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The line that a program prints when it fails.
pub fn failed(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    let is_one_line = error.ends_with('\n') && error.lines().count() == 1;
    assert!(is_one_line, "{error}");
    error
}

pub fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let digits = text.replace(|digit: char| digit.is_ascii_digit(), "0");
    digits == "0000-00-00T00:00:00Z"
}

/// The names of an object's fields.
pub fn names(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

/// The texts of an object's fields.
pub fn texts<'v, const COUNT: usize>(value: &'v Value, names: [&str; COUNT]) -> [&'v str; COUNT] {
    names.map(|name| value[name].as_str().unwrap())
}
