//! Deliveries step by step: a worker that is polled by hand, on a clock that stands still, with a
//! client that answers when it is told to.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/deliveries.rs"]
mod deliveries;
mod support;

use std::time::Duration;

use deliveries::{NEW, OLD, Process, SECOND, URL, masters};
use support::{DAY, today};
use tower_api_key::MemoryStore;
use tower_api_key::clock::{Clock, ManualClock};
use tower_api_key::events::{DeliveryState, EndpointError};
use tower_api_key::store::{Claim, Outbox};
use tower_api_key::webhook::{SendErrorKind, WebhookMasters};

/// A claim leaves out the endpoints that are busy, so it must be made again for those that were busy
/// during the last one only.
#[tokio::test]
async fn a_fast_receiver_gets_all_events_at_once() {
    let mut process = Process::new();
    for _ in 0..40 {
        process.issue().await;
    }
    process.later(SECOND);
    assert_eq!(process.sink.of_kind("api_key.issued").len(), 40);
}

#[tokio::test]
async fn a_410_disables_and_the_account_hears_of_it_once() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Ok(410));
    process.client.answer(1, Ok(410));
    process.work();
    let found = process.acme().find(&id).await.unwrap().unwrap();
    assert_eq!(found.disabled.unwrap().reason, "the endpoint answered 410");
    let failed = [DeliveryState::Failed, DeliveryState::Failed];
    assert_eq!(process.states(&id).await, failed);
    process.later(SECOND);
    let told = process.sink.of_kind("webhook.disabled");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].event.account.as_deref(), Some("acme"));
    let data: serde_json::Value = serde_json::from_str(&told[0].event.data).unwrap();
    assert_eq!(data["endpoint_id"], *id);
    assert_eq!(data["reason"], "the endpoint answered 410");
}

/// The second answer was on its way when the owner repaired the receiver.
#[tokio::test]
async fn a_late_410_does_not_disable_what_was_repaired() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Ok(410));
    process.work();
    assert!(process.is_disabled(&id).await);
    process.acme().enable(&id).await.unwrap();
    process.client.answer(1, Ok(410));
    process.work();
    assert!(!process.is_disabled(&id).await);
    // The event is not lost either.
    process.later(SECOND * 7);
    assert_eq!(process.client.count(), 3);
    process.client.answer(2, Ok(204));
    process.work();
    let mut states = process.states(&id).await;
    states.sort_by_key(|state| state.as_str());
    assert_eq!(states, [DeliveryState::Delivered, DeliveryState::Failed]);
}

#[tokio::test]
async fn a_rotation_meanwhile_only_puts_the_end_off() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.later(SECOND);
    process.acme().rotate_secret(&id, DAY).await.unwrap();
    process.client.answer(0, Ok(410));
    process.work();
    assert!(!process.is_disabled(&id).await);
    process.later(SECOND * 7);
    process.client.answer(1, Ok(410));
    process.work();
    assert!(process.is_disabled(&id).await);
}

/// Another process of a deployment may allow the port of the URL.
#[tokio::test]
async fn a_url_that_this_process_refuses_is_tried_again() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Err(SendErrorKind::UrlRefused));
    process.work();
    let [delivery] = &process.deliveries(&id).await[..] else {
        panic!("there is one event");
    };
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!(delivery.cause.as_deref(), Some("url_refused"));
    process.later(SECOND * 7);
    process.client.answer(1, Ok(204));
    process.work();
    assert_eq!(process.states(&id).await, [DeliveryState::Delivered]);
}

/// Otherwise an owner could ask for the names of the network here, one by one.
#[tokio::test]
async fn an_owner_does_not_learn_which_internal_names_exist() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    process.client.answer(0, Err(SendErrorKind::AddressRefused));
    process.client.answer(1, Err(SendErrorKind::DnsFailed));
    process.work();
    let causes: Vec<_> = process.deliveries(&id).await;
    let causes: Vec<_> = causes.iter().map(|it| it.cause.as_deref()).collect();
    assert_eq!(causes, [Some("host_not_reached"); 2]);
}

/// The receiver may know the new secret only, so the old one alone is of no use.
#[tokio::test]
async fn a_process_without_the_current_master_leaves_deliveries_to_others() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let mut ignorant = Process::with(&store, &clock, masters());
    let id = ignorant.hook().await;
    let both = WebhookMasters::new("2026", &NEW).unwrap();
    let both = both.with_retired("2025", &OLD).unwrap();
    let mut knowing = Process::with(&store, &clock, both);
    knowing.acme().rotate_secret(&id, DAY).await.unwrap();
    knowing.issue().await;
    // More often than attempts may stay without an outcome, and than there are steps.
    for _ in 0..30 {
        ignorant.later(SECOND * 61);
    }
    assert_eq!(ignorant.client.count(), 0);
    let [delivery] = &knowing.deliveries(&id).await[..] else {
        panic!("there is one event");
    };
    assert_eq!(delivery.state, DeliveryState::Pending);
    assert_eq!((delivery.attempts, &delivery.cause), (30, &None));
    let wait = delivery.next_at.unwrap().duration_since(clock.now());
    assert_eq!(wait.unwrap(), SECOND * 10);
    // It leaves the endpoint alone for a while, in which others take it over.
    ignorant.later(SECOND * 11);
    knowing.work();
    assert_eq!((ignorant.client.count(), knowing.client.count()), (0, 1));
    assert_eq!(knowing.client.signatures(0), 2);
    // The schedule begins only now.
    knowing.client.answer(0, Ok(500));
    knowing.work();
    knowing.later(SECOND * 7);
    knowing.client.answer(1, Ok(204));
    knowing.work();
    assert_eq!(knowing.states(&id).await, [DeliveryState::Delivered]);
}

