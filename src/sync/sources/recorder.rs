//! Kubernetes Events: what `kubectl describe` shows a Service's author.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Request;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};

use crate::model::ServiceName;
use crate::sync::objects::{FieldProblem, Kind, Reason};

use super::cluster::Connection;

/// Notes that wait to be posted. More are dropped: they also stand in the log.
const WAITING: usize = 256;

/// A note that was posted is not posted again for this long.
const REPEAT_AFTER: Duration = Duration::from_secs(60 * 60);

/// Notes that are remembered for that.
const REMEMBERED: usize = 4096;

/// Between two posts. A cluster of 5,000 nodes may see the same problem on each.
const PAUSE: Duration = Duration::from_millis(500);

const PATIENCE: Duration = Duration::from_secs(10);

/// The API's limit for `note`.
const LONGEST_NOTE: usize = 1024;

/// The object that a note is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regarding {
    pub kind: Kind,
    pub name: ServiceName,
    pub uid: Arc<str>,
}

/// One Event to post.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Note {
    regarding: Regarding,
    severity: Severity,
    /// A word in CamelCase.
    reason: &'static str,
    message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Severity {
    Normal,
    Warning,
}

/// Takes notes from any thread, without ever waiting.
#[derive(Debug, Clone)]
pub struct EventRecorder {
    /// `None` where there is no API server.
    notes: Option<Sender<Note>>,
    node: Arc<str>,
}

impl EventRecorder {
    /// Throws everything away, for manifests.
    pub fn disabled() -> EventRecorder {
        EventRecorder { notes: None, node: "".into() }
    }

    /// A recorder, and what has to run for its notes to be posted.
    pub fn new(connection: Arc<Connection>, node: &str) -> (EventRecorder, Poster) {
        let (sender, receiver) = channel(WAITING);
        let node: Arc<str> = node.into();
        let recorder = EventRecorder { notes: Some(sender), node: Arc::clone(&node) };
        (recorder, Poster { connection, node, notes: receiver, posted: HashMap::new() })
    }

    /// Something that is wrong on this node, and nobody's object.
    pub fn node_problem(&self, reason: Reason, message: String) {
        let problem = FieldProblem { field: String::new(), reason, message };
        self.problem(self.this_node(), &problem);
    }

    /// That the proxy starts on this node, as kube-proxy says it.
    pub fn starting(&self) {
        self.record(Note {
            regarding: self.this_node(),
            severity: Severity::Normal,
            reason: "Starting",
            message: String::new(),
        });
    }

    /// kube-proxy too gives the Node's name for its UID: it has no other when it starts.
    fn this_node(&self) -> Regarding {
        let name = ServiceName { namespace: "".into(), name: Arc::clone(&self.node) };
        Regarding { kind: Kind::Node, name, uid: Arc::clone(&self.node) }
    }

    /// What is wrong with an object.
    pub fn problem(&self, regarding: Regarding, problem: &FieldProblem) {
        let message = match problem.field.as_str() {
            "" => problem.message.clone(),
            field => format!("{field}: {}", problem.message),
        };
        self.record(Note { regarding, severity: Severity::Warning, reason: problem.reason.name(), message });
    }

    fn record(&self, note: Note) {
        if let Some(notes) = &self.notes
            && notes.try_send(note).is_err()
        {
            tracing::debug!("too many Events are waiting, one is dropped");
        }
    }
}

/// Posts notes, one at a time.
pub struct Poster {
    connection: Arc<Connection>,
    node: Arc<str>,
    notes: Receiver<Note>,
    posted: HashMap<Note, Instant>,
}

impl Poster {
    /// Ends when all recorders are gone.
    pub async fn run(mut self) {
        while let Some(note) = self.notes.recv().await {
            if self.is_news(&note, Instant::now()) {
                self.post(&note).await;
                sleep(PAUSE).await;
            }
        }
    }

    fn is_news(&mut self, note: &Note, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < REPEAT_AFTER;
        if self.posted.get(note).is_some_and(recent) {
            return false;
        }
        if self.posted.len() >= REMEMBERED {
            self.posted.retain(|_, at| recent(at));
        }
        if self.posted.len() >= REMEMBERED {
            self.posted.clear();
        }
        self.posted.insert(note.clone(), now);
        true
    }

    /// Best effort: an Event that cannot be posted is lost.
    async fn post(&self, note: &Note) {
        let body = event(note, &self.node, SystemTime::now());
        let namespace = namespace(note);
        let request = Request::post(format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"))
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string().into_bytes());
        let Ok(request) = request else { return };
        let client = self.connection.client().await;
        match timeout(PATIENCE, client.request_text(request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "cannot post an Event"),
            Err(_) => tracing::debug!("cannot post an Event: no answer"),
        }
    }
}

/// Events about objects of the cluster stand in namespace default.
fn namespace(note: &Note) -> &str {
    match &*note.regarding.name.namespace {
        "" => "default",
        namespace => namespace,
    }
}

fn event(note: &Note, node: &str, now: SystemTime) -> Value {
    let Regarding { kind, name, uid } = &note.regarding;
    let nanos = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let time = Timestamp::try_from(now).unwrap_or_default();
    let mut regarding = json!({
        "kind": kind.to_string(),
        "apiVersion": match kind {
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::Service | Kind::Node => "v1",
            Kind::ServiceCidr => "networking.k8s.io/v1",
        },
        "name": &*name.name,
        "uid": &**uid,
    });
    if !name.namespace.is_empty() {
        regarding["namespace"] = json!(&*name.namespace);
    }
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": format!("{}.{nanos:x}", name.name), "namespace": namespace(note)},
        "eventTime": format!("{time:.6}"),
        "reportingController": "ferrovia",
        "reportingInstance": format!("ferrovia-{node}"),
        "action": match note.severity {
            Severity::Normal => "StartFerrovia",
            Severity::Warning => "Program",
        },
        "reason": note.reason,
        "type": match note.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        },
        "regarding": regarding,
        "note": cut(&note.message, LONGEST_NOTE),
    })
}

fn cut(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
