//! Durations as policies write them: `1h30m`, `45s`, `-1.5h`.

/// An hour in nanoseconds.
pub(crate) const HOUR: i128 = 3600 * SECOND;
const MINUTE: i128 = 60 * SECOND;
const SECOND: i128 = 1_000_000_000;

/// Units and their nanoseconds; the longer of two that begin alike comes first.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];

/// Reads a duration, in nanoseconds. The longest is that of 64 bits.
///
/// # Errors
/// What is wrong with it, as the language words it.
pub(crate) fn parse(text: &str) -> Result<i128, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| {
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len())
        };
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        sum = nanoseconds(whole, fraction, *scale)
            .and_then(|part| sum.checked_add(part))
            .filter(|sum| *sum <= i128::from(i64::MAX))
            .ok_or_else(invalid)?;
        rest = after;
    }
    Ok(sign * sum)
}

fn nanoseconds(whole: &str, fraction: &str, scale: i128) -> Option<i128> {
    let number = |digits: &str| match digits {
        "" => Some(0),
        _ => digits.parse::<i128>().ok(),
    };
    // Digits behind the nanoseconds do not count.
    let fraction = fraction.get(..fraction.len().min(18))?;
    let divisor = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = number(fraction)?.checked_mul(scale)? / divisor;
    number(whole)?.checked_mul(scale)?.checked_add(part)
}

/// Writes a duration as the language's messages do: `200h0m0s`, `-1m0s`.
pub(crate) fn to_text(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let all = nanoseconds.abs();
    let (hours, minutes) = (all / HOUR, all % HOUR / MINUTE);
    let (seconds, rest) = (all % MINUTE / SECOND, all % SECOND);
    let fraction = |part: i128, digits: usize| match part {
        0 => String::new(),
        _ => format!(".{part:0digits$}").trim_end_matches('0').to_owned(),
    };
    match (hours, minutes) {
        (0, 0) if all == 0 => "0s".to_owned(),
        // Less than a second is written in the unit that leaves something before the point.
        (0, 0) if all < 1_000 => format!("{sign}{all}ns"),
        (0, 0) if all < 1_000_000 => {
            let part = fraction(all % 1_000, 3);
            format!("{sign}{}{part}\u{b5}s", all / 1_000)
        }
        (0, 0) if all < SECOND => {
            let part = fraction(all % 1_000_000, 6);
            format!("{sign}{}{part}ms", all / 1_000_000)
        }
        (0, 0) => format!("{sign}{seconds}{}s", fraction(rest, 9)),
        (0, _) => format!("{sign}{minutes}m{seconds}{}s", fraction(rest, 9)),
        (_, _) => format!("{sign}{hours}h{minutes}m{seconds}{}s", fraction(rest, 9)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, written) in [
            ("200h", "200h0m0s"),
            ("-1m", "-1m0s"),
            ("1h30m", "1h30m0s"),
            ("1.5s", "1.5s"),
            (".5m", "30s"),
            ("0", "0s"),
            ("90s", "1m30s"),
            ("-500ms", "-500ms"),
            ("-1500us", "-1.5ms"),
            ("1002ns", "1.002\u{b5}s"),
            ("-7ns", "-7ns"),
            ("0.25s", "250ms"),
        ] {
            assert_eq!(to_text(parse(text).unwrap()), written);
        }
        for (text, message) in [
            ("abc", "time: invalid duration \"abc\""),
            ("", "time: invalid duration \"\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ] {
            assert_eq!(parse(text), Err(message.to_owned()));
        }
    }
}
