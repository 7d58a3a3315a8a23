//! Anomalies are noticed, told once, and acted upon as the application chose.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use serde_json::{Value, json};
use support::{DAY, answer, is_waiting, today};
use tower_api_key::anomaly::{
    Action, Actions, AnomalyDetection, Baseline, Country, CountryHeader, Detector, Finding,
    Observed, Severity, UsageSpike,
};
use tower_api_key::clock::ManualClock;
use tower_api_key::http::PeerAddr;
use tower_api_key::key::{AllowedNetworks, KeyFormat};
use tower_api_key::store::{
    Change, Floor, KeptProfile, Paging, Start, StaticStore, StoreChain, StoreError, TrailQuery,
};
use tower_api_key::{
    ApiKeys, ApiKeysBuilder, BuildError, Environment, IssuedKey, KeyId, KeyRecord, KeyStore,
    Limits, ManagedKeyStore, MemoryStore, Quota,
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Keys with a worker, on a clock that stands still.
struct Process {
    keys: ApiKeys,
    clock: ManualClock,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Process {
    fn new(store: impl ManagedKeyStore, clock: &ManualClock, detection: AnomalyDetection) -> Self {
        Self::with(store, clock, detection, |builder| builder)
    }

    fn with(
        store: impl ManagedKeyStore,
        clock: &ManualClock,
        detection: AnomalyDetection,
        set: impl FnOnce(ApiKeysBuilder) -> ApiKeysBuilder,
    ) -> Self {
        let builder = ApiKeys::builder(store)
            .clock(clock.clone())
            .anomaly_detection(detection)
            .countries(CountryHeader::new("x-country").unwrap());
        let keys = set(builder).build().unwrap();
        let mut process = Self {
            worker: Box::pin(keys.worker().into_future()),
            keys,
            clock: clock.clone(),
        };
        process.work();
        process
    }

    fn work(&mut self) {
        // A task that is ready at once is polled again.
        for _ in 0..8 {
            assert!(is_waiting(&mut self.worker));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.work();
    }

    /// Sends requests with a key from a country, and returns the status of the last answer.
    fn ask(&self, key: &str, count: u32, country: &str) -> u16 {
        let mut status = 0;
        for _ in 0..count {
            status = self.ask_from(key, address_in(country), country);
        }
        status
    }

    fn ask_from(&self, key: &str, client: IpAddr, country: &str) -> u16 {
        let request = Request::builder()
            .header("x-api-key", key)
            .header("x-country", country)
            .extension(PeerAddr(SocketAddr::new(client, 1)));
        let request = request.body(()).unwrap();
        answer(&self.keys.layer(), request).status().as_u16()
    }

    /// Uses a key for some days, in the same hours of each and at the same rate, from Germany.
    fn use_as_usual(&mut self, key: &IssuedKey, days: u32) {
        for _ in 0..days {
            for hour in 0..24 {
                if (8..18).contains(&hour) {
                    assert_eq!(self.ask(key.expose_secret(), 12, "DE"), 200);
                }
                self.pass(HOUR);
            }
        }
    }
}

/// An address in a country, the same for the same country.
fn address_in(country: &str) -> IpAddr {
    let [a, b] = country.as_bytes()[..2].try_into().unwrap();
    IpAddr::from([192, 0, a, b])
}

/// The anomalies that were told, as their data.
async fn anomalies(store: &MemoryStore) -> Vec<(String, Option<String>, Value)> {
    let read = store.events(&Start::Beginning, 10_000).await.unwrap();
    assert!(read.is_end);
    let events = read.items.into_iter().map(|kept| kept.event);
    let anomalies = events.filter(|event| event.kind.starts_with("anomaly."));
    anomalies
        .map(|event| {
            let data = serde_json::from_str(&event.data).unwrap();
            assert!(event.key.is_some());
            (event.kind, event.account, data)
        })
        .collect()
}

async fn kinds(store: &MemoryStore) -> Vec<String> {
    let told = anomalies(store).await;
    told.into_iter().map(|(kind, ..)| kind).collect()
}

fn start() -> ManualClock {
    // A Monday at midnight, UTC.
    let seconds = today()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    ManualClock::at(today() - Duration::from_secs(seconds % 86_400))
}

#[tokio::test]
async fn a_stolen_key_is_told_then_throttled_then_suspended() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new().actions(Actions::recommended());
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 20);
    assert_eq!(kinds(&store).await, Vec::<String>::new());

    // Another country: medium. The owner's endpoints do not get it.
    process.pass(9 * HOUR);
    process.ask(key.expose_secret(), 3, "BR");
    process.pass(MINUTE);
    let told = anomalies(&store).await;
    let [(kind, account, data)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((&**kind, account), ("anomaly.medium", &None));
    assert_eq!(data["key_id"], key.id().to_string());
    assert_eq!(data["account"], "acme");
    let expected = json!([{
        "detector": "geographic_anomaly", "severity": "medium", "country": "BR",
        "address": address_in("BR").to_string(),
    }]);
    assert_eq!(data["findings"], expected);
    assert_eq!(data["action"], "none");
    assert_eq!(process.ask(key.expose_secret(), 1, "DE"), 200);

    // A day later, ten times the rate, and more: high. The key is throttled, and its owner is told.
    process.pass(DAY);
    process.ask(key.expose_secret(), 200, "DE");
    process.pass(MINUTE);
    let (kind, account, data) = anomalies(&store).await.pop().unwrap();
    assert_eq!((&*kind, account.as_deref()), ("anomaly.high", Some("acme")));
    assert_eq!(data["findings"][0]["detector"], "usage_spike");
    assert_eq!(data["findings"][0]["requests"], 200.0);
    assert_eq!(data["findings"][0]["hourly_average"], 12.0);
    assert_eq!(data["action"], "throttle");
    let record = process.keys.find(&key.id()).await.unwrap().unwrap();
    let throttled = record.throttled().unwrap();
    assert_eq!(throttled.quota, Quota::per_hour(60));
    let left = throttled.until.duration_since(clock_now(&clock)).unwrap();
    assert!(left <= DAY && left + 2 * MINUTE > DAY);
    assert_eq!(process.ask(key.expose_secret(), 61, "DE"), 429);

    // Both at once: critical.
    process.pass(20 * MINUTE); // what was denied is seen with the next look
    process.pass(2 * DAY);
    process.ask(key.expose_secret(), 59, "CN");
    process.pass(MINUTE);
    process.ask(key.expose_secret(), 200, "CN");
    process.pass(MINUTE);
    let told = anomalies(&store).await;
    let (kind, account, data) = &told[told.len() - 1];
    assert_eq!(
        (&**kind, account.as_deref()),
        ("anomaly.critical", Some("acme"))
    );
    assert_eq!(data["after"], json!(["geographic_anomaly"]));
    assert_eq!(data["action"], "suspend");
    assert_eq!(process.ask(key.expose_secret(), 1, "DE"), 403);
    let record = process.keys.find(&key.id()).await.unwrap().unwrap();
    let suspended = record.suspended().unwrap();
    assert_eq!(
        suspended.reason.as_deref(),
        Some("critical anomaly: usage_spike, geographic_anomaly")
    );
    let query = TrailQuery::new().with_key(key.id()).newest_first();
    let trail = process.keys.trail(&query, &Paging::first(2)).await.unwrap();
    let actions: Vec<_> = trail.items.iter().map(|it| it.action.as_str()).collect();
    assert_eq!(actions, ["api_key.suspended", "api_key.throttled"]);
    let origin = &trail.items[0].origin;
    assert_eq!(origin.actor.id, "anomaly detection");
    assert!(
        origin
            .reason
            .as_deref()
            .unwrap()
            .starts_with("critical anomaly")
    );
}

fn clock_now(clock: &ManualClock) -> std::time::SystemTime {
    use tower_api_key::clock::Clock;
    clock.now()
}

#[tokio::test]
async fn by_default_nothing_is_done_and_a_dry_run_says_what_would_be() {
    for (detection, action, dry_run) in [
        (AnomalyDetection::new(), "none", Value::Null),
        (
            AnomalyDetection::new()
                .actions(Actions::recommended())
                .dry_run(),
            "suspend",
            json!(true),
        ),
    ] {
        let (store, clock) = (MemoryStore::new(), start());
        let mut process = Process::new(store.clone(), &clock, detection);
        let key = process.keys.issue("acme").await.unwrap();
        process.use_as_usual(&key, 16);
        process.pass(9 * HOUR);
        process.ask(key.expose_secret(), 300, "BR");
        process.pass(MINUTE);
        let told = anomalies(&store).await;
        let [(kind, _, data)] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(kind, "anomaly.critical");
        assert_eq!(
            (&data["action"], &data["dry_run"]),
            (&json!(action), &dry_run)
        );
        assert_eq!(process.ask(key.expose_secret(), 1, "BR"), 200);
        let record = process.keys.find(&key.id()).await.unwrap().unwrap();
        assert_eq!(record.version(), 1, "the record did not change");
        // It is told once in a day.
        process.ask(key.expose_secret(), 300, "BR");
        process.pass(20 * MINUTE);
        assert_eq!(kinds(&store).await.len(), 1);
    }
}

#[tokio::test]
async fn a_revocation_that_was_chosen_has_its_reason() {
    let (store, clock) = (MemoryStore::new(), start());
    let actions = Actions::told_only().on(Severity::Critical, Action::Revoke);
    let detection = AnomalyDetection::new().actions(actions);
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(2 * HOUR); // at night, too
    process.ask(key.expose_secret(), 300, "BR");
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, ["anomaly.critical"]);
    assert_eq!(process.ask(key.expose_secret(), 1, "DE"), 401);
    let record = process.keys.find(&key.id()).await.unwrap().unwrap();
    let reason = record.revoked().unwrap().reason.as_deref();
    assert_eq!(reason, Some("automatic_security"));
}

#[tokio::test]
async fn an_unusual_hour_is_low_and_with_a_new_country_it_is_high() {
    let (store, clock) = (MemoryStore::new(), start());
    let mut process = Process::new(store.clone(), &clock, AnomalyDetection::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(2 * HOUR);
    process.ask(key.expose_secret(), 1, "DE");
    process.pass(MINUTE);
    let (kind, account, data) = anomalies(&store).await.pop().unwrap();
    assert_eq!((&*kind, account), ("anomaly.low", None));
    assert_eq!(data["findings"][0]["utc_hour"], 2);
    process.ask(key.expose_secret(), 1, "BR");
    process.pass(MINUTE);
    let (kind, _, data) = anomalies(&store).await.pop().unwrap();
    assert_eq!(kind, "anomaly.high");
    assert_eq!(data["after"], json!(["temporal_anomaly"]));
}

#[tokio::test]
async fn nothing_is_found_before_the_learning_time_is_over() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new().actions(Actions::recommended());
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 13);
    process.pass(2 * HOUR);
    for country in ["BR", "CN", "US"] {
        process.ask(key.expose_secret(), 1_000, country);
        process.pass(HOUR);
    }
    assert_eq!(kinds(&store).await, Vec::<String>::new());
    assert_eq!(process.ask(key.expose_secret(), 1, "DE"), 200);
    // What was seen while learning is usual afterwards.
    process.pass(HOUR);
    process.pass(2 * DAY + 3 * HOUR);
    process.ask(key.expose_secret(), 1, "CN");
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_given_baseline_holds_from_the_first_request_on() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new().baseline(|record| {
        let countries = [Country::new(record.metadata().get("country")?).ok()?];
        let baseline = Baseline::new().countries(countries).active_hours(8..18);
        Some(baseline.hourly_average(30))
    });
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process
        .keys
        .issue("acme")
        .add_metadata("country", "FR")
        .await
        .unwrap();
    let other = process.keys.issue("acme").await.unwrap();
    process.pass(9 * HOUR);
    for key in [&key, &other] {
        process.ask(key.expose_secret(), 300, "FR");
    }
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, Vec::<String>::new());
    process.ask(key.expose_secret(), 1, "FR");
    for key in [&key, &other] {
        process.ask(key.expose_secret(), 1, "DE");
    }
    process.pass(MINUTE);
    let told = anomalies(&store).await;
    let [(kind, _, data)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(kind, "anomaly.critical");
    assert_eq!(data["findings"].as_array().unwrap().len(), 2);
}

