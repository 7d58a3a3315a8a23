//! What becomes of a request's charges after it was let in, or while it waits to be: what handlers
//! give back and take, over budgets that are at hand and over budgets that must be waited for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response};
use http_body_util::Full;
use support::trouble::{Delay, Gate, Judges};
use support::{Answered, Asking, World, from, is_waiting, to};
use tower::{Layer, ServiceExt, service_fn};
use tower_api_key::http::RateLimitHeaders;
use tower_api_key::limit::{ChargeError, Endpoint, Limit, LimiterOutage, Plan, REQUESTS};
use tower_api_key::{Caller, Limits, Quota};

const REPORT: (Method, &str) = (Method::POST, "/report");
/// It costs nothing, to see how budgets stand.
const LOOK: (Method, &str) = (Method::GET, "/look");

/// What a handler does about its charges.
#[derive(Clone, Copy)]
enum Does {
    Nothing,
    Refund(u64),
    Charge(u64),
}

/// In the extensions of an answer: how that went.
#[derive(Clone)]
struct Done(Result<(), ChargeError>);

async fn work(request: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = Caller::of(request.extensions()).unwrap();
    let done = match request.extensions().get().unwrap() {
        Does::Nothing => Ok(()),
        Does::Refund(units) => caller.refund(REQUESTS, *units).await,
        Does::Charge(units) => caller.charge(REQUESTS, *units).await,
    };
    let mut response = Response::default();
    response.extensions_mut().insert(caller.clone());
    response.extensions_mut().insert(Done(done));
    Ok(response)
}

/// Budgets at hand.
fn near(limits: Limits) -> World {
    World::with_limits(limits)
}

/// Budgets that are waited for each time.
fn far(limits: Limits) -> World {
    World::builder().limits(limits).remote_limiter().build()
}

fn asking(world: &World, (method, path): (Method, &str), does: Does) -> Asking {
    let headers = RateLimitHeaders::none().with_draft();
    let layer = world.keys.layer().rate_limit_headers(headers);
    let mut request = from("192.0.2.1", &to(path, world.key()));
    *request.method_mut() = method;
    request.extensions_mut().insert(does);
    let answer = layer.layer(service_fn(work)).oneshot(request);
    Box::pin(answer.map(Result::unwrap))
}

async fn ask(world: &World, endpoint: (Method, &str), does: Does) -> u16 {
    let answer = asking(world, endpoint, does).await;
    if let Some(Done(done)) = answer.extensions().get() {
        assert!(done.is_ok());
    }
    answer.status().as_u16()
}

/// The caller of a request that is let in.
async fn caller(world: &World, endpoint: (Method, &str)) -> Caller {
    let answer = asking(world, endpoint, Does::Nothing).await;
    assert_eq!(answer.status(), 200);
    answer.extensions().get::<Caller>().unwrap().clone()
}

/// What is left of each budget that binds a request to any endpoint.
async fn left_of(world: &World) -> Vec<u64> {
    left(&asking(world, LOOK, Does::Nothing).await)
}

/// What the answer says to be left of each budget.
fn left(answer: &Answered) -> Vec<u64> {
    support::left(answer.headers()["ratelimit"].to_str().unwrap())
}

fn limits() -> Limits {
    Limits::new()
        .per_key(Quota::per_minute(10))
        .per_account(Quota::per_hour(20))
        .add_cost(REPORT.0, REPORT.1, 4)
        .add_cost(LOOK.0, LOOK.1, 0)
}

#[tokio::test]
async fn a_refund_returns_at_most_the_cost_of_the_request() {
    for world in [near(limits()), far(limits())] {
        assert_eq!(ask(&world, REPORT, Does::Nothing).await, 200);
        assert_eq!(left_of(&world).await, [6, 16]);
        for (units, left) in [(3, [5, 15]), (0, [1, 11])] {
            assert_eq!(ask(&world, REPORT, Does::Refund(units)).await, 200);
            assert_eq!(left_of(&world).await, left, "{units} of 4");
        }
        world.clock.advance(Duration::from_secs(61));
        for units in [4, 5, u64::MAX] {
            assert_eq!(ask(&world, REPORT, Does::Refund(units)).await, 200);
            assert_eq!(left_of(&world).await, [10, 11], "{units} of 4");
        }
        // What cost nothing gives nothing back.
        let before = left_of(&world).await;
        assert_eq!(ask(&world, LOOK, Does::Refund(4)).await, 200);
        assert_eq!(left_of(&world).await, before);
    }
}

