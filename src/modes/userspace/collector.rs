//! The figures of the listeners, for Prometheus.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Summary,
};

use super::balancer::Service;
use super::engine::Shared;
use super::figures::{CONNECT_BOUNDS, Meter};

/// ServicePorts, by name, that have series of their own, of those that had a connection. The others are counted together.
const SERVICES: usize = 1000;
/// Endpoints that have a series.
const ENDPOINTS: usize = 10_000;
const OTHERS: &str = "others";

/// Reads what the listeners count when it is asked.
pub struct Figures {
    shared: Arc<Shared>,
    description: Desc,
}

/// A name, what it says, and where it is found.
type Of<T> = (&'static str, &'static str, fn(&T) -> u64);

const COUNTERS: [Of<Meter>; 6] = [
    ("ferrovia_proxied_connections_total", "Connections and UDP flows begun", |m| m.connections.get()),
    ("ferrovia_proxied_received_bytes_total", "Bytes from clients to endpoints", |m| m.received.get()),
    ("ferrovia_proxied_sent_bytes_total", "Bytes from endpoints to clients", |m| m.sent.get()),
    ("ferrovia_proxied_retries_total", "Connects that went on to another endpoint", |m| m.retries.get()),
    ("ferrovia_proxied_ejections_total", "Times an endpoint was left out for failing", |m| m.ejections.get()),
    ("ferrovia_proxied_refused_total", "Connections for which no endpoint answered", |m| m.refused.get()),
];

const TOTALS: [Of<Shared>; 4] = [
    (
        "ferrovia_proxy_accept_pauses_total",
        "Times that accepting waited, for file descriptors or connections to end",
        |s| s.totals.accept_pauses.get(),
    ),
    ("ferrovia_proxy_evicted_flows_total", "UDP flows that went for others, as there were too many", |s| {
        s.totals.evicted_flows.get()
    }),
    ("ferrovia_proxy_dropped_datagrams_total", "Datagrams that found no endpoint or no room", |s| {
        s.totals.dropped_datagrams.get()
    }),
    ("ferrovia_proxy_free_connections", "Connections that may be opened still", |s| {
        s.connections.available_permits() as u64
    }),
];