struct Canary(KeyId);

impl Detector for Canary {
    fn name(&self) -> &'static str {
        "canary_used"
    }

    fn detect(&self, observed: &Observed<'_>) -> Option<Finding> {
        let finding = Finding::new(Severity::High).fact("where", "a public file");
        (observed.key() == self.0 && observed.account() == "acme").then_some(finding)
    }
}

#[tokio::test]
async fn a_detector_of_the_application_joins_the_others() {
    let (store, clock) = (MemoryStore::new(), start());
    let keys = ApiKeys::builder(store.clone()).build().unwrap();
    let (planted, other) = (
        keys.issue("acme").await.unwrap(),
        keys.issue("acme").await.unwrap(),
    );
    let detection = AnomalyDetection::new()
        .usage_spike(None)
        .temporal_anomaly(None)
        .geographic_anomaly(None)
        .detector(Canary(planted.id()));
    let mut process = Process::new(store.clone(), &clock, detection);
    process.ask(other.expose_secret(), 1, "DE");
    process.ask(planted.expose_secret(), 1, "DE");
    process.pass(MINUTE);
    let told = anomalies(&store).await;
    let [(kind, _, data)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(kind, "anomaly.high");
    assert_eq!(data["key_id"], planted.id().to_string());
    let finding = &data["findings"][0];
    assert_eq!(finding["detector"], "canary_used");
    assert_eq!(finding["where"], "a public file");
}

#[tokio::test]
async fn detectors_can_be_switched_off() {
    let all = AnomalyDetection::new;
    for (detection, missing) in [
        (all().usage_spike(None), "usage_spike"),
        (all().temporal_anomaly(None), "temporal_anomaly"),
        (all().geographic_anomaly(None), "geographic_anomaly"),
        (
            all().usage_spike(UsageSpike::new().floor(10_000)),
            "usage_spike",
        ),
        (
            all().usage_spike(UsageSpike::new().factor(1_000.0)),
            "usage_spike",
        ),
    ] {
        let (store, clock) = (MemoryStore::new(), start());
        let mut process = Process::new(store.clone(), &clock, detection);
        let key = process.keys.issue("acme").await.unwrap();
        process.use_as_usual(&key, 16);
        process.pass(2 * HOUR);
        process.ask(key.expose_secret(), 500, "BR");
        process.pass(MINUTE);
        let found = anomalies(&store).await.pop().unwrap().2["findings"].clone();
        let mut found: Vec<_> = found.as_array().unwrap().clone();
        found.sort_by_key(|it| it["detector"].to_string());
        let found: Vec<_> = found
            .iter()
            .map(|it| it["detector"].as_str().unwrap())
            .collect();
        let mut expected = vec!["geographic_anomaly", "temporal_anomaly", "usage_spike"];
        expected.retain(|name| *name != missing);
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn publishable_keys_and_processes_without_a_worker_are_not_watched() {
    let (store, clock) = (MemoryStore::new(), start());
    let formats = [
        KeyFormat::new("sk_live", Environment::LIVE).unwrap(),
        KeyFormat::new("pk_live", Environment::LIVE)
            .unwrap()
            .publishable(),
    ];
    let mut process = Process::with(store.clone(), &clock, AnomalyDetection::new(), |builder| {
        builder.formats(formats.clone())
    });
    let key = process.keys.issue("acme").publishable().await.unwrap();
    let silent = ApiKeys::builder(store.clone())
        .clock(clock.clone())
        .formats(formats)
        .anomaly_detection(AnomalyDetection::new())
        .build()
        .unwrap();
    let unwatched = process.keys.issue("acme").await.unwrap();
    let ask = |keys: &ApiKeys, key: &IssuedKey| {
        let request = Request::builder().header("x-api-key", key.expose_secret());
        let request = request.body(()).unwrap();
        let layer = keys.layer().kinds([
            tower_api_key::key::KeyKind::Secret,
            tower_api_key::key::KeyKind::Publishable,
        ]);
        assert_eq!(answer(&layer, request).status(), 200);
    };
    ask(&process.keys, &key);
    ask(&silent, &unwatched);
    process.pass(HOUR);
    let profiles = store.profiles(&[key.id(), unwatched.id()]).await.unwrap();
    assert_eq!(profiles, []);
    ask(&process.keys, &unwatched);
    process.pass(HOUR);
    let profiles = store.profiles(&[key.id(), unwatched.id()]).await.unwrap();
    assert_eq!(profiles.len(), 1);
}

#[tokio::test]
async fn a_successor_begins_with_the_profile_and_neither_key_answers_for_the_other() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new().actions(Actions::recommended());
    let mut process = Process::new(store.clone(), &clock, detection);
    let old = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&old, 16);
    let next = process.keys.rotate(old.id()).grace(2 * DAY).await.unwrap();
    process.pass(9 * HOUR);
    process.ask(next.expose_secret(), 1, "DE");
    process.pass(MINUTE);
    assert_eq!(
        kinds(&store).await,
        Vec::<String>::new(),
        "its country is known"
    );
    // A thief has the old key.
    process.ask(old.expose_secret(), 1, "BR");
    process.pass(MINUTE);
    process.ask(next.expose_secret(), 300, "DE");
    process.pass(MINUTE);
    let told = anomalies(&store).await;
    let [(medium, _, of_old), (high, _, of_next)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!((&**medium, &**high), ("anomaly.medium", "anomaly.high"));
    assert_eq!(of_old["key_id"], old.id().to_string());
    assert_eq!(of_next["key_id"], next.id().to_string());
    // The spike of one key does not hide that of the other.
    process.ask(old.expose_secret(), 300, "BR");
    process.pass(MINUTE);
    let (kind, _, data) = anomalies(&store).await.pop().unwrap();
    assert_eq!(
        (&*kind, &data["key_id"]),
        ("anomaly.critical", &json!(old.id().to_string()))
    );
    assert_eq!(process.ask(old.expose_secret(), 1, "DE"), 403);
    assert_ne!(process.ask(next.expose_secret(), 1, "DE"), 403);

    process.pass(4 * DAY);
    process.keys.purge(DAY).await.unwrap();
    assert_eq!(process.keys.find(&old.id()).await.unwrap(), None);
    let kept = store.profiles(&[old.id(), next.id()]).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|profile| profile.key).collect();
    assert_eq!(kept, [next.id()]);
}

/// Integrate, wait, launch: the usual life of a key.
#[tokio::test]
async fn a_key_that_was_tried_and_is_launched_weeks_later_is_no_anomaly() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new().actions(Actions::recommended());
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.pass(20 * HOUR);
    process.ask(key.expose_secret(), 3, "DE");
    process.pass(21 * DAY);
    for _ in 0..10 {
        assert_eq!(process.ask(key.expose_secret(), 500, "US"), 200);
        process.pass(HOUR);
    }
    assert_eq!(kinds(&store).await, Vec::<String>::new());
}

