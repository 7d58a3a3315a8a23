//! Endpoints of the outbox.

use super::cell::{Cell, Row, corrupt};
use super::session::{Attempts, Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::store::{
    Cursor, Disabled, Endpoint, Page, Paging, SecretName, StoreError, Target, WebhookTarget,
    fingerprint,
};

/// The columns of an endpoint, in the order in which [`endpoint`] reads them.
pub(super) const COLUMNS: [&str; 13] = [
    "id",
    "url",
    "secret_master",
    "secret_generation",
    "previous_master",
    "previous_generation",
    "previous_until",
    "account",
    "kinds",
    "version",
    "created_at",
    "disabled_at",
    "disabled_reason",
];

/// The deliveries that are deleted in one transaction.
const DELETED_AT_ONCE: u64 = 5_000;

impl<D: Driver> SqlStore<D> {
    pub(super) async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        endpoint.check().map_err(StoreError::refused)?;
        if endpoint.version == 1 {
            return self.within(self.insert_endpoint(endpoint, None)).await;
        }
        self.within(self.replace_endpoint(endpoint)).await
    }

    pub(super) async fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> Result<(), StoreError> {
        endpoint.check_new().map_err(StoreError::refused)?;
        let cap = endpoint.account.as_deref().zip(Some(most_of_account));
        self.within(self.insert_endpoint(endpoint, cap)).await
    }

    /// Inserts an endpoint, unless its account would have more than a number then.
    async fn insert_endpoint(
        &self,
        endpoint: &Endpoint,
        cap: Option<(&str, u32)>,
    ) -> Result<(), SqlError> {
        let columns = COLUMNS.join(", ");
        let insert = self.sql(&format!(
            "INSERT INTO {{endpoints}} ({columns}) VALUES {{values}} ON CONFLICT (id) DO NOTHING"
        ));
        let mut session = self.session(Access::Write).await?;
        session.run(D::DIALECT.begin).await?;
        if let Some((account, _)) = cap {
            self.lock_endpoints(&mut session, account).await?;
        }
        let row = Query::of_rows(&insert, [cells(endpoint)]);
        let is_new = session.execute(row).await? == 1;
        let refusal = if !is_new {
            Some(StoreError::already_exists())
        } else if self.exceeds(&mut session, cap).await? {
            Some(StoreError::cap_reached())
        } else {
            None
        };
        if let Some(refusal) = refusal {
            session.run("ROLLBACK").await?;
            session.finish();
            return Err(refusal.into());
        }
        self.delete_leftovers(&mut session, &endpoint.id).await?;
        session.run("COMMIT").await?;
        session.finish();
        Ok(())
    }

    /// Makes others who create an endpoint of the account wait until the end of the transaction.
    async fn lock_endpoints(
        &self,
        session: &mut D::Session,
        account: &str,
    ) -> Result<(), SqlError> {
        let lock = D::DIALECT.lock_account;
        if lock.is_empty() {
            return Ok(());
        }
        let name = format!("tower-api-key endpoints {} {account}", self.names);
        let query = Query::of_rows(lock, [vec![Cell::text(name)]]);
        session.execute(query).await?;
        Ok(())
    }

    /// Returns whether an account has more endpoints than it may have.
    async fn exceeds(
        &self,
        session: &mut D::Session,
        cap: Option<(&str, u32)>,
    ) -> Result<bool, SqlError> {
        let Some((account, most)) = cap else {
            return Ok(false);
        };
        let count = self.sql("SELECT count(*) FROM {endpoints} WHERE account = $1");
        let rows = session.fetch(Query::new(count, [Cell::text(account)]));
        let mut count = 0;
        for mut row in rows.await? {
            count = row.count("count")?;
        }
        Ok(count > u64::from(most))
    }

    /// Deletes the deliveries of an earlier endpoint with this id: its deletion may have been dropped
    /// before its end. It looks first, since mostly there are none, and the role may not delete.
    async fn delete_leftovers(&self, session: &mut D::Session, id: &str) -> Result<(), SqlError> {
        let find = self.sql("SELECT event_seq FROM {deliveries} WHERE endpoint_id = $1 LIMIT 1");
        let found = session.fetch(Query::new(find, [Cell::text(id)])).await?;
        if found.is_empty() {
            return Ok(());
        }
        let delete = self.sql("DELETE FROM {deliveries} WHERE endpoint_id = $1");
        session
            .execute(Query::new(delete, [Cell::text(id)]))
            .await?;
        Ok(())
    }

    async fn replace_endpoint(&self, endpoint: &Endpoint) -> Result<(), SqlError> {
        let numbered = COLUMNS.iter().zip(1..).skip(1); // the id
        let set: Vec<String> = numbered
            .map(|(column, number)| format!("{column} = ${number}"))
            .collect();
        let set = set.join(", ");
        // $2 is the URL, and $10 the version.
        let update = self.sql(&format!(
            "UPDATE {{endpoints}} SET {set} \
             WHERE id = $1 AND version = $10 - 1 AND (url IS NULL) = ($2 IS NULL)"
        ));
        let written = self.write_one(Query::new(update, cells(endpoint))).await?;
        if written == 1 {
            return Ok(());
        }
        let seen = self.look_up(&endpoint.id).await?;
        let is_other = |seen: &Endpoint| is_sink(seen) != is_sink(endpoint);
        if seen.as_ref().is_some_and(is_other) {
            let refused = "an endpoint remains a webhook or a sink: create another one";
            return Err(StoreError::refused(refused).into());
        }
        Err(StoreError::conflict().into())
    }

    pub(super) async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, StoreError> {
        if !Endpoint::is_id(id) {
            return Ok(None);
        }
        self.within(self.look_up(id)).await
    }

    async fn look_up(&self, id: &str) -> Result<Option<Endpoint>, SqlError> {
        let columns = COLUMNS.join(", ");
        let select = self.sql(&format!(
            "SELECT {columns} FROM {{endpoints}} WHERE id = $1"
        ));
        let rows = self.fetch(Query::new(select, [Cell::text(id)])).await?;
        let found = rows.into_iter().next();
        Ok(found.map(|mut row| endpoint(&mut row)).transpose()?)
    }

    /// Deletes an endpoint, so that nothing is added or claimed for it any more, then its
    /// deliveries, in parts. An endpoint that is gone may have some left.
    pub(super) async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        if !Endpoint::is_id(id) {
            return Ok(false);
        }
        let delete = self.sql("DELETE FROM {endpoints} WHERE id = $1");
        let delete = self.write_one(Query::new(delete, [Cell::text(id)]));
        let deleted = self.within(delete).await?;
        while self.within(self.delete_some(id)).await? == DELETED_AT_ONCE {}
        Ok(deleted == 1)
    }

    async fn delete_some(&self, id: &str) -> Result<u64, SqlError> {
        let delete = self.sql(&format!(
            "DELETE FROM {{deliveries}} WHERE endpoint_id = $1 AND event_seq IN \
             (SELECT event_seq FROM {{deliveries}} WHERE endpoint_id = $1 \
             ORDER BY event_seq LIMIT {DELETED_AT_ONCE})"
        ));
        let mut attempts = Attempts::default();
        loop {
            let query = Query::new(delete.as_str(), [Cell::text(id)]);
            let result = self.write_one(query).await;
            // Again, if a purge of events deleted the same deliveries.
            if !attempts.allow_another(&result) {
                return result;
            }
        }
    }

    pub(super) async fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<Endpoint>, StoreError> {
        if account.is_some_and(|account| account.contains('\0')) {
            return Ok(Page::new(Vec::new(), None)); // no endpoint has such an account
        }
        let query_id = fingerprint(&[Some("endpoints"), account]);
        let after = match paging.cursor() {
            None => "",
            Some(cursor) => decode(&query_id, cursor)?,
        };
        let (columns, limit) = (COLUMNS.join(", "), paging.limit() as usize);
        let condition = match account {
            None => "$2 IS NULL",
            Some(_) => "account = $2",
        };
        let select = self.sql(&format!(
            "SELECT {columns} FROM {{endpoints}} WHERE {condition} AND id > $1 \
             ORDER BY id LIMIT {}",
            limit + 1
        ));
        let parameters = [Cell::text(after), Cell::optional_text(account)];
        let rows = self.within(self.fetch(Query::new(select, parameters)));
        let rows = rows.await?;
        let has_more = rows.len() > limit;
        let rows = rows.into_iter().take(limit);
        let items: Vec<Endpoint> = rows
            .map(|mut row| endpoint(&mut row))
            .collect::<Result<_, _>>()?;
        let last = items.last().filter(|_| has_more);
        let next = last.map(|last| Cursor::new(format!("e1-{query_id}-{}", last.id)));
        Ok(Page::new(items, next))
    }
}

