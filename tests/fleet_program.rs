//! The example `fleet`: several servers that share limits and news through a real Redis.
//!
//! `cargo test` builds the examples, too. With `--test fleet_program`, build them before:
//! `cargo build --examples --features redis,sqlite`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/redis.rs"]
mod server;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use programs::program;
use server::Redis;

#[test]
fn the_demonstration_shows_an_exact_limit_and_a_revocation_that_arrives() {
    let redis = Redis::start();
    let output = program("fleet")
        .args(["--nodes", "3", "--show"])
        .env("REDIS_URL", redis.url())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("together 1000, in "), "{shown}");
    assert_eq!(shown.matches("refuses it").count(), 3, "{shown}");
    assert!(
        output.stderr.is_empty(),
        "{:?}",
        String::from_utf8(output.stderr)
    );
}

#[test]
fn a_fleet_serves_revokes_and_tells_its_health() {
    let redis = Redis::start();
    let fleet = Fleet::start(&redis, 2);
    let [active, exact] = ["active", "exact"].map(|name| fleet.key(name).to_owned());
    let whoami = |node: usize, key: &str| fleet.ask(node, "GET", "/v1/whoami", key);
    for node in 0..2 {
        let answer = whoami(node, &active);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\"account\":\"acme\""), "{answer}");
        assert!(!answer.contains("x-ratelimit"), "{answer}");
    }
    for left in ["999", "998", "997"] {
        let answer = whoami(usize::from(left == "998"), &exact);
        assert!(
            answer.contains(&format!("x-ratelimit-remaining: {left}\r\n")),
            "{answer}"
        );
    }
    let id = whoami(0, &active);
    let (_, id) = id.split_once("\"key_id\":\"").unwrap();
    let revoke = format!("/admin/revoke/{}", &id[..32]);
    let answer = fleet.ask(1, "POST", &revoke, "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let begun = Instant::now();
    while whoami(0, &active).starts_with("HTTP/1.1 200") {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it does not arrive"
        );
    }
    assert!(whoami(0, &active).contains("api_key_revoked"));
    let unknown = fleet.ask(0, "POST", &format!("/admin/revoke/{}", "0".repeat(32)), "");
    assert!(unknown.starts_with("HTTP/1.1 422"), "{unknown}");
    let nonsense = fleet.ask(0, "POST", "/admin/revoke/me", "");
    assert!(nonsense.starts_with("HTTP/1.1 400"), "{nonsense}");
    let health = fleet.ask(0, "GET", "/admin/health", "");
    assert!(health.contains("\"worker\":\"Running\""), "{health}");
    assert!(health.contains("\"feed\":\"Running\""), "{health}");
}

/// The program while it serves.
struct Fleet {
    child: Child,
    lines: Vec<String>,
    /// Kept open: the program may print more.
    _rest: BufReader<ChildStdout>,
}

impl Fleet {
    fn start(redis: &Redis, nodes: usize) -> Self {
        let mut child = program("fleet")
            .args(["--nodes", &nodes.to_string()])
            .env("REDIS_URL", redis.url())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut rest = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        while lines.len() < 2 + nodes {
            let mut line = String::new();
            assert!(rest.read_line(&mut line).unwrap() > 0, "{lines:?}");
            lines.push(line.trim_end().to_owned());
        }
        Self {
            child,
            lines,
            _rest: rest,
        }
    }

    fn key(&self, name: &str) -> &str {
        let mut lines = self.lines.iter();
        lines
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .trim()
    }

    fn ask(&self, node: usize, method: &str, path: &str, key: &str) -> String {
        let address = self.lines[2 + node].strip_prefix("listening on http://");
        let mut stream = TcpStream::connect(address.unwrap()).unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: fleet\r\nx-api-key: {key}\r\n\
             connection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
        let file = format!("tower-api-key-fleet-{}.db", self.child.id());
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(std::env::temp_dir().join(format!("{file}{suffix}")));
        }
    }
}
