//! Times, counted: least, mean, largest, deviation and percentiles, in bounded
//! memory however many there are.

use std::time::Duration;

/// Buckets to an octave: percentiles are at most 3 % too large.
const FINE: u32 = 5;
const BUCKETS: usize = (64 - FINE as usize + 1) << FINE;

/// Times that were measured.
#[derive(Clone, Debug)]
pub struct Times {
    counts: Vec<u64>,
    count: u64,
    least: Duration,
    largest: Duration,
    mean: f64,
    squares: f64,
}

impl Default for Times {
    fn default() -> Self {
        let (least, largest) = (Duration::MAX, Duration::ZERO);
        Self { counts: vec![0; BUCKETS], count: 0, least, largest, mean: 0.0, squares: 0.0 }
    }
}

/// A summary of round trips, in milliseconds.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The largest.
    pub max: f64,
    /// The sample standard deviation; not a number for one time alone.
    pub mdev: f64,
    /// Half took at most this.
    pub p50: f64,
    /// Nine of ten took at most this.
    pub p90: f64,
    /// 99 of 100 took at most this.
    pub p99: f64,
    /// 999 of 1,000 took at most this.
    pub p999: f64,
}

fn bucket(nanoseconds: u64) -> usize {
    let high = 63 - (nanoseconds | 1 << FINE).leading_zeros();
    let octave = high - FINE;
    ((octave as usize) << FINE) + (nanoseconds >> octave) as usize
}

/// The largest time in a bucket.
fn end(bucket: usize) -> u64 {
    let octave = (bucket >> FINE).saturating_sub(1) as u32;
    let base = (bucket - ((octave as usize) << FINE)) as u64;
    // Of the last bucket all bits are shifted out.
    ((base + 1) << octave).wrapping_sub(1)
}

impl Times {
    /// Counts a time.
    pub fn add(&mut self, time: Duration) {
        self.count += 1;
        self.least = self.least.min(time);
        self.largest = self.largest.max(time);
        let value = time.as_secs_f64() * 1e3;
        // Welford's.
        let difference = value - self.mean;
        self.mean += difference / self.count as f64;
        self.squares += difference * (value - self.mean);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
    }

    /// Returns the summary; `None` if there are none.
    pub fn summary(&self) -> Option<Summary> {
        if self.count == 0 {
            return None;
        }
        let (min, max) = (self.least.as_secs_f64() * 1e3, self.largest.as_secs_f64() * 1e3);
        let percentile = |part: f64| {
            let wanted = (self.count as f64 * part).ceil() as u64;
            let mut seen = 0;
            let found = self.counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            found.map_or(max, |bucket| end(bucket) as f64 / 1e6).clamp(min, max)
        };
        Some(Summary {
            min,
            avg: self.mean,
            max,
            mdev: (self.squares / (self.count as f64 - 1.0)).sqrt(),
            p50: percentile(0.5),
            p90: percentile(0.9),
            p99: percentile(0.99),
            p999: percentile(0.999),
        })
    }
}

/// Lost of sent, in whole percent, rounded up.
pub fn loss(sent: u64, received: u64) -> u64 {
    let lost = sent.saturating_sub(received);
    if sent == 0 { 0 } else { (100 * lost).div_ceil(sent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up() {
        let mut times = Times::default();
        assert!(times.summary().is_none());
        times.add(Duration::from_millis(3));
        let one = times.summary().expect("one");
        assert!(one.mdev.is_nan() && one.min == 3.0 && one.p999 == 3.0);
        let mut times = Times::default();
        (1..=1000).for_each(|micros| times.add(Duration::from_micros(micros)));
        let all = times.summary().expect("some");
        assert!((all.avg - 0.5005).abs() < 1e-9, "{all:?}");
        assert!((all.mdev - 0.288_819).abs() < 1e-5, "{all:?}");
        for (found, right) in [(all.p50, 0.5), (all.p90, 0.9), (all.p99, 0.99), (all.p999, 0.999)] {
            assert!(found >= right && found <= right * 1.04, "{found} for {right}");
        }
    }

    #[test]
    fn every_time_has_a_bucket_and_is_no_later_than_its_end() {
        for time in (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1]).chain([u64::MAX]) {
            assert!(end(bucket(time)) >= time, "{time}");
            assert!(bucket(time) < BUCKETS);
        }
    }

    #[test]
    fn loss_is_rounded_up() {
        assert_eq!([loss(4, 4), loss(1000, 999), loss(3, 0), loss(0, 0)], [0, 1, 100, 0]);
        assert_eq!(loss(3, 4), 0);
    }
}