fn decode<'c>(list: &str, cursor: &'c Cursor) -> Result<&'c str, StoreError> {
    let id = || {
        let text = cursor.as_str().strip_prefix("e1-")?;
        let id = text.strip_prefix(list)?.strip_prefix('-')?;
        Endpoint::is_id(id).then_some(id)
    };
    id().ok_or_else(StoreError::invalid_cursor)
}

fn is_sink(endpoint: &Endpoint) -> bool {
    matches!(endpoint.target, Target::Sink)
}

fn cells(endpoint: &Endpoint) -> Vec<Cell> {
    let webhook = match &endpoint.target {
        Target::Webhook(webhook) => Some(webhook),
        Target::Sink => None,
    };
    let secret = webhook.map(|webhook| &webhook.secret);
    let (previous, until) = webhook.and_then(|it| it.previous.as_ref()).cloned().unzip();
    let master = |name: Option<&SecretName>| Cell::optional_text(name.map(|it| it.master.as_str()));
    let generation =
        |name: Option<&SecretName>| Cell::Integer(name.map(|it| i64::from(it.generation)));
    let disabled = endpoint.disabled.as_ref();
    vec![
        Cell::text(endpoint.id.as_str()),
        Cell::optional_text(webhook.map(|webhook| webhook.url.as_str())),
        master(secret),
        generation(secret),
        master(previous.as_ref()),
        generation(previous.as_ref()),
        Cell::optional_instant(until),
        Cell::optional_text(endpoint.account.as_deref()),
        Cell::text(endpoint.kinds.join(" ")),
        Cell::count(endpoint.version),
        Cell::instant(endpoint.created_at),
        Cell::optional_instant(disabled.map(|disabled| disabled.at)),
        Cell::optional_text(disabled.map(|disabled| disabled.reason.as_str())),
    ]
}

