//! Profiles of the use of keys.

use super::cell::Cell;
use super::session::{Attempts, Driver, Query, Session, SqlError};
use super::store::{Access, SqlStore};
use crate::key::digest::KeyId;
use crate::store::{KeptProfile, StoreError};

/// The columns of a profile.
const COLUMNS: usize = 3;

impl<D: Driver> SqlStore<D> {
    /// Reads the profiles of keys. Those without one are left out.
    pub(super) async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        let select =
            self.sql("SELECT key_id, version, data FROM {profiles} WHERE key_id IN ({values})");
        let mut profiles = Vec::new();
        for keys in keys.chunks(D::DIALECT.most_parameters) {
            let rows = keys.iter().map(|id| vec![Cell::id(*id)]);
            let query = Query::of_rows(&select, rows);
            for mut row in self.within(self.fetch(query)).await? {
                profiles.push(KeptProfile::new(
                    row.id("key_id")?,
                    row.count("version")?,
                    row.any_bytes("data")?,
                ));
            }
        }
        Ok(profiles)
    }

    /// Saves the profiles whose version follows the kept one. Returns their keys.
    pub(super) async fn save_profiles(
        &self,
        profiles: &[KeptProfile],
    ) -> Result<Vec<KeyId>, StoreError> {
        // In the order of ids, so that nodes with the same keys do not wait for each other in a
        // circle.
        let mut profiles: Vec<_> = profiles.iter().collect();
        profiles.sort_unstable_by_key(|profile| profile.key);
        let mut saved = Vec::new();
        for profiles in profiles.chunks(D::DIALECT.most_parameters / COLUMNS) {
            saved.extend(self.within(self.save_some_profiles(profiles)).await?);
        }
        Ok(saved)
    }

    async fn save_some_profiles(&self, profiles: &[&KeptProfile]) -> Result<Vec<KeyId>, SqlError> {
        let mut attempts = Attempts::default();
        loop {
            let result = self.try_to_save(profiles).await;
            if !attempts.allow_another(&result) {
                return result;
            }
        }
    }

    async fn try_to_save(&self, profiles: &[&KeptProfile]) -> Result<Vec<KeyId>, SqlError> {
        let save = self.sql(
            "WITH new(key_id, version, data) AS (VALUES {values}) \
             INSERT INTO {profiles} AS p (key_id, version, data) \
             SELECT key_id, version, data FROM new WHERE version = 1 OR EXISTS \
             (SELECT 1 FROM {profiles} AS kept WHERE kept.key_id = new.key_id) \
             ON CONFLICT (key_id) DO UPDATE SET version = excluded.version, data = excluded.data \
             WHERE p.version = excluded.version - 1 RETURNING key_id",
        );
        let rows = profiles.iter().map(|profile| {
            vec![
                Cell::id(profile.key),
                Cell::count(profile.version),
                Cell::bytes(profile.data.clone()),
            ]
        });
        let mut session = self.session(Access::Write).await?;
        let rows = session.fetch(Query::of_rows(&save, rows)).await?;
        session.finish();
        let saved = rows.into_iter().map(|mut row| row.id("key_id"));
        Ok(saved.collect::<Result<_, _>>()?)
    }
}
