//! The places of a request that its credential was found in.

/// The last bit of the headers, and so the first behind them is the first of the parameters.
const LAST_HEADER: usize = 31;
const LAST_PARAMETER: usize = 63;

/// Holds the places that a credential stands in; an index is one into
/// `KeySources`.
///
/// One bit each, so that nothing is allocated where a key is sent in two places. The 31st header
/// and all behind it share a bit, as do the 32nd parameter and all behind it: all of those are then
/// hidden, which takes away only what is empty or equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Carriers(u64);

impl Carriers {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const AUTHORIZATION: Self = Self(1);

    #[inline]
    pub(crate) fn header(at: usize) -> Self {
        Self(1 << (1 + at).min(LAST_HEADER))
    }

    #[inline]
    pub(crate) fn parameter(at: usize) -> Self {
        Self(1 << (LAST_HEADER + 1 + at).min(LAST_PARAMETER))
    }

    /// Adds places.
    #[inline]
    pub(crate) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    #[inline]
    pub(crate) fn include(self, place: Self) -> bool {
        self.0 & place.0 != 0
    }

    /// Returns whether a cache cannot tell by `Authorization` that there is a credential at all of
    /// these places.
    #[inline]
    pub(crate) fn go_beyond_authorization(self) -> bool {
        self.0 & !Self::AUTHORIZATION.0 != 0
    }

    /// Returns whether one of them is a header that is made for keys.
    #[inline]
    pub(crate) fn include_headers(self) -> bool {
        const HEADERS: u64 = (1 << (LAST_HEADER + 1)) - 1 - Carriers::AUTHORIZATION.0;
        self.0 & HEADERS != 0
    }

    /// Returns whether one of them is in the query.
    #[inline]
    pub(crate) fn include_parameters(self) -> bool {
        self.0 >> (LAST_HEADER + 1) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_in_no_place() {
        assert_eq!(Carriers::default(), Carriers::NONE);
        assert!(!Carriers::NONE.go_beyond_authorization());
        assert!(!Carriers::AUTHORIZATION.go_beyond_authorization());
    }

    proptest! {
        #[test]
        fn a_place_is_found_again_and_no_place_of_another_kind_is(at in 0..200usize, other in 0..30usize) {
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
