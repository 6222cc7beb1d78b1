//! One family's table: the Services that changed, and those that this concerns through a contested frontend.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{
    Family, Few, Frontend, HealthCheck, ServiceName, ServicePort, ServicePortName, ServiceTable,
    TrafficPolicy,
};
use crate::sync::objects::{Kind, Service, ServiceKind, ServicePortSpec};

use super::clashes::{self, Rank, Standing, Wait, Waiting, Weight};
use super::frontends::{self, Claim};
use super::policy::{self, Place, Policies};
use super::problems::{Findings, Problem};
use super::{Context, endpoints, service};

/// The problems that Services have in this family, of each that was compiled.
type Found = BTreeMap<ServiceName, Vec<Problem>>;

/// Compiles Services into a table until none is left that another one's result concerns.
///
/// It ends: a frontend changes hands only towards the Service with the better right, and which that is does not change
/// while this runs.
pub(super) struct Pass<'a> {
    context: &'a Context<'a>,
    table: &'a mut ServiceTable,
    waiting: &'a mut Waiting,
    queue: BTreeSet<ServiceName>,
}

impl<'a> Pass<'a> {
    pub fn new(
        context: &'a Context<'a>,
        table: &'a mut ServiceTable,
        waiting: &'a mut Waiting,
        queue: BTreeSet<ServiceName>,
    ) -> Self {
        Pass { context, table, waiting, queue }
    }

    pub fn run(&mut self) -> Found {
        let mut found = Found::new();
        while let Some(name) = self.queue.pop_first() {
            let problems = self.compile(&name);
            found.insert(name, problems);
        }
        found
    }

    fn family(&self) -> Family {
        self.table.family()
    }

    fn compile(&mut self, name: &ServiceName) -> Vec<Problem> {
        let mut findings = Findings::of(Kind::Service, name.clone());
        let before: Vec<Arc<ServicePort>> = self.table.of_service(name).cloned().collect();
        let service = self.context.store.service(name);
        let claims = match service {
            Some(service) => frontends::claims(service, self.family(), self.context, &mut findings),
            None => Vec::new(),
        };
        let won = self.contest(name, service, claims, &mut findings);
        let ports = service.map(|service| self.ports(service, &won)).unwrap_or_default();
        self.write(&before, ports);
        let check = service.and_then(|service| self.health_check(service));
        self.table.set_health_check(name.clone(), check);
        self.wake(name, &before, &won);
        let mut problems = findings.into_vec();
        if service.is_some() {
            problems.extend(endpoints::problems(name, self.context.store.slices(name), self.family()));
        }
        problems
    }

    /// Which claims hold. Those that do not are reported and wait.
    fn contest(
        &mut self,
        name: &ServiceName,
        service: Option<&Service>,
        claims: Vec<Claim>,
        findings: &mut Findings,
    ) -> Vec<Claim> {
        let mut waits = BTreeMap::new();
        let mut won = Vec::with_capacity(claims.len());
        for claim in claims {
            let Some(service) = service else { continue };
            let rank = Rank::new(service, Weight::of(&claim.frontend));
            match self.obstacle(&rank, &claim) {
                None => won.push(claim),
                Some(wait) => {
                    findings.add_contested(claim.field(), wait);
                    waits.insert(wait, rank);
                }
            }
        }
        for wait in self.waiting.replace(name, waits) {
            self.queue_waiting(wait);
        }
        won
    }

    /// What keeps a claim from holding. Services that this one's claim concerns are queued.
    fn obstacle(&mut self, rank: &Rank, claim: &Claim) -> Option<Wait> {
        if let Some(address) = claim.frontend.address() {
            if matches!(claim.frontend, Frontend::ClusterIp(_)) {
                self.queue.extend(clashes::squatters(self.table, address, &rank.service));
            } else if clashes::cluster_ip_of(self.table, address, &rank.service).is_some() {
                return Some(Wait::ClusterIp(address));
            }
        }
        match clashes::stand(self.context.store, self.table, self.waiting, claim.key, rank) {
            Standing::Won { from } => {
                self.queue.extend(from);
                None
            }
            Standing::Lost => Some(Wait::Key(claim.key)),
        }
    }

