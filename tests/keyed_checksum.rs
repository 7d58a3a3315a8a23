//! Keys with a keyed checksum: a forged key is malformed, and touches no store.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use support::testkit::World;
use support::{Answered, at_once, stranger, text};
use tower_api_key::http::NotFound;
use tower_api_key::key::{ChecksumRing, KeyFormat};
use tower_api_key::store::StaticStore;
use tower_api_key::{ApiKeys, Environment, Rejection};

const CURRENT: &[u8] = &[1; 32];
const RETIRED: &[u8] = &[2; 32];

fn ring(secret: &[u8]) -> ChecksumRing {
    ChecksumRing::new(secret).unwrap()
}

fn format(ring: &ChecksumRing) -> KeyFormat {
    let format = KeyFormat::new("sk_live", Environment::LIVE).unwrap();
    format.keyed_checksum(ring)
}

fn world(ring: &ChecksumRing) -> World {
    let builder = World::builder();
    builder.set(|keys| keys.formats([format(ring)])).build()
}

/// The same keys, after a restart with another ring.
fn keys_over(world: &World, ring: &ChecksumRing) -> ApiKeys {
    let keys = ApiKeys::builder(world.store.clone()).clock(world.clock.clone());
    keys.formats([format(ring)]).build().unwrap()
}

fn key_under(secret: &[u8]) -> String {
    let key = format(&ring(secret)).generate().unwrap();
    key.expose_secret().to_owned()
}

/// The whole answer, and why the request was refused.
fn parts(answer: Answered) -> (String, Option<Rejection>) {
    let rejection = answer.extensions().get::<Rejection>().cloned();
    let head = format!("{:?} {:?}", answer.status(), answer.headers());
    (head + &at_once(text(answer)), rejection)
}

#[test]
fn a_forged_key_touches_no_store_and_is_answered_as_any_malformed_key() {
    let world = world(&ring(CURRENT));
    let (malformed, _) = parts(world.answer("sk_live_junk"));
    world.store.asked();
    for forged in [stranger(), key_under(RETIRED)] {
        let (answer, rejection) = parts(world.answer(&*forged));
        assert_eq!(answer, malformed);
        let expected = Rejection::NotFound(NotFound::Malformed);
        assert_eq!(rejection, Some(expected));
        assert_eq!(world.store.asked(), 0);
    }
    // With the ring, it is looked up, and not there. The client cannot tell.
    let (answer, rejection) = parts(world.answer(&*key_under(CURRENT)));
    assert_eq!((answer, world.store.asked()), (malformed, 1));
    let expected = Rejection::NotFound(NotFound::Unknown);
    assert_eq!(rejection, Some(expected));
}

#[test]
fn an_issued_key_is_accepted_and_so_is_one_under_a_retired_secret() {
    let mut world = world(&ring(RETIRED));
    let old = world.issue();
    assert_eq!(world.ask(&old), 200);
    world.keys = keys_over(&world, &ring(CURRENT).add_retired(RETIRED).unwrap());
    let new = world.issue();
    assert_eq!((world.ask(&old), world.ask(&new)), (200, 200));
    let successor = at_once(world.keys.rotate(old.id())).unwrap();
    assert!(format(&ring(CURRENT)).matches(successor.expose_secret()));
    at_once(world.keys.revoke(new.id())).unwrap();
    assert_eq!(world.ask(&new), 401, "a checksum admits nobody");
}

#[test]
fn plain_keys_are_refused_before_the_store_unless_they_are_allowed() {
    let mut world = World::new();
    let old = world.issue();
    for (ring, expected) in [
        (ring(CURRENT), (401, 0)),
        (ring(CURRENT).dangerous_accept_unkeyed(), (200, 1)),
        (ring(CURRENT).dangerous_issue_unkeyed(), (200, 1)),
    ] {
        world.keys = keys_over(&world, &ring);
        assert_eq!(world.look(&old), expected, "{ring:?}");
    }
}

#[test]
fn a_key_of_a_file_is_checked_when_the_file_is_read() {
    let read = |key: &str| {
        let reader = StaticStore::with_formats([format(&ring(CURRENT))]).unwrap();
        reader.from_text(&format!("admin acme = {key}"))
    };
    read(&key_under(CURRENT)).unwrap();
    let old = key_under(RETIRED);
    let error = read(&old).unwrap_err().to_string();
    assert!(!error.contains(&old[8..24]), "{error}");
}
