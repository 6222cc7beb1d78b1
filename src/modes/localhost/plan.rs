//! Which NodePorts are to be served on loopback.

use std::fmt;
use std::sync::Arc;

use crate::model::{
    Changes, Family, Frontend, NodePolicy, NodePortAddresses, Protocol, ServicePort, ServiceTable,
};
use crate::modes::userspace::served::{Edit, Served};
use crate::modes::userspace::sockets::listening;

/// What a mode does, and what the listeners on loopback are told.
#[derive(Debug)]
pub struct Plan<P> {
    pub of_mode: P,
    pub local: Edit,
}

impl<P: fmt::Display> fmt::Display for Plan<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.of_mode, self.local)
    }
}

/// What the listeners were told.
#[derive(Debug, Default)]
pub struct Known {
    served: Served,
}

impl Known {
    pub fn plan(&self, want: &ServiceTable) -> Edit {
        let node = self.served.node_change(want.node());
        let is_wanted = includes_loopback(want.node(), want.family());
        let wanted = |port: &&Arc<ServicePort>| is_wanted && has_node_port(port);
        let changes = if node.is_some() { Changes::Everything } else { want.changes() };
        let mut edit = Edit { node, ..Edit::default() };
        match changes {
            Changes::Some(changes) => {
                let each = |name| self.served.change(name, want.get(name).filter(wanted));
                changes.keys().for_each(|name| edit.extend(each(name)));
            }
            Changes::Everything => {
                want.ports().for_each(|port| {
                    edit.extend(self.served.change(&port.name, Some(port).filter(wanted)));
                });
                let gone = self.served.names().filter(|name| want.get(name).is_none());
                gone.for_each(|name| edit.extend(self.served.change(name, None)));
            }
        }
        edit
    }

    pub fn learn(&mut self, edit: &Edit) {
        self.served.learn(edit);
    }
}

/// As for every other address of the node: `--nodeport-addresses`.
fn includes_loopback(node: &NodePolicy, family: Family) -> bool {
    match &node.node_ports {
        NodePortAddresses::All => true,
        NodePortAddresses::In(networks) => {
            networks.iter().any(|network| network.contains(&listening(family)))
        }
    }
}

fn has_node_port(port: &ServicePort) -> bool {
    let is_node_port = |frontend: &Frontend| matches!(frontend, Frontend::NodePort(_));
    port.name.protocol != Protocol::Sctp && port.frontends.iter().any(is_node_port)
}