/// Each request is refunded once, however many clones of its caller ask for it.
#[tokio::test]
async fn invariant_11_clones_of_a_caller_share_a_single_refund() {
    for world in [near(limits()), far(limits())] {
        for asked in [[4, 4, 4], [1, 1, 1], [3, 0, 3], [0, u64::MAX, 1]] {
            let caller = caller(&world, REPORT).await;
            let before = left_of(&world).await;
            let clones = [caller.clone(), caller.clone(), caller];
            // Also where they do so at once.
            let refunds = clones
                .iter()
                .zip(asked)
                .map(|(it, units)| it.refund(REQUESTS, units));
            for refunded in futures_util::future::join_all(refunds).await {
                refunded.unwrap();
            }
            let back = asked
                .iter()
                .fold(0u64, |sum, it| sum.saturating_add(*it))
                .min(4);
            let after: Vec<_> = before.iter().map(|left| left + back).collect();
            assert_eq!(left_of(&world).await, after, "{asked:?}");
            world.clock.advance(Duration::from_secs(3661));
        }
    }
}

/// Work that failed is given back late, all at once, so that far more than the quota would be done.
#[tokio::test]
async fn saved_up_refunds_do_not_admit_more_than_the_quota() {
    for quota in [Quota::per_second(3), Quota::per_second(3).smooth()] {
        let limits = || Limits::new().per_key(quota);
        for world in [near(limits()), far(limits())] {
            let mut saved = Vec::new();
            for _ in 0..9 {
                for _ in 0..3 {
                    saved.push(caller(&world, (Method::GET, "/page")).await);
                }
                world.clock.advance(Duration::from_millis(1_100));
            }
            let mut done = 0;
            while let Some(caller) = saved.pop() {
                while ask(&world, (Method::GET, "/page"), Does::Nothing).await == 200 {
                    done += 1;
                }
                caller.refund(REQUESTS, 1).await.unwrap();
            }
            while ask(&world, (Method::GET, "/page"), Does::Nothing).await == 200 {
                done += 1;
            }
            assert_eq!(done, 3, "{quota:?}");
        }
    }
}

/// The limiter may have given them back before it failed.
#[tokio::test]
async fn invariant_11_units_of_a_failed_refund_are_not_refunded_again() {
    for (judges, left) in [(Judges::Fails, [7, 17]), (Judges::LosesAnswer, [10, 20])] {
        let world = far(limits());
        let caller = caller(&world, REPORT).await;
        world.limiter.gets(judges, Delay::None);
        assert!(caller.refund(REQUESTS, 3).await.is_err());
        world.limiter.gets_well();
        caller.clone().refund(REQUESTS, u64::MAX).await.unwrap();
        assert_eq!(left_of(&world).await, left, "{judges:?}");
    }
}

/// The refund goes on in the limiter, or does not; its caller does not know.
#[tokio::test]
async fn invariant_11_a_refund_whose_caller_is_gone_is_not_repeated() {
    let world = far(limits());
    let caller = caller(&world, REPORT).await;
    let gate = world.limiter.hangs();
    {
        let mut refund = Box::pin(caller.refund(REQUESTS, 3));
        for _ in 0..3 {
            assert!(is_waiting(&mut refund));
        }
    }
    gate.open();
    world.limiter.gets_well();
    caller.refund(REQUESTS, 3).await.unwrap();
    assert_eq!(left_of(&world).await, [10, 20]);
}

