//! The issue of keys, and the answers to requests that are repeated.

use serde_json::json;
use tower_api_key::manage::IssueError;

use crate::call::Call;
use crate::database::{Database, SHOWN_ONCE};
use crate::failure::{Failure, failure, usage};
use crate::output::{Output, aligned, time_or};
use crate::rfc3339::format as rfc3339;

impl Database {
    pub(crate) async fn issue(&self, call: &Call) -> Result<Output, Failure> {
        let mut issue = self.keys.issue(&call.subject).by(call.actor());
        if let Some(scopes) = call.scopes()? {
            issue = issue.scopes(scopes);
        }
        if let Some(plan) = call.option("plan") {
            issue = issue.plan(plan);
        }
        if let Some(name) = call.option("name") {
            issue = issue.name(name);
        }
        if let Some(environment) = call.option("environment") {
            issue = issue.environment(environment.parse().map_err(usage)?);
        }
        if let Some(life) = call.days("expires-in")? {
            issue = issue.expires_in(life);
        }
        let reissues = call.is_set("reissue");
        match call.option("idempotency-key") {
            Some(request) => issue = issue.idempotency_key(request),
            None if reissues => return Err(usage("--reissue needs --idempotency-key")),
            None => {}
        }
        if reissues {
            issue = issue.reissue();
        }
        let issued = issue.await.map_err(explain)?;
        let (key, record) = (issued.expose_secret(), issued.record());
        let json = json!({
            "key": key,
            "key_id": record.id().to_string(),
            "account": record.account(),
            "expires_at": record.expires_at().map(rfc3339),
        });
        let facts = aligned([
            ["key id".to_owned(), record.id().to_string()],
            ["account".to_owned(), record.account().to_owned()],
            ["expires".to_owned(), time_or("never", record.expires_at())],
        ]);
        let text = format!("{key}\n\n{facts}\n{SHOWN_ONCE}\n");
        Ok(Output::new(json, text))
    }
}

/// Tells what to do about a key that was not issued.
fn explain(error: IssueError) -> Failure {
    match error {
        IssueError::KeyChanged { key } => failure(format!(
            "the key {key}, which was issued for this request, has ended or was rotated: \
             use another --idempotency-key"
        )),
        IssueError::AlreadyIssued { key } => failure(format!(
            "the key {key} was already issued for this request, and cannot be shown again: \
             if it was lost, wait a minute, and add --reissue to put another key in its place"
        )),
        IssueError::OtherRequest { key } => failure(format!(
            "the key {key} was issued for another request with this --idempotency-key: \
             repeat that request with the same options, or use another --idempotency-key"
        )),
        IssueError::TooEarly { key, retry_after } => failure(format!(
            "the key {key} was issued less than a minute ago, and may just be in use: \
             try again in {} s",
            retry_after.as_secs() + 1
        )),
        error => error.into(),
    }
}
