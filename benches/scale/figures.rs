//! Times, and what is told of many.

use std::time::Duration;

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The least value that this part of all does not exceed.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part) as usize]
}

pub fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// One line of the table.
pub fn print(what: &str, figure: f64, unit: &str) {
    println!("  {what:36} {figure:8.1} {unit}");
}