/// A key of the environment cannot be changed, and does not keep the alerts of others waiting.
#[tokio::test]
async fn a_key_that_cannot_be_changed_is_told_of_and_keeps_no_other_waiting() {
    let (store, clock) = (MemoryStore::new(), start());
    let text = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let fixed = StaticStore::from_text(&format!("admin acme = {text}")).unwrap();
    let chain = StoreChain::new(store.clone(), fixed.clone(), fixed.to_string());
    let given = || {
        Baseline::new()
            .countries([Country::new("DE").unwrap()])
            .hourly_average(1)
    };
    let detection = AnomalyDetection::new()
        .baseline(move |_| Some(given()))
        .actions(Actions::recommended());
    let mut process = Process::with(chain, &clock, detection, |builder| {
        builder.formats(StaticStore::formats())
    });
    let key = process.keys.issue("globex").await.unwrap();
    process.ask(text, 300, "BR");
    process.ask(key.expose_secret(), 300, "BR");
    process.pass(MINUTE);
    let told = anomalies(&store).await;
    let mut done: Vec<_> = told
        .iter()
        .map(|(kind, account, data)| (account.clone().unwrap(), kind.clone(), &data["action"]))
        .collect();
    done.sort_by_key(|(account, ..)| account.clone());
    let critical = "anomaly.critical".to_owned();
    let expected = [
        ("acme".to_owned(), critical.clone(), &json!("none")),
        ("globex".to_owned(), critical, &json!("suspend")),
    ];
    assert_eq!(done, expected);
    assert_eq!(process.ask(text, 1, "BR"), 200);
    assert_eq!(process.ask(key.expose_secret(), 1, "BR"), 403);
}

