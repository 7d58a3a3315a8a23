//! The port to an outbox: endpoints, and the deliveries of events to them.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::store::delivery::{Claim, Delivery, DeliveryQuery, DeliveryRecord, Replay, Settlement};
use crate::store::endpoint::Endpoint;
use crate::store::error::StoreError;
use crate::store::page::{Page, Paging};

/// The part of a store that delivers events:
/// [`ManagedKeyStore::outbox`](crate::store::ManagedKeyStore::outbox).
///
/// When a store keeps an event, it adds a delivery for each endpoint that
/// [takes](Endpoint::takes) the event, in the same transaction. Any number of processes claim
/// deliveries, carry them out, and settle them. A claim is a lease: it pushes the next attempt into
/// the future, so that the delivery of a process that died is claimed again, and no process leads.
///
/// Times come from the callers. The futures may be dropped at any time.
///
/// With the feature `conformance`, `conformance::outbox` tests an implementation against these
/// requirements.
#[diagnostic::on_unimplemented(message = "`{Self}` is not an `Outbox`")]
pub trait Outbox: Send + Sync + 'static {
    /// Returns a name that tells this outbox from others that use the same master secrets: of its
    /// schema and its prefix of tables, for example.
    fn namespace(&self) -> String;

    /// Creates an endpoint in version 1, or replaces the preceding version. The id and the kind of
    /// target of an endpoint never change.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::store::StoreErrorKind::AlreadyExists) for version 1 of an endpoint
    /// that exists, [`Conflict`](crate::store::StoreErrorKind::Conflict) if the preceding version
    /// is not the current one, and [`Refused`](crate::store::StoreErrorKind::Refused) if the
    /// endpoint [cannot be kept](Endpoint::check), or would become a target of another kind.
    fn put_endpoint(
        &self,
        endpoint: &Endpoint,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Creates an endpoint in version 1, unless its account would have more than `most_of_account`
    /// endpoints then. The endpoints of the account are counted in the same transaction, so calls
    /// at once do not exceed the cap either. An endpoint of no account is not counted.
    ///
    /// # Errors
    /// [`CapReached`](crate::store::StoreErrorKind::CapReached) if the account has as many
    /// endpoints already, [`AlreadyExists`](crate::store::StoreErrorKind::AlreadyExists) if the
    /// endpoint exists, and [`Refused`](crate::store::StoreErrorKind::Refused) if it [cannot be
    /// kept](Endpoint::check), or has another version.
    fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes an endpoint with its deliveries. Returns whether there was one.
    ///
    /// From the moment on at which the endpoint is gone, nothing is claimed for it. If the future
    /// is dropped then, a part of the deliveries may be left. Another call deletes them, although
    /// it returns `false`, and so does the creation of an endpoint with the same id.
    fn delete_endpoint(&self, id: &str) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Finds an endpoint.
    fn find_endpoint(
        &self,
        id: &str,
    ) -> impl Future<Output = Result<Option<Endpoint>, StoreError>> + Send;

    /// Reads a page of the endpoints of an account, or of all endpoints, in the order of their ids.
    fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<Endpoint>, StoreError>> + Send;

    /// Claims deliveries that are due, each for one process: counts the attempt, and sets the time
    /// of the next attempt to the [end of the lease](Claim::until).
    ///
    /// A claim takes no step of the schedule: a process that crashes, or does not get the response,
    /// made no attempt. It is counted as [unfinished](Delivery::unfinished) until it is settled.
    ///
    /// Endpoints with many deliveries do not hold up others: each endpoint gives at most
    /// [`most_per_endpoint`](Claim::most_per_endpoint), those that are due longest first. If more
    /// endpoints have deliveries due than a claim can serve, they take turns, or chance decides: an
    /// order by the time would leave an endpoint for last until all others have caught up. The
    /// deliveries of disabled endpoints are not claimed.
    ///
    /// A store may claim fewer deliveries than it could. It returns none only if none is due, or
    /// others claim those that are due at the same moment. A delivery that it cannot read is left
    /// out, and holds up no other.
    fn claim(
        &self,
        claim: &Claim,
    ) -> impl Future<Output = Result<Vec<Delivery>, StoreError>> + Send;

    /// Records the outcome of an attempt. [`Outcome::Retry`](crate::store::Outcome::Retry) goes to
    /// the next step of the schedule, and [`Outcome::Released`](crate::store::Outcome::Released)
    /// stays in this one. Returns `false`, and changes nothing, if the delivery is settled already,
    /// was claimed or replayed since, or is gone.
    ///
    /// An attempt may be settled after the end of its lease, as long as nobody claimed the delivery
    /// again.
    ///
    /// # Errors
    /// [`Refused`](crate::store::StoreErrorKind::Refused) if the settlement [cannot be
    /// kept](Settlement::check).
    fn settle(
        &self,
        settlement: &Settlement,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Reads a page of deliveries, the newest event first. A page may be short, or empty, even if
    /// more follow.
    fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> impl Future<Output = Result<Page<DeliveryRecord>, StoreError>> + Send;

    /// Makes deliveries of an endpoint due at a time, with a new schedule. Returns their number. A
    /// delivery that is pending and due by then is left as it is, and not counted.
    ///
    /// The numbers of attempts go on. A replay takes one, so that earlier attempts cannot be
    /// settled any more: an event whose delivery is in progress meanwhile may arrive twice. The
    /// count of [unfinished](Delivery::unfinished) attempts begins anew. If the future is dropped,
    /// a part of the deliveries may be due.
    fn replay(
        &self,
        endpoint: &str,
        which: Replay<'_>,
        at: SystemTime,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Returns the time up to which expiries were announced; `None` if none were yet.
    fn announced_until(
        &self,
    ) -> impl Future<Output = Result<Option<SystemTime>, StoreError>> + Send;

    /// Sets the time up to which expiries were announced. It never moves backward.
    fn set_announced_until(
        &self,
        until: SystemTime,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// An [`Outbox`] of any type: [`ManagedKeyStore::outbox`](crate::store::ManagedKeyStore::outbox).
#[derive(Clone)]
pub struct BoxedOutbox(pub(crate) Arc<dyn DynOutbox>);

impl BoxedOutbox {
    /// Boxes an outbox.
    pub fn new(outbox: impl Outbox) -> Self {
        Self(Arc::new(outbox))
    }
}

impl fmt::Debug for BoxedOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxedOutbox")
    }
}

/// The object-safe version of [`Outbox`].
#[async_trait]
pub(crate) trait DynOutbox: Send + Sync {
    fn namespace(&self) -> String;
    async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError>;
    async fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> Result<(), StoreError>;
    async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError>;
    async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, StoreError>;
    async fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<Endpoint>, StoreError>;
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError>;
    async fn settle(&self, settlement: &Settlement) -> Result<bool, StoreError>;
    async fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, StoreError>;
    async fn replay(
        &self,
        endpoint: &str,
        which: Replay<'_>,
        at: SystemTime,
    ) -> Result<u64, StoreError>;
    async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError>;
    async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError>;
}

#[async_trait]
impl<O: Outbox> DynOutbox for O {
    fn namespace(&self) -> String {
        Outbox::namespace(self)
    }

    async fn put_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        Outbox::put_endpoint(self, endpoint).await
    }

    async fn create_endpoint(
        &self,
        endpoint: &Endpoint,
        most_of_account: u32,
    ) -> Result<(), StoreError> {
        Outbox::create_endpoint(self, endpoint, most_of_account).await
    }

    async fn delete_endpoint(&self, id: &str) -> Result<bool, StoreError> {
        Outbox::delete_endpoint(self, id).await
    }

    async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, StoreError> {
        Outbox::find_endpoint(self, id).await
    }

    async fn endpoints(
        &self,
        account: Option<&str>,
        paging: &Paging,
    ) -> Result<Page<Endpoint>, StoreError> {
        Outbox::endpoints(self, account, paging).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>, StoreError> {
        Outbox::claim(self, claim).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<bool, StoreError> {
        Outbox::settle(self, settlement).await
    }

    async fn deliveries(
        &self,
        query: &DeliveryQuery,
        paging: &Paging,
    ) -> Result<Page<DeliveryRecord>, StoreError> {
        Outbox::deliveries(self, query, paging).await
    }

    async fn replay(
        &self,
        endpoint: &str,
        which: Replay<'_>,
        at: SystemTime,
    ) -> Result<u64, StoreError> {
        Outbox::replay(self, endpoint, which, at).await
    }

    async fn announced_until(&self) -> Result<Option<SystemTime>, StoreError> {
        Outbox::announced_until(self).await
    }

    async fn set_announced_until(&self, until: SystemTime) -> Result<(), StoreError> {
        Outbox::set_announced_until(self, until).await
    }
}

impl fmt::Debug for dyn DynOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbox")
    }
}
