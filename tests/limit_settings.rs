//! Limits that an application states in ways of its own: by its own subjects, with exemptions, from
//! a configuration, and replaced at run time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use http::{Method, Request};
use support::{World, call, echoing, from, imported, left, stranger, to, today, with_key};
use tower_api_key::http::{ClientAddress, RateLimitHeaders, TrustedProxies};
use tower_api_key::key::Throttling;
use tower_api_key::limit::{Endpoint, Limit, LimitName, LimitsError, Plan, QuotaError};
use tower_api_key::manage::{FieldError, IssueError};
use tower_api_key::{ApiKeyLayer, ApiKeys, BuildError, IssuedKey, Limits, MemoryStore, Quota};

const PER_MINUTE: Quota = Quota::per_minute(3);

fn layer(keys: &ApiKeys) -> ApiKeyLayer {
    let headers = RateLimitHeaders::none().with_draft();
    keys.layer().rate_limit_headers(headers)
}

fn request(key: &IssuedKey) -> Request<()> {
    from("192.0.2.1", key)
}

/// The status of an answer, and what is left of each limit.
async fn ask(layer: &ApiKeyLayer, request: Request<()>) -> (u16, Vec<u64>) {
    let answer = call(echoing(layer), request).await;
    let told = answer.headers().get("ratelimit");
    let told = told.map_or("", |told| told.to_str().unwrap());
    (answer.status().as_u16(), left(told))
}