#[tokio::test]
async fn a_delivery_whose_attempts_never_end_is_given_up() {
    let (store, clock) = (MemoryStore::new(), ManualClock::at(today()));
    let mut process = Process::with(&store, &clock, masters());
    let id = process.hook().await;
    process.issue().await;
    // 19 processes die, and one more claims it.
    let claim = Claim::new(clock.now(), Duration::ZERO);
    for _ in 0..19 {
        assert_eq!(store.claim(&claim).await.unwrap().len(), 1);
    }
    process.later(SECOND);
    assert_eq!(process.client.count(), 1);
    drop(process);
    let mut process = Process::with(&store, &clock, masters());
    process.later(SECOND * 200);
    assert_eq!(process.client.count(), 0);
    let delivery = process.deliveries(&id).await.remove(0);
    assert_eq!(delivery.state, DeliveryState::Failed);
    assert_eq!(delivery.cause.as_deref(), Some("no attempt has ended"));
    // After the fault is found, it is sent by hand.
    let event = &delivery.event.id;
    assert!(process.acme().replay(&id, event).await.unwrap());
    process.later(SECOND);
    process.client.answer(0, Ok(204));
    process.work();
    assert_eq!(process.states(&id).await, [DeliveryState::Delivered]);
}

#[tokio::test]
async fn an_owner_who_has_repaired_the_receiver_does_not_wait() {
    let mut process = Process::new();
    let id = process.hook().await;
    process.issue().await;
    process.issue().await;
    process.later(SECOND);
    for at in 0..2 {
        process.client.answer(at, Ok(500));
    }
    process.work();
    let event = process.deliveries(&id).await.remove(0).event.id;
    assert!(process.acme().replay(&id, &event).await.unwrap());
    assert!(
        !process.acme().replay(&id, &event).await.unwrap(),
        "it is due"
    );
    process.later(SECOND);
    assert_eq!(process.client.count(), 3);
    process.client.answer(2, Ok(500));
    process.work();
    assert_eq!(process.acme().retry_now(&id).await.unwrap(), 2);
    process.later(SECOND);
    assert_eq!(process.client.count(), 5);
    let globex = process.keys.endpoints("globex").unwrap();
    let refused = globex.retry_now(&id).await;
    assert!(matches!(refused, Err(EndpointError::NotFound(_))));
}

#[tokio::test]
async fn a_url_is_replaced_and_the_secret_and_the_backlog_stay() {
    let mut process = Process::new();
    let hook = process.acme().register(URL).await.unwrap();
    let id = hook.id();
    process.acme().disable(id, "it moves").await.unwrap();
    process.acme().enable(id).await.unwrap();
    process.issue().await;
    for url in ["http://a.example/", "mail", "https://user@a.example/"] {
        let refused = process.acme().set_url(id, url).await;
        assert!(matches!(refused, Err(EndpointError::Url(_))), "{url}");
    }
    let moved = "https://other.acme.example/";
    process.acme().set_url(id, moved).await.unwrap();
    let found = process.acme().webhook(id).await.unwrap();
    assert_eq!(found.expose_secret(), hook.expose_secret());
    process.later(SECOND);
    assert_eq!(process.client.url(0), moved);
    let all = process.keys.dangerous_all_endpoints().unwrap();
    let refused = all.set_url("quick", moved).await;
    assert!(matches!(refused, Err(EndpointError::NoWebhook(_))));
}

#[tokio::test]
async fn a_disabled_endpoint_keeps_its_first_reason_and_gets_no_test() {
    let process = Process::new();
    let id = process.hook().await;
    let first = process.acme().disable(&id, "unpaid").await.unwrap();
    process.clock.advance(SECOND);
    let second = process.acme().disable(&id, "cleaning up").await.unwrap();
    assert_eq!(first, second);
    assert_eq!(second.disabled.unwrap().reason, "unpaid");
    let refused = process.acme().send_test(&id).await;
    assert!(matches!(refused, Err(EndpointError::Disabled(of)) if of == id));
    process.acme().enable(&id).await.unwrap();
    process.acme().send_test(&id).await.unwrap();
}

#[tokio::test]
async fn a_sink_whose_endpoint_was_deleted_gets_another_one() {
    let mut process = Process::new();
    let all = process.keys.dangerous_all_endpoints().unwrap();
    assert!(all.delete("quick").await.unwrap());
    process.later(SECOND * 61);
    process.issue().await;
    process.later(SECOND);
    assert_eq!(process.sink.of_kind("api_key.issued").len(), 1);
}
