//! A directory of manifests as the source.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use ferrovia::sync::objects::{Event, Kind, Object};
use ferrovia::sync::sources::manifests::read_once;
use ferrovia::sync::sources::{Manifests, Selection};
use tempfile::TempDir;

use crate::common::listener::{Listener, key};

fn service(name: &str, port: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  clusterIP: 10.96.0.10\n  ports:\n  - port: {port}\n"
    )
}

const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.5], nodeName: here}]
";

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: here}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: elsewhere}
";

fn listen(directory: &Path) -> Listener {
    let directory = directory.to_owned();
    Listener::start(move |events, stats| {
        Manifests::new(directory, Selection::of_proxy("here"), stats).run(events)
    })
}

fn write(directory: &TempDir, file: &str, content: &str) {
    fs::write(directory.path().join(file), content).unwrap();
}

/// A directory with `web.yaml` in it, and a listener that knows it.
fn with_web() -> (TempDir, Listener) {
    let directory = TempDir::new().unwrap();
    write(&directory, "web.yaml", &service("web", 80));
    let mut listener = listen(directory.path());
    listener.until_listed();
    assert!(listener.has(Kind::Service, "shop/web"));
    (directory, listener)
}

fn port(listener: &Listener, name: &str) -> Option<u16> {
    match listener.objects.get(&key(Kind::Service, name))? {
        Object::Service(service) => Some(service.ports.first()?.port),
        _ => None,
    }
}

#[test]
fn documents_lists_and_json_are_read_and_other_kinds_are_not() {
    let directory = TempDir::new().unwrap();
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n";
    let knative = "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: other}\n";
    write(
        &directory,
        "a.yaml",
        &format!("# only a comment\n---\n{}---\n{SLICE}---\n{deployment}", service("web", 80)),
    );
    write(&directory, "b.yml", &format!("---\n{NODES}\n---\n{knative}---\n"));
    write(
        &directory,
        "c.json",
        r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "listed"}, "spec": {"clusterIP": "10.96.0.2"}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "listed"}}]}
           {"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {"name": "typed"}, "spec": {}}]}"#,
    );
    write(&directory, "d.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems: null\n");
    write(&directory, "notes.txt", "not: [a manifest");
    write(&directory, ".hidden.yaml", "not: [a manifest");
    fs::create_dir(directory.path().join("e.yaml")).unwrap();
    let mut listener = listen(directory.path());
    listener.until_listed();
    assert_eq!(listener.names(Kind::Service), ["default/listed", "default/typed", "shop/web"]);
    assert_eq!(listener.names(Kind::EndpointSlice), ["shop/web-1"]);
    assert_eq!(listener.names(Kind::Node), ["here"]);
    assert_eq!(listener.undecodable(), [""; 0]);
}

#[test]
fn a_directory_without_this_node_lists_no_node() {
    let (_directory, listener) = with_web();
    assert_eq!(listener.lists(Kind::Node), 1);
    assert_eq!(listener.names(Kind::Node), [""; 0]);
}

#[test]
fn only_differences_are_sent_after_the_first_list() {
    let (directory, mut listener) = with_web();
    let before = listener.log.len();
    write(&directory, "web.yaml", &format!("# a comment\n{}", service("web", 80)));
    write(&directory, "more.yaml", &service("more", 90));
    listener.until("the new Service", |l| l.has(Kind::Service, "shop/more"));
    listener.for_a_while();
    assert_eq!(listener.log.len(), before + 1, "{:#?}", &listener.log[before..]);
}

