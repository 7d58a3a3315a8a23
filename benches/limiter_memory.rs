//! How much memory the limiter takes under a stream of keys that never come back: random keys, then
//! random IPv6 addresses, while one live key is watched for over-admission.
//!
//! `cargo bench --bench limiter_memory`; `LIMITER_KEYS` sets how many of each, 10,000,000 unless
//! set. It fails if resident memory grows by more than 64 MiB, or the live key is admitted too
//! often.

#[path = "support/random.rs"]
#[allow(dead_code, reason = "each bench uses its part")]
mod random;

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use random::Random;
use tower_api_key::clock::Now;
use tower_api_key::limit::{Charge, LimitName, MemoryLimiter, RateLimiter, Subject};
use tower_api_key::{KeyId, Quota};

const ALLOWED: u64 = 64 << 20;
const LIVE: Quota = Quota::per_hour(1_000);

fn main() {
    let keys = std::env::var("LIMITER_KEYS").map_or(Ok(10_000_000), |text| text.parse());
    let keys: u64 = keys.expect("LIMITER_KEYS is a number");
    let limiter = MemoryLimiter::new();
    let names = ["live", "key", "ip"].map(LimitName::new);
    let [live, key, ip] = &names;
    let watched = Subject::Account("watched");
    let before = resident();
    let start = SystemTime::now();
    let mut admitted = 0;
    let mut random = Random::new(0);
    for at in 0..2 * keys {
        // A thousand new keys in each millisecond of a clock of our own.
        let since = Duration::from_micros(at);
        let now = Now::new(start + since, since);
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        let charge = if at < keys {
            let key_id = KeyId::from_bytes(bits.to_be_bytes());
            Charge::new(key, Subject::Key(key_id), Quota::per_minute(60), 1)
        } else {
            let address = IpAddr::V6(Ipv6Addr::from_bits(bits));
            Charge::new(
                ip,
                Subject::Address(address),
                Quota::per_minute(60).smooth(),
                1,
            )
        };
        is_allowed(&limiter, charge, now);
        if at % 100 == 0 {
            let charge = Charge::new(live, watched, LIVE, 1);
            admitted += u64::from(is_allowed(&limiter, charge, now));
        }
    }
    let grown = resident().saturating_sub(before);
    let budgets = limiter.len() as u64;
    println!(
        "{} budgets of {} places, {} MiB more resident",
        budgets,
        limiter.capacity(),
        grown >> 20
    );
    println!("limiter_memory bytes_per_budget {}", grown / budgets.max(1));
    println!("limiter_memory grown_bytes {grown}");
    println!(
        "limiter_memory live_admitted {admitted} of {}",
        LIVE.limit()
    );
    assert!(grown <= ALLOWED, "resident memory grew by {grown} bytes");
    assert!(
        admitted <= LIVE.limit(),
        "the live key was admitted {admitted} times"
    );
}

fn is_allowed(limiter: &MemoryLimiter, charge: Charge<'_>, now: Now) -> bool {
    let verdict = limiter.check_now(&[charge], now);
    verdict.is_some_and(|verdict| verdict.is_ok_and(|verdict| verdict.is_allowed()))
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells of itself");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.expect("a number of KiB") * 1024
}
