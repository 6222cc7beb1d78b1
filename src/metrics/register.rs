//! Making metrics and registering them in one go.

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    Result,
};

use crate::model::Family;

/// kube-proxy's name for the label that tells address families apart.
pub(super) const IP_FAMILY: &str = "ip_family";

/// One metric for each address family.
///
/// A family that is never used has no series, as in kube-proxy: an alert on the age of its last sync must not fire.
#[derive(Clone, Debug)]
pub struct PerFamily<V>(V);

impl<B: MetricVecBuilder> PerFamily<MetricVec<B>> {
    pub fn of(&self, family: Family) -> B::M {
        self.0.with_label_values(&[family.to_string()])
    }
}

pub(super) struct Register<'a>(pub &'a Registry);

impl Register<'_> {
    pub fn add<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    pub fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?)
    }

    pub fn family_counter(&self, name: &str, help: &str) -> Result<PerFamily<IntCounterVec>> {
        Ok(PerFamily(self.counters(name, help, &[IP_FAMILY])?))
    }

    pub fn family_gauge(&self, name: &str, help: &str) -> Result<PerFamily<IntGaugeVec>> {
        Ok(PerFamily(self.gauges(name, help, &[IP_FAMILY])?))
    }

    /// Seconds since 1970, with fractions.
    pub fn family_timestamp(&self, name: &str, help: &str) -> Result<PerFamily<GaugeVec>> {
        Ok(PerFamily(self.add(GaugeVec::new(Opts::new(name, help), &[IP_FAMILY])?)?))
    }

    pub fn family_histogram(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<PerFamily<HistogramVec>> {
        Ok(PerFamily(self.histograms(name, help, &[IP_FAMILY], buckets)?))
    }
}
