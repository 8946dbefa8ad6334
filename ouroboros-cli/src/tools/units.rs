//! Numbers with units, as the tools' options take them.

use std::time::Duration;

/// Multiples of one: each suffix, and how many it makes of the number before it.
fn scaled(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let value: f64 = number.parse().map_err(|_| format!("{text} does not begin with a number"))?;
    let unit = units.iter().find(|(known, _)| *known == suffix).map(|(_, factor)| factor);
    let known: Vec<_> = units.iter().map(|(known, _)| *known).filter(|u| !u.is_empty()).collect();
    let factor = unit.ok_or_else(|| format!("{text}: the units are {}", known.join(", ")))?;
    Ok(value * factor)
}

fn time(text: &str, plain: f64) -> Result<Duration, String> {
    let units =
        [("", plain), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    Duration::try_from_secs_f64(scaled(text, &units)?).map_err(|_| format!("{text} is too long"))
}

/// A time: `250`, `250ms`, `2s`, `5m`, `1h`, `1d`; milliseconds without a unit.
///
/// # Errors
///
/// It is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    time(text, 1e-3)
}

/// The same, seconds without a unit.
///
/// # Errors
///
/// It is none.
pub fn seconds(text: &str) -> Result<Duration, String> {
    time(text, 1.0)
}

/// Bits per second: `64k`, `10M`, `1G`. `plain` is what a number without a suffix is
/// multiplied with: `operf` has always taken it for thousands.
///
/// # Errors
///
/// It is none.
pub fn rate(text: &str, plain: f64) -> Result<u64, String> {
    let value = scaled(text, &[("", plain), ("k", 1e3), ("M", 1e6), ("G", 1e9)])?;
    if value < 1.0 {
        Err("a rate is at least 1 bit per second".to_owned())
    } else {
        Ok(value as u64)
    }
}

/// A size in bytes.
///
/// # Errors
///
/// It is none.
pub fn bytes(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number of bytes"))
}

/// Returns the number.
///
/// # Errors
///
/// It is none, or more than fits in 31 bits.
pub fn count(text: &str) -> Result<u32, String> {
    let count: u32 = text.parse().map_err(|_| format!("{text} is no number"))?;
    if count > i32::MAX as u32 { Err(format!("{text} is too many")) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_have_the_units_that_0_23_has() {
        for (text, milliseconds) in
            [("250", 250), ("250ms", 250), ("2s", 2000), ("1m", 60_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(rate("1000", 1e3), Ok(1_000_000));
        assert_eq!(rate("64k", 1e3), Ok(64_000));
        assert_eq!(rate("64", 1.0), Ok(64));
        assert_eq!(rate("10M", 1.0), Ok(10_000_000));
        for wrong in ["", "s", "5x", "-1", "1e400", "99999999999999999999d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(rate("0", 1.0).is_err());
        assert!(count("4294967295").is_err());
    }
}
