//! Data of a connection, in both directions, until both have ended.
//!
//! A connection that is idle has no buffer. What has moved much moves on through a pipe, without being copied.

use std::io::{self, Read};
use std::net::Shutdown;

use rustix::net::{SendFlags, send};
use tokio::sync::Semaphore;

use super::stream::{Readable, Received, Stream, Then};
use crate::modes::userspace::engine::is_exhausted;
use crate::modes::userspace::figures::{Counter, Meter};
use crate::modes::userspace::sockets;
use crate::modes::userspace::splice::{self, Pipe};

/// A direction that has moved this many bytes goes on through a pipe.
const SPLICE_FROM: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Endpoint,
}

/// How a relay ended.
pub enum End {
    /// Each side has said that it is done, and the other one heard it.
    Both,
    /// This side is no more, and the other one has not heard of it.
    Broken(Side),
    /// This process cannot go on, and neither side has heard of it.
    Failed,
}

/// Returns when both directions have ended, or the connection is broken at either side.
pub async fn relay(client: &Stream, upstream: &Stream, meter: &Meter, pipes: &Semaphore) -> End {
    let mut there = Pump::new(Side::Client, client, upstream, &meter.received, pipes);
    let mut back = Pump::new(Side::Endpoint, upstream, client, &meter.sent, pipes);
    let (side, is_read_out) = match tokio::try_join!(there.run(), back.run()) {
        Ok(_) => return End::Both,
        Err(Stop::Failed) => return End::Failed,
        Err(Stop::Broken { side, is_read_out }) => (side, is_read_out),
    };
    if !is_read_out {
        match side {
            Side::Client => there.pass_on_what_came(),
            Side::Endpoint => back.pass_on_what_came(),
        }
    }
    End::Broken(side)
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Endpoint,
            Side::Endpoint => Side::Client,
        }
    }
}

/// Why a direction stopped before its end.
enum Stop {
    /// A side is no more.
    Broken {
        side: Side,
        /// Whether all that it said before was read.
        is_read_out: bool,
    },
    /// There is no memory.
    Failed,
}

impl Stop {
    fn new(side: Side, is_read_out: bool, error: &io::Error) -> Self {
        if is_exhausted(error) { Stop::Failed } else { Stop::Broken { side, is_read_out } }
    }
}

/// One direction.
struct Pump<'a> {
    /// Which side `from` is.
    source: Side,
    from: &'a Stream,
    to: &'a Stream,
    moved: &'a Counter,
    pipes: &'a Semaphore,
    /// In bytes.
    total: u64,
    sends_at_once: bool,
    takes_urgent_inline: bool,
    /// Whether something was read that is not yet written.
    is_holding: bool,
}

/// What a direction moves before others of its thread get their turn, in bytes.
const TURN: usize = 1 << 20;

/// What may have come before a reset and is read after it, in buffers: the side that was not reset may send for ever.
const LAST_READS: usize = 64;

/// What an attempt to move data came to.
enum Step {
    /// There may be more.
    Moved,
    /// There is nothing more until the socket is readable again.
    Nothing,
    End,
}

impl<'a> Pump<'a> {
    fn new(source: Side, from: &'a Stream, to: &'a Stream, moved: &'a Counter, pipes: &'a Semaphore) -> Self {
        Pump {
            source,
            from,
            to,
            moved,
            pipes,
            total: 0,
            sends_at_once: source == Side::Endpoint,
            takes_urgent_inline: source == Side::Client,
            is_holding: false,
        }
    }

    async fn run(&mut self) -> Result<(), Stop> {
        loop {
            let mut readable = self.wait().await?;
            loop {
                let step = match self.total < SPLICE_FROM || readable.is_urgent() {
                    true => self.copy(&mut readable).await?,
                    false => self.splice(&mut readable).await?,
                };
                match step {
                    Step::Moved => {
                        self.set_up_for_urgent(&readable);
                        // A connection that always has data must not keep others waiting.
                        tokio::task::coop::consume_budget().await;
                    }
                    Step::Nothing => break,
                    Step::End => return self.finish(),
                }
            }
        }
    }

