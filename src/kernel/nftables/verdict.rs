//! Verdicts: what becomes of a packet, in rules and as data of verdict maps.

use std::fmt;

use super::message::NESTED;
use super::table::Name;
use super::wire::Fields;
use crate::kernel::netlink::Request;

const CODE: u16 = 1;
const CHAIN: u16 = 2;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Accept,
    Drop,
    /// To the rule after the jump, or to the policy.
    Return,
    Continue,
    Jump(Name),
    /// A jump without a way back.
    Goto(Name),
}

impl Verdict {
    /// `NF_*` and `NFT_*`.
    fn code(&self) -> i32 {
        match self {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
            Verdict::Continue => -1,
            Verdict::Jump(_) => -3,
            Verdict::Goto(_) => -4,
            Verdict::Return => -5,
        }
    }

    /// Where a packet goes on.
    pub fn chain(&self) -> Option<&Name> {
        match self {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// As nested attribute `kind`, of `NFTA_VERDICT_*`.
    pub(super) fn put(&self, request: &mut Request, kind: u16) {
        request.nested(kind | NESTED, |verdict| {
            verdict.attribute(CODE, &self.code().to_be_bytes());
            if let Some(chain) = self.chain() {
                verdict.text(CHAIN, chain);
            }
        });
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let fields = Fields::of(bytes).only(&[CODE, CHAIN])?;
        let chain = || fields.text(CHAIN).map(Name::from);
        Some(match fields.u32(CODE)? as i32 {
            0 => Verdict::Drop,
            1 => Verdict::Accept,
            -1 => Verdict::Continue,
            -3 => Verdict::Jump(chain()?),
            -4 => Verdict::Goto(chain()?),
            -5 => Verdict::Return,
            _ => return None,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept => f.write_str("accept"),
            Verdict::Drop => f.write_str("drop"),
            Verdict::Return => f.write_str("return"),
            Verdict::Continue => f.write_str("continue"),
            Verdict::Jump(chain) => write!(f, "jump {chain}"),
            Verdict::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}
