//! Middle values and percentiles.

use serde_json::{Value, json};

/// The middle value.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    percentile(&sorted(values), 50.0)
}

pub(crate) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Of sorted values, the one that so many of a hundred do not exceed.
pub(crate) fn percentile(sorted: &[f64], of_hundred: f64) -> f64 {
    let rank = (sorted.len() as f64 * of_hundred / 100.0).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// `[of a hundred, value]` for 1 to 99, 99.9 and 100.
pub(crate) fn distribution(sorted: &[f64]) -> Value {
    let points = (1..100).map(f64::from).chain([99.9, 100.0]);
    points
        .map(|point| json!([point, percentile(sorted, point)]))
        .collect()
}
