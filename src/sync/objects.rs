//! Kubernetes objects reduced to what a node needs, and the events that carry them.
//!
//! Sources fold every decoded object into these at once, with names interned: 100,000 endpoints then take a few MiB
//! where the API types take hundreds.

mod seldom;
mod uid;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

pub use seldom::Seldom;
pub use uid::Uid;

use crate::model::{Family, Few, Protocol, ServiceName};

/// One thing that a source saw, in the order it saw it.
///
/// A list, first or repeated, is `ListStarted`, any number of objects, `ListDone`. Objects of that kind that were known
/// before and did not come again are gone at `ListDone`, not earlier. A list may start again before it is done.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    ListStarted(Kind),
    ListDone(Kind),
    /// A list that has begun need not be waited for any more: this kind can be done without.
    ListGivenUp(Kind),
    Applied(Object),
    Deleted(Kind, ServiceName),
    /// An object that is there but makes no sense. What was known of it before stays in force.
    Undecodable {
        kind: Kind,
        name: Option<ServiceName>,
        error: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
    ServiceCidr,
}

impl Kind {
    /// Whether nothing may be written before they were listed. Of the others a list is waited for if it has begun.
    pub fn is_needed(self) -> bool {
        self != Kind::ServiceCidr
    }
}

/// As the API's `kind`.
impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    Node(Box<Node>),
    ServiceCidr(Box<ServiceCidr>),
}

/// A Service as its author wrote it. Which of it makes sense is decided in `compile`.
///
/// Services that kube-proxy does not proxy (headless, ExternalName, `service.kubernetes.io/service-proxy-name`) never
/// become one of these: where the source's selectors cannot keep them out, `Applied` of one is sent as `Deleted`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub name: ServiceName,
    pub uid: Uid,
    /// `metadata.creationTimestamp`, in seconds since 1970. Older Services win contested addresses.
    pub created: i64,
    pub kind: ServiceKind,
    /// `spec.clusterIPs`, or `spec.clusterIP` where that is empty.
    pub cluster_ips: Few<IpAddr>,
    pub ports: Few<ServicePortSpec>,
    pub external_ips: Seldom<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose ipMode is VIP or absent.
    pub load_balancer_ips: Seldom<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, white space removed; empty allows everybody.
    pub load_balancer_sources: Seldom<IpNet>,
    pub internal_policy_local: bool,
    pub external_policy_local: bool,
    /// sessionAffinity ClientIP's timeout in seconds, 10800 where it is absent.
    pub affinity_timeout_seconds: Option<u32>,
    /// 0 where there is none.
    pub health_check_node_port: u16,
    /// The text of annotation `ferrovia.dev/scheduler`.
    pub scheduler: Option<Arc<str>>,
    /// The text of annotation `ferrovia.dev/scheduler-flags`.
    pub scheduler_flags: Option<Arc<str>>,
    /// Fields that could not be read; the rest of the object counts.
    pub problems: Seldom<FieldProblem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ServicePortSpec {
    /// Empty for the single unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// 0 where there is none.
    pub node_port: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSlice {
    pub name: ServiceName,
    /// Label `kubernetes.io/service-name`.
    pub service: Arc<str>,
    pub family: Family,
    pub ports: Few<EndpointPort>,
    pub endpoints: Box<[SliceEndpoint]>,
    /// Annotation `ferrovia.dev/weight`: that of every endpoint, 1 where there is none.
    pub weight: u16,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`.
    pub triggered: Option<SystemTime>,
    /// Fields that could not be read; the rest of the object counts.
    pub problems: Seldom<FieldProblem>,
}

/// A port of every endpoint of a slice. Ports without name or number are left out by the source.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SliceEndpoint {
    /// The first of `addresses`: the API says that the others are to be ignored by proxies.
    pub address: IpAddr,
    /// `conditions`, with the API's defaults applied: ready unless false, serving as ready unless given, not terminating.
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    /// `hints.forZones` and `hints.forNodes`, absent for nearly all: boxed to keep the many small.
    pub hints: Option<Arc<Hints>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Hints {
    pub zones: Box<[Arc<str>]>,
    pub nodes: Box<[Arc<str>]>,
}

/// This node, or another one where a pod network asks for all.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: Arc<str>,
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp`, in seconds since 1970. Older Nodes keep contested pod CIDRs.
    pub created: i64,
    /// `status.addresses` of type InternalIP.
    pub internal_addresses: Box<[IpAddr]>,
    /// `status.addresses` of type InternalIP, then ExternalIP.
    pub addresses: Box<[IpAddr]>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    pub pod_cidrs: Box<[IpNet]>,
    /// Has a deletionTimestamp or the taint `ToBeDeletedByClusterAutoscaler` (KEP-3836).
    pub leaving: bool,
    pub pod_network: PodNetworkNotes,
}

/// What a pod network says of itself in annotations of its Node, `ferrovia.dev/pod-network` and others that begin so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetworkNotes {
    pub kind: Option<Arc<str>>,
    /// Through which the node is reached.
    pub interface: Option<Arc<str>>,
    /// Of pods' links, in bytes.
    pub mtu: Option<Arc<str>>,
}

/// Networks that ClusterIPs are taken from (KEP-1880). Each counts until it is deleted, ready or not: Services may still
/// have addresses in it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceCidr {
    pub name: Arc<str>,
    /// One, or one of each family.
    pub networks: Box<[IpNet]>,
}

/// What is wrong with one field, in words for its author: `spec.ports[2].port: 70000 is not a port number`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldProblem {
    pub field: String,
    pub reason: Reason,
    pub message: String,
}

/// The kinds of problems, as counted in metrics and named in Events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The field cannot be read.
    Malformed,
    /// An endpoint address in a loopback, link-local, multicast or unspecified range.
    ForbiddenEndpoint,
    /// A frontend address that is the node's, localhost or another Service's ClusterIP.
    ForbiddenFrontend,
    /// An external IP outside the networks that the operator allows (CVE-2020-8554).
    ExternalIpNotAllowed,
    /// Another, older Service has this address and port.
    AddressInUse,
    /// The mode or this kernel does not have this scheduler, or the scheduler not this flag; the default is used.
    UnsupportedScheduler,
    /// The kernel refused this ServicePort; everything else was programmed without it.
    Quarantined,
    /// A Node whose pod CIDRs cannot be reached through a plain route.
    NoDirectRoute,
    /// A pod CIDR that overlaps one of an older Node.
    PodCidrOverlap,
    /// The kernel refused a route to a pod CIDR.
    RouteRefused,
    /// Somebody else's route to a pod CIDR takes precedence.
    ForeignRoute,
}

impl Reason {
    /// The name in Events and in the `reason` label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Malformed => "Malformed",
            Reason::ForbiddenEndpoint => "ForbiddenEndpoint",
            Reason::ForbiddenFrontend => "ForbiddenFrontend",
            Reason::ExternalIpNotAllowed => "ExternalIPNotAllowed",
            Reason::AddressInUse => "AddressInUse",
            Reason::UnsupportedScheduler => "UnsupportedScheduler",
            Reason::Quarantined => "Quarantined",
            Reason::NoDirectRoute => "NoDirectRoute",
            Reason::PodCidrOverlap => "PodCIDROverlap",
            Reason::RouteRefused => "RouteRefused",
            Reason::ForeignRoute => "ForeignRoute",
        }
    }
}
