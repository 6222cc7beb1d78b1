//! What the rules that ask the sets depend on.

use super::base::{self, MasqueradeAll};
use crate::model::ServiceTable;
use crate::modes::iptables::{Layout, Settings, Style};
use crate::modes::skeleton::{self, Chain};

pub use crate::modes::skeleton::from_scratch;

pub type Skeleton<D> = skeleton::Skeleton<D, Needs>;
pub type Rules = skeleton::Rules<Needs>;

#[derive(Clone, Debug)]
pub struct Needs {
    style: Style,
    everybody: MasqueradeAll,
}

impl PartialEq for Needs {
    fn eq(&self, other: &Self) -> bool {
        // Family and settings do not change while the process lives.
        self.style.local == other.style.local && self.everybody == other.everybody
    }
}

impl skeleton::Needs for Needs {
    type Settings = Settings;

    const LAYOUT: &'static Layout = &base::LAYOUT;

    fn of(settings: &Settings, table: &ServiceTable) -> Self {
        let everybody = if table.node().masquerade_all { MasqueradeAll::Yes } else { MasqueradeAll::No };
        Needs { style: Style::new(settings, table), everybody }
    }

    fn chains(&self) -> Vec<Chain> {
        base::chains(&self.style, self.everybody)
    }

    fn is_ours(chain: &str) -> bool {
        base::is_ours(chain)
    }
}
