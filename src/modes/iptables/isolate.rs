//! Finding the ServicePort that the kernel does not accept, where iptables-restore cannot tell.
//!
//! Legacy hands the kernel the whole table at COMMIT and learns no more than that it was refused, as it is where the
//! kernel lacks a match that only some ServicePorts need (`recent`, `cluster`). Their rules are tried in a chain that
//! nothing leads to, by halves.

use std::fmt;

use super::plan::Plan;
use super::render::{Content, Rules, Style};
use crate::kernel::iptables::{Door, Error, Input};
use crate::model::ServicePortName;

/// `None` if the kernel accepts all of them now, or the fault is in what belongs to nobody.
pub fn culprit<'a>(door: &mut impl Door, plan: &'a Plan) -> Option<&'a ServicePortName> {
    let mut suspects: &[_] = &plan.choices();
    let mut found = !accepts(door, &plan.style, suspects).ok()?;
    while found && suspects.len() > 1 {
        let (left, right) = suspects.split_at(suspects.len() / 2);
        suspects = if accepts(door, &plan.style, left).ok()? { right } else { left };
        found = !accepts(door, &plan.style, suspects).ok()?;
    }
    // Nothing of it is in the way if this fails: the chain is one of ours, and the next full plan removes it.
    let _ = door.restore(&Trial { style: &plan.style, contents: &[], end: "-X FERRO-TRIAL\n" });
    if found { suspects.first()?.owner(0) } else { None }
}

/// An error that is no refusal says nothing about what was tried.
fn accepts(door: &mut impl Door, style: &Style, contents: &[&Content]) -> Result<bool, Error> {
    match door.restore(&Trial { style, contents, end: "" }) {
        Ok(()) => Ok(true),
        Err(error) if error.line().is_some() => Ok(false),
        Err(error) => Err(error),
    }
}

struct Trial<'a> {
    style: &'a Style,
    contents: &'a [&'a Content],
    end: &'a str,
}

impl Input for Trial<'_> {
    fn commits(&self) -> u32 {
        1
    }
}

impl fmt::Display for Trial<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("*nat\n:FERRO-TRIAL - [0:0]\n")?;
        for content in self.contents {
            content.render(self.style, &mut Rules::to_endpoints(f, "FERRO-TRIAL"))?;
        }
        writeln!(f, "{}COMMIT", self.end)
    }
}
