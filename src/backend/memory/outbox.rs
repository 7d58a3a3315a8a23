//! The outbox of the store in memory.

use std::time::SystemTime;

use super::delivery_shelf::Place;
use super::store::MemoryStore;
use crate::store::{
    Claim, Cursor, Delivery, DeliveryQuery, DeliveryRecord, Endpoint, Outbox, Page, Paging, Replay,
    Settlement, StoreError, fingerprint,
};

/// Keeps the latest 10,000 pending deliveries, and as many settled ones, or as many of each as fit
/// into 16 MiB. The oldest are dropped, also those that are pending.
impl Outbox for MemoryStore {
    /// Returns an empty name.
    fn namespace(&self) -> String {
        String::new()
    }

    async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        endpoint.check().map_err(StoreError::refused)?;
        self.write().outbox.put_endpoint(endpoint)
    }

    async fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> Result<(), StoreError> {
        endpoint.check_new().map_err(StoreError::refused)?;
        let most = most_of_account as usize;
        self.write().outbox.create_endpoint(endpoint, most)
    }

    async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.write().outbox.delete_endpoint(id))
    }

    async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.read().outbox.endpoints.get(id).cloned())
    }

    async fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<Endpoint>, StoreError> {
        let query_id = fingerprint(&[Some("endpoints"), account]);
        let after = paging
            .cursor()
            .map(|cursor| self.position(&query_id, cursor));
        let after = after.transpose()?;
        let tables = self.read();
        let is_of = |endpoint: &&Endpoint| {
            account.is_none_or(|account| endpoint.account.as_deref() == Some(account))
        };
        let endpoints = tables.outbox.endpoints.values().filter(is_of);
        let is_later =
            |endpoint: &&Endpoint| after.is_none_or(|after| endpoint.id.as_str() > after);
        let mut endpoints = endpoints.filter(is_later);
        let items = endpoints.by_ref().take(paging.limit() as usize);
        let items: Vec<Endpoint> = items.cloned().collect();
        let has_more = endpoints.next().is_some();
        let last = items.last().filter(|_| has_more);
        let next = last.map(|last| self.cursor(&query_id, &last.id));
        Ok(Page::new(items, next))
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        Ok(self.write().outbox.claim(claim))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<bool, StoreError> {
        settlement.check().map_err(StoreError::refused)?;
        Ok(self.write().outbox.settle(settlement))
    }

    async fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        let query_id = query.fingerprint();
        let after = paging.cursor().map(|cursor| self.place(&query_id, cursor));
        let after = after.transpose()?;
        let tables = self.read();
        let mut found = tables.outbox.before(after, query);
        let mut last = None;
        let mut items = Vec::new();
        for (place, record) in found.by_ref().take(paging.limit() as usize) {
            last = Some(place);
            items.push(record);
        }
        let has_more = found.next().is_some();
        let next = last.filter(|_| has_more);
        let next = next.map(|(number, id)| self.cursor(&query_id, format_args!("{number}-{id}")));
        Ok(Page::new(items, next))
    }

    async fn replay(
        &self,
        endpoint: &str,
        which: Replay<'_>,
        at: SystemTime,
    ) -> Result<u64, StoreError> {
        Ok(self.write().outbox.replay(endpoint, which, at))
    }

    async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError> {
        Ok(self.read().outbox.announced_until)
    }

    async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError> {
        let mut tables = self.write();
        let announced = &mut tables.outbox.announced_until;
        *announced = (*announced).max(Some(until));
        Ok(())
    }
}

impl MemoryStore {
    fn place(&self, list: &str, cursor: &Cursor) -> Result<Place, StoreError> {
        let place = || {
            let (number, id) = self.position(list, cursor).ok()?.split_once('-')?;
            Some((number.parse().ok()?, id.to_owned()))
        };
        place().ok_or_else(StoreError::invalid_cursor)
    }
}
