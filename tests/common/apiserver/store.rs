//! The objects, and how they became as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

/// Resource, then `namespace/name`.
pub type Key = (String, String);

#[derive(Default)]
pub struct Store {
    version: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    /// All changes after `compacted`, in order.
    history: Vec<Change>,
    compacted: u64,
}

#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub key: Key,
    pub before: Option<Arc<Value>>,
    pub after: Option<Arc<Value>>,
}

/// An error answer.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub code: u16,
    pub body: Value,
}

impl Refusal {
    pub fn new(code: u16, reason: &str, message: String) -> Refusal {
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": message,
        });
        Refusal { code, body }
    }

    pub fn bad_request(message: String) -> Refusal {
        Refusal::new(400, "BadRequest", message)
    }

    pub fn expired(message: String) -> Refusal {
        Refusal::new(410, "Expired", message)
    }
}

impl Store {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn apply(&mut self, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let key = key_of(&object);
        let after = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&after));
        self.history.push(Change { version: self.version, key, before, after: Some(after) });
    }

    pub fn delete(&mut self, resource: &str, name: &str) {
        let key = (resource.to_owned(), name.to_owned());
        let before = self.objects.remove(&key).unwrap_or_else(|| panic!("no {resource} {name} to delete"));
        self.version += 1;
        self.history.push(Change { version: self.version, key, before: Some(before), after: None });
    }

    pub fn compact(&mut self) {
        // Something else was written: otherwise the newest version would still be good.
        self.version += 1;
        self.compacted = self.version;
        self.history.clear();
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.objects.get(&(resource.to_owned(), name.to_owned())).map(|object| (**object).clone())
    }

    pub fn names(&self, resource: &str) -> Vec<String> {
        self.objects.keys().filter(|key| key.0 == resource).map(|key| key.1.clone()).collect()
    }

    /// What existed at a version.
    pub fn at(&self, resource: &str, version: u64) -> Result<BTreeMap<Key, Arc<Value>>, Refusal> {
        if version < self.compacted {
            return Err(Refusal::expired("The provided continue parameter is too old".to_owned()));
        }
        let mut objects = self.objects.clone();
        for change in self.history.iter().rev().take_while(|change| change.version > version) {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        objects.retain(|key, _| key.0 == resource);
        Ok(objects)
    }

    /// Whether a watch can go on from a version.
    pub fn remembers(&self, version: u64) -> Result<(), Refusal> {
        if version < self.compacted {
            let message = format!("too old resource version: {version} ({})", self.compacted);
            return Err(Refusal::expired(message));
        }
        Ok(())
    }

    /// What changed after a version.
    pub fn since(&self, resource: &str, version: u64) -> Vec<Change> {
        let first = self.history.partition_point(|change| change.version <= version);
        self.history[first..].iter().filter(|change| change.key.0 == resource).cloned().collect()
    }
}

fn key_of(object: &Value) -> Key {
    let resource = match object["kind"].as_str() {
        Some("Service") => "services",
        Some("EndpointSlice") => "endpointslices",
        Some("Node") => "nodes",
        Some("ServiceCIDR") => "servicecidrs",
        other => panic!("objects of kind {other:?} are not emulated"),
    };
    let text = |field: &str| object["metadata"][field].as_str();
    let name = text("name").unwrap_or("without-name");
    let name = match text("namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    (resource.to_owned(), name)
}
