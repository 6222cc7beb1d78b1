//! Durations as Go writes them: `1m30s`, `1.5h`, `100ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const NANOSECOND: i64 = 1;
const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

/// The micro sign comes in two code points, U+00B5 and U+03BC. Longer units stand before their prefixes.
const UNITS: [(&str, i64); 8] = [
    ("ns", NANOSECOND),
    ("us", MICROSECOND),
    ("\u{b5}s", MICROSECOND),
    ("\u{3bc}s", MICROSECOND),
    ("ms", MILLISECOND),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];

/// Go's `time.Duration`: signed nanoseconds, about 292 years in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

impl GoDuration {
    pub const ZERO: GoDuration = GoDuration(0);

    pub const fn from_nanos(nanos: i64) -> Self {
        GoDuration(nanos)
    }

    pub const fn from_secs(seconds: u32) -> Self {
        GoDuration(seconds as i64 * SECOND)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `None` for a negative duration.
    pub fn non_negative(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

/// Durations over Go's 292 years become the longest there is.
impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        GoDuration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    #[error("must be a duration such as 30s, 1m30s or 100ms")]
    Malformed,
    #[error("must have units: ns, us, ms, s, m or h")]
    NoUnit,
    #[error("must be shorter than 292 years")]
    TooLong,
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if unsigned == "0" {
            return Ok(GoDuration::ZERO);
        }
        let nanos = parse_unsigned(unsigned)?;
        Ok(GoDuration(if negative { -nanos } else { nanos }))
    }
}

fn parse_unsigned(text: &str) -> Result<i64, ParseDurationError> {
    if text.is_empty() {
        return Err(ParseDurationError::Malformed);
    }
    let mut total: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (nanos, after) = parse_part(rest)?;
        total = total.checked_add(nanos).ok_or(ParseDurationError::TooLong)?;
        rest = after;
    }
    Ok(total)
}

/// One number with its unit, and what follows.
fn parse_part(text: &str) -> Result<(i64, &str), ParseDurationError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => split_digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(ParseDurationError::Malformed);
    }
    let (unit, rest) = UNITS
        .iter()
        .find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)))
        .ok_or(ParseDurationError::NoUnit)?;
    let whole = if whole.is_empty() { Some(0) } else { whole.parse::<i64>().ok() };
    let nanos = whole
        .and_then(|whole| whole.checked_mul(unit))
        .and_then(|nanos| nanos.checked_add(fraction_of(fraction, unit)))
        .ok_or(ParseDurationError::TooLong)?;
    Ok((nanos, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The digits after the point, in nanoseconds. What is below a nanosecond is cut off.
fn fraction_of(digits: &str, unit: i64) -> i64 {
    // An hour has 3.6e12 nanoseconds: digits past the eighteenth cannot show.
    let digits = &digits[..digits.len().min(18)];
    let (mut value, mut scale) = (0i128, 1i128);
    for digit in digits.bytes() {
        value = value * 10 + i128::from(digit - b'0');
        scale *= 10;
    }
    i64::try_from(value * i128::from(unit) / scale).unwrap_or(i64::MAX)
}

/// As Go prints it: `15m0s`, `1.5s`, `100ms`, `0s`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}\u{b5}s", Decimal { value: nanos, places: 3 }),
            1_000_000..1_000_000_000 => write!(f, "{}ms", Decimal { value: nanos, places: 6 }),
            _ => fmt_seconds(f, nanos),
        }
    }
}

fn fmt_seconds(f: &mut fmt::Formatter<'_>, nanos: u64) -> fmt::Result {
    let minutes = nanos / MINUTE as u64;
    if minutes >= 60 {
        write!(f, "{}h", minutes / 60)?;
    }
    if minutes > 0 {
        write!(f, "{}m", minutes % 60)?;
    }
    write!(f, "{}s", Decimal { value: nanos % MINUTE as u64, places: 9 })
}

/// `value` with the decimal point moved left, without trailing zeros.
struct Decimal {
    value: u64,
    places: usize,
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = 10u64.pow(self.places as u32);
        write!(f, "{}", self.value / scale)?;
        let fraction = format!("{:0width$}", self.value % scale, width = self.places);
        match fraction.trim_end_matches('0') {
            "" => Ok(()),
            digits => write!(f, ".{digits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let table = [
            ("0", 0),
            ("0s", 0),
            ("5s", 5 * SECOND),
            ("1m30s", 90 * SECOND),
            ("1.5h", 90 * MINUTE),
            (".5s", 500 * MILLISECOND),
            ("5.s", 5 * SECOND),
            ("100ms", 100 * MILLISECOND),
            ("2h22m", 142 * MINUTE),
            ("1us", 1_000),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            ("7ns", 7),
            ("-1m", -MINUTE),
            ("+1m", MINUTE),
            ("1h1h", 2 * HOUR),
            ("0.3333333333333333333h", 20 * MINUTE - 1),
            ("2562047h47m16.854775807s", i64::MAX),
        ];
        for (text, nanos) in table {
            assert_eq!(text.parse(), Ok(GoDuration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        use ParseDurationError::{Malformed, NoUnit, TooLong};
        let table = [
            ("", Malformed),
            ("-", Malformed),
            (".s", Malformed),
            ("s", Malformed),
            ("30", NoUnit),
            ("1d", NoUnit),
            ("1s5", NoUnit),
            (" 1s", Malformed),
            ("--1s", Malformed),
            ("2562048h", TooLong),
            ("99999999999999999999s", TooLong),
            ("2562047h47m16.854775808s", TooLong),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<GoDuration>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn prints_as_go_prints() {
        let table = [
            ("0s", "0s"),
            ("1ns", "1ns"),
            ("1500ns", "1.5\u{b5}s"),
            ("100ms", "100ms"),
            ("1500ms", "1.5s"),
            ("30s", "30s"),
            ("90s", "1m30s"),
            ("15m", "15m0s"),
            ("24h", "24h0m0s"),
            ("1h0m0.001s", "1h0m0.001s"),
            ("-90s", "-1m30s"),
        ];
        for (text, printed) in table {
            let duration: GoDuration = text.parse().unwrap();
            assert_eq!(duration.to_string(), printed);
            assert_eq!(printed.parse(), Ok(duration), "what is printed reads back");
        }
    }

    #[test]
    fn only_a_negative_duration_has_no_std_duration() {
        assert_eq!(GoDuration::from_nanos(-1).non_negative(), None);
        assert_eq!(GoDuration::from_secs(30).non_negative(), Some(Duration::from_secs(30)));
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_printed_reads_back(nanos in -i64::MAX..=i64::MAX) {
            let duration = GoDuration::from_nanos(nanos);
            proptest::prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[-+]?[0-9.hmnsu\u{b5}]{0,40}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
