//! The audit key of a database of the examples: `KEYS_AUDIT_KEY`, or a file beside the database.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rand::TryRng;
use rand::rngs::SysRng;
use tower_api_key::ManagedKeyStore;
use tower_api_key::store::{AuditKey, Paging, SqliteStore, TrailQuery};

/// Returns the audit key of a database: `KEYS_AUDIT_KEY`, which is 64 hex digits, or the content of
/// `FILE.audit-key`, which is created for a database without a trail.
///
/// The file finds an editor who can write the database only. In production, keep the key where the
/// database is not.
pub(crate) async fn audit_key(
    store: &SqliteStore,
    database: &Path,
) -> Result<AuditKey, Box<dyn Error>> {
    if let Some(digits) = std::env::var_os("KEYS_AUDIT_KEY") {
        let digits = digits.to_str().unwrap_or_default();
        let key = AuditKey::from_hex(digits);
        return Ok(key.map_err(|_| "KEYS_AUDIT_KEY is not 64 hex digits")?);
    }
    let mut file = database.as_os_str().to_owned();
    file.push(".audit-key");
    let file = PathBuf::from(file);
    let name = file.display();
    if !file.try_exists()? {
        let trail = store.trail(&TrailQuery::new(), &Paging::first(1)).await?;
        // With another key, the trail would count as edited. Another process may just have begun
        // both, so look again.
        if !trail.items.is_empty() && !file.try_exists()? {
            let problem = "the trail was begun with another audit key, or without one";
            return Err(format!("{problem}: set KEYS_AUDIT_KEY, or restore {name}").into());
        }
        create(&file).map_err(|error| format!("{name} cannot be created: {error}"))?;
    }
    let digits = fs::read_to_string(&file);
    let digits = digits.map_err(|error| format!("{name} cannot be read: {error}"))?;
    Ok(AuditKey::from_hex(&digits).map_err(|_| format!("{name} is not 64 hex digits"))?)
}

/// Creates the file, unless another process does it at the same time. The file appears whole.
fn create(file: &Path) -> io::Result<()> {
    let draft = file.with_extension(format!("draft-{:032x}", random()?));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut opened = options.open(&draft)?;
    writeln!(opened, "{:032x}{:032x}", random()?, random()?)?;
    opened.sync_all()?;
    let linked = fs::hard_link(&draft, file); // fails if there is one, and never replaces it
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(io::Error::other)?;
    Ok(u128::from_be_bytes(bytes))
}
