//! What has the name of a ServicePort, in the order of these names.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::Arc;

use super::{ServicePort, ServicePortName};

/// What is about one ServicePort.
pub trait Named {
    fn name(&self) -> &ServicePortName;
}

impl Named for ServicePort {
    fn name(&self) -> &ServicePortName {
        &self.name
    }
}

/// Its name and nothing else tells it from others, so that a set of these is a map that need not keep names twice.
#[derive(Debug)]
pub struct ByName<T>(pub Arc<T>);

impl<T: Named> Borrow<ServicePortName> for ByName<T> {
    fn borrow(&self) -> &ServicePortName {
        self.0.name()
    }
}

impl<T: Named> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl<T: Named> Eq for ByName<T> {}

impl<T: Named> PartialOrd for ByName<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Named> Ord for ByName<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name().cmp(other.0.name())
    }
}
