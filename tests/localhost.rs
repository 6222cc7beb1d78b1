//! NodePorts on loopback beside a mode of the kernel: listeners of the process.

use crate::common::clients::while_clients_connect;
use crate::common::data_plane::{DataPlane, in_every_kernel_mode};
use crate::common::rig::{Rig, SOON, eventually, web};
use crate::userspace::metric;

const CONNECTIONS: &str = "ferrovia_proxied_connections_total";
const LOOPBACK: (&str, &str) = ("172.18.0.2", "127.0.0.1:30080");

in_every_kernel_mode! {
    /// As in the userspace mode, by the same means.
    fn l10_node_ports_on_loopback_are_handed_over_and_counted(plane: DataPlane) {
        // What `primary`, the nftables mode's default, does not have.
        let flags = ["--nodeport-addresses=127.0.0.0/8,172.18.0.0/16".to_owned()];
        let web = web("type: NodePort", &["10.244.1.5"]);
        let mut rig = Rig::without_proxy(plane, &[("web.yaml", &web)], &flags);
        rig.start_proxy();
        while_clients_connect(&mut rig, &[LOOPBACK], 2, |rig| {
            rig.hand_over_to(plane);
            // Of the new process.
            let before = metric(rig, CONNECTIONS);
            let is_counted = || metric(rig, CONNECTIONS) > before;
            assert!(eventually(SOON, is_counted), "{}", rig.log());
        });
        let series = "ferrovia_proxied_connections_total{service=\"default/web/TCP\"}";
        let metrics = rig.metrics();
        assert!(metrics.contains(series), "{metrics}");
    }
}
