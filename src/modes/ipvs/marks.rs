//! Which packet mark leads to the virtual server of a ServicePort that short-circuits.

use super::held::Owner;
use super::names::Set;
use super::planner::Planner;
use super::render::{self, Key, Server};
use super::servers;
use crate::kernel::ipvs::VirtualServer;
use crate::model::{ServicePort, ServicePortName};

impl Planner<'_> {
    /// First those that have a mark, so that no other gets it.
    pub(super) fn marks(&mut self) {
        let names = std::mem::take(&mut self.touched.names);
        let new: Vec<_> = names.into_iter().filter(|name| !self.keeps_mark(name)).collect();
        let marks = self.settings.marks();
        for name in new {
            let mark = marks.choose(&name, |mark| self.is_taken(mark));
            self.set_mark(name, Some(mark));
        }
    }

    /// A ServicePort that short-circuits keeps its mark, and one that ceases to until its connections have ended. One that
    /// begins to gets the one that its frontends have already; `false` if they have none.
    fn keeps_mark(&mut self, name: &ServicePortName) -> bool {
        let before = self.held.marks.of(name);
        let mark = match render::of_short_circuit(self.want, name) {
            None => None,
            Some(server) if !server.port.short_circuit() => {
                before.filter(|mark| self.drains_behind(*mark, &server))
            }
            Some(server) => match before.or_else(|| self.mark_in_use(server.port)) {
                None => return false,
                found => found,
            },
        };
        self.set_mark(name.clone(), mark);
        true
    }

    fn set_mark(&mut self, name: ServicePortName, mark: Option<u32>) {
        let before = self.held.marks.of(&name);
        let family = self.family();
        let servers = [before, mark].into_iter().flatten().map(|mark| VirtualServer::Mark { family, mark });
        self.touched.servers.extend(servers);
        if mark != before {
            mark.and_then(|mark| self.new_marks.insert(mark, name.clone()));
            self.outcome.marks.insert(name, mark);
        }
    }

    fn behind(&self, mark: u32) -> VirtualServer {
        VirtualServer::Mark { family: self.family(), mark }
    }

    fn drains_behind(&self, mark: u32, wanted: &Server<'_>) -> bool {
        let at = self.behind(mark);
        let held = self.held.servers.get(&at);
        servers::difference(at, held, Some(wanted), self.drains).after.is_some()
    }

    fn is_taken(&self, mark: u32) -> bool {
        // One of ours without a ServicePort is what an earlier process meant for the one that is about to get it.
        let server = self.held.servers.get(&self.behind(mark));
        server.is_some_and(|server| server.owner == Owner::Others)
            || self.held.marks.owner(mark).is_some()
            || self.new_marks.contains_key(&mark)
    }

    /// The mark that an earlier process gave.
    fn mark_in_use(&self, port: &ServicePort) -> Option<u32> {
        let given = Key::all_of(port, self.want)
            .filter(|key| key.owner(self.want).is_some_and(|owner| owner.name == port.name))
            .find_map(|key| self.held.member(Set::ShortCircuit, &key.element())?.mark)?;
        let is_free = self.held.marks.owner(given).is_none() && !self.new_marks.contains_key(&given);
        (self.settings.marks().is_ours(given) && is_free).then_some(given)
    }

    pub(super) fn mark_of(&self, name: &ServicePortName) -> u32 {
        let new = self.outcome.marks.get(name).copied();
        // Whoever short-circuits has one: it was touched when it began to.
        new.unwrap_or_else(|| self.held.marks.of(name)).unwrap_or_default()
    }

    /// Whose mark it is after this plan.
    pub(super) fn name_of(&self, mark: u32) -> Option<ServicePortName> {
        let kept = || self.held.marks.owner(mark).filter(|name| !self.outcome.marks.contains_key(*name));
        self.new_marks.get(&mark).or_else(kept).cloned()
    }
}
