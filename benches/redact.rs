//! The redactor beside a regular expression of the same patterns, single-threaded, in GB/s.
//!
//! `cargo bench --bench redact`; `REDACT_ROUNDS` sets the rounds, 11 unless set, and `REDACT_MIB`
//! the size of each text, 1 MiB unless set. Rounds of all cases are interleaved, and the figures
//! are medians: `ratio NAME VALUE` is the time of ours over that of the other one.
//!
//! | text | is |
//! |---|---|
//! | `log` | lines of a service's log: times, module paths, fields, ids |
//! | `json` | the same as JSON lines, with URLs and a header without a credential |
//! | `prose` | words and punctuation |
//! | `base64` | one run without end, with no lead in it |
//! | `near` | leads and words before what is a character too short |
//! | `keys` | log lines that have a key or a token each |
//!
//! The writer gets the log line by line, and has no peer. The last lines are the times of twice the
//! text over the time of the text, for texts that could be quadratic: 2 is linear.

mod support;

use std::hint::black_box;
use std::io::{Write, sink};
use std::time::Instant;

use regex::bytes::Regex;
use support::random::Random;
use support::{median, setting};
use tower_api_key::redact::Redactor;

const PATTERNS: &str = r#"(?x-u)
    ( (?: ^ | [^A-Za-z0-9] ) (?: [spr]k_ (?: live | test ) _ ) ) [A-Za-z0-9]{16,}
    | ( (?: ^ | [^A-Za-z0-9] ) whsec_ ) [A-Za-z0-9+/_-]{16,} =*
    | ( (?i: api[_-]?key | authorization ) ["']? [:=] [\ \t"']* ) [A-Za-z0-9._~+/-]{16,} =*
    | ( (?i: bearer | basic | api[_-]?key ) [\ \t:="']+ ) [A-Za-z0-9._~+/-]{16,} =*
"#;

/// What is measured, over a text.
struct Case {
    name: String,
    bytes: usize,
    run: Box<dyn Fn()>,
    seconds: Vec<f64>,
}

fn main() {
    let rounds = setting("REDACT_ROUNDS", 11);
    let size = setting("REDACT_MIB", 1) << 20;
    let mut cases = Vec::new();
    for (name, text) in texts(size) {
        add_pair(&mut cases, name, text);
    }
    let (_, log) = texts(size).remove(0);
    cases.push(writer(log));
    for (name, piece) in [
        ("underscores", "_"),
        ("leads", "sk_live_"),
        ("glued_webhooks", "xwhsec_"),
        ("glued_leads", "ask_live_0123456789"),
        ("keys_in_a_run", "sk_live_0123456789abcdef_"),
        ("tokens_in_a_run", "Bearer%200123456789abcdef%20"),
        ("schemes", "Bearer "),
        ("names", "api_key="),
        ("escapes", "%20"),
        ("letters", "%41"),
        ("backslashes", "\\"),
        ("colours", "[1;2m"),
        ("dots", "."),
    ] {
        for factor in [1, 2] {
            let text = piece.repeat(factor * (size / 8) / piece.len());
            cases.push(ours(format!("{name}_{factor}"), text));
        }
    }
    for _ in 0..=rounds {
        for case in &mut cases {
            let started = Instant::now();
            (case.run)();
            case.seconds.push(started.elapsed().as_secs_f64());
        }
    }
    report(cases);
}

fn add_pair(cases: &mut Vec<Case>, name: &str, text: String) {
    let regex = Regex::new(PATTERNS).expect("a good pattern");
    let copy = text.clone();
    cases.push(ours(format!("{name}_ours"), text));
    cases.push(Case {
        name: format!("{name}_regex"),
        bytes: copy.len(),
        run: Box::new(move || {
            black_box(regex.replace_all(black_box(copy.as_bytes()), &b"$1$2$3$4[REDACTED]"[..]));
        }),
        seconds: Vec::new(),
    });
}

fn ours(name: String, text: String) -> Case {
    let redactor = Redactor::new();
    Case {
        name,
        bytes: text.len(),
        run: Box::new(move || {
            black_box(redactor.redact(black_box(&text)));
        }),
        seconds: Vec::new(),
    }
}

fn writer(text: String) -> Case {
    let redactor = Redactor::new();
    Case {
        name: "log_writer".to_owned(),
        bytes: text.len(),
        run: Box::new(move || {
            let mut writer = redactor.writer(sink());
            for line in text.split_inclusive('\n') {
                writer.write_all(line.as_bytes()).expect("a sink takes it");
            }
        }),
        seconds: Vec::new(),
    }
}

fn texts(size: usize) -> Vec<(&'static str, String)> {
    let mut random = Random::new(7);
    let mut fill = |line: &dyn Fn(&mut Random) -> String| {
        let mut text = String::with_capacity(size + 512);
        while text.len() < size {
            text += &line(&mut random);
        }
        text
    };
    vec![
        ("log", fill(&log)),
        ("json", fill(&json)),
        ("prose", fill(&prose)),
        ("base64", fill(&|random| letters(random, 76))),
        ("near", fill(&near)),
        ("keys", fill(&keys)),
    ]
}

fn log(random: &mut Random) -> String {
    let (millis, port) = (random.below(1_000), 1_024 + random.below(60_000));
    let id = hex(random);
    format!(
        "2026-11-28T14:03:45.{millis:03}Z  INFO request{{method=GET path=/v1/reports/{port}}}: \
         acme_service::reports::list: report was read account=acme key_id={id} status=200 \
         elapsed_ms={millis} peer=192.0.2.7:{port}\n"
    )
}

fn json(random: &mut Random) -> String {
    let (millis, id) = (random.below(1_000), hex(random));
    format!(
        "{{\"timestamp\":\"2026-11-28T14:03:45.{millis:03}Z\",\"level\":\"INFO\",\"target\":\
         \"acme_service::reports\",\"fields\":{{\"message\":\"report was read\",\"key_id\":\"{id}\",\
         \"url\":\"https://api.example.com/v1/reports/{millis}?page=2&sort=name\",\
         \"authorization\":\"none\"}}}}\n"
    )
}

fn prose(random: &mut Random) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "bearer",
        "of",
        "bad",
        "news",
        "went",
        "on",
        "without",
        "a",
        "key",
        "and",
        "asked",
        "for",
        "authorization,",
        "which",
        "nobody",
    ];
    let end = if random.below(12) == 0 { ".\n" } else { " " };
    format!("{}{end}", random.pick(&WORDS))
}

fn near(random: &mut Random) -> String {
    const BEGINNINGS: [&str; 6] = [
        "sk_live_",
        "pk_test_",
        "Bearer ",
        "x-api-key: ",
        "api_key=",
        "whsec_",
    ];
    format!("{}{} ", random.pick(&BEGINNINGS), letters(random, 15))
}

fn keys(random: &mut Random) -> String {
    const BEGINNINGS: [&str; 4] = [" key=sk_live_", " Bearer ", " x-api-key: ", " whsec_"];
    let line = log(random);
    format!(
        "{}{}{}\n",
        line.trim_end(),
        random.pick(&BEGINNINGS),
        letters(random, 49)
    )
}

fn hex(random: &mut Random) -> String {
    format!("{:016x}{:016x}", random.next(), random.next())
}

fn letters(random: &mut Random, count: usize) -> String {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let letters = (0..count).map(|_| char::from(*random.pick(LETTERS)));
    letters.collect()
}

fn report(cases: Vec<Case>) {
    let mut medians = Vec::new();
    for mut case in cases {
        case.seconds.remove(0); // the round that warmed up
        let seconds = median(case.seconds);
        #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
        let rate = case.bytes as f64 / seconds / 1e9;
        println!("{:<24}{rate:8.2} GB/s", case.name);
        medians.push((case.name, seconds));
    }
    let of = |name: &str| medians.iter().find(|(it, _)| it == name).map(|(_, it)| *it);
    for (name, seconds) in &medians {
        if let Some(text) = name.strip_suffix("_ours")
            && let Some(regex) = of(&format!("{text}_regex"))
        {
            println!("ratio {text}_ours/{text}_regex {:.3}", seconds / regex);
        }
        if let Some(text) = name.strip_suffix("_2")
            && let Some(half) = of(&format!("{text}_1"))
        {
            println!("ratio {text}_twice {:.2}", seconds / half);
        }
    }
}
