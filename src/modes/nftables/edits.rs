//! What happens to the elements of the sets.

use std::collections::BTreeMap;

use super::key;
use super::names::SetId;
use crate::kernel::nftables::element::Elements;
use crate::kernel::nftables::transaction::Operation;
use crate::kernel::nftables::{Element, Name};

/// In each set deletions come first: an element with other data is deleted and added.
#[derive(Default)]
pub struct Edits {
    of_sets: BTreeMap<SetId, Edit>,
    count: usize,
}

#[derive(Default)]
struct Edit {
    deleted: Elements,
    added: Elements,
}

impl Edits {
    pub fn add(&mut self, set: SetId, element: &Element) {
        self.count += 1;
        self.of_sets.entry(set).or_default().added.push(element);
    }

    pub fn delete(&mut self, set: SetId, element: &Element) {
        self.count += 1;
        self.of_sets.entry(set).or_default().deleted.push(&key::alone(element));
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn operations(self) -> impl Iterator<Item = Operation> {
        self.of_sets.into_iter().flat_map(|(set, edit)| edit.operations(set))
    }
}

impl Edit {
    fn operations(self, set: SetId) -> impl Iterator<Item = Operation> {
        let set: Name = set.to_string().into();
        let Edit { deleted, added } = self;
        let deletion =
            (!deleted.is_empty()).then(|| Operation::DeleteElements { set: set.clone(), elements: deleted });
        let addition = (!added.is_empty()).then_some(Operation::AddElements { set, elements: added });
        deletion.into_iter().chain(addition)
    }
}
