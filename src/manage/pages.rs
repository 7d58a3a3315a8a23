//! All pages of a list, one after the other.

use std::sync::Arc;

use crate::store::{DynManagedKeyStore, KeyQuery, ListedKey, Page, Paging, StoreError};

/// The pages of a list of keys, one after the other: [`ApiKeys::pages`](crate::ApiKeys::pages).
///
/// ```
/// # use tower_api_key::store::KeyQuery;
/// # use tower_api_key::ApiKeys;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let keys = ApiKeys::in_memory();
/// keys.issue("acme").name("nightly export").await?;
///
/// let mut pages = keys.pages(KeyQuery::new().never_expires());
/// while let Some(page) = pages.next().await? {
///     for key in page {
///         println!("{} {:?}", key.record.id(), key.record.name());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is read until the next page is asked for"]
pub struct KeyPages {
    store: Arc<dyn DynManagedKeyStore>,
    query: KeyQuery,
    /// `None` at the end of the list.
    paging: Option<Paging>,
}

impl KeyPages {
    pub(crate) fn new(store: Arc<dyn DynManagedKeyStore>, query: KeyQuery, limit: u32) -> Self {
        Self {
            store,
            query,
            paging: Some(Paging::first(limit)),
        }
    }

    /// Reads the next page. Returns `None` at the end of the list. A page may be empty. After an
    /// error, the same page is read again.
    pub async fn next(&mut self) -> Result<Option<Vec<ListedKey>>, StoreError> {
        let Some(paging) = &self.paging else {
            return Ok(None);
        };
        let Page { mut items, next } = self.store.list(&self.query, paging).await?;
        // An older store may not know a filter.
        items.retain(|key| self.query.matches(key));
        self.paging = next.map(|next| paging.clone().after(next));
        Ok(Some(items))
    }
}
