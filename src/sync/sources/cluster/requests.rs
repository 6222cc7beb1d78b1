//! What is asked of the API server.

use std::pin::Pin;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt, FutureExt};
use kube::Client;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use thiserror::Error;
use tokio::time::{error::Elapsed, timeout};

use crate::sync::objects::Kind;

/// Why a list or a watch ended early.
#[derive(Debug, Error)]
pub enum Failure {
    #[error("{}", in_words(.0))]
    Request(Box<kube::Error>),
    #[error("no answer within {} s", .0.as_secs_f32())]
    NoAnswer(Duration),
    #[error("the answer is no list: {0}")]
    NoList(serde_json::Error),
    #[error("the list has no resourceVersion to watch from")]
    NoVersion,
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    #[error("the watch ended with {code} {reason}: {message}")]
    Ended { code: u16, reason: String, message: String },
    #[error("the watch was closed as soon as it was opened")]
    ClosedAtOnce,
    #[error("the watch was closed before it had sent what exists")]
    Unfinished,
    #[error("an empty list came where there were objects, but a second look finds some")]
    DoubtfullyEmpty,
}

/// The server's answer, or else every cause there is: "client error (Connect)" alone helps nobody.
fn in_words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} {}: {}", status.code, status.reason, status.message);
    }
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

/// For how long there are no streaming lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    ForGood,
    /// Until a list in pages is complete.
    ThisTime,
}

impl Failure {
    fn status(&self) -> Option<u16> {
        match self {
            Failure::Request(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Failure::Ended { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The version asked for is no longer, or not yet, known: only a new list helps.
    pub fn is_expired(&self) -> bool {
        self.status() == Some(410)
    }

    /// For how long to list in pages after a streaming list that failed so; `None` where pages would fare no better.
    pub fn rules_out_streaming(&self) -> Option<Without> {
        match (self, self.status()) {
            // A server without streaming lists rejects them (1.33 by default) or never marks the end of one (before 1.19).
            (Failure::Unfinished, _) | (_, Some(400 | 422)) => Some(Without::ForGood),
            // As where the watch cache cannot ask etcd how far it is (etcd before 3.4.25 and 3.5.8). client-go falls back
            // with every list anew.
            (_, Some(500)) => Some(Without::ThisTime),
            _ => None,
        }
    }

    /// The server does not have this kind, or does not show it.
    pub fn is_absence(&self) -> bool {
        matches!(self.status(), Some(403 | 404))
    }

    /// New credentials or a new connection may help.
    pub fn needs_new_connection(&self) -> bool {
        match self {
            Failure::Request(error) => !matches!(&**error, kube::Error::Api(_)) || self.status() == Some(401),
            Failure::NoAnswer(_) => true,
            _ => false,
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Failure {
        Failure::Request(Box::new(error))
    }
}

/// The objects of one kind, as kube-proxy selects them.
#[derive(Debug, Clone)]
pub struct Resource {
    pub kind: Kind,
    path: &'static str,
    labels: Option<&'static str>,
    fields: Option<String>,
}

impl Resource {
    /// Not those of another proxy, and not headless ones, which are DNS's affair.
    pub fn services() -> Resource {
        Resource {
            kind: Kind::Service,
            path: "/api/v1/services",
            labels: Some("!service.kubernetes.io/service-proxy-name"),
            fields: Some("spec.clusterIP!=None".to_owned()),
        }
    }

    pub fn endpoint_slices() -> Resource {
        Resource {
            kind: Kind::EndpointSlice,
            path: "/apis/discovery.k8s.io/v1/endpointslices",
            labels: Some("!service.kubernetes.io/headless"),
            fields: None,
        }
    }

    pub fn nodes() -> Resource {
        Resource { kind: Kind::Node, path: "/api/v1/nodes", labels: None, fields: None }
    }

    pub fn node(name: &str) -> Resource {
        Resource { fields: Some(format!("metadata.name={name}")), ..Resource::nodes() }
    }

    /// Servers have them from 1.33 on, and `system:node-proxier` may read them.
    pub fn service_cidrs() -> Resource {
        Resource {
            kind: Kind::ServiceCidr,
            path: "/apis/networking.k8s.io/v1/servicecidrs",
            labels: None,
            fields: None,
        }
    }

    /// The body of one page.
    pub async fn list(
        &self,
        client: &Client,
        limit: Option<u32>,
        next: Option<String>,
        patience: Duration,
    ) -> Result<String, Failure> {
        let params = ListParams {
            label_selector: self.labels.map(str::to_owned),
            field_selector: self.fields.clone(),
            limit,
            continue_token: next,
            ..ListParams::default()
        };
        let request = Request::new(self.path).list(&params).map_err(kube::Error::BuildRequest)?;
        let answer = timeout(patience, client.request_text(request)).await;
        Ok(answer.map_err(|_: Elapsed| Failure::NoAnswer(patience))??)
    }

    pub async fn watch(
        &self,
        client: &Client,
        start: Start<'_>,
        lasting: Duration,
        patience: Duration,
    ) -> Result<Lines, Failure> {
        let (version, send_initial_events) = match start {
            Start::Everything => ("", true),
            Start::Version(version) => (version, false),
        };
        let params = WatchParams {
            label_selector: self.labels.map(str::to_owned),
            field_selector: self.fields.clone(),
            timeout: Some(u32::try_from(lasting.as_secs()).unwrap_or(u32::MAX)),
            bookmarks: true,
            send_initial_events,
        };
        let request = Request::new(self.path).watch(&params, version).map_err(kube::Error::BuildRequest)?;
        let answer = timeout(patience, client.request_stream(request)).await;
        let stream = answer.map_err(|_: Elapsed| Failure::NoAnswer(patience))??;
        Ok(Lines { stream: Box::pin(stream), line: Vec::new() })
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// A streaming list (KEP-3157): all that exists, a mark, then changes.
    Everything,
    Version(&'a str),
}

/// The lines of a watch.
pub struct Lines {
    stream: Pin<Box<dyn AsyncBufRead + Send>>,
    line: Vec<u8>,
}

/// A buffer that one huge object made large is given back.
const USUAL_LINE: usize = 64 * 1024;

impl Lines {
    /// The next whole line, or `None` where the server closed the watch or said nothing for so long.
    pub async fn next(&mut self, silence: Duration) -> Result<Option<&[u8]>, Failure> {
        self.line.clear();
        self.line.shrink_to(USUAL_LINE);
        if self.take_buffered() {
            return Ok(Some(&self.line));
        }
        let read = timeout(silence, self.stream.read_until(b'\n', &mut self.line));
        match read.await {
            Err(_silent) => Ok(None),
            Ok(Err(error)) => Err(Failure::Broken(error)),
            // What the server could not finish is no line.
            Ok(Ok(_)) => Ok(self.line.ends_with(b"\n").then_some(&self.line)),
        }
    }

    /// Whether there was a whole line already. Of a list there are thousands at a time, and none of them needs a timer.
    fn take_buffered(&mut self) -> bool {
        let Some(Ok(buffered)) = self.stream.fill_buf().now_or_never() else { return false };
        let Some(end) = buffered.iter().position(|byte| *byte == b'\n') else { return false };
        self.line.extend_from_slice(&buffered[..=end]);
        self.stream.consume_unpin(end + 1);
        true
    }
}
