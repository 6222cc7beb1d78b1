//! How packets of this node's pods are told from others, in nft's words.

use ipnet::IpNet;

use super::base::Path;
use crate::kernel::nftables::selector::Selector;
use crate::kernel::nftables::{Statement, Value};
use crate::model::{Family, LocalTraffic};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pods {
    family: Family,
    told_by: ToldBy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ToldBy {
    Nothing,
    /// Of the family. With none, nothing is told either.
    Sources(Vec<IpNet>),
    Interface(String),
    InterfacePrefix(String),
}

impl Pods {
    pub fn new(family: Family, local: &LocalTraffic) -> Self {
        let told_by = match local {
            LocalTraffic::Undetected => ToldBy::Nothing,
            LocalTraffic::Sources(networks) => {
                ToldBy::Sources(networks.iter().copied().filter(|network| family.contains(network)).collect())
            }
            LocalTraffic::Interface(name) => ToldBy::Interface(name.clone()),
            LocalTraffic::InterfacePrefix(prefix) => ToldBy::InterfacePrefix(prefix.clone()),
        };
        Pods { family, told_by }
    }

    pub fn can_be_told(&self) -> bool {
        match &self.told_by {
            ToldBy::Nothing => false,
            ToldBy::Sources(networks) => !networks.is_empty(),
            ToldBy::Interface(_) | ToldBy::InterfacePrefix(_) => true,
        }
    }

    /// Matches one of which holds for what comes from pods.
    pub fn are_the_source(&self, path: Path) -> Vec<Statement> {
        match &self.told_by {
            ToldBy::Sources(networks) => {
                let source = Selector::SourceAddress(self.family);
                networks.iter().map(|pods| Statement::Within(source.clone(), *pods)).collect()
            }
            ToldBy::Interface(name) if path == Path::Prerouting => {
                vec![Statement::Is(Selector::InputInterface, Value::interface(name))]
            }
            ToldBy::InterfacePrefix(prefix) if path == Path::Prerouting => {
                vec![Statement::BeginsWith(Selector::InputInterface, prefix.as_str().into())]
            }
            _ => vec![],
        }
    }

    /// A match that holds for what comes in by an interface of pods, where that is how they are told.
    pub fn by_interface(&self) -> Option<Statement> {
        match self.told_by {
            ToldBy::Nothing | ToldBy::Sources(_) => None,
            ToldBy::Interface(_) | ToldBy::InterfacePrefix(_) => self.are_the_source(Path::Prerouting).pop(),
        }
    }

    /// Matches that all hold for what does not.
    pub fn are_not_the_source(&self, path: Path) -> Vec<Statement> {
        match &self.told_by {
            ToldBy::Sources(networks) => {
                let source = Selector::SourceAddress(self.family);
                networks.iter().map(|pods| Statement::Outside(source.clone(), *pods)).collect()
            }
            ToldBy::Interface(name) if path == Path::Prerouting => {
                vec![Statement::IsNot(Selector::InputInterface, Value::interface(name))]
            }
            ToldBy::InterfacePrefix(prefix) if path == Path::Prerouting => {
                vec![Statement::BeginsOtherThan(Selector::InputInterface, prefix.as_str().into())]
            }
            _ => vec![],
        }
    }

    /// Matches one of which holds for what comes from or goes to pods; `None` for everything, where pods cannot be told.
    pub fn at_either_end(&self) -> Vec<Option<Statement>> {
        let ways = [Selector::InputInterface, Selector::OutputInterface];
        match &self.told_by {
            ToldBy::Nothing => vec![None],
            ToldBy::Sources(networks) => {
                let ends = [Selector::SourceAddress(self.family), Selector::DestinationAddress(self.family)];
                let within = |pods: &IpNet| ends.clone().map(|end| Some(Statement::Within(end, *pods)));
                networks.iter().flat_map(within).collect()
            }
            ToldBy::Interface(name) => {
                ways.map(|way| Some(Statement::Is(way, Value::interface(name)))).into()
            }
            ToldBy::InterfacePrefix(prefix) => {
                ways.map(|way| Some(Statement::BeginsWith(way, prefix.as_str().into()))).into()
            }
        }
    }
}
