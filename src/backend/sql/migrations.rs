//! The migrator: numbered migrations, in a table of its own.
//!
//! All missing migrations are carried out in one transaction, under a lock. So of ten processes
//! that migrate at once, one does it and nine find it done.

use super::cell::Cell;
use super::dialect::Dialect;
use super::names::Names;
use super::session::{Driver, Query, Session, SqlError};
use crate::store::StoreError;

/// A migration of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// The number, from 1.
    pub number: u32,
    /// The name.
    pub name: &'static str,
    /// `true` if older versions of this library cannot work with the tables afterwards.
    pub is_breaking: bool,
    /// The statements, with the names of the store's tables.
    pub sql: String,
}

/// A migration before its names are filled in.
struct Template {
    name: &'static str,
    is_breaking: bool,
    sql: &'static str,
}

const TEMPLATES: [Template; 1] = [Template {
    name: "keys",
    is_breaking: true,
    sql: include_str!("schema/1_keys.sql"),
}];

const TABLE: &str = "CREATE TABLE IF NOT EXISTS {migrations} (
  number {integer} NOT NULL PRIMARY KEY,
  name {text} NOT NULL,
  is_breaking {integer} NOT NULL,
  at {integer} NOT NULL
){strict};";

/// Returns all migrations, for those who carry them out themselves.
///
/// The first one begins with the table of migrations, and each ends with its own row in it.
pub(super) fn migrations(names: &Names, dialect: &Dialect) -> Vec<Migration> {
    let numbered = TEMPLATES.iter().zip(1..);
    let migrations = numbered.map(|(template, number)| {
        let Template {
            name,
            is_breaking,
            sql,
        } = template;
        let table = if number == 1 { TABLE } else { "" };
        let breaking = u8::from(*is_breaking);
        let sql = format!(
            "{table}\n{sql}\nINSERT INTO {{migrations}} (number, name, is_breaking, at) \
             VALUES ({number}, '{name}', {breaking}, 0);\n"
        );
        let schema = names.schema();
        let schema = if number == 1 && dialect.has_schemas {
            format!("CREATE SCHEMA IF NOT EXISTS \"{schema}\";\n")
        } else {
            String::new()
        };
        Migration {
            number,
            name,
            is_breaking: *is_breaking,
            sql: format!("{schema}{}", names.fill(sql.trim_start(), dialect)),
        }
    });
    migrations.collect()
}

/// Carries out the missing migrations in a transaction that has begun. `at` is in microseconds.
pub(super) async fn migrate<D: Driver>(
    session: &mut D::Session,
    names: &Names,
    at: i64,
) -> Result<(), SqlError> {
    session.run(&lock(names, &D::DIALECT)).await?;
    create_schema::<D>(session, names).await?;
    if !has_table::<D>(session, names).await? {
        session.run(&names.fill(TABLE, &D::DIALECT)).await?;
    }
    let done = current(session, names).await?;
    for (template, number) in TEMPLATES.iter().zip(1..) {
        if number <= done.number {
            continue;
        }
        session.run(&names.fill(template.sql, &D::DIALECT)).await?;
        let row = Query::new(
            names.fill(
                "INSERT INTO {migrations} (number, name, is_breaking, at) VALUES ($1, $2, $3, $4)",
                &D::DIALECT,
            ),
            [
                Cell::integer(number),
                Cell::text(template.name),
                Cell::integer(i64::from(template.is_breaking)),
                Cell::integer(at),
            ],
        );
        session.execute(row).await?;
    }
    adapt::<D>(session, names).await
}

/// Adapts tables that were restored from another server: the transactions of their rows mean
/// nothing here.
async fn adapt<D: Driver>(session: &mut D::Session, names: &Names) -> Result<(), SqlError> {
    let Servers { ours, theirs } = servers::<D>(session, names).await?;
    if theirs == Some(ours) {
        return Ok(());
    }
    let adapted = "UPDATE {trail} SET xid = DEFAULT; UPDATE {events} SET xid = DEFAULT; \
                   DELETE FROM {marks} WHERE name <> 'announced'; {mark_server}";
    session.run(&names.fill(adapted, &D::DIALECT)).await
}

/// The identifiers of a server, and of that which the tables were made in.
struct Servers {
    ours: i64,
    theirs: Option<i64>,
}