#[tokio::test]
async fn a_limit_can_count_by_a_custom_subject() {
    #[derive(Clone)]
    struct Tenant(&'static str);
    let limits = Limits::new()
        .per("tenant", PER_MINUTE)
        .per("plan", PER_MINUTE);
    let set = World::builder().limits(limits).set(|keys| {
        keys.add_subject("plan", |_, _| unreachable!("another function has its name"))
            .add_subject("tenant", |request, _| {
                let tenant = request.extensions.get::<Tenant>();
                tenant.map(|tenant| tenant.0.to_owned())
            })
            .add_subject("plan", |_, key| key?.plan().map(str::to_owned))
    });
    let keys = set.build().keys;
    let (free, pro, none) = (
        keys.issue("acme").plan("free").await.unwrap(),
        keys.issue("acme").plan("pro").await.unwrap(),
        keys.issue("acme").await.unwrap(),
    );
    let layer = layer(&keys).optional();
    let ask = async |key: &IssuedKey, tenant| {
        let mut request = request(key);
        if let Some(tenant) = tenant {
            request.extensions_mut().insert(Tenant(tenant));
        }
        ask(&layer, request).await
    };
    assert_eq!(ask(&free, Some("one")).await, (200, vec![2, 2]));
    assert_eq!(ask(&pro, Some("one")).await, (200, vec![1, 2]));
    assert_eq!(ask(&pro, Some("other")).await, (200, vec![2, 1]));
    // A request without a subject is not bound by the limit.
    assert_eq!(ask(&none, Some("one")).await, (200, vec![0]));
    assert_eq!(ask(&none, None).await, (200, vec![]));
    // Nothing is taken of one if the other is used up.
    assert_eq!(ask(&free, Some("one")).await, (429, vec![0, 2]));
    assert_eq!(ask(&free, Some("third")).await, (200, vec![2, 1]));
    let nobody = Request::builder()
        .extension(Tenant("other"))
        .body(())
        .unwrap();
    assert_eq!(self::ask(&layer, nobody).await, (200, vec![1]));
    // A key that came in no request has no subject to charge.
    let caller = keys.verify(free.expose_secret()).await.unwrap();
    caller.charge("requests", 1).await.unwrap();
    assert_eq!(ask(&free, Some("fourth")).await, (200, vec![2, 0]));
}

#[tokio::test]
async fn networks_and_methods_can_be_exempt_but_not_unknown_addresses() {
    let limits = Limits::new().per_key(PER_MINUTE);
    let limits = limits.exempt_networks(["10.0.0.0/8"]).unwrap();
    let world = World::with_limits(limits.dangerous_exempt_methods([Method::OPTIONS]));
    let proxies = TrustedProxies::networks(["10.0.0.0/8"]).unwrap();
    let layer = layer(&world.keys).client_address(ClientAddress::x_forwarded_for(proxies));
    let from = |peer, forwarded: Option<&str>| {
        let mut request = from(peer, world.key());
        if let Some(forwarded) = forwarded {
            let headers = request.headers_mut();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        }
        request
    };
    let inside = "10.0.0.1";
    assert_eq!(
        ask(&layer, from(inside, Some("10.1.2.3"))).await,
        (200, vec![])
    );
    assert_eq!(
        ask(&layer, from(inside, Some("192.0.2.9"))).await,
        (200, vec![2])
    );
    // A client that hides its address from the proxy is not taken for the proxy.
    assert_eq!(
        ask(&layer, from(inside, Some("unknown"))).await,
        (200, vec![1])
    );
    let mut options = from("192.0.2.9", None);
    *options.method_mut() = Method::OPTIONS;
    assert_eq!(ask(&layer, options).await, (200, vec![]));
    assert_eq!(ask(&layer, from("192.0.2.9", None)).await, (200, vec![0]));
    assert!(Limits::new().exempt_networks(["10.0.0.0/33"]).is_err());
}

#[tokio::test]
async fn an_endpoint_can_limit_addresses_by_itself() {
    let search = Endpoint::new(Method::GET, "/search");
    let search = search.per_ip(Limit::from(Quota::per_minute(1)).anonymous());
    let world = World::with_limits(Limits::new().add_endpoint(search));
    let layer = layer(&world.keys).optional();
    let from = |peer, path| from(peer, &to(path, &Request::new(())));
    for status in [200, 429] {
        assert_eq!(
            ask(&layer, from("192.0.2.1", "/search")).await,
            (status, vec![0])
        );
    }
    assert_eq!(ask(&layer, from("192.0.2.2", "/search")).await.0, 200);
    assert_eq!(ask(&layer, from("192.0.2.1", "/")).await, (200, vec![]));
    let with_key = to("/search", &request(world.key()));
    assert_eq!(ask(&layer, with_key).await, (200, vec![]));
}

#[tokio::test]
async fn an_exemption_does_not_lift_a_throttle() {
    let limits = Limits::new().dangerous_exempt_methods([Method::GET]);
    let world = World::with_limits(limits);
    let key = stranger();
    let until = today() + Duration::from_secs(3600);
    let throttling = Throttling::new(Quota::per_hour(1), until);
    world.create_elsewhere(imported(&key).with_throttled(throttling));
    for status in [200, 429] {
        let answered = ask(&layer(&world.keys), with_key(&key)).await;
        assert_eq!(answered, (status, vec![0]));
    }
}

#[tokio::test]
async fn replacing_limits_keeps_the_units_used() {
    let limits = |most, hourly: Option<Quota>| {
        let limits = Limits::new().per_key(Quota::per_minute(most));
        match hourly {
            Some(hourly) => limits.per_account(hourly),
            None => limits,
        }
    };
    let world = World::with_limits(limits(3, None));
    let keys = &world.keys;
    let layer = layer(keys);
    let ask = async || ask(&layer, request(world.key())).await;
    assert_eq!(ask().await, (200, vec![2]));
    // Raised, another one added, and lowered below what was used: the layer need not be made anew.
    keys.set_limits(limits(10, None)).unwrap();
    assert_eq!(ask().await, (200, vec![8]));
    keys.set_limits(limits(10, Some(Quota::per_hour(5))))
        .unwrap();
    assert_eq!(ask().await, (200, vec![7, 4]));
    keys.set_limits(limits(2, Some(Quota::per_hour(5))))
        .unwrap();
    assert_eq!(ask().await, (429, vec![0, 4]));
    // One that is gone for a while comes back as it was.
    keys.set_limits(Limits::new()).unwrap();
    assert_eq!(ask().await, (200, vec![]));
    keys.set_limits(limits(4, Some(Quota::per_hour(5))))
        .unwrap();
    assert_eq!(ask().await, (200, vec![0, 3]));
    // What cannot be kept changes nothing.
    let refused = keys.set_limits(Limits::new().default_plan("pro"));
    assert_eq!(refused, Err(LimitsError::UnknownPlan("pro".to_owned())));
    let refused = keys.set_limits(Limits::new().per("tenant", PER_MINUTE));
    assert_eq!(
        refused,
        Err(LimitsError::UnknownSubject("tenant".to_owned()))
    );
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(ask().await, (200, vec![3, 2]));
}

/// A cached key remembers the place of its plan, which changes with the plans.
#[tokio::test]
async fn a_cached_key_keeps_its_plan_when_plans_are_replaced() {
    let plans = |names: &[(&str, u64)]| {
        let plan = |limits: Limits, (name, most): &(&str, u64)| {
            let limit = Limit::named("per_plan", Quota::per_minute(*most));
            limits.add_plan(Plan::new(*name).per_key(limit))
        };
        names.iter().fold(Limits::new(), plan).default_plan("free")
    };
    let keys = World::with_limits(plans(&[("free", 10), ("pro", 100)])).keys;
    let (free, pro) = (
        keys.issue("acme").await.unwrap(),
        keys.issue("acme").plan("pro").await.unwrap(),
    );
    let layer = layer(&keys);
    let left = async |key| ask(&layer, request(key)).await.1[0];
    assert_eq!([left(&free).await, left(&pro).await], [9, 99]);
    keys.set_limits(plans(&[
        ("basic", 7),
        ("pro", 200),
        ("trial", 1),
        ("free", 20),
    ]))
    .unwrap();
    assert_eq!([left(&free).await, left(&pro).await], [18, 198]);
    // Its plan is gone: the default binds it.
    keys.set_limits(plans(&[("free", 30)])).unwrap();
    assert_eq!([left(&free).await, left(&pro).await], [27, 27]);
}

/// A request is given back what it was charged by the limits that it began with.
#[tokio::test]
async fn a_refund_uses_the_limits_that_the_request_began_with() {
    let endpoint = |path: &str| Endpoint::new(Method::GET, path).cost(4);
    let limits = Limits::new()
        .per_key(Quota::per_minute(10))
        .add_endpoint(endpoint("/"));
    let keys = World::with_limits(limits).keys;
    let key = keys.issue("acme").await.unwrap();
    let layer = layer(&keys);
    let kept = std::sync::Arc::new(std::sync::Mutex::new(None));
    let inner = {
        let kept = kept.clone();
        tower::service_fn(move |request: Request<()>| {
            let caller = tower_api_key::Caller::of(request.extensions()).unwrap();
            *kept.lock().unwrap() = Some(caller.clone());
            let answer = support::echo(&request);
            async { Ok::<_, std::convert::Infallible>(answer) }
        })
    };
    call(tower::Layer::layer(&layer, inner), request(&key)).await;
    // Fewer endpoints, so that the place of its own is not there any more.
    keys.set_limits(Limits::new().per_key(Quota::per_minute(10)))
        .unwrap();
    assert_eq!(ask(&layer, request(&key)).await, (200, vec![5]));
    let caller = kept.lock().unwrap().take().unwrap();
    caller.refund("requests", 10).await.unwrap();
    assert_eq!(ask(&layer, request(&key)).await, (200, vec![8]));
}

#[tokio::test]
async fn a_typo_in_a_plan_or_limit_name_is_an_error() {
    let plan = Plan::new("pro").per_account(PER_MINUTE);
    let endpoint = Endpoint::new(Method::GET, "/").per_key(PER_MINUTE);
    let limits = Limits::new()
        .add_plan(plan)
        .default_plan("pro")
        .add_endpoint(endpoint);
    let keys = World::with_limits(limits).keys;
    let refused = keys.issue("acme").plan("pr0").await.unwrap_err();
    assert!(
        matches!(&refused, IssueError::Field(FieldError::UnknownPlan(plan)) if plan == "pr0"),
        "{refused}"
    );
    let refused = keys
        .issue("acme")
        .add_limit("acount_per_minute", PER_MINUTE)
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, IssueError::Field(FieldError::UnknownLimit(limit)) if limit == "acount_per_minute"),
        "{refused}"
    );
    let issued = keys
        .issue("acme")
        .plan("pro")
        .add_limit("account_per_minute", PER_MINUTE);
    assert!(issued.await.is_ok());
    let issued = keys
        .issue("acme")
        .add_limit("GET / key_per_minute", PER_MINUTE);
    assert!(issued.await.is_ok());
    // Keys are issued elsewhere than where they are limited, too.
    let elsewhere = World::new().keys;
    let issued = elsewhere
        .issue("acme")
        .plan("pr0")
        .add_limit("any", PER_MINUTE);
    assert!(issued.await.is_ok());
}

