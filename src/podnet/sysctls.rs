//! What of the node's settings packets of pods depend on.

use ipnet::IpNet;

use crate::kernel::sysctl::{InterfaceName, Knob, Sysctls, Value, Wanted};
use crate::model::Family;

/// The knobs to be set for a node whose pods have these networks. Pure but for what it reads.
///
/// An interface on which a router announces itself forgets it once the node forwards, unless `accept_ra` is 2.
pub fn plan(networks: &[IpNet], uplink: Option<InterfaceName>, sysctls: &impl Sysctls) -> Vec<Wanted> {
    let exactly = |knob, value| Wanted { knob, value: Value::Exactly(value) };
    let mut wanted = Vec::new();
    if networks.iter().any(|network| Family::V4.contains(network)) {
        wanted.push(exactly(Knob::Ipv4("ip_forward"), 1));
    }
    if networks.iter().any(|network| Family::V6.contains(network)) {
        let believes = |knob: &Knob| sysctls.read(*knob).is_ok_and(|value| value == 1);
        let routers = uplink.map(Knob::AcceptRouters).filter(believes);
        wanted.extend(routers.map(|knob| exactly(knob, 2)));
        wanted.push(exactly(Knob::Ipv6("conf/all/forwarding"), 1));
    }
    wanted
}

/// What is left as it is, in words, where it may surprise.
pub fn remarks(uplink: Option<InterfaceName>, sysctls: &impl Sysctls) -> Vec<String> {
    let mut remarks = Vec::new();
    let strict = |name| sysctls.read(Knob::ReversePath(name)).is_ok_and(|value| value == 1);
    let all = InterfaceName::new("all");
    if let Some(uplink) = uplink.filter(|uplink| strict(*uplink) || all.is_some_and(strict)) {
        remarks.push(format!(
            "rp_filter is strict on {uplink}: packets of other nodes' pods must come in through the interface that \
             leads back to them; on a node with several, 2 is right"
        ));
    }
    if sysctls.read(Knob::Bridge("bridge-nf-call-iptables")).is_ok_and(|value| value == 0) {
        remarks.push(
            "bridge-nf-call-iptables is 0: it may stay so, as pods are not on a bridge here; with another plugin's \
             bridge, Services would not work between pods of one node"
                .to_owned(),
        );
    }
    remarks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::*;

    struct Fixed(BTreeMap<Knob, i64>);

    impl Sysctls for Fixed {
        fn read(&self, knob: Knob) -> io::Result<i64> {
            self.0.get(&knob).copied().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
        }

        fn write(&mut self, _: Knob, _: i64) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(libc::EROFS))
        }
    }

    fn texts(wanted: &[Wanted]) -> Vec<String> {
        wanted.iter().map(Wanted::to_string).collect()
    }

    #[test]
    fn forwarding_is_for_the_families_that_pods_have() {
        let fixed = Fixed(BTreeMap::new());
        let v4: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap()];
        assert_eq!(texts(&plan(&v4, None, &fixed)), ["/proc/sys/net/ipv4/ip_forward = 1"]);
        let v6: Vec<IpNet> = vec!["fd00:244:1::/64".parse().unwrap()];
        assert_eq!(texts(&plan(&v6, None, &fixed)), ["/proc/sys/net/ipv6/conf/all/forwarding = 1"]);
    }

    /// Without it, a node in a network with router advertisements loses its default route minutes later.
    #[test]
    fn a_router_that_announces_itself_is_not_forgotten() {
        let eth0 = InterfaceName::new("eth0").unwrap();
        let v6: Vec<IpNet> = vec!["fd00:244:1::/64".parse().unwrap()];
        let believing = Fixed([(Knob::AcceptRouters(eth0), 1)].into());
        let lines = texts(&plan(&v6, Some(eth0), &believing));
        assert_eq!(lines[0], "/proc/sys/net/ipv6/conf/eth0/accept_ra = 2");
        let not = Fixed([(Knob::AcceptRouters(eth0), 0)].into());
        assert_eq!(plan(&v6, Some(eth0), &not).len(), 1);
    }

    #[test]
    fn what_may_surprise_is_said() {
        let eth0 = InterfaceName::new("eth0").unwrap();
        let loose =
            Fixed([(Knob::ReversePath(eth0), 2), (Knob::Bridge("bridge-nf-call-iptables"), 1)].into());
        assert_eq!(remarks(Some(eth0), &loose), [] as [String; 0]);
        let strict =
            Fixed([(Knob::ReversePath(eth0), 1), (Knob::Bridge("bridge-nf-call-iptables"), 0)].into());
        assert_eq!(remarks(Some(eth0), &strict).len(), 2);
    }
}