async fn servers<D: Driver>(session: &mut D::Session, names: &Names) -> Result<Servers, SqlError> {
    let mut servers = Servers {
        ours: 0,
        theirs: Some(0),
    };
    if D::DIALECT.has_snapshots() {
        let query = "SELECT system_identifier, \
                     (SELECT number FROM {marks} WHERE name = 'server') FROM pg_control_system()";
        let query = Query::new(names.fill(query, &D::DIALECT), []);
        if let Some(mut row) = session.fetch(query).await?.into_iter().next() {
            servers.ours = row.integer("system_identifier")?;
            servers.theirs = row.optional_integer("number")?;
        }
    }
    Ok(servers)
}

/// Returns whether there is a table of migrations. In `PostgreSQL`, `CREATE TABLE IF NOT EXISTS` is
/// refused to a role that may not create tables, even if the table exists.
async fn has_table<D: Driver>(session: &mut D::Session, names: &Names) -> Result<bool, SqlError> {
    if !D::DIALECT.has_schemas {
        return Ok(false);
    }
    let find = "SELECT CAST(CAST(to_regclass($1) AS oid) AS bigint)";
    let query = Query::new(find, [Cell::text(names.table("migrations"))]);
    let found = session.fetch(query).await?.into_iter().next();
    let found = found.map(|mut row| row.optional_integer("to_regclass"));
    Ok(found.transpose()?.flatten().is_some())
}

/// Checks that the tables are those of this version of the library, or newer ones that it can work
/// with. Returns the identifier of the server.
pub(super) async fn check<D: Driver>(
    session: &mut D::Session,
    names: &Names,
) -> Result<i64, SqlError> {
    let ours = i64::try_from(TEMPLATES.len()).unwrap_or(i64::MAX);
    let theirs = current(session, names).await?;
    if theirs.number < ours {
        let error = format!(
            "the tables are of version {}, and this program needs {ours}: call migrate() first",
            theirs.number
        );
        return Err(StoreError::refused(error).into());
    }
    if theirs.breaking > ours {
        let error = format!(
            "the tables are of version {}, and this program knows {ours} only: use a newer \
             tower-api-key",
            theirs.breaking
        );
        return Err(StoreError::refused(error).into());
    }
    let Servers { ours, theirs } = servers::<D>(session, names).await?;
    if theirs != Some(ours) {
        let error = "the tables were restored from another server: call migrate() to adapt them";
        return Err(StoreError::refused(error).into());
    }
    Ok(ours)
}

/// The migrations that were carried out.
struct Current {
    number: i64,
    /// The last one that older versions cannot work with.
    breaking: i64,
}

async fn current<S: Session>(session: &mut S, names: &Names) -> Result<Current, SqlError> {
    let table = names.table("migrations");
    let query = format!(
        "SELECT COALESCE(max(number), 0), \
         COALESCE(max(CASE WHEN is_breaking <> 0 THEN number END), 0) FROM {table}"
    );
    let rows = session.fetch(Query::new(query, [])).await?;
    let Some(mut row) = rows.into_iter().next() else {
        return Ok(Current {
            number: 0,
            breaking: 0,
        });
    };
    Ok(Current {
        number: row.integer("number")?,
        breaking: row.integer("number")?,
    })
}

fn lock(names: &Names, dialect: &Dialect) -> String {
    dialect
        .lock_migrations
        .replace("{names}", &names.to_string())
}

/// Creates the schema if it is missing. `CREATE SCHEMA IF NOT EXISTS` by itself is refused to a
/// role that may not create schemas, even if the schema exists.
async fn create_schema<D: Driver>(session: &mut D::Session, names: &Names) -> Result<(), SqlError> {
    if !D::DIALECT.has_schemas {
        return Ok(());
    }
    let schema = names.schema();
    let find = "SELECT CAST(count(*) AS bigint) FROM pg_namespace WHERE nspname = $1";
    let found = session
        .fetch(Query::new(find, [Cell::text(schema)]))
        .await?;
    let found = found.into_iter().next().map(|mut row| row.integer("count"));
    if found.transpose()? == Some(0) {
        session.run(&format!("CREATE SCHEMA \"{schema}\"")).await?;
    }
    Ok(())
}
