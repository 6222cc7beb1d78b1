//! An API server for tests: lists, pages, watches, streaming lists, bookmarks, tokens, and every way these can fail.
//!
//! It is strict: a selector, parameter or path that it does not emulate is refused, as a real one refuses it.

mod authority;
mod fault;
mod request;
mod selector;
mod serve;
mod store;
mod watch;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;

pub use authority::Authority;
pub use fault::{Fault, What};
pub use request::{Asked, Verb};
use store::Store;

/// What all connections share.
pub struct Shared {
    state: Mutex<State>,
    /// Ticks whenever the state changed.
    tick: tokio::sync::watch::Sender<u64>,
}

#[derive(Default)]
pub struct State {
    pub store: Store,
    pub faults: Vec<Fault>,
    pub asked: Vec<Asked>,
    /// Posted Events.
    pub events: Vec<Value>,
    /// What was to be merged into the status of Nodes.
    pub patches: Vec<Value>,
    /// Only this bearer token is good.
    pub token: String,
    /// What all watches are to do, in order.
    pub signals: Vec<Signal>,
    /// Bodies are cut in pieces of this many bytes.
    pub piece: Option<usize>,
    /// Watches that are open, by resource.
    pub open: Vec<&'static str>,
}

/// Something that every open watch does.
#[derive(Clone)]
pub enum Signal {
    Bookmark,
    /// End as at the time-out.
    End,
    /// Break the connection.
    Break,
    /// Send this line.
    Line(String),
    /// Send this without the end of the line, then end.
    Partial(String),
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.tick.send_modify(|tick| *tick += 1);
        result
    }
}

/// How long a test waits for what must happen.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// A running server, in a thread of its own.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    directory: TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    pub fn start() -> ApiServer {
        Self::start_with(None)
    }

    /// One that speaks TLS, with a certificate of `authority`, which the kubeconfig trusts.
    pub fn start_with_tls(authority: &Authority) -> ApiServer {
        let server = Self::start_with(Some(authority.acceptor()));
        server.trust(authority);
        let text = std::fs::read_to_string(server.kubeconfig()).unwrap();
        let (plain, secure) = (server.url(), format!("https://{}", server.address));
        let cluster = format!("server: '{secure}', certificate-authority: ca.crt");
        std::fs::write(server.kubeconfig(), text.replace(&format!("server: '{plain}'"), &cluster)).unwrap();
        server
    }

    /// The kubeconfig trusts this authority alone.
    pub fn trust(&self, authority: &Authority) {
        write_whole(&self.directory.path().join("ca.crt"), &authority.pem());
    }

    fn start_with(tls: Option<tokio_rustls::TlsAcceptor>) -> ApiServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: Mutex::default(), tick: tokio::sync::watch::Sender::new(0) });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || serve::run(listener, &of_thread, tls, stopped));
        let directory = TempDir::new().unwrap();
        let server = ApiServer { shared, address, directory, stop: Some(stop), thread: Some(thread) };
        server.set_token("first");
        server.write_kubeconfig();
        server
    }

    /// Ends the server, as its process might. What it stores stays.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the API server panicked");
        }
    }

    /// Starts the server again, at the same address and without TLS. To be called in its network namespace.
    pub fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let of_thread = Arc::clone(&self.shared);
        self.thread = Some(std::thread::spawn(move || serve::run(listener, &of_thread, None, stopped)));
        self.stop = Some(stop);
    }

    fn write_kubeconfig(&self) {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{server: 'http://{}'}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: proxy}}}}]\n\
             users: [{{name: proxy, user: {{tokenFile: token}}}}]\n",
            self.address
        );
        std::fs::write(self.kubeconfig(), text).unwrap();
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub fn token_file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Only `token` is good from now on, and it stands in the token file.
    pub fn set_token(&self, token: &str) {
        self.expect_token(token);
        write_whole(&self.token_file(), &format!("{token}\n"));
    }

    /// Only `token` is good from now on, whatever the file says.
    pub fn expect_token(&self, token: &str) {
        self.shared.change(|state| state.token = token.to_owned());
    }

    /// Creates or replaces an object.
    pub fn apply(&self, object: Value) {
        self.shared.change(|state| state.store.apply(object));
    }

    /// `name` is `namespace/name`, or only `name` for a Node or a ServiceCIDR.
    pub fn delete(&self, resource: &str, name: &str) {
        self.shared.change(|state| state.store.delete(resource, name));
    }

    /// The names that a selecting watch of `resource` should know.
    pub fn names(&self, resource: &str) -> Vec<String> {
        self.shared.state().store.names(resource)
    }

    /// Forgets how things became as they are: every earlier version is 410 from now on.
    pub fn compact(&self) {
        self.shared.change(|state| state.store.compact());
    }

    pub fn fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    pub fn mend(&self) {
        self.shared.state().faults.clear();
    }

    pub fn signal(&self, signal: Signal) {
        self.shared.change(|state| state.signals.push(signal));
    }

    pub fn pieces_of(&self, bytes: usize) {
        self.shared.state().piece = Some(bytes);
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.state().asked.clone()
    }

    /// How often `verb` was asked of `resource`.
    pub fn count(&self, verb: Verb, resource: &str) -> usize {
        self.asked().iter().filter(|asked| asked.verb == verb && asked.resource == resource).count()
    }

    pub fn posted_events(&self) -> Vec<Value> {
        self.shared.state().events.clone()
    }

    /// An object as it is.
    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.shared.state().store.get(resource, name)
    }

    pub fn patches(&self) -> Vec<Value> {
        self.shared.state().patches.clone()
    }

    /// Waits until each resource is watched.
    #[track_caller]
    pub fn until_watched(&self) {
        self.until("watches of all resources", |server| {
            let open = server.shared.state().open.clone();
            ["services", "endpointslices", "nodes"].iter().all(|resource| open.contains(resource))
        });
    }

    #[track_caller]
    pub fn until(&self, what: &str, wanted: impl Fn(&ApiServer) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !wanted(self) {
            assert!(std::time::Instant::now() < deadline, "never: {what}; asked: {:#?}", self.asked());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn write_whole(path: &Path, text: &str) {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, text).unwrap();
    std::fs::rename(partial, path).unwrap();
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}
