//! HTTP/1 connections that cannot cost more than they may.
//!
//! The health ports are open to whoever reaches this node. A slow client is cut off, and when there are too many the
//! oldest makes room for the newest, so that nobody can keep a load balancer from getting its answer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::answer::Answer;

/// What one listener's clients may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub connections: usize,
    /// For the head of a request, the wait for its first byte included.
    pub head: Duration,
    /// For a connection, however many requests it brings.
    pub lifetime: Duration,
    /// For what is being answered when the lifetime ends.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 128,
            head: Duration::from_secs(5),
            lifetime: Duration::from_secs(60),
            grace: Duration::from_secs(5),
        }
    }
}

/// Enough for any request to these servers.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// After an accept that failed, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers every request on `listener`. Dropping the future closes the listener and all its connections.
pub(super) async fn serve<F>(listener: TcpListener, limits: Limits, answer: F) -> Infallible
where
    F: Fn(&Request<Incoming>) -> Answer + Clone + Send + Sync + 'static,
{
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.make_room(limits.connections);
                connections.start(connection(stream, limits, answer.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, "Cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Connections in the order in which they came.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    order: VecDeque<AbortHandle>,
}

impl Connections {
    fn make_room(&mut self, limit: usize) {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|task| !task.is_finished());
        while self.order.len() >= limit {
            self.order.pop_front().iter().for_each(AbortHandle::abort);
        }
    }

    fn start(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.order.push_back(self.tasks.spawn(connection));
    }
}

async fn connection<F>(stream: TcpStream, limits: Limits, answer: F)
where
    F: Fn(&Request<Incoming>) -> Answer + Send + Sync + 'static,
{
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // How a connection ended is its client's affair.
    if timeout(limits.lifetime, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits.grace, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::super::answer;
    use super::super::testing::{exchange, get, on_loopback, within};
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 4,
        head: Duration::from_millis(200),
        lifetime: Duration::from_millis(600),
        grace: Duration::from_millis(50),
    };

    /// A server that answers with the path, or with more than a socket buffers.
    async fn start() -> std::net::SocketAddr {
        let (listener, address) = on_loopback();
        tokio::spawn(serve(listener, LIMITS, |request| match request.uri().path() {
            "/large" => answer::text(StatusCode::OK, vec![b'x'; 64 << 20]),
            path => answer::text(StatusCode::OK, path.to_owned()),
        }));
        address
    }

    async fn closes(mut stream: TcpStream) {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _ = within(stream.read_to_end(&mut bytes)).await;
    }

    #[tokio::test]
    async fn a_request_is_answered() {
        let address = start().await;
        assert_eq!(get(address, "/some/path").await.body, "/some/path");
    }

    #[tokio::test]
    async fn head_gets_the_headers_alone() {
        let address = start().await;
        let answer = exchange(address, "HEAD /path HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("content-length"), Some("5"));
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_cut_off() {
        let address = start().await;
        let start = Instant::now();
        closes(TcpStream::connect(address).await.unwrap()).await;
        assert!((LIMITS.head..LIMITS.lifetime).contains(&start.elapsed()), "after {:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_client_that_dribbles_is_cut_off() {
        let address = start().await;
        let (start, mut stream) = (Instant::now(), TcpStream::connect(address).await.unwrap());
        let dribble = async {
            while stream.write_all(b"G").await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        within(dribble).await;
        assert!(start.elapsed() < LIMITS.lifetime, "after {:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off() {
        let address = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        sleep(LIMITS.lifetime + LIMITS.grace * 4).await;
        let mut bytes = Vec::new();
        let _ = within(stream.read_to_end(&mut bytes)).await;
        assert!(bytes.len() < 64 << 20, "the rest was still sent");
    }

    #[tokio::test]
    async fn a_huge_head_is_refused() {
        let address = start().await;
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(2 * MAX_HEAD_BYTES));
        assert_eq!(exchange(address, &request).await.status, 431);
    }

    #[tokio::test]
    async fn of_a_crowd_the_oldest_make_room() {
        let address = start().await;
        let (start, mut crowd) = (Instant::now(), Vec::new());
        for _ in 0..LIMITS.connections * 5 {
            crowd.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(get(address, "/").await.status, 200);
        for stream in crowd.drain(..LIMITS.connections * 4) {
            closes(stream).await;
        }
        assert!(start.elapsed() < LIMITS.head, "they were cut off for being slow, not for being many");
    }
}
