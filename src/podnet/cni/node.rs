//! What of the node an attachment uses: its interfaces and its addresses for pods.

use std::net::IpAddr;
use std::path::PathBuf;

use super::attachment::AttachmentKey;
use super::config::Config;
use super::error::CniError;
use super::ipam::{Evidence, FileStorage, Ipam, Lease, Pool};
use super::parameters::Parameters;
use crate::kernel::boot;
use crate::kernel::rtnetlink::Network;
use crate::model::Family;

pub struct Node {
    pub network: Network,
    network_name: String,
    directory: PathBuf,
    boot: String,
    pool: Pool,
}

pub fn key(parameters: &Parameters) -> AttachmentKey {
    AttachmentKey { container_id: parameters.container_id.clone(), interface: parameters.interface.clone() }
}

/// Says on standard error what went wrong on the way of something that goes on nevertheless.
pub fn note<T>(result: Result<T, CniError>) -> Option<T> {
    result.inspect_err(|error| eprintln!("ferrovia-cni: {}", chain(error))).ok()
}

fn chain(error: &CniError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl Node {
    pub fn open(config: &Config) -> Result<Self, CniError> {
        let boot =
            boot::id().map_err(|source| CniError::Io { attempted: "read which boot this is", source })?;
        Ok(Node {
            network: Network::open()?,
            network_name: config.name.clone(),
            directory: config.data_dir.join(&config.name),
            boot,
            pool: Pool::new(&config.ranges),
        })
    }

    /// Addresses for an attachment, on record.
    pub fn lease(&mut self, key: &AttachmentKey) -> Result<Lease, CniError> {
        let storage = FileStorage::lock(&self.directory)?;
        let mut ipam = self.ipam(storage)?;
        if ipam.damaged() > 0 {
            eprintln!("ferrovia-cni: {} records of addresses are damaged", ipam.damaged());
        }
        let mut kernel = Kernel { network: &mut self.network, name: &self.network_name };
        Ok(ipam.lease(key, &self.pool, &mut kernel)?)
    }

    pub fn release(&mut self, key: &AttachmentKey) -> Result<(), CniError> {
        match self.existing()? {
            Some(mut ipam) => Ok(ipam.release(key)?),
            None => Ok(()),
        }
    }

    /// What an attachment holds.
    pub fn held_by(&mut self, key: &AttachmentKey) -> Result<Vec<IpAddr>, CniError> {
        Ok(self.existing()?.and_then(|ipam| ipam.held_by(key).map(<[IpAddr]>::to_vec)).unwrap_or_default())
    }

    /// Every attachment that is on record.
    pub fn holders(&mut self) -> Result<Vec<AttachmentKey>, CniError> {
        Ok(self.existing()?.map(|ipam| ipam.holders()).unwrap_or_default())
    }

    /// The first family that has no address left.
    pub fn exhausted(&mut self) -> Result<Option<Family>, CniError> {
        let Some(ipam) = self.existing()? else { return Ok(None) };
        let mut kernel = Kernel { network: &mut self.network, name: &self.network_name };
        Ok(ipam.exhausted(&self.pool, &mut kernel))
    }

    fn existing(&self) -> Result<Option<Ipam<FileStorage>>, CniError> {
        let storage = FileStorage::lock_existing(&self.directory)?;
        storage.map(|storage| self.ipam(storage)).transpose()
    }

    fn ipam(&self, storage: FileStorage) -> Result<Ipam<FileStorage>, CniError> {
        Ok(Ipam::open(storage, &self.boot, boot::uptime().as_secs())?)
    }
}

/// The kernel as a witness. Where it does not answer, an address is taken to be in use.
struct Kernel<'a> {
    network: &'a mut Network,
    name: &'a str,
}

impl Evidence for Kernel<'_> {
    fn is_routed(&mut self, address: IpAddr) -> bool {
        let bits = Family::of(address).bits();
        match self.network.route_to(address) {
            Ok(route) => route.is_some_and(|route| route.destination.prefix_len() == bits),
            Err(_) => true,
        }
    }

    fn is_attached(&mut self, key: &AttachmentKey) -> bool {
        !matches!(self.network.find_link(&key.node_end(self.name)), Ok(None))
    }
}
