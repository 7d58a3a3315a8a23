//! The public methods and the ports of a store, by delegation to [`SqlStore`].
//!
//! [`SqlStore`]: super::store::SqlStore

/// Implements what the stores of all databases have in common for a struct around a
/// [`SqlStore`](super::store::SqlStore).
macro_rules! ports {
    ($name:ident) => {
        impl $name {
            /// Sets the key under which the audit trail is chained. Default: none.
            ///
            /// Without one, [`verify_trail`](Self::verify_trail) finds accidents, but no edit by
            /// somebody who knows this library. All processes must use the same key. If it is set,
            /// changed or lost later, all records from before that count as edited.
            #[must_use]
            pub fn audit_key(mut self, key: AuditKey) -> Self {
                self.0.audit_key = Some(key);
                self
            }

            /// Sets the time limit of each call. Default: 5 s.
            ///
            /// A call that takes longer fails with
            /// [`Unavailable`](crate::store::StoreErrorKind::Unavailable), and its connection is
            /// closed. For requests, [`Cache::store_time_limit`](crate::Cache::store_time_limit)
            /// is a bound as well.
            #[must_use]
            pub fn time_limit(mut self, limit: Duration) -> Self {
                self.0.time_limit = limit;
                self
            }

            /// Creates the tables, or updates those of an older version of this library.
            ///
            /// It is safe to call this at each start, in several processes at once. All missing
            /// [migrations](Self::migrations) are carried out in one transaction. There is no time
            /// limit, since a migration of a large table may take minutes.
            pub async fn migrate(&self) -> Result<(), StoreError> {
                self.0.migrate().await
            }

            /// Returns the SQL of all migrations, for those who carry them out by themselves: where
            /// the program's role may not create tables, for example.
            pub fn migrations(&self) -> Vec<Migration> {
                self.0.migrations()
            }

            /// Checks the audit trail of all keys: that no record was edited, deleted, exchanged or
            /// cut off, and that each key is as its last record left it.
            ///
            /// Two things cannot be found in the database alone: a key that was deleted together
            /// with its whole trail, and a key that was put back to an earlier version together
            /// with its trail, as a restored backup does. Keep the number of keys and records of
            /// the last report, and the application's own log of changes, elsewhere.
            ///
            /// Changes may be committed meanwhile. The time is in proportion to the size of the
            /// trail; the [time limit](Self::time_limit) applies to batches of 200 keys.
            ///
            /// Somebody who knows the [audit key](Self::audit_key), or may replace it, can edit the
            /// trail without a trace.
            pub async fn verify_trail(&self) -> Result<TrailReport, StoreError> {
                self.0.verify_trail().await
            }

            /// Deletes the records of the audit trail from before a time, and returns their number.
            /// The last record of each key that exists is kept, and a trail that is broken is left
            /// as it is.
            ///
            /// A stub takes the place of what is cut off a trail, sealed under the
            /// [audit key](Self::audit_key), so that [`verify_trail`](Self::verify_trail) can tell
            /// a purge from a deletion.
            pub async fn purge_trail(&self, before: SystemTime) -> Result<u64, StoreError> {
                self.0.purge_trail(before).await
            }

            /// Deletes the events from before a time, and returns their number. A reader that has
            /// not read them is told of a [gap](crate::store::Followed).
            ///
            /// Their [deliveries](crate::store::Outbox) are deleted, too, also those that are
            /// pending. The marks of events that are told [once](crate::store::Once) are kept for 62
            /// days longer.
            pub async fn purge_events(&self, before: SystemTime) -> Result<u64, StoreError> {
                self.0.purge_events(before).await
            }

            /// Deletes the [usage](crate::usage) of days and hours that were over at a time, and
            /// returns the number of rows: one for each account, key, environment and unit.
            ///
            /// Reports of these days are empty afterwards. First and last uses of keys stay.
            /// Processes that could not reach the store for long may record usage of these days
            /// once more.
            pub async fn purge_usage(&self, before: SystemTime) -> Result<u64, StoreError> {
                self.0.purge_usage(before).await
            }
        }

        impl KeyStore for $name {
            async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
                self.0.find(id).await
            }

            fn feed(&self) -> Option<BoxedFeed> {
                Some(BoxedFeed::new(self.clone()))
            }
        }

        impl ManagedKeyStore for $name {
            async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
                self.0.find(id).await
            }

            async fn commit(&self, change: &Change) -> Result<(), StoreError> {
                self.0.commit(change).await
            }

            async fn list(
                &self,
                query: &KeyQuery,
                paging: &Paging,
            ) -> Result<Page<ListedKey>, StoreError> {
                self.0.list(query, paging).await
            }

            async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
                self.0.find_listed(id).await
            }

            async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
                self.0.find_lineage(first).await
            }

            async fn find_request(
                &self,
                id: &[u8; 32],
            ) -> Result<Option<IssueRequest>, StoreError> {
                self.0.find_request(id).await
            }

            async fn trail(
                &self,
                query: &TrailQuery,
                paging: &Paging,
            ) -> Result<Page<TrailRecord>, StoreError> {
                self.0.trail(query, paging).await
            }

            async fn events(
                &self,
                start: &Start,
                limit: u32,
            ) -> Result<Followed<KeptEvent>, StoreError> {
                self.0.events(start, limit).await
            }

            fn outbox(&self) -> Option<$crate::store::BoxedOutbox> {
                Some($crate::store::BoxedOutbox::new(self.clone()))
            }

            async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
                self.0.record_usage(batch).await
            }

            async fn usage(
                &self,
                query: &UsageQuery,
                paging: &Paging,
            ) -> Result<Page<UsageRow>, StoreError> {
                self.0.usage(query, paging).await
            }

            async fn profiles(
                &self,
                keys: &[KeyId],
            ) -> Result<Vec<$crate::store::KeptProfile>, StoreError> {
                self.0.profiles(keys).await
            }

            async fn save_profiles(
                &self,
                profiles: &[$crate::store::KeptProfile],
            ) -> Result<Vec<KeyId>, StoreError> {
                self.0.save_profiles(profiles).await
            }
        }

        $crate::backend::sql::ports::outbox!($name);

        impl ChangeFeed for $name {
            async fn changes_since(
                &self,
                after: Option<&Cursor>,
                wait: Duration,
            ) -> Result<Changes, FeedError> {
                self.0.changes_since(after, wait).await
            }
        }
    };
}

