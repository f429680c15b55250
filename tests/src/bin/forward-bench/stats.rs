//! Medians, and how sure they are.

/// How often the ratios are drawn anew.
const RESAMPLES: usize = 10_000;
/// The same draws on every run over the same figures.
const SEED: u64 = 7;

/// A median with its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

/// The median of `values`; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    middle(&mut sorted)
}

fn middle(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    let upper = *values.get(half)?;
    if values.len() % 2 == 1 { Some(upper) } else { Some(f64::midpoint(values[half - 1], upper)) }
}

/// The median of `values` and the interval in which 95 % of the medians lie that as many draws from them have.
pub fn interval(values: &[f64]) -> Option<Interval> {
    let median = median(values)?;
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut drawn = vec![0.0; values.len()];
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        drawn.fill_with(|| values[random.usize(..values.len())]);
        medians.extend(middle(&mut drawn));
    }
    medians.sort_unstable_by(f64::total_cmp);
    let at = |per_mille: usize| medians.get((RESAMPLES - 1) * per_mille / 1000).copied();
    Some(Interval { low: at(25)?, median, high: at(975)? })
}

/// The latency in µs below which `share` of the sorted nanoseconds lie, in hundred-thousandths; 0 of nothing.
pub fn quantile_micros(sorted: &[u32], share: usize) -> f64 {
    let index = (sorted.len() * share / 100_000).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |nanos| f64::from(*nanos) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_is_as_wide_as_the_figures_are() {
        let values = [1.0, 1.1, 0.9, 1.05, 0.95, 1.2, 0.8];
        let found = interval(&values).unwrap();
        assert!(found.low <= found.median && found.median <= found.high);
        assert_eq!(found, interval(&values).unwrap(), "the draws are the same");
        let same = interval(&[2.0; 5]).unwrap();
        assert_eq!((same.low, same.median, same.high), (2.0, 2.0, 2.0));
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn quantiles_are_of_the_sorted_figures() {
        let sorted: Vec<u32> = (1..=1000).map(|number| number * 1000).collect();
        assert_eq!(quantile_micros(&sorted, 50_000), 501.0);
        assert_eq!(quantile_micros(&sorted, 99_900), 1000.0);
        assert_eq!(quantile_micros(&[], 50_000), 0.0);
    }
}