#[test]
fn files_written_renamed_over_and_deleted_are_noticed() {
    let (directory, mut listener) = with_web();
    write(&directory, "web.yaml", &service("web", 81));
    listener.until("the file written", |l| port(l, "shop/web") == Some(81));
    write(&directory, ".web.yaml.swp", &service("web", 82));
    fs::rename(directory.path().join(".web.yaml.swp"), directory.path().join("web.yaml")).unwrap();
    listener.until("the file renamed over", |l| port(l, "shop/web") == Some(82));
    fs::rename(directory.path().join("web.yaml"), directory.path().join("web.bak")).unwrap();
    listener.until("the file renamed away", |l| !l.has(Kind::Service, "shop/web"));
    fs::rename(directory.path().join("web.bak"), directory.path().join("web.yaml")).unwrap();
    listener.until("the file back", |l| l.has(Kind::Service, "shop/web"));
    fs::remove_file(directory.path().join("web.yaml")).unwrap();
    listener.until("the file deleted", |l| !l.has(Kind::Service, "shop/web"));
}

/// The kubelet updates a mounted ConfigMap by exchanging one symbolic link.
#[test]
fn a_config_map_is_exchanged_at_once() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, port) in [("..v1", 80), ("..v2", 81)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("web.yaml"), service("web", port)).unwrap();
    }
    symlink("..v1", at("..data")).unwrap();
    symlink("..data/web.yaml", at("web.yaml")).unwrap();
    let mut listener = listen(directory.path());
    listener.until_listed();
    assert_eq!(port(&listener, "shop/web"), Some(80));
    symlink("..v2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    fs::remove_dir_all(at("..v1")).unwrap();
    listener.until("the new version", |l| port(l, "shop/web") == Some(81));
    let deleted = |event: &Event| matches!(event, Event::Deleted(..));
    assert!(!listener.log.iter().any(deleted), "the Service was gone in between");
}

#[test]
fn a_malformed_file_keeps_what_it_held_and_harms_no_other() {
    let (directory, mut listener) = with_web();
    let errors = listener.stats.errors();
    write(&directory, "web.yaml", &format!("kind: [unclosed\n---\n{}", service("web", 81)));
    write(&directory, "other.yaml", &service("other", 90));
    listener.until("the other file", |l| l.has(Kind::Service, "shop/other"));
    listener.for_a_while();
    assert_eq!(port(&listener, "shop/web"), Some(80));
    assert_eq!(listener.stats.errors(), errors + 1);
    write(&directory, "web.yaml", &service("web", 82));
    listener.until("the file mended", |l| port(l, "shop/web") == Some(82));
}

#[test]
fn an_undecodable_object_keeps_what_it_was() {
    let (directory, mut listener) = with_web();
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: [1]\n";
    write(&directory, "web.yaml", &format!("{}---\n{bad}", service("second", 90)));
    listener.until("the second Service", |l| l.has(Kind::Service, "shop/second"));
    assert_eq!(port(&listener, "shop/web"), Some(80));
    let [error] = listener.undecodable()[..] else { panic!("one error: {:?}", listener.undecodable()) };
    assert!(error.ends_with("web.yaml: document 2: spec: a list is not an object"), "{error}");
    fs::remove_file(directory.path().join("web.yaml")).unwrap();
    listener.until("both gone", |l| l.names(Kind::Service).is_empty());
}

#[test]
fn of_an_object_given_twice_the_first_file_counts() {
    let (directory, mut listener) = with_web();
    write(&directory, "a.yaml", &service("web", 70));
    listener.until("the earlier file", |l| port(l, "shop/web") == Some(70));
    fs::remove_file(directory.path().join("a.yaml")).unwrap();
    listener.until("the other again", |l| port(l, "shop/web") == Some(80));
}

#[test]
fn a_directory_that_comes_late_or_is_replaced_is_read() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("manifests");
    let mut listener = listen(&directory);
    listener.for_a_while();
    assert!(listener.log.is_empty(), "a directory that cannot be read is no empty list");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("web.yaml"), service("web", 80)).unwrap();
    listener.until_listed();
    assert!(listener.has(Kind::Service, "shop/web"));
    fs::rename(&directory, parent.path().join("old")).unwrap();
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("web.yaml"), service("web", 81)).unwrap();
    listener.until("the new directory", |l| port(l, "shop/web") == Some(81));
}

