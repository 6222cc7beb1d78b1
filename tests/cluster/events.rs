//! Kubernetes Events that the proxy posts.

use ferrovia::model::ServiceName;
use ferrovia::sync::objects::{FieldProblem, Kind, Reason};
use ferrovia::sync::sources::cluster::{Address, Connection};
use ferrovia::sync::sources::{EventRecorder, Regarding};

use super::*;

fn regarding() -> Regarding {
    let name = ServiceName { namespace: "shop".into(), name: "web".into() };
    Regarding { kind: Kind::Service, name, uid: "u-1".into() }
}

fn problem(message: &str) -> FieldProblem {
    let field = "spec.ports[2].port".to_owned();
    FieldProblem { field, reason: Reason::Malformed, message: message.to_owned() }
}

/// Records with `record` while the poster runs, until `enough` Events are posted.
fn posted(server: &ApiServer, enough: usize, record: impl FnOnce(&EventRecorder)) -> Vec<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address { kubeconfig: Some(server.kubeconfig()), master: None };
    let connection = runtime.block_on(Connection::new(address)).unwrap();
    let (recorder, poster) = EventRecorder::new(Arc::new(connection), "here");
    record(&recorder);
    runtime.block_on(async {
        let posting = tokio::spawn(poster.run());
        tokio::time::timeout(Duration::from_secs(20), async {
            while server.posted_events().len() < enough {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("Events are posted");
        drop(recorder);
        posting.await.unwrap();
    });
    server.posted_events()
}

#[test]
fn the_start_and_problems_are_posted_once() {
    let server = ApiServer::start();
    let events = posted(&server, 2, |recorder| {
        recorder.starting();
        for _ in 0..10 {
            recorder.problem(regarding(), &problem("70000 is not a port number"));
        }
    });
    let [start, warning] = &events[..] else { panic!("two Events: {events:#?}") };
    assert_eq!((&start["reason"], &start["type"]), (&json!("Starting"), &json!("Normal")));
    assert_eq!(start["metadata"]["namespace"], "default");
    assert_eq!(
        start["regarding"],
        json!({"kind": "Node", "apiVersion": "v1", "name": "here", "uid": "here"})
    );
    assert_eq!((&warning["reason"], &warning["type"]), (&json!("Malformed"), &json!("Warning")));
    assert_eq!(warning["note"], "spec.ports[2].port: 70000 is not a port number");
    assert_eq!(warning["metadata"]["namespace"], "shop");
    assert_eq!(
        warning["regarding"],
        json!({"kind": "Service", "apiVersion": "v1", "namespace": "shop", "name": "web", "uid": "u-1"})
    );
    let time = warning["eventTime"].as_str().unwrap();
    assert!(time.len() == "2026-01-02T03:04:05.123456Z".len() && time.ends_with('Z'), "{time}");
}

#[test]
fn long_messages_are_cut_to_what_the_api_takes() {
    let server = ApiServer::start();
    let events = posted(&server, 1, |recorder| recorder.problem(regarding(), &problem(&"é".repeat(2000))));
    let note = events[0]["note"].as_str().unwrap();
    assert!((1020..=1024).contains(&note.len()), "{}", note.len());
}

/// Nobody posts: the loop must not notice.
#[test]
fn recording_never_waits() {
    let server = ApiServer::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = Address { kubeconfig: Some(server.kubeconfig()), master: None };
    let connection = runtime.block_on(Connection::new(address)).unwrap();
    let (recorder, _poster) = EventRecorder::new(Arc::new(connection), "here");
    for i in 0..100_000 {
        recorder.problem(regarding(), &problem(&i.to_string()));
    }
    EventRecorder::disabled().starting();
}
