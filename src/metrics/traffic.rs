//! What went through each Service: series whose number is bounded, whatever the cluster has.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Result};

use super::register::{IP_FAMILY, Register};
use crate::model::{Family, ServicePortName};
use crate::modes::Traffic;

/// ServicePorts of each address family that have series: those with the most bytes.
pub const MOST: usize = 1000;

const OF_SERVICE: [&str; 5] = ["namespace", "service", "port", "protocol", IP_FAMILY];
const OF_DIRECTION: [&str; 6] = ["namespace", "service", "port", "protocol", IP_FAMILY, "direction"];

/// Filled anew for each scrape, so that no scrape sees half of an update and what is gone leaves no series.
#[derive(Clone, Debug)]
pub struct ServiceTraffic {
    known: Arc<Mutex<BTreeMap<Family, Counted>>>,
    descriptions: Arc<Vec<Desc>>,
}

#[derive(Debug, Default)]
struct Counted {
    most: Vec<(ServicePortName, Traffic)>,
    left_out: usize,
}

struct Series {
    connections: IntCounterVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    left_out: IntGaugeVec,
}

impl ServiceTraffic {
    pub(super) fn new(register: &Register<'_>) -> Result<Self> {
        let series = Series::new()?;
        let descriptions = series.all().iter().flat_map(|of| of.desc()).cloned().collect();
        register.add(ServiceTraffic { known: Arc::default(), descriptions: Arc::new(descriptions) })
    }

    /// Replaces what is known of a family.
    pub fn set(&self, family: Family, traffic: BTreeMap<ServicePortName, Traffic>) {
        let mut most: Vec<_> = traffic.into_iter().collect();
        most.sort_by_key(|(_, traffic)| Reverse(traffic.bytes_in.saturating_add(traffic.bytes_out)));
        let left_out = most.len().saturating_sub(MOST);
        most.truncate(MOST);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(family, Counted { most, left_out });
    }
}

impl Series {
    fn new() -> Result<Self> {
        let counters = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        Ok(Series {
            connections: counters(
                "ferrovia_service_connections_total",
                "New connections that were led to an endpoint, since their frontends were written",
                &OF_SERVICE,
            )?,
            packets: counters(
                "ferrovia_service_packets_total",
                "Packets of such connections, from clients (in) and to them (out)",
                &OF_DIRECTION,
            )?,
            bytes: counters(
                "ferrovia_service_bytes_total",
                "The bytes of these packets, IP headers included",
                &OF_DIRECTION,
            )?,
            left_out: IntGaugeVec::new(
                Opts::new(
                    "ferrovia_service_counters_left_out",
                    "ServicePorts that have less traffic than all that have series",
                ),
                &[IP_FAMILY],
            )?,
        })
    }

    fn all(&self) -> [&dyn Collector; 4] {
        [&self.connections, &self.packets, &self.bytes, &self.left_out]
    }

    fn fill(&self, family: Family, counted: &Counted) {
        let family = family.to_string();
        for (name, traffic) in &counted.most {
            let protocol = name.protocol.to_string();
            let labels = [&*name.namespace, &*name.service, &*name.port, &*protocol, &*family];
            self.connections.with_label_values(&labels).inc_by(traffic.connections);
            let directions = [
                ("in", traffic.packets_in, traffic.bytes_in),
                ("out", traffic.packets_out, traffic.bytes_out),
            ];
            for (direction, packets, bytes) in directions {
                let [namespace, service, port, protocol, family] = labels;
                let labels = [namespace, service, port, protocol, family, direction];
                self.packets.with_label_values(&labels).inc_by(packets);
                self.bytes.with_label_values(&labels).inc_by(bytes);
            }
        }
        self.left_out.with_label_values(&[&*family]).set(counted.left_out as i64);
    }
}

impl Collector for ServiceTraffic {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // They were made before, so that they can be.
        let Ok(series) = Series::new() else { return Vec::new() };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().for_each(|(family, counted)| series.fill(*family, counted));
        let families = series.all().into_iter().flat_map(Collector::collect);
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}
