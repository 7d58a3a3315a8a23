//! Times in the form of RFC 3339 that the library writes, such as `2026-01-31T23:59:59Z`.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Formats a time of the years 1970 to 9999, which are all that records have.
pub(crate) fn format(at: SystemTime) -> String {
    let date = httpdate::fmt_http_date(at); // Sun, 30 Jun 2024 23:59:59 GMT
    let month = MONTHS.iter().position(|month| *month == &date[8..11]);
    let month = month.unwrap_or_default() + 1;
    let (year, day, time) = (&date[12..16], &date[5..7], &date[17..25]);
    format!("{year}-{month:02}-{day}T{time}Z")
}

/// Parses a time in UTC of the years 1970 to 9999. The second may have a fraction of up to nine
/// digits.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (second, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digit = |it: char| it.is_ascii_digit();
    let is_fraction = (1..=9).contains(&fraction.len()) && fraction.chars().all(is_digit);
    if second.replace(is_digit, "0") != "0000-00-00T00:00:00" || !is_fraction {
        return None;
    }
    let month: usize = second[5..7].parse().ok()?;
    let month = MONTHS.get(month.checked_sub(1)?)?;
    let (year, day, time) = (&second[..4], &second[8..10], &second[11..]);
    // An HTTP-date has the day of the week, too. One of the seven is right, if there is such a day.
    let at = WEEKDAYS.iter().find_map(|weekday| {
        let date = format!("{weekday}, {day} {month} {year} {time} GMT");
        httpdate::parse_http_date(&date).ok()
    })?;
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    at.checked_add(Duration::from_nanos(nanoseconds))
}
