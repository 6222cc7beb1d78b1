//! A TCP socket as its worker watches it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{Interest, Ready};

use crate::modes::userspace::engine::abort;

/// Like tokio's own, but that it hears of urgent data too. Without that, a read that fills its buffer in part would not mean
/// that nothing is left: it ends before an urgent byte as well (tcp(7)).
pub struct Stream(AsyncFd<Socket>);

/// What there was to read.
pub enum Received {
    Bytes { count: usize, then: Then },
    Nothing,
    End,
}

/// What there is to read after some bytes.
#[derive(Clone, Copy)]
pub enum Then {
    Unknown,
    Nothing,
    End,
}

impl Stream {
    /// # Errors
    /// Where the kernel has no memory for it, or this user may watch no more (`fs.epoll.max_user_watches`). The other end
    /// sees a reset: nothing was said to it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // SAFETY: the socket owns its descriptor, which stays the same and open until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
        watched.map(Stream).map_err(|error| {
            let (socket, error) = error.into_parts();
            abort(&socket);
            error
        })
    }

    pub fn socket(&self) -> &Socket {
        self.0.get_ref()
    }

    /// Until there is something to read: bytes, an error or the end.
    pub async fn readable(&self) -> io::Result<Readable<'_>> {
        self.0.ready(Interest::READABLE | Interest::PRIORITY | Interest::ERROR).await.map(Readable)
    }

    /// Until it can be written to, or never will be. The errors are those that were found meanwhile.
    pub async fn writable(&self) -> io::Result<()> {
        let ready = self.0.ready(Interest::WRITABLE | Interest::ERROR).await?.ready();
        if ready.is_error() || ready.is_write_closed() {
            return Err(self.socket().take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
        }
        Ok(())
    }

    /// Whoever asks later hears of it too: nothing takes it back.
    pub async fn broken(&self) {
        // It fails where the runtime ends, and its connections with it.
        let _ = self.0.ready(Interest::ERROR).await;
    }

    /// `WouldBlock` where there was no room when last heard of.
    pub fn try_write<T>(&self, write: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        self.0.try_io(Interest::WRITABLE, |socket| write(socket.as_fd()))
    }
}

/// A socket that has something to be read.
pub struct Readable<'a>(AsyncFdReadyGuard<'a, Socket>);

impl Readable<'_> {
    /// Reading ends before an urgent byte.
    pub fn is_urgent(&self) -> bool {
        self.0.ready().is_priority()
    }

    /// Spares reads that would find nothing (epoll(7), question 9), or only the end. An urgent byte becomes one of the others:
    /// out of line it would be lost.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        if self.is_urgent() {
            self.take_urgent_inline();
        }
        let count = match self.try_read(|mut socket| socket.read(buffer))? {
            None => return Ok(Received::Nothing),
            Some(0) => return Ok(Received::End),
            Some(count) => count,
        };
        let ready = self.0.ready();
        if count == buffer.len() || self.is_urgent() {
            return Ok(Received::Bytes { count, then: Then::Unknown });
        }
        // What comes from now on is another event.
        self.clear();
        let then = match (ready.is_error(), ready.is_read_closed()) {
            (true, _) => Then::Unknown,
            (false, true) => Then::End,
            (false, false) => Then::Nothing,
        };
        Ok(Received::Bytes { count, then })
    }

    /// Before a read that could begin with an urgent byte of which no event has told yet.
    pub fn take_urgent_inline(&self) {
        // Where it may not be set, that byte is all that is lost.
        let _ = self.0.get_inner().set_out_of_band_inline(true);
    }

    /// `None` if there is nothing to read by now.
    pub fn try_read<T>(&mut self, read: impl FnOnce(&Socket) -> io::Result<T>) -> io::Result<Option<T>> {
        match read(self.0.get_inner()) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            // Whoever waits for it would be told of the error again and again.
            Err(_) if self.0.ready().is_error() => Err(io::ErrorKind::ConnectionReset.into()),
            Err(_) => {
                self.clear();
                Ok(None)
            }
        }
    }

    /// Neither an error nor the end are forgotten.
    fn clear(&mut self) {
        self.0.clear_ready_matching(Ready::READABLE | Ready::PRIORITY);
    }
}
