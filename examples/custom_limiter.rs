//! A limiter of one's own, and how to find out whether it keeps the promises of the port.
//!
//! This one shares a limiter among several services: each has its own budgets, under names of its
//! own, and counts what it denies. `cargo run --example custom_limiter --features conformance` runs
//! the suites.

use std::sync::atomic::{AtomicU64, Ordering};

use tower_api_key::clock::Clock;
use tower_api_key::conformance;
use tower_api_key::limit::{
    Charge, LimitName, LimiterError, MemoryLimiter, RateLimiter, Refund, Verdict,
};

/// Budgets of one service in a limiter that several share.
struct OfService<L> {
    shared: L,
    service: &'static str,
    denials: AtomicU64,
}

impl<L: RateLimiter> OfService<L> {
    fn new(shared: L, service: &'static str) -> Self {
        Self {
            shared,
            service,
            denials: AtomicU64::new(0),
        }
    }

    fn names(&self, charges: &[Charge<'_>]) -> Vec<LimitName> {
        let renamed = |charge: &Charge<'_>| format!("{}/{}", self.service, charge.name());
        charges.iter().map(renamed).map(LimitName::new).collect()
    }
}

impl<L: RateLimiter> RateLimiter for OfService<L> {
    async fn check(
        &self,
        charges: &[Charge<'_>],
        clock: &dyn Clock,
    ) -> Result<Verdict, LimiterError> {
        let names = self.names(charges);
        let charges: Vec<_> = charges.iter().zip(&names).map(renamed).collect();
        let verdict = self.shared.check(&charges, clock).await?;
        if !verdict.is_allowed() {
            self.denials.fetch_add(1, Ordering::Relaxed);
        }
        Ok(verdict)
    }

    async fn refund(&self, refunds: &[Refund<'_>], clock: &dyn Clock) -> Result<(), LimiterError> {
        let charges: Vec<_> = refunds.iter().map(Refund::charge).collect();
        let names = self.names(&charges);
        let renamed = charges.iter().zip(&names).map(renamed);
        // The instant of the charge goes along, so that nothing is given back too late.
        let refunds: Vec<_> = refunds
            .iter()
            .zip(renamed)
            .map(|(it, charge)| it.with_charge(charge))
            .collect();
        self.shared.refund(&refunds, clock).await
    }
}

/// The same charge under another name: unit, home and all.
fn renamed<'a>((charge, name): (&Charge<'a>, &'a LimitName)) -> Charge<'a> {
    charge.with_name(name)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let limiter = OfService::new(MemoryLimiter::new(), "reports");
    conformance::rate_limiter::on_its_own_clock(&limiter).await;
    let make = || OfService::new(MemoryLimiter::new(), "reports");
    conformance::rate_limiter::on_a_given_clock(make, 10_000).await;
    let denials = limiter.denials.load(Ordering::Relaxed);
    println!("it keeps its promises, and denied {denials} of the suite's requests");
}
