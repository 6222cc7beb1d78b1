//! Requests, understood and checked.

use std::collections::BTreeMap;

use super::store::Refusal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    List,
    /// A list with a continue token.
    Continue,
    /// A watch that begins with what exists.
    StreamingList,
    Watch,
    Create,
    /// Of a status, or of metadata through it.
    Patch,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub verb: Verb,
    pub resource: &'static str,
    /// Of the object, where the path names one.
    pub name: String,
    pub parameters: BTreeMap<String, String>,
    pub token: String,
}

const PARAMETERS: [&str; 10] = [
    "watch",
    "timeoutSeconds",
    "labelSelector",
    "fieldSelector",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "resourceVersionMatch",
    "resourceVersion",
    "limit",
    "continue",
];

impl Asked {
    pub fn parse(method: &http::Method, uri: &http::Uri, token: String) -> Result<Asked, Refusal> {
        let resource = resource(uri.path())?;
        let parameters = parameters(uri.query().unwrap_or(""));
        if let Some(unknown) = parameters.keys().find(|key| !PARAMETERS.contains(&key.as_str())) {
            return Err(Refusal::bad_request(format!("parameter {unknown} is not emulated")));
        }
        let verb = match (method.as_str(), resource) {
            ("POST", "events") => Verb::Create,
            ("PATCH", "nodes/status") => Verb::Patch,
            ("GET", "services" | "endpointslices" | "nodes" | "servicecidrs") => read_verb(&parameters),
            _ => return Err(Refusal::new(405, "MethodNotAllowed", format!("{method} {resource}"))),
        };
        let name = match resource {
            "nodes/status" => uri.path().split('/').nth(4).unwrap_or_default(),
            _ => "",
        };
        Ok(Asked { verb, resource, name: name.to_owned(), parameters, token })
    }

    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let text = self.parameter(name);
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse();
        number.map(Some).map_err(|_| Refusal::bad_request(format!("{name}={text} is no number")))
    }
}

fn resource(path: &str) -> Result<&'static str, Refusal> {
    match path {
        "/api/v1/services" => Ok("services"),
        "/api/v1/nodes" => Ok("nodes"),
        "/apis/discovery.k8s.io/v1/endpointslices" => Ok("endpointslices"),
        "/apis/networking.k8s.io/v1/servicecidrs" => Ok("servicecidrs"),
        path if path.starts_with("/apis/events.k8s.io/v1/namespaces/") && path.ends_with("/events") => {
            Ok("events")
        }
        path if path.starts_with("/api/v1/nodes/") && path.ends_with("/status") => Ok("nodes/status"),
        _ => Err(Refusal::new(404, "NotFound", format!("no {path} here"))),
    }
}

fn read_verb(parameters: &BTreeMap<String, String>) -> Verb {
    let is = |name: &str, value: &str| parameters.get(name).is_some_and(|given| given == value);
    match (is("watch", "true"), is("sendInitialEvents", "true")) {
        (true, true) => Verb::StreamingList,
        (true, false) => Verb::Watch,
        (false, _) if parameters.contains_key("continue") => Verb::Continue,
        (false, _) => Verb::List,
    }
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
