//! A connection tracking table in memory.

use super::{Conntrack, ConntrackError, Flow};
use crate::kernel::netlink::NetlinkError;
use crate::model::{Family, Protocol};

#[derive(Default)]
pub struct FakeConntrack {
    pub flows: Vec<Flow>,
    /// How many listings there were.
    pub listings: usize,
    /// How many of the next calls fail.
    pub failures: usize,
}

impl FakeConntrack {
    fn fail(&mut self) -> Result<(), NetlinkError> {
        if self.failures == 0 {
            return Ok(());
        }
        self.failures -= 1;
        Err(NetlinkError::NeverConsistent)
    }
}

impl Conntrack for FakeConntrack {
    fn flows(
        &mut self,
        family: Family,
        protocol: Protocol,
        each: &mut dyn FnMut(&Flow),
    ) -> Result<(), ConntrackError> {
        self.listings += 1;
        self.fail().map_err(|source| ConntrackError::List { family, protocol, source })?;
        self.flows
            .iter()
            .filter(|flow| flow.protocol == protocol && Family::of(flow.original.source.ip()) == family)
            .for_each(each);
        Ok(())
    }

    fn delete(&mut self, flow: &Flow) -> Result<bool, ConntrackError> {
        self.fail().map_err(|source| ConntrackError::Delete { flow: Box::new(*flow), source })?;
        let before = self.flows.len();
        self.flows.retain(|kept| kept != flow);
        Ok(self.flows.len() < before)
    }
}