/// The request is decided without the limiter then, which has charged it, or will.
#[tokio::test]
async fn invariant_11_a_charge_whose_answer_is_lost_or_late_is_not_sent_again() {
    let world = far(limits());
    world.limiter.gets(Judges::LosesAnswer, Delay::None);
    asking(&world, REPORT, Does::Nothing).await;
    world.limiter.gets_well();
    assert_eq!(left_of(&world).await, [6, 16]);
    let gate = world.limiter.hangs();
    let mut late = asking(&world, REPORT, Does::Nothing);
    for _ in 0..3 {
        assert!(is_waiting(&mut late));
    }
    world.clock.advance(Duration::from_secs(5));
    late.await;
    gate.open();
    world.limiter.gets_well();
    assert_eq!(left_of(&world).await, [2, 12]);
}

#[tokio::test]
async fn a_refund_reaches_every_limit_that_bound_the_request() {
    let limits = || {
        let report = Endpoint::new(REPORT.0, REPORT.1)
            .cost(2)
            .per_key(Quota::per_minute(10))
            .global(Quota::per_minute(20));
        Limits::new()
            .per_key(Quota::per_minute(11))
            .per_ip(Quota::per_minute(12))
            .global(Quota::per_utc_month(13))
            .add_endpoint(report)
    };
    for world in [near(limits()), far(limits())] {
        let first = left(&asking(&world, REPORT, Does::Refund(2)).await);
        assert_eq!(first, [9, 10, 11, 8, 18]);
        let second = left(&asking(&world, REPORT, Does::Charge(3)).await);
        assert_eq!(second, first);
        let third = left(&asking(&world, REPORT, Does::Nothing).await);
        assert_eq!(third, [4, 5, 6, 3, 13]);
    }
}

#[tokio::test]
async fn a_charge_takes_at_most_what_is_left_and_denies_the_next_request() {
    for world in [near(limits()), far(limits())] {
        let page = || (Method::GET, "/page");
        assert_eq!(ask(&world, page(), Does::Charge(0)).await, 200);
        assert_eq!(left_of(&world).await, [9, 19]);
        assert_eq!(ask(&world, page(), Does::Charge(3)).await, 200);
        assert_eq!(left_of(&world).await, [5, 15]);
        // More than the key has left, and less than the account.
        assert_eq!(ask(&world, page(), Does::Charge(6)).await, 200);
        assert_eq!(left_of(&world).await, [0, 8]);
        assert_eq!(ask(&world, page(), Does::Nothing).await, 429);
        assert_eq!(
            ask(&world, LOOK, Does::Nothing).await,
            200,
            "it takes nothing"
        );
        // Nothing is left to take, which is no failure, and what is taken comes back in time.
        assert_eq!(ask(&world, LOOK, Does::Charge(1)).await, 200);
        assert_eq!(left_of(&world).await, [0, 7]);
        world.clock.advance(Duration::from_secs(61));
        // More than there ever is.
        assert_eq!(ask(&world, page(), Does::Charge(u64::MAX)).await, 200);
        assert_eq!(left_of(&world).await, [0, 0]);
        world.clock.advance(Duration::from_secs(3661));
        assert_eq!(left_of(&world).await, [10, 20]);
    }
}

#[tokio::test]
async fn without_limits_charges_and_refunds_do_nothing() {
    for world in [near(Limits::new()), far(Limits::new())] {
        world.limiter.fails(); // nobody asks it
        for does in [Does::Refund(1), Does::Charge(1)] {
            assert_eq!(ask(&world, REPORT, does).await, 200);
        }
        let caller = world.keys.verify(world.secret()).await.unwrap();
        caller.refund(REQUESTS, 1).await.unwrap();
        caller.charge(REQUESTS, 1).await.unwrap();
    }
}

/// A job that is not a request was charged nothing, but may be charged.
#[tokio::test]
async fn a_caller_without_a_request_has_nothing_to_refund() {
    for world in [near(limits()), far(limits())] {
        assert_eq!(ask(&world, REPORT, Does::Nothing).await, 200);
        let caller = world.keys.verify(world.secret()).await.unwrap();
        assert_eq!(left_of(&world).await, [6, 16]);
        caller.refund(REQUESTS, 4).await.unwrap();
        assert_eq!(left_of(&world).await, [6, 16]);
        caller.charge(REQUESTS, 2).await.unwrap();
        assert_eq!(left_of(&world).await, [4, 14]);
    }
}

