//! How the API server is reached, with credentials that change under way.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Uri;
use http::header::{HeaderValue, USER_AGENT};
use hyper_util::client::legacy::Builder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{ClientBuilder, ConfigExt};
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use thiserror::Error;
use tower::{BoxError, ServiceBuilder};

const CONNECT: Duration = Duration::from_secs(10);
/// What a connection reads at once at the most, in bytes. It keeps as much for as long as it lasts, and a watch lasts long
/// after the list that it began with: hyper would take 400 KiB.
const READ: usize = 64 << 10;

/// Where the API server is: kube-proxy's `--kubeconfig` and `--master`, or the cluster that this runs in.
#[derive(Debug, Clone, Default)]
pub struct Address {
    pub kubeconfig: Option<PathBuf>,
    /// Overrides the server in the kubeconfig.
    pub master: Option<String>,
}

/// Why there can be no connection, whatever the server does.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("cannot use kubeconfig {}", path.display())]
    Kubeconfig { path: PathBuf, source: Box<KubeconfigError> },
    #[error("--master {address:?} is no URL")]
    Master { address: String, source: http::uri::InvalidUri },
    #[error("neither --kubeconfig nor --master is given, and this does not run in a cluster")]
    InCluster(#[source] Box<InClusterError>),
    #[error("cannot read token file {}", path.display())]
    Token { path: PathBuf, source: std::io::Error },
    #[error("cannot reach the API server through the proxy {0}: proxies are not spoken to")]
    Proxy(Uri),
    #[error("cannot set up the client for {server}")]
    Client { server: Uri, source: Box<kube::Error> },
}

/// A client that is made anew when its credentials are.
///
/// kube reads a token file again after a minute, and certificates never. Bound tokens of a recreated ServiceAccount,
/// and certificates that the kubelet rotates, are wrong at once.
pub struct Connection {
    address: Address,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    token: Option<Token>,
}

struct Token {
    file: PathBuf,
    text: String,
}

impl Connection {
    /// Reads the configuration. Nothing is sent yet.
    pub async fn new(address: Address) -> Result<Connection, ConnectError> {
        let current = Mutex::new(address.open().await?);
        Ok(Connection { address, current })
    }

    /// The client to make a request with.
    pub async fn client(&self) -> Client {
        if self.current().has_new_token() {
            self.renew().await;
        }
        self.current().client.clone()
    }

    /// Reads all credentials again. What is unreadable now leaves the client as it is.
    pub async fn renew(&self) {
        match self.address.open().await {
            Ok(current) => *self.current() = current,
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "keeping the credentials read earlier"
            ),
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn has_new_token(&self) -> bool {
        self.token.as_ref().is_some_and(|token| {
            read_token(&token.file).is_ok_and(|text| !text.is_empty() && text != token.text)
        })
    }
}

impl Address {
    async fn open(&self) -> Result<Current, ConnectError> {
        let mut config = self.config().await?;
        if let Some(proxy) = config.proxy_url.take() {
            return Err(ConnectError::Proxy(proxy));
        }
        let agent = HeaderValue::from_static(concat!("ferrovia/", env!("CARGO_PKG_VERSION")));
        config.headers.push((USER_AGENT, agent));
        let token = Self::take_token(&mut config)?;
        let server = config.cluster_url.clone();
        let client =
            client(&config).map_err(|source| ConnectError::Client { server, source: Box::new(source) })?;
        Ok(Current { client, token })
    }

    async fn config(&self) -> Result<Config, ConnectError> {
        let master = self.master.as_deref().filter(|master| !master.is_empty());
        match (&self.kubeconfig, master) {
            (Some(path), master) => Self::from_kubeconfig(path, master).await,
            (None, Some(master)) => Ok(Config::new(Self::parse(master)?)),
            (None, None) => Config::incluster().map_err(|error| ConnectError::InCluster(Box::new(error))),
        }
    }

    async fn from_kubeconfig(path: &Path, master: Option<&str>) -> Result<Config, ConnectError> {
        let wrong = |source| ConnectError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?;
        if let Some(master) = master {
            config.cluster_url = Self::parse(master)?;
        }
        Ok(config)
    }

    /// As client-go does, a bare `host:port` is taken for plain HTTP.
    fn parse(master: &str) -> Result<Uri, ConnectError> {
        let url = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
        url.parse().map_err(|source| ConnectError::Master { address: master.to_owned(), source })
    }

    fn take_token(config: &mut Config) -> Result<Option<Token>, ConnectError> {
        if config.auth_info.token.is_some() {
            return Ok(None);
        }
        let Some(file) = config.auth_info.token_file.take() else { return Ok(None) };
        let file = PathBuf::from(file);
        let text = read_token(&file).map_err(|source| ConnectError::Token { path: file.clone(), source })?;
        config.auth_info.token = Some(text.clone().into());
        Ok(Some(Token { file, text }))
    }
}

/// kube's layers over a connection of our own. There are no retries, which are the watches' affair: theirs are bounded and
/// counted; nor timeouts for answers, as whoever asks has them.
fn client(config: &Config) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    // TLS is the next layer's.
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector = config.rustls_https_connector_with_connector(tcp)?;
    let http = Builder::new(TokioExecutor::new()).http1_max_buf_size(READ).build(connector);
    let http = ServiceBuilder::new().map_err(BoxError::from).service(http);
    let headers = config.extra_headers_layer()?;
    let anonymous = ClientBuilder::new(http, &*config.default_namespace).with_layer(&headers);
    Ok(match config.auth_layer()? {
        Some(credentials) => anonymous.with_layer(&credentials).with_layer(&config.base_uri_layer()).build(),
        None => anonymous.with_layer(&config.base_uri_layer()).build(),
    })
}

/// Files often end in a newline, which no header may contain.
fn read_token(file: &Path) -> std::io::Result<String> {
    Ok(std::fs::read_to_string(file)?.trim().to_owned())
}
