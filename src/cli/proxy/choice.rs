//! Which mode suits this machine, where nobody asked for one.

use crate::config::{CaptureBy, ModeName};
use crate::model::Family;
use crate::modes::{nftables, userspace};

use super::planes::require;

/// A mode, and why.
pub struct Choice {
    pub mode: ModeName,
    pub reason: String,
}

/// nftables where the kernel has all that it takes, else iptables.
pub fn of_this_machine() -> Choice {
    let found = nftables::open(Family::V4).map_err(anyhow::Error::from);
    choose(found.and_then(|(mut door, _)| require(&mut door, Family::V4).map(drop)))
}

/// What gives the userspace mode its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facility {
    Nftables,
    Iptables,
}

/// As asked for, else nf_tables where the kernel takes all that is written, and iptables with sets where it does not.
pub fn capture(wanted: CaptureBy) -> Facility {
    let (facility, reason) = match wanted {
        CaptureBy::Nftables => (Facility::Nftables, "--userspace-capture asks for it".to_owned()),
        CaptureBy::Iptables => (Facility::Iptables, "--userspace-capture asks for it".to_owned()),
        CaptureBy::Auto => choose_capture(
            nftables::open(Family::V4)
                .map_err(anyhow::Error::from)
                .and_then(|(mut door, _)| Ok(userspace::capture::nftables::probe(&mut door, Family::V4)?)),
        ),
    };
    tracing::info!(?facility, reason, "Chose what gives this process its connections");
    facility
}

fn choose_capture(nftables: anyhow::Result<()>) -> (Facility, String) {
    match nftables {
        Ok(()) => (Facility::Nftables, "the kernel has all of nf_tables that it takes".to_owned()),
        Err(error) => (Facility::Iptables, format!("{error:#}")),
    }
}

fn choose(nftables: anyhow::Result<()>) -> Choice {
    match nftables {
        Ok(()) => Choice {
            mode: ModeName::Nftables,
            reason: "the kernel has all of nf_tables that the nftables mode needs".to_owned(),
        },
        Err(error) => Choice { mode: ModeName::Iptables, reason: format!("{error:#}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::nftables::fake::FakeNftables;

    fn kernel_without(refused: &str) -> FakeNftables {
        let mut kernel = FakeNftables::default();
        kernel.refuse = Some(refused.to_owned());
        kernel
    }

    fn choice_of(kernel: &mut FakeNftables) -> Choice {
        choose(require(kernel, Family::V4).map(drop))
    }

    #[test]
    fn a_kernel_that_has_everything_gets_nftables() {
        assert_eq!(choice_of(&mut FakeNftables::default()).mode, ModeName::Nftables);
    }

    /// siderolabs/talos#951: `nft_fib` is a module that some distributions leave out.
    #[test]
    fn y8_a_kernel_that_lacks_an_expression_gets_iptables_and_the_log_says_which() {
        for (refused, named) in [("fib daddr type", "lacks fib"), ("numgen", "numgen"), ("jhash", "jhash")] {
            let mut kernel = kernel_without(refused);
            let Choice { mode, reason } = choice_of(&mut kernel);
            assert_eq!(mode, ModeName::Iptables);
            assert!(reason.contains("this kernel's nf_tables lacks") && reason.contains(named), "{reason}");
            assert!(kernel.tables.is_empty(), "trying leaves nothing behind");
        }
    }

    #[test]
    fn y8_a_kernel_without_tproxy_gives_the_userspace_mode_its_connections_by_iptables() {
        let choice = |kernel: &mut FakeNftables| {
            choose_capture(Ok(()).and_then(|()| Ok(userspace::capture::nftables::probe(kernel, Family::V4)?)))
        };
        assert_eq!(choice(&mut FakeNftables::default()).0, Facility::Nftables);
        for refused in ["tproxy", "socket transparent", "fib daddr type"] {
            let mut kernel = kernel_without(refused);
            let (facility, reason) = choice(&mut kernel);
            assert_eq!(facility, Facility::Iptables, "{refused}");
            assert!(reason.contains(refused), "{reason}");
            assert!(kernel.tables.is_empty(), "trying leaves nothing behind");
        }
    }

    #[test]
    fn named_counters_are_no_reason_to_do_without_nftables() {
        assert_eq!(choice_of(&mut kernel_without("counter name")).mode, ModeName::Nftables);
    }
}
