//! Label and field selectors.

use serde_json::Value;

use super::request::Asked;
use super::store::Refusal;

pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

enum Requirement {
    Exists(String),
    Absent(String),
    Is(String, String),
    IsNot(String, String),
}

/// The fields that a real API server can select by.
fn fields_of(resource: &str) -> &'static [&'static str] {
    match resource {
        "services" => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
        "nodes" => &["metadata.name", "spec.unschedulable"],
        "servicecidrs" => &["metadata.name"],
        _ => &["metadata.name", "metadata.namespace"],
    }
}

impl Selector {
    pub fn of(asked: &Asked) -> Result<Selector, Refusal> {
        let labels = requirements(asked.parameter("labelSelector"))?;
        let fields = requirements(asked.parameter("fieldSelector"))?;
        for field in &fields {
            match field {
                Requirement::Is(name, _) | Requirement::IsNot(name, _)
                    if fields_of(asked.resource).contains(&name.as_str()) => {}
                _ => return Err(Refusal::bad_request("field label not supported".to_owned())),
            }
        }
        Ok(Selector { labels, fields })
    }

    pub fn selects(&self, object: &Value) -> bool {
        let label = |name: &str| object["metadata"]["labels"][name].as_str();
        let field = |name: &str| {
            let pointer = format!("/{}", name.replace('.', "/"));
            Some(object.pointer(&pointer).and_then(Value::as_str).unwrap_or(""))
        };
        self.labels.iter().all(|requirement| requirement.holds(label))
            && self.fields.iter().all(|requirement| requirement.holds(field))
    }
}

impl Requirement {
    fn holds<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        match self {
            Requirement::Exists(name) => value(name).is_some(),
            Requirement::Absent(name) => value(name).is_none(),
            Requirement::Is(name, wanted) => value(name) == Some(wanted),
            Requirement::IsNot(name, unwanted) => value(name) != Some(unwanted),
        }
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, Refusal> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(requirement).collect()
}

fn requirement(text: &str) -> Result<Requirement, Refusal> {
    if text.contains([' ', '(', ')', '<', '>']) {
        return Err(Refusal::bad_request(format!("selector {text:?} is not emulated")));
    }
    let pair = |at: &str| text.split_once(at).map(|(name, value)| (name.to_owned(), value.to_owned()));
    if let Some((name, value)) = pair("!=") {
        return Ok(Requirement::IsNot(name, value));
    }
    if let Some((name, value)) = pair("==").or_else(|| pair("=")) {
        return Ok(Requirement::Is(name, value));
    }
    Ok(match text.strip_prefix('!') {
        Some(name) => Requirement::Absent(name.to_owned()),
        None => Requirement::Exists(text.to_owned()),
    })
}