/// Reads an endpoint from its [`COLUMNS`].
pub(super) fn endpoint(row: &mut Row) -> Result<Endpoint, StoreError> {
    let (id, target) = (row.text("id")?, target(row)?);
    let account = row.optional_text("account")?;
    let kinds = row.text("kinds")?;
    let version = row.count("version")?;
    let created_at = row.instant("created_at")?;
    let disabled = row.optional_instant("disabled_at")?;
    let reason = row.optional_text("disabled_reason")?;
    let disabled = disabled.map(|at| Disabled::new(at, reason.unwrap_or_default()));
    Ok(Endpoint::new(id, target, created_at)
        .with_account(account)
        .with_kinds(kinds.split_ascii_whitespace())
        .with_version(version)
        .with_disabled(disabled))
}

fn target(row: &mut Row) -> Result<Target, StoreError> {
    let url = row.optional_text("url")?;
    let (secret, previous) = (secret(row)?, secret(row)?);
    let until = row.optional_instant("previous_until")?;
    match (url, secret) {
        (None, _) => Ok(Target::Sink),
        (Some(_), None) => Err(corrupt("secret_master")),
        (Some(url), Some(secret)) => {
            let webhook = WebhookTarget::new(url, secret).with_previous(previous.zip(until));
            Ok(Target::Webhook(webhook))
        }
    }
}

fn secret(row: &mut Row) -> Result<Option<SecretName>, StoreError> {
    let master = row.optional_text("secret_master")?;
    let generation = row.optional_integer("secret_generation")?;
    let Some((master, generation)) = master.zip(generation) else {
        return Ok(None);
    };
    let generation = u32::try_from(generation).map_err(|_| corrupt("secret_generation"))?;
    Ok(Some(SecretName::new(master, generation)))
}