impl Figures {
    /// # Errors
    /// Never, as the name is a good one.
    pub fn new(shared: Arc<Shared>) -> prometheus::Result<Self> {
        let help = "Connections that are open".to_owned();
        let labels = vec!["service".to_owned()];
        let description = Desc::new("ferrovia_proxied_active".to_owned(), help, labels, Default::default())?;
        Ok(Figures { shared, description })
    }
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut services = self.shared.frontends.services();
        services.retain(|service| service.counted().is_some());
        let (named, others) = services.split_at(services.len().min(SERVICES));
        let counters = COUNTERS.iter().map(|(name, help, read)| {
            family(name, help, MetricType::COUNTER, of_services(named, others, *read, counter))
        });
        let active = of_services(named, others, |meter| meter.active.get(), gauge);
        let active = family("ferrovia_proxied_active", &self.description.help, MetricType::GAUGE, active);
        let totals = TOTALS.iter().map(|(name, help, read)| {
            let is_counter = name.ends_with("_total");
            let kind = if is_counter { MetricType::COUNTER } else { MetricType::GAUGE };
            let metric = if is_counter { counter } else { gauge };
            family(name, help, kind, vec![metric(read(&self.shared), Vec::new())])
        });
        let latency = connect_times(named, others);
        let all =
            counters.chain([active, endpoints(named), latency, all_connect_times(&services)]).chain(totals);
        // A family without a metric is an error of the encoder.
        all.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

fn of_services(
    named: &[Arc<Service>],
    others: &[Arc<Service>],
    read: fn(&Meter) -> u64,
    metric: fn(u64, Vec<LabelPair>) -> Metric,
) -> Vec<Metric> {
    let own = named
        .iter()
        .filter_map(|service| Some((service, service.counted()?)))
        .map(|(service, of)| metric(read(of), vec![label("service", &service.port.name.to_string())]));
    let rest = others.iter().filter_map(|service| service.counted()).map(read).reduce(|a, b| a + b);
    own.chain(rest.map(|sum| metric(sum, vec![label("service", OTHERS)]))).collect()
}

fn endpoints(named: &[Arc<Service>]) -> MetricFamily {
    let mut metrics = Vec::new();
    for service in named {
        let name = service.port.name.to_string();
        metrics.extend(service.loads().into_iter().map(|(endpoint, connections)| {
            let labels = vec![label("endpoint", &endpoint.to_string()), label("service", &name)];
            gauge(connections.into(), labels)
        }));
        if metrics.len() >= ENDPOINTS {
            metrics.truncate(ENDPOINTS);
            break;
        }
    }
    let help = "Connections that an endpoint has";
    family("ferrovia_proxied_endpoint_connections", help, MetricType::GAUGE, metrics)
}

/// How long all connects of a Service took, and how many there were.
fn connect_times(named: &[Arc<Service>], others: &[Arc<Service>]) -> MetricFamily {
    let of = |service: &Arc<Service>| {
        let of = service.counted()?;
        Some((of.connect_time().as_secs_f64(), of.connect_times().1))
    };
    let metric = |(seconds, count), name: &str| {
        let mut summary = Summary::default();
        summary.set_sample_sum(seconds);
        summary.set_sample_count(count);
        let mut metric = Metric::from_label(vec![label("service", name)]);
        metric.set_summary(summary);
        metric
    };
    let own = named.iter().filter_map(|service| Some(metric(of(service)?, &service.port.name.to_string())));
    let rest = others.iter().filter_map(of).reduce(|a, b| (a.0 + b.0, a.1 + b.1));
    let metrics = own.chain(rest.map(|sum| metric(sum, OTHERS))).collect();
    let help = "How long connects to endpoints took that succeeded";
    family("ferrovia_proxied_connect_seconds", help, MetricType::SUMMARY, metrics)
}

/// In which time how many were there, of all Services together: buckets for each would be many.
fn all_connect_times(services: &[Arc<Service>]) -> MetricFamily {
    let mut counts = vec![0; CONNECT_BOUNDS.len()];
    let (mut total, mut seconds) = (0, 0.0);
    for meter in services.iter().filter_map(|service| service.counted()) {
        let (of_service, all) = meter.connect_times();
        counts.iter_mut().zip(of_service).for_each(|(sum, count)| *sum += count);
        total += all;
        seconds += meter.connect_time().as_secs_f64();
    }
    let bucket = |(bound, count): (&u64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / 1000.0);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(CONNECT_BOUNDS.iter().zip(counts).map(bucket).collect());
    histogram.set_sample_count(total);
    histogram.set_sample_sum(seconds);
    let mut metric = Metric::from_label(Vec::new());
    metric.set_histogram(histogram);
    let help = "How long connects to endpoints took that succeeded";
    family("ferrovia_proxy_connect_seconds", help, MetricType::HISTOGRAM, vec![metric])
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn counter(value: u64, labels: Vec<LabelPair>) -> Metric {
    let mut metric = Metric::from_label(labels);
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    metric.set_counter(counter);
    metric
}

fn gauge(value: u64, labels: Vec<LabelPair>) -> Metric {
    let mut metric = Metric::from_label(labels);
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    metric.set_gauge(gauge);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;
    use crate::modes::userspace::handover::Inherited;
    use crate::modes::userspace::served::Edit;
    use crate::modes::userspace::tests::port;
    use crate::modes::userspace::{Engine, Limits};

    /// A Service more than have series of their own, each with endpoints.
    #[test]
    fn series_are_bounded_and_nothing_is_left_out_of_the_sums() {
        let engine =
            Engine::start_for_loopback(Limits::of_descriptors(1024), Vec::new(), Inherited::default());
        let shared = engine.unwrap().shared;
        let many = |number: usize| {
            let mut port = port(1, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
            port.name.service = format!("s{number:05}").into();
            std::sync::Arc::new(port)
        };
        let edit = Edit { set: (0..SERVICES + 2).map(many).collect(), ..Edit::default() };
        shared.frontends.tell(Family::V4, &edit);
        shared.frontends.services().iter().for_each(|service| service.meter().connections.add(1));
        let families = Figures::new(shared).unwrap().collect();
        let of = |name: &str| families.iter().find(|family| family.name() == name).unwrap().get_metric();
        let connections = of("ferrovia_proxied_connections_total");
        assert_eq!(connections.len(), SERVICES + 1);
        let others = connections.iter().find(|metric| metric.get_label()[0].value() == OTHERS).unwrap();
        assert_eq!(others.get_counter().get_value(), 2.0);
        assert_eq!(of("ferrovia_proxied_connect_seconds").len(), SERVICES + 1);
        assert_eq!(of("ferrovia_proxied_endpoint_connections").len(), ENDPOINTS);
    }
}