/// A job is not a request, and comes from no address.
#[tokio::test]
async fn a_job_is_not_charged_to_the_budget_of_unknown_addresses() {
    let limits = Limits::new()
        .per_ip(Quota::per_minute(10))
        .per_key(Quota::per_minute(10));
    let world = near(limits);
    let caller = world.keys.verify(world.secret()).await.unwrap();
    caller.charge(REQUESTS, 4).await.unwrap();
    let mut request = to(LOOK.1, world.key());
    request.extensions_mut().insert(Does::Nothing);
    let layer = world
        .keys
        .layer()
        .rate_limit_headers(RateLimitHeaders::none().with_draft());
    let service = layer.layer(service_fn(work));
    let answer = service.oneshot(request).await.unwrap();
    assert_eq!(left(&answer), [9, 5]);
}

#[tokio::test]
async fn a_limiter_failure_is_reported_to_the_handler_in_time() {
    let world = far(limits());
    for does in [Does::Refund(1), Does::Charge(1)] {
        for judges in [Judges::Fails, Judges::Rightly] {
            let mut request = asking(&world, REPORT, does);
            // The check is asked for before the trouble, the rest after it began.
            let check = world.limiter.hangs();
            assert!(is_waiting(&mut request));
            check.open();
            let never_opened = world.limiter.hangs();
            if let Judges::Fails = judges {
                world.limiter.fails();
            } else {
                assert!(is_waiting(&mut request));
                assert!(is_waiting(&mut request));
                world.clock.advance(Duration::from_millis(250));
            }
            let answer = request.await;
            assert_eq!(answer.status(), 200, "the work is done");
            let Done(done) = answer.extensions().get().unwrap();
            assert!(done.is_err());
            drop(never_opened);
            world.limiter.gets_well();
            world.clock.advance(Duration::from_secs(3661));
        }
    }
}

// While a request waits for its limits.

#[tokio::test]
async fn invariant_4_a_key_stopped_during_the_limiter_wait_is_refused() {
    for (stop, status) in [
        ("revoke", 401),
        ("suspend", 403),
        ("elsewhere", 401),
        ("delete", 401),
    ] {
        let mut world = far(limits());
        assert_eq!(ask(&world, REPORT, Does::Nothing).await, 200);
        let gate = world.limiter.hangs();
        // One waits for its key first; the other has it at hand.
        let id = world.key().id();
        world.keys.invalidate(&id);
        let load = world.store.hangs();
        let mut requests = [LOOK, REPORT].map(|endpoint| asking(&world, endpoint, Does::Nothing));
        assert!(is_waiting(&mut requests[0]));
        world.store.gets_well();
        load.open();
        world.store.asked();
        assert!(requests.iter_mut().all(is_waiting));
        assert_eq!(world.store.asked(), 0, "both wait for their limits");
        match stop {
            "revoke" => drop(world.keys.revoke(id).await.unwrap()),
            "suspend" => drop(world.keys.suspend(id).await.unwrap()),
            "elsewhere" => {
                world.revoke_elsewhere(id);
                world.keys.invalidate(&id);
            }
            _ => {
                world.store.says(None);
                world.keys.invalidate_all();
            }
        }
        world.limiter.gets_well();
        gate.open();
        for request in requests {
            let answer = request.await;
            assert_eq!(answer.status(), status, "{stop}");
            assert!(answer.extensions().get::<Done>().is_none(), "{stop}");
        }
        // And it has cost nothing.
        world.store.gets_well();
        world.keys.invalidate_all();
        world.use_key(world.issue());
        assert_eq!(left_of(&world).await[1], 16, "{stop}");
    }
}

#[tokio::test]
async fn a_key_that_expires_during_the_limiter_wait_is_refused() {
    let mut world = far(limits());
    let moment = Duration::from_millis(100);
    world.use_key(world.keys.issue("acme").expires_in(moment).await.unwrap());
    let gate = world.limiter.hangs();
    let mut request = asking(&world, REPORT, Does::Nothing);
    assert!(is_waiting(&mut request));
    world.clock.advance(moment);
    world.limiter.gets_well();
    gate.open();
    let answer = request.await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["x-key-status"], "expired");
    world.use_key(world.keys.issue("acme").await.unwrap());
    assert_eq!(left_of(&world).await[1], 20, "it has cost nothing");
}

