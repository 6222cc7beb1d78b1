//! Servers that say whom they see, or who they are, and clients that ask them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ferrovia::kernel::netns::Namespace;

const PATIENCE: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(700);

/// Serves until it is dropped.
pub struct Server {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Tells each client the address that it comes from.
pub fn tcp(namespace: &Namespace, address: &str) -> Server {
    let listener = namespace.run(|| bind_tcp(address)).unwrap();
    listener.set_nonblocking(true).unwrap();
    serve(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            let _ = stream.write_all(client.ip().to_canonical().to_string().as_bytes());
        }
    })
}

/// `[::]` is IPv6 alone, so that the same port can be bound for IPv4.
fn bind_tcp(address: &str) -> TcpListener {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // Inherited by a process that another test starts, the port would stay taken.
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
    }
    bind(&socket, &address).unwrap();
    listen(&socket, 16).unwrap();
    socket.into()
}

/// Tells each client its own address.
pub fn udp(namespace: &Namespace, address: &str) -> Server {
    let socket = namespace.run(|| UdpSocket::bind(address).unwrap()).unwrap();
    let own = socket.local_addr().unwrap().ip().to_string();
    socket.set_nonblocking(true).unwrap();
    serve(move || {
        while let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(own.as_bytes(), client);
        }
    })
}

fn serve(mut work: impl FnMut() + Send + 'static) -> Server {
    let ends = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ends);
    let thread = thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            work();
            thread::sleep(Duration::from_millis(5));
        }
    });
    Server { ends, thread: Some(thread) }
}

/// What a server says, `None` where there is none.
pub fn ask_tcp(from: &Namespace, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// A client that keeps its port.
pub struct Datagrams(UdpSocket);

impl Datagrams {
    pub fn new(from: &Namespace, to: &str) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = from.run(|| UdpSocket::bind(own).unwrap()).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        Datagrams(socket)
    }

    pub fn ask(&self) -> Option<String> {
        let mut buffer = [0; 64];
        // A refusal of before is told by the next call.
        for _ in 0..3 {
            if self.0.send(b"?").is_ok()
                && let Ok(length) = self.0.recv(&mut buffer)
            {
                return Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
        }
        None
    }
}