/// Implements [`Outbox`](crate::store::Outbox) for such a struct.
macro_rules! outbox {
    ($name:ident) => {
        impl $crate::store::Outbox for $name {
            fn namespace(&self) -> String {
                self.0.namespace()
            }

            async fn put_endpoint(
                &self,
                endpoint: &$crate::store::Endpoint,
            ) -> Result<(), StoreError> {
                self.0.put_endpoint(endpoint).await
            }

            async fn create_endpoint(
                &self,
                endpoint: &$crate::store::Endpoint,
                most_of_account: u32,
            ) -> Result<(), StoreError> {
                self.0.create_endpoint(endpoint, most_of_account).await
            }

            async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError> {
                self.0.delete_endpoint(id).await
            }

            async fn find_endpoint(
                &self,
                id: &str,
            ) -> Result<Option<$crate::store::Endpoint>, StoreError> {
                self.0.find_endpoint(id).await
            }

            async fn endpoints(
                &self,
                account: Option<&str>,
                paging: &Paging,
            ) -> Result<Page<$crate::store::Endpoint>, StoreError> {
                self.0.endpoints(account, paging).await
            }

            async fn claim(
                &self,
                claim: &$crate::store::Claim,
            ) -> Result<Vec<$crate::store::Delivery>, StoreError> {
                self.0.claim(claim).await
            }

            async fn settle(
                &self,
                settlement: &$crate::store::Settlement,
            ) -> Result<bool, StoreError> {
                self.0.settle(settlement).await
            }

            async fn deliveries(
                &self,
                query: &$crate::store::DeliveryQuery,
                paging: &Paging,
            ) -> Result<Page<$crate::store::DeliveryRecord>, StoreError> {
                self.0.deliveries(query, paging).await
            }

            async fn replay(
                &self,
                endpoint: &str,
                which: $crate::store::Replay<'_>,
                at: SystemTime,
            ) -> Result<u64, StoreError> {
                self.0.replay(endpoint, which, at).await
            }

            async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError> {
                self.0.announced_until().await
            }

            async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError> {
                self.0.set_announced_until(until).await
            }
        }
    };
}

pub(super) use {outbox, ports};
