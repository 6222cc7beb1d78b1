//! Queueing disciplines: `tc qdisc replace ... tbf`, `tc qdisc show`.

use super::change::Change;
use super::{Link, Network, NetworkError};
use crate::kernel::netlink::{Attributes, Request};

/// `TC_H_ROOT` of `linux/pkt_sched.h`.
const ROOT: u32 = 0xffff_ffff;
/// `TCA_KIND` and `TCA_OPTIONS` of `linux/rtnetlink.h`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_TBF_*`.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
const PARAMETERS_LENGTH: usize = 36;
/// `struct tcmsg`.
const FIXED: usize = 20;
/// How long a packet may wait before it is dropped, as the `bandwidth` plugin of CNI has it.
const LATENCY_MICROSECONDS: u64 = 25_000;
/// The kernel counts bursts in ticks of 64 ns (`PSCHED_SHIFT`).
const NANOSECONDS_PER_TICK: u64 = 64;
/// `TC_LINKLAYER_ETHERNET`
const ETHERNET: u8 = 1;

/// A token bucket: so much on average, so much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    pub bytes_per_second: u64,
    /// In bytes. One that holds less than a packet lets nothing through.
    pub burst: u32,
}

/// `tc qdisc replace dev LINK root tbf rate RATE burst BURST latency 25ms`
pub fn limit(link: Link, bucket: TokenBucket) -> Change {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&link.0.to_ne_bytes());
    fixed[8..12].copy_from_slice(&(1_u32 << 16).to_ne_bytes());
    fixed[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut request = Request::new(libc::RTM_NEWQDISC, flags, &fixed);
    request.text(KIND, "tbf").nested(OPTIONS, |options| {
        options
            .attribute(PARAMETERS, &parameters(bucket))
            .attribute(RATE64, &bucket.bytes_per_second.to_ne_bytes())
            .attribute(BURST, &bucket.burst.to_ne_bytes());
    });
    let rate = bucket.bytes_per_second;
    Change::new(request, format!("limit link {} to {rate} bytes per second", link.0))
}

/// `struct tc_tbf_qopt`: the rate, no peak rate, the limit of the queue, the burst as time.
fn parameters(bucket: TokenBucket) -> [u8; PARAMETERS_LENGTH] {
    let TokenBucket { bytes_per_second: rate, burst } = bucket;
    let waiting = rate.saturating_mul(LATENCY_MICROSECONDS) / 1_000_000;
    let limit = u32::try_from(waiting.saturating_add(burst.into())).unwrap_or(u32::MAX);
    let nanoseconds = u64::from(burst).saturating_mul(1_000_000_000) / rate.max(1);
    let ticks = u32::try_from(nanoseconds / NANOSECONDS_PER_TICK).unwrap_or(u32::MAX);
    let mut bytes = [0; PARAMETERS_LENGTH];
    bytes[1] = ETHERNET;
    bytes[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    bytes[24..28].copy_from_slice(&limit.to_ne_bytes());
    bytes[28..32].copy_from_slice(&ticks.to_ne_bytes());
    bytes
}

impl Network {
    /// The kind of the root queueing discipline. `tc qdisc show dev LINK root`
    pub fn root_queue(&mut self, link: Link) -> Result<Option<String>, NetworkError> {
        let mut fixed = [0; FIXED];
        fixed[4..8].copy_from_slice(&link.0.to_ne_bytes());
        let mut found = None;
        let mut note = |payload: &[u8]| found = found.take().or_else(|| parse(payload, link));
        self.connection
            .dump(Request::new(libc::RTM_GETQDISC, 0, &fixed), &mut note)
            .map_err(|source| NetworkError { attempted: "list queueing disciplines".into(), source })?;
        Ok(found)
    }
}

/// Dumps may tell of all interfaces, whichever was asked for.
fn parse(payload: &[u8], link: Link) -> Option<String> {
    let is_of_link = payload.get(4..8)? == link.0.to_ne_bytes();
    let is_root = payload.get(12..16)? == ROOT.to_ne_bytes();
    let text = String::from_utf8_lossy(Attributes::after(FIXED, payload).value(KIND)?);
    (is_of_link && is_root).then(|| text.trim_end_matches('\0').to_owned())
}