/// What is notable while the worker looks waits for the next look.
#[tokio::test]
async fn a_client_cannot_keep_the_worker_at_it() {
    let (store, clock) = (Losing::new(), start());
    let mut process = Process::new(store.clone(), &clock, AnomalyDetection::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    let saves = || store.saves.swap(0, Ordering::SeqCst);
    saves();
    *store.busy.lock().unwrap() = Some((process.keys.clone(), key.expose_secret().to_owned()));
    process.ask(key.expose_secret(), 300, "DE");
    process.pass(MINUTE);
    assert_eq!(saves(), 1);
    process.pass(MINUTE);
    assert_eq!(saves(), 1);
    *store.busy.lock().unwrap() = None;
}

#[tokio::test]
async fn a_throttle_to_the_usual_goes_by_the_average_that_was_given() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new()
        .baseline(|_| Some(Baseline::new().hourly_average(100)))
        .actions(Actions::recommended());
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.ask(key.expose_secret(), 1_100, "DE");
    process.pass(MINUTE);
    let record = process.keys.find(&key.id()).await.unwrap().unwrap();
    assert_eq!(record.throttled().unwrap().quota, Quota::per_hour(200));
}

#[tokio::test]
async fn a_use_that_came_in_no_request_is_seen() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = AnomalyDetection::new().baseline(|_| Some(Baseline::new().hourly_average(1)));
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    for _ in 0..101 {
        process.keys.verify(key.expose_secret()).await.unwrap();
    }
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, ["anomaly.high"]);
}