    /// Until there is something to read, or the other side is broken, of which nobody else may hear: its own direction may
    /// have ended before.
    async fn wait(&self) -> Result<Readable<'a>, Stop> {
        tokio::select! {
            readable = self.from.readable() => readable.map_err(|error| self.read_failed(&error)),
            () = self.to.broken() => Err(Stop::Broken { side: self.source.other(), is_read_out: false }),
        }
    }

    /// What came before an error was read before it.
    fn read_failed(&self, error: &io::Error) -> Stop {
        Stop::new(self.source, true, error)
    }

    fn write_failed(&self, error: &io::Error) -> Stop {
        Stop::new(self.source.other(), false, error)
    }

    async fn copy(&mut self, readable: &mut Readable<'a>) -> Result<Step, Stop> {
        let mut buffer = splice::take_buffer();
        let received = readable.receive(&mut buffer[..]).map_err(|error| self.read_failed(&error))?;
        let step = match received {
            Received::Bytes { count, then } => self.pass_on(&buffer[..count], then).await?,
            Received::Nothing => Step::Nothing,
            Received::End => Step::End,
        };
        splice::give_back_buffer(buffer);
        Ok(step)
    }

    async fn pass_on(&mut self, bytes: &[u8], then: Then) -> Result<Step, Stop> {
        self.set_up_for_more();
        let (step, flags) = match then {
            Then::Unknown => (Step::Moved, SendFlags::empty()),
            Then::Nothing => (Step::Nothing, SendFlags::empty()),
            // The end goes with it, in one packet.
            Then::End => (Step::End, SendFlags::MORE),
        };
        self.is_holding = true;
        self.write(bytes, flags | SendFlags::NOSIGNAL).await?;
        self.is_holding = false;
        self.moved(bytes.len());
        Ok(step)
    }

    /// What is sent first is sent at once anyway, and many connections say no more. The client's socket has the option from
    /// its listener.
    fn set_up_for_more(&mut self) {
        if self.total > 0 && !self.sends_at_once {
            sockets::send_at_once(self.to.socket());
            self.sends_at_once = true;
        }
    }

    /// The client's socket has that option from its listener as well.
    fn set_up_for_urgent(&mut self, readable: &Readable<'a>) {
        if !self.takes_urgent_inline {
            readable.take_urgent_inline();
            self.takes_urgent_inline = true;
        }
    }

    async fn write(&self, mut rest: &[u8], flags: SendFlags) -> Result<(), Stop> {
        while !rest.is_empty() {
            match self.to.try_write(|to| Ok(send(to, rest, flags)?)) {
                Ok(count) => rest = &rest[count..],
                Err(error) => self.wait_for_room(&error).await?,
            }
        }
        Ok(())
    }

    async fn wait_for_room(&self, error: &io::Error) -> Result<(), Stop> {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.to.writable().await.map_err(|error| self.write_failed(&error)),
            _ => Err(self.write_failed(error)),
        }
    }

    /// Through a pipe, for as long as there is something. Where there is no pipe, data is copied.
    async fn splice(&mut self, readable: &mut Readable<'a>) -> Result<Step, Stop> {
        let Ok(_permit) = self.pipes.try_acquire() else { return self.copy(readable).await };
        let Ok(mut pipe) = Pipe::take() else { return self.copy(readable).await };
        let step = self.splice_through(&mut pipe, readable).await?;
        pipe.give_back();
        let Step::End = step else { return Ok(step) };
        // It may be that of what comes before an urgent byte.
        self.set_up_for_urgent(readable);
        self.copy(readable).await
    }

    async fn splice_through(&mut self, pipe: &mut Pipe, readable: &mut Readable<'a>) -> Result<Step, Stop> {
        let mut turn = 0;
        loop {
            match readable.try_read(|from| pipe.fill(from)) {
                Ok(None) => return Ok(Step::Nothing),
                Ok(Some(0)) => return Ok(Step::End),
                Ok(Some(count)) => turn += count,
                Err(error) => return Err(self.read_failed(&error)),
            }
            self.is_holding = true;
            self.drain(pipe).await?;
            self.is_holding = false;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    async fn drain(&mut self, pipe: &mut Pipe) -> Result<(), Stop> {
        while pipe.held > 0 {
            match self.to.try_write(|to| pipe.drain(to)) {
                Ok(count) => self.moved(count),
                Err(error) => self.wait_for_room(&error).await?,
            }
        }
        Ok(())
    }

    fn moved(&mut self, count: usize) {
        self.total += count as u64;
        self.moved.add(count as u64);
    }

    /// After a reset: what came before it, as far as there is room for it. A host would have it too, and an answer that is
    /// followed by a reset is an answer (envoyproxy/envoy#45190).
    fn pass_on_what_came(&self) {
        if self.is_holding {
            return;
        }
        let (mut from, to) = (self.from.socket(), self.to.socket());
        // What waits for an acknowledgement would be lost.
        sockets::send_at_once(to);
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
    fn finish(&self) -> Result<(), Stop> {
        self.to.socket().shutdown(Shutdown::Write).map_err(|error| self.write_failed(&error))
    }
}
