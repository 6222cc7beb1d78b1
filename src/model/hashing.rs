//! What schedulers that hash look at, besides an address.

use super::Scheduler;

/// The options of IPVS' `sh` and `mh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hashing {
    /// Hash the client's port too: `sh-port`, `mh-port`.
    pub port: bool,
    /// If the endpoint of a hash takes no connections, take that of the next: `sh-fallback`, `mh-fallback`.
    pub fallback: bool,
}

const PORT: Hashing = Hashing { port: true, fallback: false };
const FALLBACK: Hashing = Hashing { port: false, fallback: true };

/// By the names that `ipvsadm -b` has for them.
const FLAGS: [(&str, Scheduler, Hashing); 4] = [
    ("sh-port", Scheduler::SourceHash, PORT),
    ("sh-fallback", Scheduler::SourceHash, FALLBACK),
    ("mh-port", Scheduler::Maglev, PORT),
    ("mh-fallback", Scheduler::Maglev, FALLBACK),
];

/// A flag that a scheduler does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashingError {
    #[error("unknown scheduler flag {0:?}: it is one of sh-port, sh-fallback, mh-port, mh-fallback")]
    Unknown(String),
    #[error("scheduler {scheduler} does not have {flag}, which is a flag of {of}")]
    OfAnother { flag: &'static str, scheduler: Scheduler, of: Scheduler },
}

impl Hashing {
    /// How a scheduler hashes where nobody says: `mh` by the client's port too, as kube-proxy has it.
    pub fn usual(scheduler: Scheduler) -> Hashing {
        match scheduler {
            Scheduler::Maglev => PORT,
            _ => Hashing::default(),
        }
    }

    /// The options that are named in `flags`, and what is wrong with those that count for nothing.
    pub fn read<'a>(
        scheduler: Scheduler,
        flags: impl IntoIterator<Item = &'a str>,
    ) -> (Hashing, Vec<HashingError>) {
        let (mut hashing, mut errors) = (Hashing::default(), Vec::new());
        for flag in flags.into_iter().map(str::trim).filter(|flag| !flag.is_empty()) {
            match Hashing::of_flag(scheduler, flag) {
                Ok(Hashing { port, fallback }) => {
                    hashing.port |= port;
                    hashing.fallback |= fallback;
                }
                Err(error) => errors.push(error),
            }
        }
        (hashing, errors)
    }

    fn of_flag(scheduler: Scheduler, flag: &str) -> Result<Hashing, HashingError> {
        match FLAGS.into_iter().find(|(name, ..)| *name == flag) {
            Some((_, of, hashing)) if of == scheduler => Ok(hashing),
            Some((flag, of, _)) => Err(HashingError::OfAnother { flag, scheduler, of }),
            None => Err(HashingError::Unknown(flag.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(scheduler: Scheduler, flags: &str) -> (Hashing, Vec<String>) {
        let (hashing, errors) = Hashing::read(scheduler, flags.split(','));
        (hashing, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn flags_are_those_of_ipvsadm() {
        let both = Hashing { port: true, fallback: true };
        assert_eq!(read(Scheduler::SourceHash, "sh-port"), (PORT, vec![]));
        assert_eq!(read(Scheduler::SourceHash, "sh-fallback,"), (FALLBACK, vec![]));
        assert_eq!(read(Scheduler::Maglev, " mh-fallback , mh-port,mh-port"), (both, vec![]));
        assert_eq!(read(Scheduler::Maglev, ""), (Hashing::default(), vec![]));
    }

    #[test]
    fn flags_of_another_scheduler_count_for_nothing() {
        let (hashing, errors) = read(Scheduler::SourceHash, "mh-port,sh-fallback,MH-PORT");
        assert_eq!(hashing, FALLBACK);
        assert_eq!(errors[0], "scheduler sh does not have mh-port, which is a flag of mh");
        assert!(
            errors[1].starts_with("unknown scheduler flag \"MH-PORT\": it is one of sh-port,"),
            "{errors:?}"
        );
        assert_eq!(read(Scheduler::RoundRobin, "sh-port").1.len(), 1);
    }

    #[test]
    fn only_maglev_hashes_ports_unasked() {
        let unasked = Scheduler::ALL.into_iter().filter(|scheduler| Hashing::usual(*scheduler).port);
        assert_eq!(unasked.collect::<Vec<_>>(), [Scheduler::Maglev]);
    }
}