/// A constructor, and the one for numbers that are not known at compile time.
type Twins = (fn(u64) -> Quota, fn(u64) -> Result<Quota, QuotaError>);

#[test]
fn limits_can_be_built_from_a_configuration() {
    let configured = [
        ("burst", "50/s smooth burst 100"),
        ("daily", "10_000/utc_day"),
    ];
    let mut limits = Limits::new();
    for (name, quota) in configured {
        limits = limits.per_key(Limit::named(name, quota.parse::<Quota>().unwrap()));
    }
    let by_hand = Limits::new()
        .per_key(Limit::named(
            "burst",
            Quota::per_second(50).smooth().burst(100),
        ))
        .per_key(Limit::named("daily", Quota::per_utc_day(10_000)));
    assert_eq!(limits, by_hand);
    let twins: [Twins; 6] = [
        (Quota::per_second, Quota::try_per_second),
        (Quota::per_minute, Quota::try_per_minute),
        (Quota::per_hour, Quota::try_per_hour),
        (Quota::per_day, Quota::try_per_day),
        (Quota::per_utc_day, Quota::try_per_utc_day),
        (Quota::per_utc_month, Quota::try_per_utc_month),
    ];
    for (constant, fallible) in twins {
        for most in [1, 600, Quota::MAX] {
            assert_eq!(fallible(most), Ok(constant(most)));
        }
        assert!(fallible(0).is_err() && fallible(Quota::MAX + 1).is_err());
    }
    let smooth = PER_MINUTE.smooth();
    assert_eq!(PER_MINUTE.try_smooth(), Ok(smooth));
    assert_eq!(smooth.try_smooth(), Ok(smooth));
    assert_eq!(smooth.try_burst(7), Ok(smooth.burst(7)));
    assert!(smooth.try_burst(0).is_err() && smooth.try_burst(Quota::MAX).is_err());
    assert!(PER_MINUTE.try_burst(7).is_err());
    assert!(Quota::per_utc_day(1).try_smooth().is_err());
    assert!(Quota::per_second(Quota::MAX).try_smooth().is_err());
}