#[test]
fn reading_once_gives_complete_lists() {
    let directory = TempDir::new().unwrap();
    write(&directory, "all.yaml", &format!("{}---\n{SLICE}---\n{NODES}", service("web", 80)));
    let events = read_once(directory.path(), "here").unwrap().events;
    let kinds = [Kind::ServiceCidr, Kind::Service, Kind::EndpointSlice, Kind::Node];
    assert_eq!(events[..4], kinds.map(Event::ListStarted));
    assert_eq!(events[events.len() - 4..], kinds.map(Event::ListDone));
    assert_eq!(events.len(), 4 + 3 + 4);
}

#[test]
fn reading_once_names_every_malformed_file_document_and_field() {
    let directory = TempDir::new().unwrap();
    write(&directory, "a.yaml", &format!("{}---\nkind: Service\n", service("web", 80)));
    write(&directory, "b.yaml", &format!("---\n{}", service(&"n".repeat(300), 80)));
    write(&directory, "c.json", "{\"apiVersion\": \"v1\", ");
    write(&directory, "d.yaml", "apiVersion: v1\nkind: List\nitems: {}\n");
    let listing = read_once(directory.path(), "here").unwrap();
    let lines: Vec<_> = listing.malformed.iter().map(ToString::to_string).collect();
    let message = lines.join("\n");
    assert_eq!(lines.len(), 4, "{message}");
    assert!(lines[0].ends_with("a.yaml: document 2: apiVersion: is missing"), "{message}");
    assert!(lines[1].contains("b.yaml: document 1: Service \"shop\"/\"nnn"), "{message}");
    assert!(lines[1].ends_with("(300 bytes) is longer than 63 characters"), "{message}");
    assert!(lines[2].contains("c.json: document 1: "), "{message}");
    assert!(lines[3].ends_with("d.yaml: document 1: items: is not a list"), "{message}");
    assert_eq!(listing.events.len(), 4 + 1 + 4, "what makes sense counts");
    assert!(read_once(&directory.path().join("none"), "here").is_err());
}

#[test]
fn a_malformed_document_costs_its_neighbours_nothing() {
    let directory = TempDir::new().unwrap();
    write(&directory, "all.yaml", &format!("{}---\n{}", service("web", 80), service("api", 80)));
    let mut listener = listen(directory.path());
    listener.until_listed();
    write(&directory, "all.yaml", &format!("{}---\nkind: Service\n", service("web", 81)));
    listener.until("the sound document", |l| port(l, "shop/web") == Some(81));
    listener.for_a_while();
    assert_eq!(port(&listener, "shop/api"), Some(80), "the malformed one may be its new state");
}

#[test]
fn the_examples_have_no_problem() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/examples");
    let events = read_once(&directory, "here").unwrap().events;
    let mut applied = Vec::new();
    for event in events {
        match event {
            Event::Applied(Object::Service(service)) => {
                assert_eq!(*service.problems, []);
                applied.push(service.name.to_string());
            }
            Event::Applied(Object::EndpointSlice(slice)) => {
                assert_eq!(*slice.problems, [], "{}", slice.name);
                assert!(!slice.endpoints.is_empty(), "{}", slice.name);
            }
            Event::Applied(Object::Node(node)) => assert_eq!(node.addresses.len(), 2),
            Event::ListStarted(_) | Event::ListDone(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    applied.sort();
    assert_eq!(applied, ["demo/cart", "demo/closed", "demo/names", "demo/web"]);
}

/// As the proxy does: what it would not start with is no plan.
#[test]
fn a_plan_with_a_scheduler_that_the_mode_lacks_is_refused() {
    let mut command = std::process::Command::new(crate::common::rig::PROGRAM);
    command.args(["plan", "--manifests", "manifests/examples", "--node", "here", "--mode", "userspace"]);
    let output = command.args(["--scheduler", "sed"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = "--scheduler=sed: the userspace mode does not have it; modes that do: ipvs";
    assert!(!output.status.success() && said.contains(reason), "{said}");
}
