//! The schedule of attempts at a delivery.

use std::time::Duration;

/// The pauses between attempts, in seconds: the schedule of Standard Webhooks, 75 hours in all.
const PAUSES: [u64; 9] = [
    5,
    5 * 60,
    30 * 60,
    2 * 3_600,
    5 * 3_600,
    10 * 3_600,
    14 * 3_600,
    20 * 3_600,
    24 * 3_600,
];

/// The part of a pause that chance adds at most: a fifth. So the deliveries that failed at the same
/// moment do not come back at the same moment.
const JITTER: u32 = 5;

/// Returns the pause after an attempt, by its number in the schedule, from 1 on; `None` after the
/// last one. `asked` is the time that the receiver asked to wait, and `chance` a random number.
pub(crate) fn next_attempt(step: u32, asked: Option<Duration>, chance: u64) -> Option<Duration> {
    let at = usize::try_from(step.saturating_sub(1)).unwrap_or(usize::MAX);
    let pause = Duration::from_secs(*PAUSES.get(at)?);
    let pause = pause.max(asked.unwrap_or_default());
    let most = pause / JITTER;
    let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Some(pause + Duration::from_millis(chance % (most + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_attempts_in_three_to_four_days() {
        let mut shortest = Duration::ZERO;
        let mut longest = Duration::ZERO;
        let mut step = 1;
        while let Some(pause) = next_attempt(step, None, 0) {
            shortest += pause;
            let most = (0..2_000).map(|at| next_attempt(step, None, at * 9_973 + 1));
            longest += most.flatten().max().unwrap();
            step += 1;
        }
        assert_eq!(step, 10);
        assert_eq!(shortest, Duration::from_secs(272_105));
        assert!(longest > shortest + shortest / 8 && longest <= shortest + shortest / 5);
    }

    #[test]
    fn a_receiver_may_ask_for_a_longer_pause_and_for_no_shorter_one() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(next_attempt(1, Some(hour), 0), Some(hour));
        let second = Duration::from_secs(1);
        assert_eq!(next_attempt(2, Some(second), 0), Some(second * 300));
        assert_eq!(next_attempt(10, Some(hour), 0), None);
    }
}