/// Another method of the path is bound by all of them together.
#[test]
fn limits_of_a_path_that_cannot_apply_together_are_refused() {
    let refused = |limits: Limits| {
        let built = ApiKeys::builder(MemoryStore::new()).limits(limits).build();
        built.err().map(|error| error.to_string())
    };
    let named = |most| Limit::named("reports", Quota::per_minute(most));
    let get = |most| Endpoint::new(Method::GET, "/r").per_key(named(most));
    let post = |most| Endpoint::new(Method::POST, "/r").per_key(named(most));
    let same = LimitsError::SameName("reports".to_owned()).to_string();
    assert_eq!(
        refused(Limits::new().add_endpoint(get(100)).add_endpoint(post(5))),
        Some(same)
    );
    assert_eq!(
        refused(Limits::new().add_endpoint(get(5)).add_endpoint(post(5))),
        None
    );
    let many = |method: Method| {
        (0..9).fold(Endpoint::new(&method, "/r"), |endpoint, at| {
            endpoint.per_key(Limit::named(format!("{method} {at}"), PER_MINUTE))
        })
    };
    let together = Limits::new()
        .add_endpoint(many(Method::GET))
        .add_endpoint(many(Method::PUT));
    assert_eq!(refused(together), Some(LimitsError::TooMany.to_string()));
}

#[test]
fn a_limit_by_an_undefined_subject_is_refused() {
    let builder = ApiKeys::builder(MemoryStore::new());
    let builder = builder.limits(Limits::new().per("tenant", PER_MINUTE));
    let refused = builder.add_subject("tenants", |_, _| None).build().err();
    let unknown = LimitsError::UnknownSubject("tenant".to_owned());
    assert_eq!(refused, Some(BuildError::Limits(unknown)));
    let name = LimitName::new("tenant_per_minute");
    assert_eq!(name.as_str(), "tenant_per_minute");
}
