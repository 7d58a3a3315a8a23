//! The names of tables.

use std::fmt;

use super::dialect::Dialect;

/// The tables of a store, by schema and prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// The schema; empty for that of the connection.
    schema: String,
    prefix: String,
}

/// An error for a schema or a prefix of tables that is not a plain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no {what}: use 1 to {longest} lower-case letters, digits and '_', with no digit first"
)]
pub struct TableNameError {
    what: &'static str,
    name: String,
    longest: usize,
}

impl Names {
    /// `PostgreSQL` cuts names at 63 bytes without a word. The longest name of ours has 38.
    const LONGEST_PREFIX: usize = 20;
    #[cfg(feature = "postgres")]
    const LONGEST_SCHEMA: usize = 40;

    pub(super) fn new(schema: &str, prefix: &str) -> Self {
        Self {
            schema: schema.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    #[cfg(feature = "postgres")]
    pub(super) fn with_schema(mut self, schema: &str) -> Result<Self, TableNameError> {
        check("schema", schema, Self::LONGEST_SCHEMA)?;
        schema.clone_into(&mut self.schema);
        Ok(self)
    }

    pub(super) fn with_prefix(mut self, prefix: &str) -> Result<Self, TableNameError> {
        check("prefix of tables", prefix, Self::LONGEST_PREFIX)?;
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// Returns the channel of notifications of changes. Another schema or prefix has another one.
    /// The name fits into the 63 bytes of `PostgreSQL`.
    #[cfg(feature = "postgres")]
    pub(super) fn channel(&self) -> String {
        // No name of ours has a dot.
        format!("{}.{}", self.schema, self.prefix)
    }

    /// Returns the name of the store among those that use the same secrets.
    pub(super) fn namespace(&self) -> String {
        if self.schema.is_empty() {
            return self.prefix.clone();
        }
        self.to_string()
    }

    /// Returns the name of a table, quoted, with its schema.
    pub(super) fn table(&self, name: &str) -> String {
        let Self { schema, prefix } = self;
        if schema.is_empty() {
            return format!("\"{prefix}{name}\"");
        }
        format!("\"{schema}\".\"{prefix}{name}\"")
    }

    /// Replaces the names in braces in a statement: tables, types and options.
    pub(super) fn fill(&self, sql: &str, dialect: &Dialect) -> String {
        let mut filled = sql.to_owned();
        // Numbers of transactions mean nothing in another server.
        let mark_server = if dialect.has_snapshots() {
            let marks = self.table("marks");
            format!(
                "INSERT INTO {marks} (name, number) \
                 SELECT 'server', system_identifier FROM pg_control_system();"
            )
        } else {
            String::new()
        };
        let by_transaction = |table: &str| {
            if !dialect.has_snapshots() {
                return String::new();
            }
            let on = self.table(table);
            format!(
                "CREATE INDEX \"{}{table}_by_transaction\" ON {on} (xid);",
                self.prefix
            )
        };
        for table in [
            "keys",
            "keys_readable",
            "uses",
            "usage",
            "flushes",
            "profiles",
            "requests",
            "trail",
            "stubs",
            "events",
            "endpoints",
            "deliveries",
            "told",
            "marks",
            "migrations",
        ] {
            filled = filled.replace(&format!("{{{table}}}"), &self.table(table));
        }
        for (name, text) in [
            ("prefix", self.prefix.as_str()),
            ("bytes", dialect.bytes),
            ("integer", dialect.integer),
            ("text", dialect.text),
            ("serial", dialect.serial),
            ("hex(", dialect.hex[0]),
            (")hex", dialect.hex[1]),
            ("time(", dialect.time[0]),
            (")time", dialect.time[1]),
            ("strict", dialect.strict),
            ("updated", dialect.updated),
            ("transaction", dialect.transaction),
            ("trail_by_transaction", &by_transaction("trail")),
            ("events_by_transaction", &by_transaction("events")),
            ("for_update", dialect.for_update),
            ("for_key_share", dialect.for_key_share),
            ("position", dialect.position),
            ("mark_server", &mark_server),
        ] {
            filled = filled.replace(&format!("{{{name}}}"), text);
        }
        filled
    }
}

/// Prints the schema and the prefix.
impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.prefix)
    }
}

fn check(what: &'static str, name: &str, longest: usize) -> Result<(), TableNameError> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let begins = name.bytes().next().is_some_and(is_letter);
    let is_plain = name
        .bytes()
        .all(|byte| is_letter(byte) || byte.is_ascii_digit());
    if begins && is_plain && name.len() <= longest {
        return Ok(());
    }
    Err(TableNameError {
        what,
        name: name.to_owned(),
        longest,
    })
}