#[test]
fn the_names_of_detectors_tell_them_apart() {
    struct Named(&'static str);

    impl Detector for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn detect(&self, _: &Observed<'_>) -> Option<Finding> {
            None
        }
    }

    let build = |names: &[&'static str]| {
        let detectors = names.iter().map(|name| Named(name));
        let detection = detectors.fold(AnomalyDetection::new(), AnomalyDetection::detector);
        let builder = ApiKeys::builder(MemoryStore::new()).anomaly_detection(detection);
        builder.build().map(|_| ())
    };
    build(&["canary_used", "too_many_scopes_2"]).unwrap();
    for names in [&[""][..], &["a b"], &["A"], &["usage_spike"], &["a", "a"]] {
        let error = build(names).unwrap_err();
        assert!(matches!(error, BuildError::DetectorName(_)), "{error}");
    }
}

/// Each of ten processes sees a tenth of the spike.
#[tokio::test]
async fn processes_find_a_spike_together_and_tell_it_once() {
    let (store, clock) = (MemoryStore::new(), start());
    let detection = || AnomalyDetection::new().actions(Actions::recommended());
    let mut first = Process::new(store.clone(), &clock, detection());
    let key = first.keys.issue("acme").await.unwrap();
    first.use_as_usual(&key, 16);
    let mut processes: Vec<Process> = (0..10)
        .map(|_| Process::new(store.clone(), &clock, detection()))
        .collect();
    clock.advance(9 * HOUR);
    for process in &mut processes {
        process.work();
    }
    for round in 0..20 {
        for process in &processes {
            process.ask(key.expose_secret(), 2, "DE");
        }
        clock.advance(MINUTE / 2);
        for process in &mut processes {
            process.work();
        }
        if !kinds(&store).await.is_empty() {
            assert!(round >= 6, "the threshold is 120 requests");
            break;
        }
    }
    let told = anomalies(&store).await;
    let [(kind, _, data)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(kind, "anomaly.high");
    // The count is exact: nothing is counted twice or lost.
    let requests = data["findings"][0]["requests"].as_f64().unwrap();
    assert!((120.0..=200.0).contains(&requests), "{requests}");
}

/// A store whose saves of profiles, or commits, are lost in some way, as often as it is told.
#[derive(Clone)]
struct Losing {
    store: MemoryStore,
    /// The saves that are carried out and fail, and the commits that are.
    lost_saves: Arc<AtomicU32>,
    lost_commits: Arc<AtomicU32>,
    saves: Arc<AtomicU32>,
    /// Keys, and one of them that is used during each save.
    busy: Arc<Mutex<Option<(ApiKeys, String)>>>,
}

impl Losing {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            lost_saves: Arc::default(),
            lost_commits: Arc::default(),
            saves: Arc::default(),
            busy: Arc::default(),
        }
    }
}

