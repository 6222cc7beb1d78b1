//! Answering requests.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use futures::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::fault::{What, befalling};
use super::request::{Asked, Verb};
use super::selector::Selector;
use super::store::Refusal;
use super::{Shared, watch};

/// An error breaks the connection.
pub type Piece = Result<Bytes, io::Error>;
type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

pub fn run(
    listener: TcpListener,
    shared: &Arc<Shared>,
    tls: Option<TlsAcceptor>,
    stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::select! {
            () = accept(listener, shared, tls) => {}
            _ = stopped => {}
        }
    });
}

async fn accept(listener: TcpListener, shared: &Arc<Shared>, tls: Option<TlsAcceptor>) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let (shared, tls) = (Arc::clone(shared), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(connection, shared).await,
                Some(tls) => {
                    // Clients that do not trust the certificate hang up.
                    if let Ok(connection) = tls.accept(connection).await {
                        converse(connection, shared).await;
                    }
                }
            }
        });
    }
}

async fn converse(connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(request, shared).await) }
    });
    // Clients come and go, and some faults break the connection.
    let _ =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Answer {
    let (parts, body) = request.into_parts();
    let header = parts.headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("").to_owned();
    let asked = match Asked::parse(&parts.method, &parts.uri, token) {
        Ok(asked) => asked,
        Err(refusal) => return refused(refusal),
    };
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let fault = {
        let mut state = shared.state();
        state.asked.push(asked.clone());
        befalling(&mut state.faults, &asked)
    };
    match fault {
        Some(What::NoAnswer) => std::future::pending().await,
        Some(What::Slow(pause)) => tokio::time::sleep(pause).await,
        _ => {}
    }
    respond(&asked, fault, &body, &shared).unwrap_or_else(refused)
}

fn respond(asked: &Asked, fault: Option<What>, body: &[u8], shared: &Arc<Shared>) -> Result<Answer, Refusal> {
    if asked.token != shared.state().token {
        return Err(Refusal::new(401, "Unauthorized", "Unauthorized".to_owned()));
    }
    if let Some(What::Status(code)) = fault {
        return Err(Refusal::new(code, reason(code), format!("as told: {code}")));
    }
    match asked.verb {
        Verb::List | Verb::Continue => list(asked, fault.as_ref(), shared),
        Verb::StreamingList | Verb::Watch => {
            watch::open(asked, fault, shared).map(|pieces| streamed(200, pieces))
        }
        Verb::Create => create(body, shared),
        Verb::Patch => patch(&asked.name, body, shared),
    }
}

fn reason(code: u16) -> &'static str {
    match code {
        403 => "Forbidden",
        404 => "NotFound",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        _ => "Unknown",
    }
}

fn list(asked: &Asked, fault: Option<&What>, shared: &Shared) -> Result<Answer, Refusal> {
    let selector = Selector::of(asked)?;
    let state = shared.state();
    let token = asked.parameter("continue");
    let (version, after) = match token.split_once(' ') {
        Some((version, after)) => (version.parse().unwrap(), Some(after)),
        None if token.is_empty() => (state.store.version(), None),
        None => return Err(Refusal::bad_request("continue key is not valid".to_owned())),
    };
    let objects = state.store.at(asked.resource, version)?;
    let mut left: Vec<_> = objects
        .iter()
        .filter(|(key, object)| after.is_none_or(|after| key.1.as_str() > after) && selector.selects(object))
        .collect();
    if fault == Some(&What::Empty) {
        left.clear();
    }
    let limit = asked.number("limit")?.filter(|limit| *limit > 0).map_or(usize::MAX, |limit| limit as usize);
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if left.len() > limit {
        metadata["continue"] = json!(format!("{version} {}", left[limit - 1].0.1));
        metadata["remainingItemCount"] = json!(left.len() - limit);
    }
    let items: Vec<&Value> = left.into_iter().take(limit).map(|(_, object)| &**object).collect();
    let items = if items.is_empty() { Value::Null } else { json!(items) };
    let body = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
    Ok(whole(200, &body, state.piece))
}

fn create(body: &[u8], shared: &Shared) -> Result<Answer, Refusal> {
    let event: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    for field in ["action", "reason", "reportingController", "reportingInstance", "eventTime", "type"] {
        if event[field].as_str().is_none_or(str::is_empty) {
            return Err(Refusal::new(422, "Invalid", format!("{field}: Required value")));
        }
    }
    shared.state().events.push(event.clone());
    Ok(whole(201, &event, None))
}

fn patch(node: &str, body: &[u8], shared: &Shared) -> Result<Answer, Refusal> {
    let patch: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let patched = shared.change(|state| {
        state.patches.push(patch.clone());
        let mut node = state.store.get("nodes", node)?;
        merge(&mut node["metadata"]["annotations"], &patch["metadata"]["annotations"]);
        merge_conditions(&mut node["status"]["conditions"], &patch["status"]["conditions"]);
        state.store.apply(node.clone());
        Some(node)
    });
    let missing = || Refusal::new(404, "NotFound", format!("nodes {node:?} not found"));
    Ok(whole(200, &patched.ok_or_else(missing)?, None))
}

/// RFC 7396, of a map of texts.
fn merge(map: &mut Value, patch: &Value) {
    for (name, value) in patch.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(map.as_object_mut().and_then(|map| map.remove(name))),
            value => map[name] = value.clone(),
        }
    }
}

/// A strategic merge: by type, with the directive to delete one.
fn merge_conditions(conditions: &mut Value, patch: &Value) {
    for condition in patch.as_array().into_iter().flatten() {
        let mut others: Vec<Value> = conditions.as_array().cloned().unwrap_or_default();
        others.retain(|other| other["type"] != condition["type"]);
        if condition["$patch"] != "delete" {
            others.push(condition.clone());
        }
        *conditions = Value::Array(others);
    }
}

fn refused(refusal: Refusal) -> Answer {
    whole(refusal.code, &refusal.body, None)
}

fn whole(code: u16, body: &Value, piece: Option<usize>) -> Answer {
    let (sender, receiver) = mpsc::unbounded_channel();
    send_in_pieces(&sender, body.to_string().as_bytes(), piece);
    streamed(code, receiver)
}

pub fn send_in_pieces(sender: &mpsc::UnboundedSender<Piece>, bytes: &[u8], piece: Option<usize>) {
    for piece in bytes.chunks(piece.unwrap_or(usize::MAX)) {
        let _ = sender.send(Ok(Bytes::copy_from_slice(piece)));
    }
}

fn streamed(code: u16, pieces: mpsc::UnboundedReceiver<Piece>) -> Answer {
    let frames = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        if piece.is_err() {
            // What was sent before has to arrive before the connection breaks.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Some((piece.map(Frame::data), pieces))
    });
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(BodyExt::boxed_unsync(StreamBody::new(frames)))
        .unwrap()
}
