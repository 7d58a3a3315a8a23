//! Numbers as headers' values.

use std::cell::RefCell;

use http::header::HeaderValue;

/// How many are remembered: more than there are seconds in which budgets by the minute can be
/// whole.
const PLACES: usize = 64;

type Remembered = [Option<(u64, HeaderValue)>; PLACES];

/// A number that many answers have in common, such as a limit, or the second in which a budget is
/// whole again. Each thread remembers those that it wrote last: to share one costs less than to
/// write it.
pub(super) fn common(number: u64) -> HeaderValue {
    thread_local!(static REMEMBERED: RefCell<Remembered> = const { RefCell::new([const { None }; PLACES]) });
    let shared = REMEMBERED.try_with(|remembered| {
        let mut remembered = remembered.borrow_mut();
        #[expect(clippy::cast_possible_truncation, reason = "a remainder")]
        let place = &mut remembered[(number % PLACES as u64) as usize];
        match place {
            Some((known, value)) if *known == number => value.clone(),
            _ => place.insert((number, once(number))).1.clone(),
        }
    });
    // A thread that ends has forgotten them.
    shared.unwrap_or_else(|_| once(number))
}

/// A number that the next answer will hardly have, too.
pub(super) fn once(number: u64) -> HeaderValue {
    // Digits are valid.
    let digits = HeaderValue::from_bytes(itoa::Buffer::new().format(number).as_bytes());
    digits.unwrap_or(HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_came_before_each_number_is_itself() {
        let places = PLACES as u64;
        for number in [0, 1, places, 1, u64::MAX, 1 + places, 1, 1] {
            assert_eq!(common(number), number.to_string().as_str());
            assert_eq!(once(number), number.to_string().as_str());
        }
    }
}
