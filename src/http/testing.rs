//! What the tests of the HTTP endpoints share: the simplest client there is, so that every byte can be looked at.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::listen::{Families, listen};

pub struct Received {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// Nothing here takes long. What does has failed.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it took longer than 10 s")
}

pub fn on_loopback() -> (TcpListener, SocketAddr) {
    let listener = listen("127.0.0.1:0".parse().unwrap(), Families::Both).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port for this test alone: below those that the kernel gives out by itself, and never the same twice.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_this_process = (std::process::id() % 900) as u16 * 20;
    loop {
        let port = 12_000 + (of_this_process + NEXT.fetch_add(1, Ordering::Relaxed)) % 18_000;
        if listen(SocketAddr::from(([127, 0, 0, 1], port)), Families::One).is_ok() {
            return port;
        }
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Received {
    exchange(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

pub async fn exchange(address: SocketAddr, request: &str) -> Received {
    within(try_exchange(address, request)).await.unwrap_or_else(|error| panic!("{address}: {error}"))
}

pub async fn try_exchange(address: SocketAddr, request: &str) -> std::io::Result<Received> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    // The other side may close before it has read everything, which resets the connection after the answer.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).map_err(std::io::Error::other)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("no answer"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Ok(Received { status, headers, body: body.to_owned() })
}
