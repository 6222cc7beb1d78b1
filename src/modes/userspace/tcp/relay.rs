//! Data of a connection, in both directions, until both have ended.
//!
//! A connection that is idle has no buffer. What has moved much moves on through a pipe, without being copied.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::Shutdown;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::modes::userspace::figures::{Counter, Meter};
use crate::modes::userspace::splice::{self, Pipe};

/// A direction that has moved this many bytes goes on through a pipe.
const SPLICE_FROM: u64 = 64 << 10;

/// Ends when both directions have ended, or with an error when the connection is broken at either side.
pub async fn relay(
    client: &TcpStream,
    upstream: &TcpStream,
    meter: &Meter,
    pipes: &Semaphore,
) -> io::Result<()> {
    let there = Pump::new(client, upstream, &meter.received, pipes);
    let back = Pump::new(upstream, client, &meter.sent, pipes);
    let ended = tokio::try_join!(there.run(), back.run());
    if ended.is_err() {
        there.pass_on_what_came();
        back.pass_on_what_came();
    }
    ended.map(drop)
}

/// One direction.
struct Pump<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    moved: &'a Counter,
    pipes: &'a Semaphore,
    /// Whether something was read that is not yet written.
    is_holding: AtomicBool,
}

/// What a direction moves before others of its thread get their turn, in bytes.
const TURN: usize = 1 << 20;

/// What may have come before a reset and is read after it, in buffers: the side that was not reset may send for ever.
const LAST_READS: usize = 64;

/// What an attempt to move data came to.
enum Step {
    Moved(usize),
    Nothing,
    End,
}

impl<'a> Pump<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, moved: &'a Counter, pipes: &'a Semaphore) -> Self {
        Pump { from, to, moved, pipes, is_holding: AtomicBool::new(false) }
    }

    async fn run(&self) -> io::Result<()> {
        let mut total = 0;
        loop {
            let step = if total < SPLICE_FROM { self.copy().await? } else { self.splice().await? };
            match step {
                Step::Moved(count) => {
                    total += count as u64;
                    // A connection that always has data must not keep others waiting.
                    tokio::task::coop::consume_budget().await;
                }
                Step::Nothing => self.wait().await?,
                Step::End => return self.finish(),
            }
        }
    }

    /// Until there is something to read, or the other side is broken, of which nobody else may hear: its own direction may
    /// have ended before.
    async fn wait(&self) -> io::Result<()> {
        tokio::select! {
            readable = self.from.readable() => readable,
            broken = self.to.ready(Interest::ERROR) => {
                broken?;
                Err(self.to.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
            }
        }
    }

    async fn copy(&self) -> io::Result<Step> {
        let mut buffer = splice::take_buffer();
        let step = match self.from.try_read(&mut buffer[..]) {
            Ok(0) => Step::End,
            Ok(count) => {
                self.hold(true);
                self.write(&buffer[..count]).await?;
                self.hold(false);
                self.moved.add(count as u64);
                Step::Moved(count)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Step::Nothing,
            Err(error) => return Err(error),
        };
        splice::give_back_buffer(buffer);
        Ok(step)
    }

    async fn write(&self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.to.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Through a pipe, for as long as there is something. Where there is no pipe, data is copied.
    async fn splice(&self) -> io::Result<Step> {
        let Ok(_permit) = self.pipes.try_acquire() else { return self.copy().await };
        let Ok(mut pipe) = Pipe::take() else { return self.copy().await };
        let step = self.splice_through(&mut pipe).await?;
        pipe.give_back();
        Ok(step)
    }

    async fn splice_through(&self, pipe: &mut Pipe) -> io::Result<Step> {
        let (mut total, mut turn) = (0, 0);
        loop {
            match self.from.try_io(Interest::READABLE, || pipe.fill(self.from)) {
                Ok(0) if total == 0 => return Ok(Step::End),
                Ok(0) => return Ok(Step::Moved(total)),
                Ok(count) => {
                    total += count;
                    turn += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(if total == 0 { Step::Nothing } else { Step::Moved(total) });
                }
                Err(error) => return Err(error),
            }
            self.hold(true);
            self.drain(pipe).await?;
            self.hold(false);
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    async fn drain(&self, pipe: &mut Pipe) -> io::Result<()> {
        while pipe.held > 0 {
            match self.to.try_io(Interest::WRITABLE, || pipe.drain(self.to)) {
                Ok(count) => self.moved.add(count as u64),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.to.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hold(&self, is_holding: bool) {
        self.is_holding.store(is_holding, Ordering::Relaxed);
    }

    /// After a reset: what came before it, as far as there is room for it. A host would have it too, and an answer that is
    /// followed by a reset is an answer (envoyproxy/envoy#45190).
    fn pass_on_what_came(&self) {
        if self.is_holding.load(Ordering::Relaxed) {
            return;
        }
        let (mut from, to) = (&*SockRef::from(self.from), SockRef::from(self.to));
        let mut buffer = splice::take_buffer();
        for _ in 0..LAST_READS {
            let Ok(count @ 1..) = from.read(&mut buffer[..]) else { break };
            let Ok(sent) = to.send(&buffer[..count]) else { break };
            self.moved.add(sent as u64);
            if sent < count {
                break;
            }
        }
        splice::give_back_buffer(buffer);
    }

    /// The other side hears that nothing more comes.
    fn finish(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.to, Shutdown::Write)?)
    }
}