    fn queue_waiting(&mut self, wait: Wait) {
        self.queue.extend(self.waiting.to_wake(wait).cloned());
    }

    fn write(&mut self, before: &[Arc<ServicePort>], ports: Vec<ServicePort>) {
        let names: BTreeSet<ServicePortName> = ports.iter().map(|port| port.name.clone()).collect();
        for gone in before.iter().filter(|port| !names.contains(&port.name)) {
            self.table.remove(&gone.name);
        }
        for port in ports {
            self.table.set(port);
        }
    }

    /// Queues the Services that wait for what this one had and has no longer.
    fn wake(&mut self, name: &ServiceName, before: &[Arc<ServicePort>], won: &[Claim]) {
        for port in before {
            for frontend in &port.frontends {
                let key = port.key(frontend);
                if won.iter().any(|claim| claim.key == key && claim.frontend == *frontend) {
                    continue;
                }
                self.queue_waiting(Wait::Key(key));
                if let Frontend::ClusterIp(address) = frontend {
                    self.queue_waiting(Wait::ClusterIp(*address));
                }
            }
        }
        self.queue.remove(name);
    }

    fn ports(&self, service: &Service, won: &[Claim]) -> Vec<ServicePort> {
        let sources = frontends::load_balancer_sources(service, self.family(), self.context);
        won.chunk_by(|a, b| a.port == b.port)
            .map(|claims| {
                let frontends: Few<Frontend> = claims.iter().map(|claim| claim.frontend).collect();
                let guarded = frontends.iter().any(|frontend| matches!(frontend, Frontend::LoadBalancer(_)));
                let port = self.port(service, &service.ports[claims[0].port], frontends);
                ServicePort { load_balancer_sources: sources.clone().filter(|_| guarded), ..port }
            })
            .collect()
    }

    fn port(&self, service: &Service, spec: &ServicePortSpec, mut frontends: Few<Frontend>) -> ServicePort {
        frontends.sort();
        let slices = self.context.store.slices(&service.name);
        let candidates = endpoints::candidates(slices, self.family(), &spec.name, spec.protocol);
        let place =
            Place { node: &self.context.settings.node_name, zone: self.context.facts.zone.as_deref() };
        let decision = policy::decide(&candidates, policies(service, &frontends), place);
        ServicePort {
            name: ServicePortName {
                namespace: Arc::clone(&service.name.namespace),
                service: Arc::clone(&service.name.name),
                port: Arc::clone(&spec.name),
                protocol: spec.protocol,
            },
            port: spec.port,
            frontends,
            load_balancer_sources: None,
            internal: decision.internal,
            external: decision.external,
            cluster: decision.cluster,
            local: decision.local,
            draining: decision.draining,
            affinity: service::affinity(service),
            scheduler: service::scheduler(service, self.context)
                .unwrap_or_else(|_| self.context.settings.default_scheduler()),
            hashing: service::hashing(service, self.context).0,
        }
    }

    /// Only load balancers with externalTrafficPolicy Local ask nodes whether they have endpoints.
    fn health_check(&self, service: &Service) -> Option<HealthCheck> {
        let family = self.family();
        let asked = service.kind == ServiceKind::LoadBalancer
            && service.external_policy_local
            && service.health_check_node_port != 0
            && service.cluster_ips.iter().any(|address| Family::of(*address) == family);
        asked.then(|| HealthCheck {
            node_port: service.health_check_node_port,
            local_endpoints: endpoints::count_local_ready(self.context.store.slices(&service.name), family),
        })
    }
}

fn policies(service: &Service, frontends: &[Frontend]) -> Policies {
    let policy = |is_local| if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let is_external = frontends.iter().any(|frontend| !matches!(frontend, Frontend::ClusterIp(_)));
    Policies {
        internal: policy(service.internal_policy_local),
        external: is_external.then(|| policy(service.external_policy_local)),
    }
}
