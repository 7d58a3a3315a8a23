//! Issues, lists, updates, rotates, suspends, revokes, retires and purges the keys in a file, and
//! shows their usage, from the command line. Writes rules by which secret scanners find keys, and
//! takes keys out of a text.
//!
//! `cargo run --features sqlite --example keys -- --db keys.db issue acme --scope reports:read`
//! issues a key; `--help` lists the commands. Processes that use the file, such as the example
//! `quickstart` with `KEYS_DB=keys.db`, know of each change within a second.
//!
//! The exit status is 0; or 1 after an error, or for a broken trail; or 2 for wrong usage.

#[path = "../support/audit_key.rs"]
mod audit_key;
mod call;
mod database;
mod failure;
mod issue;
mod list;
mod output;
mod redact;
#[path = "../support/rfc3339.rs"]
mod rfc3339;
mod scanner_rules;
mod usage_report;

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use call::Call;
use database::Database;
use failure::{Failure, usage};
use output::{Output, on_one_line, print};

const USAGE: &str = "\
usage: keys --db FILE COMMAND

  issue ACCOUNT [--scope S]... [--plan P] [--environment E] [--expires-in DAYS] [--name N]
        [--idempotency-key TEXT [--reissue]]
  list [--account A] [--status S] [--expiring-in DAYS | --never-expires]
       [--idle DAYS | --safe-to-remove DAYS]
  show ID
  update ID [--scope S]... [--plan P] [--expires-in DAYS] [--name N]
  rotate ID [--grace DAYS | --compromised REASON]
  suspend ID
  resume ID
  unthrottle ID
  revoke ID [--reason R]
  revoke-all [--account A] [--prefix P] [--issued-before TIME] [--reason R]
  retire-idle DAYS [--rotated-only] [--account A]
  purge --dead-for DAYS
  usage [--account A] [--environment E] [--days N] [--by-key | --by-lineage]
  trail ID
  verify-trail
  scanner-rules gitleaks | trufflehog | github | detect-secrets [--format PREFIX[=ENVIRONMENT]]...
        [--keyed]
  redact [--format PREFIX[=ENVIRONMENT]]...

options of every command:
  --db FILE      the file of the keys (default: KEYS_DB); created if it is missing
  --actor NAME   who asks for the change, for the trail (default: the system's user)
  --json         print one JSON value

An issue that is repeated with its --idempotency-key, by the same actor and with the same options,
issues no second key. If the first key was lost, --reissue revokes it and issues another one. It is
refused in the first minute, and if the first key was used.

--expiring-in lists the keys that expire within a time, and --never-expires those without an expiry.
--idle lists the keys that were not used for a time, and --safe-to-remove those of them that were
rotated. All four list live keys; --idle and --never-expires list others if --status names them.

An update needs at least one option; scopes replace those that the key has. A rotated key works on
for 30 days, unless --grace names another number; a compromised one is revoked at once. revoke-all
needs at least one of its first three options, and revokes the keys that meet all that are given. A
TIME is like 2026-01-31T23:59:59Z.

retire-idle ends the live keys that were neither used nor changed for a time, of at least a day:
they expire. With --rotated-only, it ends only those that were rotated. Each process that uses the
file must run a worker, which records uses, or keys in use look idle. purge deletes the keys that
are revoked or expired for longer than a time; their trail stays.

usage shows the requests of the last 7 days, or of as many as --days names, today included: those
that were allowed, that a limit denied, and that were refused for another reason; and the units that
were used. Days are those of UTC, and a day without usage is an empty line. There is a line for each
account and environment; with --by-key for each key; and with --by-lineage for each key with all
keys that it was rotated to, under the ID of the first. A - stands for an account, a key or an
environment that was not recorded. The bar is all requests of a line, in proportion to the line with
the most. Workers record usage every 30 seconds.

scanner-rules writes the file by which a secret scanner finds keys: the configuration of gitleaks or
TruffleHog, custom patterns of GitHub, or a plugin of detect-secrets. It needs no --db. A --format
is the prefix of keys that an application issues, such as acme_live, or acme_test=test, with the
default length and checksum; without any, the rules are for the keys that this program issues. With
--keyed, the named formats have a keyed checksum, which no scanner can check. For other lengths,
call ApiKeys::scanner_rules in the application.

redact copies standard input to standard output without the keys, tokens and secrets of webhooks in
it: sk_live_... becomes sk_live_[REDACTED]. It needs no file. Keys with another prefix than those of
this program are found if --format names it, as for scanner-rules.

A status is live, active, deprecated, not_yet_active, suspended, expired or revoked; a live key is
active or deprecated. The audit key is KEYS_AUDIT_KEY (64 hex digits), or else in FILE.audit-key.
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("keys: {}", on_one_line(&failure.message));
            ExitCode::from(failure.status)
        }
    }
}

/// Runs the program. Returns whether all is well; `false` is a broken trail.
async fn run() -> Result<bool, Failure> {
    let arguments = env::args_os().skip(1).map(OsString::into_string);
    let arguments: Result<Vec<String>, _> = arguments.collect();
    let arguments = arguments.map_err(|_| usage("an argument is not UTF-8"))?;
    if arguments.iter().any(|it| it == "--help" || it == "-h") {
        print(USAGE)?;
        return Ok(true);
    }
    let call = Call::parse(arguments)?;
    let output = match call.command.as_str() {
        "redact" => {
            redact::redact(&call)?;
            return Ok(true);
        }
        "scanner-rules" => scanner_rules::scanner_rules(&call)?,
        _ => run_on_database(&call).await?,
    };
    if call.is_json {
        print(&format!("{}\n", output.json))?;
    } else {
        print(&output.text)?;
    }
    Ok(output.is_ok)
}

async fn run_on_database(call: &Call) -> Result<Output, Failure> {
    let database = Database::open(call).await?;
    let output = database.run(call).await;
    database.store.close().await;
    output
}
