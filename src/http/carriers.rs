//! The set of places in a request where its credential was found.

/// The bit shared by the last headers. The bits of the parameters follow.
const LAST_HEADER: usize = 31;
const LAST_PARAMETER: usize = 63;

/// A set of places where a credential stands. The indices are those of `KeySources`.
///
/// A bit set needs no allocation, even for a key that is sent in two places. All headers from the
/// 31st on share a bit, and so do all parameters from the 32nd on. They are then hidden together,
/// which is harmless: the others are empty, or hold the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Carriers(u64);

impl Carriers {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const AUTHORIZATION: Self = Self(1);

    pub(crate) fn header(at: usize) -> Self {
        Self(1 << (1 + at).min(LAST_HEADER))
    }

    pub(crate) fn parameter(at: usize) -> Self {
        Self(1 << (LAST_HEADER + 1 + at).min(LAST_PARAMETER))
    }

    /// Returns the union of two sets.
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    pub(crate) fn include(self, carrier: Self) -> bool {
        self.0 & carrier.0 != 0
    }

    /// Returns whether a place other than `Authorization` is in the set. An HTTP cache cannot tell
    /// by `Authorization` alone that such a request has a credential.
    pub(crate) fn go_beyond_authorization(self) -> bool {
        self.0 & !Self::AUTHORIZATION.0 != 0
    }

    /// Returns whether a header that is meant for keys is in the set.
    pub(crate) fn include_headers(self) -> bool {
        const HEADERS: u64 = (1 << (LAST_HEADER + 1)) - 1 - Carriers::AUTHORIZATION.0;
        self.0 & HEADERS != 0
    }

    /// Returns whether a parameter of the query is in the set.
    pub(crate) fn include_parameters(self) -> bool {
        self.0 >> (LAST_HEADER + 1) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_is_no_carriers() {
        assert_eq!(Carriers::default(), Carriers::NONE);
        assert!(!Carriers::NONE.go_beyond_authorization());
        assert!(!Carriers::AUTHORIZATION.go_beyond_authorization());
    }

    proptest! {
        #[test]
        fn a_set_includes_exactly_the_carriers_added_to_it(at in 0..200usize, other in 0..30usize) {
            let (header, parameter) = (Carriers::header(at), Carriers::parameter(at));
            let both = header.and(parameter);
            prop_assert!(both.include(header) && both.include(parameter));
            prop_assert!(both.go_beyond_authorization());
            prop_assert!(!header.include_parameters() && parameter.include_parameters());
            prop_assert!(header.include_headers() && !parameter.include_headers());
            prop_assert!(!Carriers::AUTHORIZATION.include_headers());
            prop_assert!(!header.include(parameter) && !parameter.include(header));
            prop_assert!(!both.include(Carriers::AUTHORIZATION));
            prop_assert_eq!(header.include(Carriers::header(other)), at == other);
            prop_assert_eq!(parameter.include(Carriers::parameter(other)), at == other);
        }
    }
}