fn take_one(left: &AtomicU32) -> bool {
    let less = |left: u32| left.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

impl KeyStore for Losing {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<tower_api_key::store::AgedRecord>, StoreError> {
        self.store.find_at_least(id, floor).await
    }
}

impl ManagedKeyStore for Losing {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find_committed(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.store.commit(change).await?;
        if take_one(&self.lost_commits) {
            return Err(StoreError::unavailable("the answer was lost"));
        }
        Ok(())
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        self.store.profiles(keys).await
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        let busy = self.busy.lock().unwrap().clone();
        if let Some((keys, key)) = busy {
            for _ in 0..200 {
                let request = Request::builder()
                    .header("x-api-key", &key)
                    .body(())
                    .unwrap();
                answer(&keys.layer(), request);
            }
        }
        let saved = self.store.save_profiles(profiles).await?;
        self.saves.fetch_add(1, Ordering::SeqCst);
        if take_one(&self.lost_saves) {
            return Err(StoreError::unavailable("the answer was lost"));
        }
        Ok(saved)
    }
}

#[tokio::test]
async fn invariant_11_a_lost_answer_counts_nothing_and_tells_nothing_twice() {
    let (store, clock) = (Losing::new(), start());
    let detection = AnomalyDetection::new().actions(Actions::recommended());
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    process.ask(key.expose_secret(), 100, "DE");
    store.lost_saves.store(3, Ordering::SeqCst);
    let before = store.saves.load(Ordering::SeqCst);
    process.pass(HOUR / 6);
    assert!(store.saves.load(Ordering::SeqCst) > before);
    for _ in 0..4 {
        process.pass(HOUR / 60);
    }
    assert_eq!(
        kinds(&store.store).await,
        Vec::<String>::new(),
        "100 are no spike"
    );
    // The alert was stored, its answer lost, and then the save of the profile, too.
    store.lost_commits.store(1, Ordering::SeqCst);
    process.ask(key.expose_secret(), 60, "DE");
    for round in 0..10 {
        process.pass(HOUR / 30);
        if round == 2 {
            store.lost_saves.store(1, Ordering::SeqCst);
        }
    }
    let told = anomalies(&store.store).await;
    let [(kind, _, data)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(kind, "anomaly.high");
    assert_eq!(
        data["findings"][0]["requests"], 160.0,
        "none is counted twice"
    );
    assert_eq!(data["action"], "throttle");
}

/// A process ends right after the alert was stored, and before the profile was.
#[tokio::test]
async fn a_process_that_is_killed_loses_no_alert() {
    let (store, clock) = (Losing::new(), start());
    let mut process = Process::new(store.clone(), &clock, AnomalyDetection::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    process.ask(key.expose_secret(), 1, "BR");
    store.lost_commits.store(1, Ordering::SeqCst);
    process.pass(MINUTE);
    drop(process);
    assert_eq!(kinds(&store.store).await, ["anomaly.medium"]);
    let mut next = Process::new(store.clone(), &clock, AnomalyDetection::new());
    next.ask(key.expose_secret(), 1, "BR");
    next.pass(MINUTE);
    assert_eq!(kinds(&store.store).await, ["anomaly.medium"], "told once");
    next.ask(key.expose_secret(), 1, "CN");
    next.pass(MINUTE);
    assert_eq!(kinds(&store.store).await.len(), 2);
}

/// More keys are due than are looked at at a time, and the store fails.
#[tokio::test]
async fn a_worker_that_is_dropped_leaves_no_key_unwatched() {
    let (store, clock) = (Losing::new(), start());
    let mut process = Process::new(store.clone(), &clock, AnomalyDetection::new());
    let mut issued = Vec::new();
    for _ in 0..450 {
        let key = process.keys.issue("acme").await.unwrap();
        process.ask(key.expose_secret(), 1, "DE");
        issued.push(key);
    }
    store.lost_saves.store(u32::MAX, Ordering::SeqCst);
    for _ in 0..3 {
        process.pass(MINUTE);
    }
    store.lost_saves.store(0, Ordering::SeqCst);
    process.worker = Box::pin(process.keys.worker().into_future());
    process.work();
    for key in &issued {
        process.ask(key.expose_secret(), 1, "DE");
    }
    process.pass(MINUTE);
    let ids: Vec<_> = issued.iter().map(IssuedKey::id).collect();
    assert_eq!(store.profiles(&ids).await.unwrap().len(), 450);
}

#[tokio::test]
async fn an_alert_that_cannot_be_stored_keeps_no_other_key_waiting() {
    let (store, clock) = (Losing::new(), start());
    let detection = AnomalyDetection::new().baseline(|record| {
        let is_watched = record.account() == "acme";
        is_watched.then(|| Baseline::new().hourly_average(1))
    });
    let mut process = Process::new(store.clone(), &clock, detection);
    let alarming = process.keys.issue("acme").await.unwrap();
    let other = process.keys.issue("globex").await.unwrap();
    store.lost_commits.store(u32::MAX, Ordering::SeqCst);
    process.ask(alarming.expose_secret(), 300, "DE");
    process.ask(other.expose_secret(), 1, "DE");
    process.pass(MINUTE);
    let kept = async || store.profiles(&[alarming.id(), other.id()]).await.unwrap();
    let keys: Vec<_> = kept().await.iter().map(|kept| kept.key).collect();
    assert_eq!(keys, [other.id()]);
    store.lost_commits.store(0, Ordering::SeqCst);
    process.pass(MINUTE);
    assert_eq!(kept().await.len(), 2);
    assert_eq!(kinds(&store.store).await, ["anomaly.high"], "told once");
}

/// A detector that finds more, the longer it looks.
struct Rising(AtomicU32);

impl Detector for Rising {
    fn name(&self) -> &'static str {
        "rising"
    }

    fn detect(&self, _: &Observed<'_>) -> Option<Finding> {
        let looks = self.0.fetch_add(1, Ordering::SeqCst);
        let severities = [Severity::Low, Severity::Low, Severity::Critical];
        severities.get(looks as usize).copied().map(Finding::new)
    }
}

#[tokio::test]
async fn a_finding_that_becomes_more_severe_is_told_again() {
    let (store, clock) = (MemoryStore::new(), start());
    let actions = Actions::recommended().on(Severity::Low, Action::suspend_for(HOUR));
    let detection = AnomalyDetection::new()
        .actions(actions)
        .detector(Rising(AtomicU32::new(0)));
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    let keys = process.keys.clone();
    let record = async || keys.find(&key.id()).await.unwrap().unwrap();
    process.ask(key.expose_secret(), 1, "DE");
    process.pass(MINUTE);
    let until = record().await.suspended().unwrap().until;
    assert!(until.is_some());
    // What came before the suspension is looked at, too.
    for expected in [&["anomaly.low"][..], &["anomaly.low", "anomaly.critical"]] {
        keys.resume(key.id()).await.unwrap();
        process.ask(key.expose_secret(), 1, "DE");
        keys.suspend(key.id()).until(until).await.unwrap();
        process.pass(20 * MINUTE);
        assert_eq!(kinds(&store).await, expected);
    }
    assert_eq!(
        record().await.suspended().unwrap().until,
        None,
        "the longer one"
    );
}

#[tokio::test]
async fn a_worker_that_is_stopped_tells_what_it_has_seen() {
    let (store, clock) = (MemoryStore::new(), start());
    let mut process = Process::new(store.clone(), &clock, AnomalyDetection::new());
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    drop(std::mem::replace(
        &mut process.worker,
        Box::pin(process.keys.worker().until(async {
            let _ = stopped.await;
        })),
    ));
    process.work();
    process.ask(key.expose_secret(), 1, "BR");
    stop.send(()).unwrap();
    process.worker.as_mut().await;
    assert_eq!(kinds(&store).await, ["anomaly.medium"]);
}

/// Whoever may not use a key cannot get it suspended, or teach what is usual for it.
#[tokio::test]
async fn requests_that_a_limit_denies_are_seen_and_those_that_the_key_denies_are_not() {
    let (store, clock) = (MemoryStore::new(), start());
    let limits = Limits::new().per_key(Quota::per_hour(100));
    let mut process = Process::with(store.clone(), &clock, AnomalyDetection::new(), |builder| {
        builder.limits(limits)
    });
    let home = AllowedNetworks::only([format!("{}/32", address_in("DE"))]).unwrap();
    let key = process.keys.issue("acme").networks(home).await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    assert_eq!(process.ask(key.expose_secret(), 500, "BR"), 403);
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, Vec::<String>::new());
    assert_eq!(process.ask(key.expose_secret(), 300, "DE"), 429);
    process.pass(MINUTE);
    assert_eq!(kinds(&store).await, ["anomaly.high"]);
}

#[tokio::test]
async fn addresses_stay_out_where_they_are_hidden() {
    let (store, clock) = (MemoryStore::new(), start());
    let mut process = Process::with(store.clone(), &clock, AnomalyDetection::new(), |builder| {
        builder.log_without_addresses()
    });
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    process.ask(key.expose_secret(), 1, "BR");
    process.pass(MINUTE);
    let (_, _, data) = anomalies(&store).await.pop().unwrap();
    assert!(!data.to_string().contains(&address_in("BR").to_string()));
    assert_eq!(data["findings"][0]["country"], "BR");
}

/// A throttle or a suspension that somebody set is not replaced by a milder or a shorter one.
#[tokio::test]
async fn what_an_operator_did_is_left_as_it_is() {
    let (store, clock) = (MemoryStore::new(), start());
    let actions = Actions::told_only()
        .on(Severity::High, Action::throttle(Quota::per_hour(5), HOUR))
        .on(Severity::Critical, Action::suspend_for(HOUR));
    let detection = AnomalyDetection::new().actions(actions);
    let mut process = Process::new(store.clone(), &clock, detection);
    let key = process.keys.issue("acme").await.unwrap();
    process.use_as_usual(&key, 16);
    process.pass(9 * HOUR);
    process.ask(key.expose_secret(), 300, "BR");
    // The operator was faster than the look.
    process
        .keys
        .suspend(key.id())
        .reason("a call")
        .await
        .unwrap();
    process.pass(MINUTE);
    let (kind, _, data) = anomalies(&store).await.pop().unwrap();
    assert_eq!(
        (&*kind, &data["action"]),
        ("anomaly.critical", &json!("none"))
    );
    let record = process.keys.find(&key.id()).await.unwrap().unwrap();
    assert_eq!(record.suspended().unwrap().until, None);
    // And a key that is resumed works again.
    process.keys.resume(key.id()).await.unwrap();
    assert_eq!(process.ask(key.expose_secret(), 1, "DE"), 200);
}

/// The own table of an application keeps no profiles.
#[tokio::test]
async fn a_store_without_profiles_is_logged_and_serves_on() {
    struct Plain(MemoryStore);

    impl KeyStore for Plain {
        async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
            self.0.find(id).await
        }
    }

    impl ManagedKeyStore for Plain {
        async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
            self.0.find(id).await
        }

        async fn commit(&self, change: &Change) -> Result<(), StoreError> {
            self.0.commit(change).await
        }
    }

    let clock = start();
    let mut process = Process::new(Plain(MemoryStore::new()), &clock, AnomalyDetection::new());
    let key = process.keys.issue("acme").await.unwrap();
    for _ in 0..100 {
        assert_eq!(process.ask(key.expose_secret(), 3, "DE"), 200);
        process.pass(HOUR);
    }
}
