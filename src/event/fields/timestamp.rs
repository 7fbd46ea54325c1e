//! RFC 3339 times, as the API server writes them (`2026-01-02T03:04:05.678901Z`), to microseconds. Strict in form: a
//! field that is no such time has none.

/// Microseconds since the Unix epoch; digits beyond microseconds are cut off, a leap second counts as the second before.
pub fn micros(text: &[u8]) -> Option<i64> {
    let (date_time, rest) = text.split_first_chunk::<19>()?;
    if date_time[4] != b'-'
        || date_time[7] != b'-'
        || date_time[13] != b':'
        || date_time[16] != b':'
    {
        return None;
    }
    if !matches!(date_time[10], b'T' | b't') {
        return None;
    }
    let number = |at: usize, length: usize| digits(&date_time[at..at + length]);
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction_us, zone) = fraction(rest)?;
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second.min(59)
            - offset_seconds(zone)?;
    Some(seconds * 1_000_000 + fraction_us)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// The fraction of a second that `text` begins with, if it does (1 to 9 digits), and what follows it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', text)) = text.split_first() else {
        return Some((0, text));
    };
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&count) {
        return None;
    }
    let (fraction, zone) = text.split_at(count);
    let nanoseconds = digits(fraction)? * 10_i64.pow(9 - u32::try_from(count).ok()?);
    Some((nanoseconds / 1_000, zone))
}

/// `Z` or `+hh:mm` or `-hh:mm`.
fn offset_seconds(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            let seconds = hours * 3_600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the proleptic Gregorian calendar: years begin in March here, so that the leap day is the
/// last of its year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
