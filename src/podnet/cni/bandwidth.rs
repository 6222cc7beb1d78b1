//! Limits of what a pod receives and sends.
//!
//! Each end of the link limits what leaves through it. What the pod sends is limited at its own end, with no third device
//! between (Debian's `bandwidth` plugin makes an `ifb`), so that a pod with CAP_NET_ADMIN can lift that limit.

use super::config::Bandwidth;
use super::error::CniError;
use super::link::Connected;
use crate::kernel::netns::OpenedNamespace;
use crate::kernel::rtnetlink::queue::{self, TokenBucket};
use crate::kernel::rtnetlink::{Link, Network};

pub fn limit(
    network: &mut Network,
    namespace: &OpenedNamespace,
    connected: Connected,
    limits: Bandwidth,
) -> Result<(), CniError> {
    if let Some(bucket) = bucket(limits.ingress_rate, limits.ingress_burst) {
        network.apply([queue::limit(connected.node_end, bucket)])?;
    }
    if let Some(bucket) = bucket(limits.egress_rate, limits.egress_burst) {
        namespace.run(|| Network::open()?.apply([queue::limit(connected.pod_end, bucket)]))??;
    }
    Ok(())
}

/// From bits; `None` where there is no limit.
fn bucket(rate: u64, burst: u64) -> Option<TokenBucket> {
    let burst = u32::try_from(burst / 8).unwrap_or(u32::MAX);
    (rate != 0).then_some(TokenBucket { bytes_per_second: (rate / 8).max(1), burst })
}

/// Whether each end that has a limit has a queue that keeps it. A later plugin may have put one above ours.
pub fn check(
    network: &mut Network,
    namespace: &OpenedNamespace,
    (node_end, pod_end): (Link, Link),
    limits: Bandwidth,
) -> Result<(), CniError> {
    let is_limited = |queue: Option<String>| queue.is_some_and(|kind| kind != "noqueue");
    if limits.ingress_rate != 0 && !is_limited(network.root_queue(node_end)?) {
        return Err(CniError::Differs("nothing limits what the pod receives".into()));
    }
    if limits.egress_rate != 0 && !is_limited(namespace.run(|| Network::open()?.root_queue(pod_end))??) {
        return Err(CniError::Differs("nothing limits what the pod sends".into()));
    }
    Ok(())
}
