//! Notes of a limiter for refunds.

/// A note that a limiter makes when it takes a charge. A refund needs it to reach the
/// same budget, and to refund no units of other callers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RefundNote {
    /// The early refunds of a GCRA budget at the time of the charge: the units that were refunded
    /// of charges with later charges behind them.
    pub(crate) early_refunds: u32,
    /// The budget in which the charge was counted.
    pub(crate) counted_in: BudgetOwner,
    /// The time of the charge by the clock of the limiter, in microseconds, if it has one of its
    /// own.
    pub(crate) limiter_time: u64,
}

/// The budget in which a charge was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum BudgetOwner {
    /// The budget of the subject.
    #[default]
    Own,
    /// The budget of a network around the address, by the index of its width.
    Network(u8),
    /// A budget that newcomers share, or none. The charge is not refunded.
    Shared,
}
