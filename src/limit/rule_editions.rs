//! The editions of the rules: the current one, and those that it replaced.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limit::compiled_rules::{CompiledRules, RequestLimits};
use crate::limit::limits::Limits;
use crate::limit::rule::LimitsError;

/// The number of lists of editions, each twice as long as the last. Together they hold 65,535
/// editions.
const DOUBLINGS: usize = 16;

/// Compiled rules by edition. The last edition applies to new requests.
///
/// A request is charged and refunded by the edition that it began with. Former editions are never
/// dropped: a reference count, which all processors would write at each request, would cost more
/// than the rest of the lookup. An edition takes some kilobytes. Limits that change nothing make no
/// new edition, and there are at most 65,535.
pub(crate) struct RuleEditions {
    current: AtomicU16,
    /// The first list holds one edition, and each further list twice as many as the one before.
    lists: [OnceLock<Box<[OnceLock<CompiledRules>]>>; DOUBLINGS],
    /// The limits of the current edition. Locked while another is added.
    limits: Mutex<Limits>,
}

impl RuleEditions {
    pub(crate) fn new(limits: Limits) -> Self {
        let editions = Self {
            current: AtomicU16::new(0),
            lists: std::array::from_fn(|_| OnceLock::new()),
            limits: Mutex::new(limits.clone()),
        };
        editions.put(0, limits);
        editions
    }

    /// Returns the rules for requests that begin now.
    #[inline]
    pub(crate) fn current(&self) -> &CompiledRules {
        self.at(self.current.load(Ordering::Acquire))
    }

    /// Returns the rules that a request began with.
    #[inline]
    pub(crate) fn of(&self, request: &RequestLimits) -> &CompiledRules {
        self.at(request.edition())
    }

    /// Replaces the rules. Limits that are equal to the current ones make no new edition.
    ///
    /// Fails if there are 65,535 editions already.
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
        let (list, at) = index_of(edition);
        let empty = || (0..1_usize << list).map(|_| OnceLock::new()).collect();
        let rules = CompiledRules::new(limits, edition);
        self.lists[list].get_or_init(empty)[at].get_or_init(|| rules);
    }

    #[inline]
    fn at(&self, edition: u16) -> &CompiledRules {
        let (list, at) = index_of(edition);
        let found = self.lists[list].get().and_then(|list| list[at].get());
        found.expect("an edition is put before it is current")
    }
}

/// Returns the list of an edition, and its index in the list.
#[inline]
fn index_of(edition: u16) -> (usize, usize) {
    let at = usize::from(edition) + 1;
    let list = at.ilog2() as usize;
    (list, at - (1 << list))
}

impl fmt::Debug for RuleEditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::quota::Quota;

    #[test]
    fn each_edition_has_an_index_of_its_own() {
        let indices: Vec<_> = (0..7).map(index_of).collect();
        assert_eq!(
            indices,
            [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)]
        );
        let last = (DOUBLINGS - 1, (1 << (DOUBLINGS - 1)) - 1);
        assert_eq!(index_of(u16::MAX - 1), last);
    }

    #[test]
    fn a_request_keeps_the_edition_that_it_began_with() {
        let limits = |most| Limits::new().global(Quota::per_minute(most));
        let editions = RuleEditions::new(limits(1));
        let begun = editions.current().bind_without_route(None);
        for most in 2..=u64::from(u16::MAX) {
            editions.replace(limits(most)).unwrap();
            editions.replace(limits(most)).unwrap(); // adds no edition
            assert_eq!(u64::from(editions.current().edition()), most - 1);
        }
        // All editions are used. A further replacement fails and changes nothing.
        for _ in 0..2 {
            let refused = editions.replace(limits(1_000_000));
            assert_eq!(refused, Err(LimitsError::TooManyChanges));
            assert_eq!(editions.current().edition(), u16::MAX - 1);
        }
        assert_eq!(editions.of(&begun).edition(), 0);
    }
}
