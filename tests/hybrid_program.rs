//! The example `hybrid_jwt`: a key for the application beside a token for its user.
//!
//! `cargo test` builds the examples, too. With `--test hybrid_program`, build them before:
//! `cargo build --examples`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest wait for counts to be recorded.
const PATIENCE: Duration = Duration::from_secs(10);

/// The program while it serves. It is killed in the end.
struct Service {
    process: Child,
    lines: Vec<String>,
}

impl Service {
    fn start() -> Self {
        let test = std::env::current_exe().unwrap(); // target/debug/deps/hybrid_program-…
        let built = test.parent().and_then(Path::parent).unwrap();
        let mut program = Command::new(built.join("examples").join("hybrid_jwt"));
        program.env("PORT", "0").stdin(Stdio::null());
        let started = program.stdout(Stdio::piped()).spawn();
        let mut process = started.expect("build it with cargo build --examples");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let lines = lines.take(5).map(Result::unwrap).collect();
        Self { process, lines }
    }

    /// The word that was printed after others.
    fn printed(&self, before: &str) -> &str {
        let mut lines = self.lines.iter();
        let word = lines.find_map(|line| line.strip_prefix(before));
        word.unwrap().trim()
    }

    /// The answer to a request with some of the two credentials.
    fn ask(&self, path: &str, credentials: [Option<&str>; 2]) -> String {
        let address = self.printed("listening on http://");
        let mut connection = TcpStream::connect(address).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let [key, token] = credentials;
        let key = key.map(|key| format!("x-api-key: {key}\r\n"));
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
        let headers = key.unwrap_or_default() + &token.unwrap_or_default();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}connection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    fn usage(&self) -> Value {
        let credentials = [self.printed("active"), self.printed("token")].map(Some);
        let answer = self.ask("/usage", credentials);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn an_application_and_its_user_are_proved_apart() {
    let service = Service::start();
    let [key, token] = [service.printed("active"), service.printed("token")].map(Some);
    let answer = service.ask("/", [key, token]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\"alice\" through acme\n"), "{answer}");
    for path in ["/", "/usage"] {
        for credentials in [[key, None], [None, token], [key, Some("e.y.J")]] {
            let answer = service.ask(path, credentials);
            assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        }
        let command = format!("{path} -H 'X-API-Key: KEY' -H 'Authorization: Bearer TOKEN'");
        let is_shown = |line: &String| line.contains("curl") && line.ends_with(&command);
        assert!(service.lines.iter().any(is_shown), "{:?}", service.lines);
    }
}

#[test]
fn an_application_sees_its_usage_soon() {
    let service = Service::start();
    let [key, token] = [service.printed("active"), service.printed("token")].map(Some);
    for _ in 0..3 {
        service.ask("/", [key, token]);
    }
    let allowed = || {
        let usage = service.usage();
        let days = usage["days"].as_array().unwrap().iter();
        days.filter_map(|day| day["allowed"].as_u64()).sum::<u64>()
    };
    // The first use of a key is recorded soon in any case, those after it by the setting.
    let mut before = 2;
    for _ in 0..2 {
        let begun = Instant::now();
        let recorded = loop {
            let recorded = allowed(); // these requests are usage, too
            if recorded > before {
                break recorded;
            }
            assert!(begun.elapsed() < PATIENCE, "{recorded} stay recorded");
            std::thread::sleep(Duration::from_millis(50)); // another process counts
        };
        before = recorded;
    }
    let usage = service.usage();
    assert_eq!(usage["account"], "acme");
    let day = &usage["days"][0];
    let names: Vec<_> = day.as_object().unwrap().keys().collect();
    assert_eq!(names, ["allowed", "day", "limited", "refused", "units"]);
    assert_eq!([&day["limited"], &day["refused"]], [&json!(0), &json!(0)]);
    assert!(day["units"]["requests"].as_i64() > Some(0), "{day}");
    let digits = day["day"].as_str().unwrap();
    let digits = digits.replace(|it: char| it.is_ascii_digit(), "0");
    assert_eq!(digits, "0000-00-00");
}
