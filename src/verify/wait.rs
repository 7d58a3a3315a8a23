//! The waits of the path: for a record from the store, and for a limiter elsewhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::Request;

use super::charge::Metered;
use super::{Candidate, Denial, Gate, Presented, Progress, Proved, anonymous, stranger};
use crate::cache::{Found, KnownKey, Sought};
use crate::limit::throttle::Attempt;

/// What a request must wait for.
pub(crate) enum Wait {
    /// Its record. If the key was not found before, that is an attempt, which has failed until the load says
    /// otherwise.
    Record {
        key: Presented,
        sought: Sought,
        attempt: Option<Attempt>,
    },
    /// Its limits. Its key is good.
    Limits(Box<Candidate>),
    /// Its limits. It has no key and needs none.
    LimitsOfNobody(Metered),
}

/// A request that waits, and how far it gets after that.
///
/// It owns what it looks at, and never the body: that may be neither `Send` nor `'static`.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = (Request<()>, Progress)> + Send>>;

impl Gate {
    /// Waits, and goes on from there as far as that goes without another wait.
    pub(crate) fn wait(self: Arc<Self>, mut request: Request<()>, wait: Wait) -> Waiting {
        // Each in a box of its own, which is no larger than it must be.
        match wait {
            Wait::Record {
                key,
                sought,
                attempt,
            } => Box::pin(async move {
                let progress = match self.load(&key, sought, attempt).await {
                    Ok(found) => self.go_on(&mut request, key, found, self.keyring.readings()),
                    Err(denial) => Progress::denied(denial),
                };
                (request, progress)
            }),
            Wait::Limits(mut candidate) => Box::pin(async move {
                let decision = self.charge_and_prove(&request, &mut candidate).await;
                let decision = decision.map(|()| {
                    let Candidate {
                        key,
                        proved,
                        metered,
                    } = *candidate;
                    self.admit(&mut request, &key, proved, metered)
                });
                (request, Progress::Decided(decision))
            }),
            Wait::LimitsOfNobody(mut metered) => Box::pin(async move {
                let charged = self.charge(None, &mut metered).await;
                let decision = match charged {
                    Ok(()) => Ok(anonymous(&mut request, metered.limits)),
                    Err(refusal) => Err(refusal.of_nobody()),
                };
                (request, Progress::Decided(decision))
            }),
        }
    }

    /// Step 4, from the store. An attempt is forgiven unless there is no such key.
    async fn load(
        &self,
        key: &Presented,
        sought: Sought,
        attempt: Option<Attempt>,
    ) -> Result<Found, Denial> {
        let environment = self.keyring.formats.at(key.format).environment();
        let loaded = self.keyring.cache.load(key.id(), environment, sought);
        let loaded = loaded.await;
        if let (Some(throttle), Some(attempt)) = (&self.keyring.throttle, attempt)
            && !matches!(&loaded, Ok(Found::Nothing))
        {
            throttle.forgive(attempt, self.keyring.readings());
        }
        loaded.map_err(|failure| {
            let rejection = self.load_failed(&failure, &key.id());
            stranger(rejection, key.carriers)
        })
    }

    /// Step 8, with a wait, and the others once more: time went by, and the key may have been changed.
    async fn charge_and_prove(
        &self,
        request: &Request<()>,
        candidate: &mut Candidate,
    ) -> Result<(), Denial> {
        let Candidate {
            key,
            proved,
            metered,
        } = candidate;
        let holder = proved.known.holder(key.id());
        let charged = self.charge(Some(holder), metered).await;
        charged.map_err(|refusal| refusal.of(proved, key.carriers))?;
        let denial = match self.prove_anew(request, key, &proved.known).await {
            Ok(anew) => {
                *proved = anew;
                return Ok(());
            }
            Err(denial) => denial,
        };
        self.give_back(key, proved, metered).await;
        Err(denial)
    }

    /// Steps 4 to 7 once more, for a key that was good a moment ago.
    async fn prove_anew(
        &self,
        request: &Request<()>,
        key: &Presented,
        known: &Arc<KnownKey>,
    ) -> Result<Proved, Denial> {
        let is_current = self.keyring.cache.is_current(&key.id(), known.stamp());
        let found = if is_current {
            Found::Key(Arc::clone(known))
        } else {
            self.load(key, Sought::FoundBefore, None).await?
        };
        self.prove(request.into(), key, found, self.keyring.readings())
    }
}
