//! Giving a set other parameters than it was created with.

use std::sync::Arc;

use super::{Change, Definition, Member, SetError, Sets};

/// Makes a set with this definition and these members take the place of the one of its name, in one moment for the rules
/// that refer to it: a set that is too small grows in this way (k8s#129389). The old one has to be of the same type and
/// family. If there is none, the new one is simply created.
///
/// The new set is filled under a name of its own, with `~` at its end. If that fails the old one is as it was.
pub fn replace(sets: &mut dyn Sets, definition: &Definition, members: &[Member]) -> Result<(), SetError> {
    let name = &definition.name;
    let is_there = sets.headers(name)?.iter().any(|header| header.name == *name);
    if !is_there {
        return fill(sets, definition, members);
    }
    let new = Definition { name: temporary(name), ..definition.clone() };
    sets.destroy(&new.name)?;
    let replaced = fill(sets, &new, members).and_then(|()| sets.swap(&new.name, name));
    let destroyed = sets.destroy(&new.name);
    replaced.and(destroyed)
}

fn fill(sets: &mut dyn Sets, definition: &Definition, members: &[Member]) -> Result<(), SetError> {
    sets.create(definition)?;
    let set: Arc<str> = definition.name.as_ref().into();
    let add = |member: &Member| Change::Add { set: set.clone(), member: *member };
    sets.change(&members.iter().map(add).collect::<Vec<_>>())
}

/// Within the 31 bytes that a name may have.
fn temporary(name: &str) -> Box<str> {
    let kept = (0..=30).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    format!("{}~", &name[..kept]).into()
}
