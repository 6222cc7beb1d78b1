//! Kubeconfigs, tokens, and what is wrong with them.

use ferrovia::sync::objects::Kind;
use ferrovia::sync::sources::Selection;
use ferrovia::sync::sources::cluster::{Address, Connection};
use tempfile::TempDir;

use super::*;
use crate::common::apiserver::Authority;

#[test]
fn a_rotated_token_is_used_at_once() {
    let (server, mut listener) = followed();
    server.set_token("second");
    server.signal(Signal::Break);
    server.until("the next watch", |server| server.count(Verb::Watch, "services") == 1);
    server.apply(service("web", 81));
    listener.until("a change after the rotation", |l| port(l, "shop/web") == Some(81));
    let asked = server.asked();
    let watches = asked.iter().filter(|asked| asked.verb == Verb::Watch && asked.resource == "services");
    let tokens: Vec<_> = watches.map(|asked| asked.token.as_str()).collect();
    assert_eq!(tokens, ["second"], "the old token was tried once more");
    assert_eq!(listener.lists(Kind::Service), 1);
}

/// The server stops taking the old token before the new one is in the file.
#[test]
fn a_token_that_comes_late_is_waited_for() {
    let (server, mut listener) = followed();
    server.expect_token("second");
    server.signal(Signal::Break);
    let refused = server.asked().len();
    server.until("some attempts with the old token", |server| server.asked().len() > refused + 6);
    assert_eq!(listener.names(Kind::Service), ["shop/api", "shop/web"], "old data stays in force");
    std::fs::remove_file(server.token_file()).unwrap();
    server.set_token("second");
    server.apply(service("web", 81));
    listener.until("a change after the rotation", |l| port(l, "shop/web") == Some(81));
}

#[test]
fn the_authority_of_the_kubeconfig_is_trusted_and_no_other() {
    let (right, wrong) = (Authority::new(), Authority::new());
    let server = ApiServer::start_with_tls(&right);
    server.apply(service("web", 80));
    server.trust(&wrong);
    let mut listener = follow(&server, PATIENT);
    listener.for_a_while();
    assert!(listener.log.is_empty(), "{:?}", listener.log);
    assert!(listener.stats.errors() > 3 && server.asked().is_empty());
    server.trust(&right);
    listener.until_listed();
    assert_eq!(listener.names(Kind::Service), ["shop/web"]);
}

#[test]
fn the_master_flag_overrides_the_kubeconfig() {
    let server = server();
    let elsewhere =
        std::fs::read_to_string(server.kubeconfig()).unwrap().replace(&server.url(), "http://127.0.0.1:1");
    std::fs::write(server.kubeconfig(), elsewhere).unwrap();
    let address = Address { kubeconfig: Some(server.kubeconfig()), master: Some(server.url()) };
    let mut listener = Listener::start(move |events, stats| async move {
        let connection = Arc::new(Connection::new(address).await.unwrap());
        Cluster::new(connection, Selection::of_proxy("here"), stats).with_timing(PATIENT).run(events).await;
    });
    listener.until_listed();
}

/// The message of the error that a kubeconfig of this text, or an address, gives.
fn refusal(address: Address) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match runtime.block_on(Connection::new(address)) {
        Ok(_) => panic!("it was taken"),
        Err(error) => format!("{:#}", anyhow::Error::new(error)),
    }
}

#[test]
fn a_bad_address_is_refused_in_words_that_name_it() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("kubeconfig");
    let with = |text: &str| {
        std::fs::write(&path, text).unwrap();
        refusal(Address { kubeconfig: Some(path.clone()), master: None })
    };
    let missing = refusal(Address { kubeconfig: Some("/none/kubeconfig".into()), master: None });
    assert!(
        missing.contains("kubeconfig /none/kubeconfig: ") && missing.contains("No such file"),
        "{missing}"
    );
    assert!(with("clusters: [unclosed").contains("parse kubeconfig YAML"));
    assert!(with("apiVersion: v1\nkind: Config\n").contains("current context"));
    assert!(with("apiVersion: v1\nkind: Config\ncurrent-context: none\n").contains("none"));
    let no_token = with(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\n\
         contexts: [{name: c, context: {cluster: c, user: u}}]\n\
         users: [{name: u, user: {tokenFile: /none/token}}]\n",
    );
    assert!(no_token.starts_with("cannot read token file /none/token: "), "{no_token}");
    let master = refusal(Address { kubeconfig: None, master: Some("http://[".to_owned()) });
    assert!(master.starts_with("--master \"http://[\" is no URL: "), "{master}");
}
