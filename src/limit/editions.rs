//! The rules of an application, and those that they replaced.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limit::rule::LimitsError;
use crate::limit::rulebook::{Bound, Rulebook};
use crate::limit::rules::Limits;

/// The number of lists of editions, each twice as long as the last. Together they have room for
/// 65,535.
const DOUBLINGS: usize = 16;

/// Rules by edition, of which the last one binds new requests.
///
/// A request is charged, and given back its charges, by the edition that it began with. Former
/// editions are never dropped, so that a reader needs no count of owners: one that all processors
/// write to at each request would cost more than the rest of the look. An edition is some
/// kilobytes, one that changes nothing is not kept, and there are no more than 65,535.
pub(crate) struct Editions {
    current: AtomicU16,
    /// The first has room for one edition, each other for as many as all before it and one more.
    lists: [OnceLock<Box<[OnceLock<Rulebook>]>>; DOUBLINGS],
    /// The limits of the current edition. Locked while another is added.
    limits: Mutex<Limits>,
}

impl Editions {
    pub(crate) fn new(limits: Limits) -> Self {
        let editions = Self {
            current: AtomicU16::new(0),
            lists: std::array::from_fn(|_| OnceLock::new()),
            limits: Mutex::new(limits.clone()),
        };
        editions.put(0, limits);
        editions
    }

    /// Returns the rules of requests that begin now.
    #[inline]
    pub(crate) fn current(&self) -> &Rulebook {
        self.at(self.current.load(Ordering::Acquire))
    }

    /// Returns the rules that a request began with.
    #[inline]
    pub(crate) fn of(&self, request: &Bound) -> &Rulebook {
        self.at(request.edition())
    }

    /// Replaces the rules. Limits that are the same make no edition.
    pub(crate) fn replace(&self, limits: Limits) -> Result<(), LimitsError> {
        let mut before = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if *before == limits {
            return Ok(());
        }
        let next = self.current.load(Ordering::Relaxed).checked_add(1);
        let next = next.filter(|edition| *edition < u16::MAX);
        let next = next.ok_or(LimitsError::TooManyChanges)?;
        self.put(next, limits.clone());
        *before = limits;
        self.current.store(next, Ordering::Release);
        Ok(())
    }

    fn put(&self, edition: u16, limits: Limits) {
        let (list, at) = place_of(edition);
        let empty = || (0..1_usize << list).map(|_| OnceLock::new()).collect();
        let book = Rulebook::new(limits, edition);
        self.lists[list].get_or_init(empty)[at].get_or_init(|| book);
    }

    #[inline]
    fn at(&self, edition: u16) -> &Rulebook {
        let (list, at) = place_of(edition);
        let found = self.lists[list].get().and_then(|list| list[at].get());
        found.expect("an edition is put before it is current")
    }
}

/// Returns the list of an edition, and its place there.
#[inline]
fn place_of(edition: u16) -> (usize, usize) {
    let at = usize::from(edition) + 1;
    let list = at.ilog2() as usize;
    (list, at - (1 << list))
}

impl fmt::Debug for Editions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::quota::Quota;

    #[test]
    fn each_edition_has_a_place_of_its_own() {
        let places: Vec<_> = (0..7).map(place_of).collect();
        assert_eq!(
            places,
            [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
        );
        let last = (DOUBLINGS - 1, (1 << (DOUBLINGS - 1)) - 1);
        assert_eq!(place_of(u16::MAX - 1), last);
    }

    #[test]
    fn a_request_keeps_the_edition_that_it_began_with() {
        let limits = |most| Limits::new().global(Quota::per_minute(most));
        let editions = Editions::new(limits(1));
        let begun = editions.current().bind_nowhere(None);
        for most in 2..=u64::from(u16::MAX) {
            editions.replace(limits(most)).unwrap();
            editions.replace(limits(most)).unwrap(); // changes nothing
            assert_eq!(u64::from(editions.current().edition()), most - 1);
        }
        // It is full, and stays as it is.
        for _ in 0..2 {
            let refused = editions.replace(limits(1_000_000));
            assert_eq!(refused, Err(LimitsError::TooManyChanges));
            assert_eq!(editions.current().edition(), u16::MAX - 1);
        }
        assert_eq!(editions.of(&begun).edition(), 0);
    }
}
