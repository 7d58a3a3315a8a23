//! What the benches of the request path share: the same keys, the same requests and the same inner
//! service behind everything that is compared.
#![allow(dead_code, reason = "each bench uses its part")]

pub(crate) mod by_hand;
pub(crate) mod cases;
pub(crate) mod floor;
pub(crate) mod keys;
pub(crate) mod peers;
pub(crate) mod random;
pub(crate) mod requests;
pub(crate) mod serve;

/// A setting from the environment.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Err(_) => default,
        Ok(text) => match text.parse() {
            Ok(number) if number > 0 => number,
            _ => panic!("{name} is a number of at least 1, not {text:?}"),
        },
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of what `of` makes of the figures of each round.
pub(crate) fn median_of_pairs(left: &[f64], right: &[f64], of: impl Fn(f64, f64) -> f64) -> f64 {
    median(left.iter().zip(right).map(|(l, r)| of(*l, *r)).collect())
}