#[tokio::test]
async fn a_key_merely_changed_during_the_limiter_wait_is_admitted() {
    let world = far(limits());
    let gate = world.limiter.hangs();
    let mut request = asking(&world, REPORT, Does::Nothing);
    assert!(is_waiting(&mut request));
    world.change_elsewhere(world.key().id(), |key| key.with_name("renamed"));
    world.keys.invalidate(&world.key().id());
    world.limiter.gets_well();
    gate.open();
    assert_eq!(request.await.status(), 200);
    assert_eq!(left_of(&world).await, [6, 16], "it was charged once");
}

/// The plan changes after the charge, and the refund does not go to a budget of the new plan.
#[tokio::test]
async fn a_refund_goes_only_to_budgets_that_the_request_was_charged_to() {
    let plan =
        |name: &str, limit| Plan::new(name).per_account(Limit::named(format!("of_{name}"), limit));
    let limits = Limits::new()
        .add_plan(plan("free", Quota::per_hour(10)))
        .add_plan(plan("pro", Quota::per_hour(20)))
        .default_plan("free")
        .add_cost(REPORT.0, REPORT.1, 4)
        .add_cost(LOOK.0, LOOK.1, 0);
    let mut world = far(limits);
    let (free, pro) = (
        world.keys.issue("acme").plan("free").await.unwrap(),
        world.keys.issue("acme").plan("pro").await.unwrap(),
    );
    world.use_key(pro);
    assert_eq!(ask(&world, REPORT, Does::Nothing).await, 200);
    assert_eq!(left_of(&world).await, [16]);
    world.use_key(free);
    let gate = world.limiter.hangs();
    let mut request = asking(&world, REPORT, Does::Refund(4));
    assert!(is_waiting(&mut request));
    world.change_elsewhere(world.key().id(), |key| key.with_plan("pro"));
    world.keys.invalidate(&world.key().id());
    world.limiter.gets_well();
    gate.open();
    assert_eq!(request.await.status(), 200);
    assert_eq!(left_of(&world).await, [16]);
}

#[tokio::test]
async fn a_key_that_cannot_be_rechecked_is_a_503_and_costs_nothing() {
    let world = far(limits());
    let gate = world.limiter.hangs();
    let mut request = asking(&world, REPORT, Does::Nothing);
    assert!(is_waiting(&mut request));
    world.keys.invalidate(&world.key().id());
    world.store.fails();
    world.limiter.gets_well();
    gate.open();
    assert_eq!(request.await.status(), 503);
    world.store.gets_well();
    assert_eq!(left_of(&world).await, [10, 20]);
}

#[tokio::test]
async fn units_that_the_limiter_did_not_take_are_not_refunded_to_it() {
    let outages = [
        LimiterOutage::admit(Quota::per_minute(10)),
        LimiterOutage::local_share(2.try_into().unwrap()),
    ];
    for (outage, meanwhile) in outages.iter().flat_map(|outage| {
        ["nothing", "changed", "revoked"].map(|meanwhile| (outage.clone(), meanwhile))
    }) {
        let world = World::builder().limits(limits()).remote_limiter();
        let mut world = world.limiter_outage(outage).build();
        assert_eq!(ask(&world, REPORT, Does::Nothing).await, 200);
        // A request comes while the limiter fails, and is done when it works again.
        let mut request = asking(&world, REPORT, Does::Refund(4));
        let gate = Gate::default();
        let until = Delay::Until(gate.clone());
        world.limiter.gets(Judges::Fails, until);
        assert!(is_waiting(&mut request));
        let id = world.key().id();
        let status = match meanwhile {
            "revoked" => {
                world.keys.revoke(id).await.unwrap();
                401
            }
            "changed" => {
                world.keys.invalidate(&id);
                200
            }
            _ => 200,
        };
        world.limiter.gets_well();
        gate.open();
        assert_eq!(request.await.status(), status);
        world.use_key(world.issue());
        assert_eq!(left_of(&world).await[1], 16, "{meanwhile}");
    }
}
