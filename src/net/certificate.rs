//! When a certificate expires: the one field of X.509 that an operator must know beforehand. Walks the DER to it and
//! checks nothing; whether a certificate is good is rustls' business.

/// Seconds since the Unix epoch at which a DER certificate stops to be valid; `None` where it is none.
pub fn not_after(der: &[u8]) -> Option<i64> {
    const VERSION: u8 = 0xa0;
    let certificate = element(der)?.value;
    let mut rest = element(certificate)?.value;
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.rest;
    }
    // Serial number, algorithm and issuer stand before the validity.
    for _ in 0..3 {
        rest = element(rest)?.rest;
    }
    let validity = element(rest)?.value;
    let not_before = element(validity)?;
    time(element(not_before.rest)?)
}

/// One element of DER: tag, length, value.
struct Element<'a> {
    tag: u8,
    value: &'a [u8],
    rest: &'a [u8],
}

fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = if short < 0x80 {
        (usize::from(short), rest)
    } else {
        // Four bytes are 4 GiB: no certificate is longer.
        let digits = usize::from(short & 0x7f);
        let (digits, rest) = rest.split_at_checked(digits).filter(|_| digits <= 4)?;
        let length = digits
            .iter()
            .fold(0_usize, |length, digit| length << 8 | usize::from(*digit));
        (length, rest)
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some(Element { tag, value, rest })
}

/// `UTCTime`, whose years are 1950 to 2049, or `GeneralizedTime`.
fn time(element: Element<'_>) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(element.value).ok()?;
    let text = match element.tag {
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", &text).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(time.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expiring(year: i32) -> Vec<u8> {
        let mut parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(year, 3, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms_of_time() {
        // 2049 is the last year of the short form.
        assert_eq!(not_after(&expiring(2049)), Some(2_498_169_600));
        assert_eq!(not_after(&expiring(2050)), Some(2_529_705_600));
    }

    #[test]
    fn what_is_no_certificate_has_no_end_and_harms_nobody() {
        let whole = expiring(2031);
        for length in 0..whole.len().min(200) {
            assert_eq!(not_after(&whole[..length]), None, "{length}");
        }
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let mut broken = whole.clone();
            let at = random.usize(..broken.len());
            broken[at] = random.u8(..);
            not_after(&broken);
        }
        assert_eq!(not_after(&[0x30, 0xff]), None);
    }
}
