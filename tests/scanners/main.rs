//! The rules for secret scanners, given to detect-secrets itself, and to the engines of the others:
//! RE2 (gitleaks, TruffleHog) and Hyperscan (GitHub).
//!
//! `tests/run.sh` installs them for Python into `target/scanners`; `SCANNERS` names another virtual
//! environment. `cargo test` builds the examples, too.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/programs.rs"]
mod programs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use programs::Folder;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tower_api_key::Environment;
use tower_api_key::key::{Alphabet, ChecksumRing, KeyFormat, ScannerRules};

/// A program of the virtual environment.
fn installed(program: &str) -> Command {
    let ours = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/scanners");
    let folder = std::env::var_os("SCANNERS").map_or_else(ours, PathBuf::from);
    let program = folder.join("bin").join(program);
    assert!(
        program.is_file(),
        "{} is missing: tests/run.sh installs it",
        program.display()
    );
    Command::new(program)
}

fn run(command: &mut Command, input: &[u8]) -> Value {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A key as detect-secrets reports it: by its SHA-1.
fn sha1(keys: &[&str]) -> Vec<String> {
    let code = "import hashlib, json, sys
json.dump([hashlib.sha1(key.encode()).hexdigest() for key in json.load(sys.stdin)], sys.stdout)";
    let keys = json!(keys).to_string();
    let hashes = run(installed("python").args(["-c", code]), keys.as_bytes());
    serde_json::from_value(hashes).unwrap()
}

/// The files of an application, in which keys are planted among what only looks like keys.
struct Planted {
    /// The file, the line and the key.
    keys: Vec<(&'static str, u64, String)>,
    files: BTreeMap<&'static str, String>,
}

impl Planted {
    fn new() -> Self {
        Self {
            keys: Vec::new(),
            files: BTreeMap::new(),
        }
    }

    fn line(&mut self, file: &'static str, line: &str) -> u64 {
        let text = self.files.entry(file).or_default();
        writeln!(text, "{line}").unwrap();
        text.lines().count() as u64
    }

    /// Adds a line in which the key stands in place of `KEY`.
    fn plant(&mut self, file: &'static str, line: &str, key: &str) {
        let line = self.line(file, &line.replace("KEY", key));
        self.keys.push((file, line, key.to_owned()));
    }

    fn decoy(&mut self, file: &'static str, line: &str, text: &str) {
        self.line(file, &line.replace("KEY", text));
    }
}

/// The program writes the plugin, and detect-secrets scans with it.
#[test]
fn detect_secrets_finds_exactly_the_keys_that_were_issued() {
    let folder = Folder::new();
    let issue = |environment: &str| {
        let issued = folder.json(&["issue", "acme", "--environment", environment]);
        issued["key"].as_str().unwrap().to_owned()
    };
    let [live, other, test, last] = ["live", "live", "test", "test"].map(issue);
    let mut planted = Planted::new();
    planted.decoy(".env", "# the key of production", "");
    planted.plant(".env", "ACME_KEY=KEY", &live);
    planted.plant(
        "config.json",
        "{\"api_key\": \"KEY\", \"retries\": 3}",
        &test,
    );
    planted.plant("config.json", "{\"env\": \"A=1\\nKEY\\nB=2\"}", &other);
    planted.plant("client.py", "client = Client('KEY', timeout=3)", &last);
    planted.plant("client.yaml", "client_id: KEY", &last);
    planted.plant("notes.md", "It worked with KEY, and not without.", &live);
    planted.plant("query.txt", "/v1/reports?key%3DKEY&page=2", &test);
    // What is cut, mistyped, made up, of another prefix, or longer.
    let typo = if live.ends_with('0') { "1" } else { "0" };
    for decoy in [
        live[..live.len() - 1].to_owned(),
        format!("{}{typo}", &live[..live.len() - 1]),
        format!("{live}0"),
        format!("x{live}"),
        live.replace("sk_live_", "sk_prod_"),
        live.replace("sk_live_", ""),
        format!("sk_live_{}", "X".repeat(49)),
        format!("sk_live_{}", "0af6".repeat(10)),
    ] {
        planted.decoy("decoys.txt", "key=KEY", &decoy);
        planted.decoy("decoys.py", "key = 'KEY'", &decoy);
    }
    let scanned = folder.path().join("scanned");
    fs::create_dir(&scanned).unwrap();
    for (name, text) in &planted.files {
        fs::write(scanned.join(name), text).unwrap();
    }
    let plugin = folder.path().join("keys_plugin.py");
    fs::write(&plugin, folder.text(&["scanner-rules", "detect-secrets"])).unwrap();

    let mut scan = installed("detect-secrets");
    scan.args(["scan", "--all-files", "-p"]).arg(&plugin);
    // As the plugin says: lines like those of client.py and client.yaml are left out otherwise.
    for filter in ["is_indirect_reference", "is_likely_id_string"] {
        let filter = format!("detect_secrets.filters.heuristic.{filter}");
        scan.args(["--disable-filter", &filter]);
    }
    let report = run(scan.arg(".").current_dir(&scanned), &[]);
    let mut found = BTreeSet::new();
    for (file, secrets) in report["results"].as_object().unwrap() {
        let ours = |it: &&Value| it["type"].as_str().unwrap().starts_with("api-key-");
        for secret in secrets.as_array().unwrap().iter().filter(ours) {
            let hash = secret["hashed_secret"].as_str().unwrap();
            let at = secret["line_number"].as_u64().unwrap();
            found.insert((file.to_owned(), at, hash.to_owned()));
        }
    }
    let keys: Vec<_> = planted
        .keys
        .iter()
        .map(|(_, _, key)| key.as_str())
        .collect();
    let places = planted.keys.iter().zip(sha1(&keys));
    let expected = places.map(|((file, line, _), hash)| ((*file).to_owned(), *line, hash));
    assert_eq!(found, expected.collect());
}

/// A format, some keys of it, and texts that are none.
#[derive(Debug)]
struct Case {
    format: KeyFormat,
    keys: Vec<String>,
    decoys: Vec<String>,
}

fn issued(prefix: &str) -> KeyFormat {
    KeyFormat::new(prefix, Environment::LIVE).unwrap()
}

fn generated(format: &KeyFormat) -> String {
    let key = format.generate().unwrap();
    key.expose_secret().to_owned()
}

fn any_issued() -> impl Strategy<Value = Case> {
    let prefix = "[A-Za-z0-9]{1,10}(_[A-Za-z0-9]{1,9}){0,2}";
    (prefix, 16..=64usize, 0..3u8).prop_map(|(prefix, bytes, checksum)| {
        let plain = issued(&prefix).secret_bytes(bytes).unwrap();
        let format = match checksum {
            0 => plain.clone(),
            1 => plain.clone().without_checksum(),
            _ => plain
                .clone()
                .keyed_checksum(&ChecksumRing::new(&[7; 32]).unwrap()),
        };
        let key = generated(&format);
        Case {
            decoys: vec![
                key[..key.len() - 1].to_owned(),
                format!("{key}0"),
                format!("x{key}"),
                key[prefix.len() + 1..].to_owned(),
            ],
            keys: vec![key, generated(&format)],
            format,
        }
    })
}

fn any_imported() -> impl Strategy<Value = Case> {
    let alphabets = [
        "0123456789abcdef",
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_",
        "]^\\[-&~|'\"",
        "$.*+?(){}#%;",
    ];
    let lead = prop_oneof!["[!-~]{3,32}", "['\"\\\\]{3,6}", "a'''\"\"\"\\\\[a-z]{0,3}"];
    let lengths = (1..40usize, 0..20usize);
    (
        lead,
        select(alphabets.to_vec()),
        lengths,
        any::<[Index; 60]>(),
    )
        .prop_map(|(lead, characters, (shortest, more), body)| {
            let character = |at: &Index| char::from(*at.get(characters.as_bytes()));
            let key = |length| {
                let body = body.iter().take(length).map(character);
                lead.chars().chain(body).collect::<String>()
            };
            let lengths = shortest..=shortest + more;
            let alphabet = Alphabet::from_static(characters);
            let format =
                KeyFormat::dangerous_guessable(&lead, alphabet, lengths, Environment::LIVE);
            Case {
                format: format.unwrap(),
                keys: vec![key(shortest), key(shortest + more)],
                decoys: vec![key(shortest - 1)],
            }
        })
}

/// 300 formats, the same in each run.
#[test]
fn every_engine_finds_the_keys_of_any_format_and_nothing_else() {
    let mut runner = TestRunner::deterministic();
    let any = prop_oneof![any_issued().boxed(), any_imported().boxed()];
    let cases: Vec<Case> = std::iter::repeat_with(|| any.new_tree(&mut runner).unwrap().current())
        .take(300)
        .collect();
    let given = cases.iter().map(|case| {
        let rules = ScannerRules::new([&case.format]);
        let gitleaks: toml::Table = rules.gitleaks().parse().unwrap();
        let in_text = |text: &String| format!("a {text} b");
        let texts: Vec<_> = case.keys.iter().chain(&case.decoys).map(in_text).collect();
        json!({
            "detect-secrets": rules.detect_secrets(),
            "gitleaks": gitleaks["rules"][0]["regex"].as_str().unwrap(),
            "trufflehog": rules.trufflehog(),
            "github": rules.github(),
            "texts": texts,
        })
    });
    let given = given.collect::<Vec<_>>();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scanners/scan.py");
    let found = run(
        installed("python").arg(script),
        json!(given).to_string().as_bytes(),
    );
    let found: Vec<Vec<BTreeMap<String, Vec<String>>>> = serde_json::from_value(found).unwrap();
    assert_eq!(found.len(), cases.len());
    for (case, found) in cases.iter().zip(found) {
        let (of_keys, of_decoys) = found.split_at(case.keys.len());
        for (key, found) in case.keys.iter().zip(of_keys) {
            assert_eq!(found.len(), 4);
            for (scanner, found) in found {
                let expected = match scanner.as_str() {
                    "github" => format!(" {key} "),
                    _ => key.clone(),
                };
                assert_eq!(found, &[expected], "{scanner}: {case:?}");
            }
        }
        for (scanner, found) in of_decoys.iter().flatten() {
            assert!(found.is_empty(), "{scanner} found {found:?}: {case:?}");
        }
    }
}
