//! Pipes, by which data goes from socket to socket without passing through this process (splice(2)), and buffers, by
//! which it goes where there is little.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// What a pipe can hold, in bytes. The kernel takes the pages of the receiving socket, so nothing is copied. More would only
/// have what many connections move leave the processor's caches before the receiver copies it.
const CAPACITY: usize = 256 << 10;
/// Pipes and buffers that one thread keeps for later.
const KEPT: usize = 64;
/// Of a buffer, in bytes.
pub const BUFFER: usize = 16 << 10;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
    static BUFFERS: RefCell<Vec<Box<[u8; BUFFER]>>> = const { RefCell::new(Vec::new()) };
}

/// With nothing in it, while it is nobody's.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    pub held: usize,
}

impl Pipe {
    /// One that was used before, or a new one.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A smaller one works as well.
        let _ = fcntl_setpipe_size(&writer, CAPACITY);
        Ok(Pipe { reader, writer, held: 0 })
    }

    /// Keeps it for the next one who needs a pipe.
    pub fn give_back(self) {
        if self.held == 0 {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < KEPT {
                    pipes.push(self);
                }
            });
        }
    }

    /// Takes what a socket has received. 0 is its end.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let count = splice(from, None, &self.writer, None, CAPACITY, flags())?;
        self.held += count;
        Ok(count)
    }

    /// Sends what is in the pipe.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let count = splice(&self.reader, None, to, None, self.held, flags())?;
        self.held -= count;
        Ok(count)
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

/// A buffer for as long as there is something in it.
pub fn take_buffer() -> Box<[u8; BUFFER]> {
    BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::new([0; BUFFER]))
}

pub fn give_back_buffer(buffer: Box<[u8; BUFFER]>) {
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.len() < KEPT {
            buffers.push(buffer);
        }
    });
}
