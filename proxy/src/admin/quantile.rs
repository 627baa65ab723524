//! Quantiles of what a histogram has counted, as Prometheus estimates them: evenly spread within a bucket. Pure.

use std::time::Duration;

use crate::observe::histogram::HistogramNumbers;

/// The bounds of a histogram of durations, in seconds.
#[must_use]
pub fn seconds(bounds: &[u64]) -> Vec<f64> {
    bounds.iter().map(|nanos| Duration::from_nanos(*nanos).as_secs_f64()).collect()
}

/// The counts of a histogram with so many bounds: one for each bound, and one for what is above all.
#[must_use]
pub fn counts(numbers: &HistogramNumbers, bounds: usize) -> &[u64] {
    &numbers.counts[..=bounds.min(numbers.counts.len() - 1)]
}

/// Below what this share of all lies; `None` where nothing was counted. Of what is above all bounds the last one is said.
#[must_use]
pub fn quantile(bounds: &[f64], counts: &[u64], share: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let (wanted, mut below) = (share * all as f64, 0.0);
    for (index, count) in counts.iter().map(|count| *count as f64).enumerate() {
        if count > 0.0 && below + count >= wanted {
            let Some(upper) = bounds.get(index) else { break };
            let lower = index.checked_sub(1).map_or(0.0, |before| bounds[before]);
            return Some(lower + (upper - lower) * ((wanted - below) / count).clamp(0.0, 1.0));
        }
        below += count;
    }
    bounds.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        let bounds = [1.0, 2.0, 4.0];
        assert_eq!(quantile(&bounds, &[0; 4], 0.5), None);
        assert_eq!(quantile(&bounds, &[10, 0, 0, 0], 0.5), Some(0.5));
        assert_eq!(quantile(&bounds, &[5, 0, 5, 0], 0.75), Some(3.0));
        assert_eq!(quantile(&bounds, &[5, 0, 5, 0], 0.5), Some(1.0));
        assert_eq!(quantile(&bounds, &[1, 0, 0, 99], 0.99), Some(4.0), "above all bounds nothing is known");
        assert_eq!(seconds(&[1_500_000_000, 250_000]), [1.5, 0.00025]);
    }
}
