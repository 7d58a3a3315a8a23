//! Notes of a limiter in memory, for refunds.

/// What a limiter in memory notes of a budget when it takes a charge, to give it back there and to
/// nobody else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Units of the budget that were given back out of turn until then.
    pub(crate) shifted: u32,
    /// Where the charge was counted.
    pub(crate) counted: Counted,
}

/// Where a charge was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Counted {
    /// In the budget of its subject.
    #[default]
    Own,
    /// In that of a network of this width.
    Network(u8),
    /// In one that newcomers share, or nowhere: it is not given back.
    Shared,
}
