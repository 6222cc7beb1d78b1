//! Many requests in one write.
//!
//! The kernel carries the messages of a write out one after the other, each whether or not those before it were refused,
//! and answers those that it refuses and the last one, which asks for it (`netlink_rcv_skb`).

use std::io;

use super::{Connection, HEADER, NetlinkError, Replies, Request, set_flags, verdict};

/// Of one write. So many refusals fit into the 208 KiB that a socket may hold by default: each takes 768 bytes there.
const MOST_REQUESTS: usize = 256;
const MOST_BYTES: usize = 32 << 10;

impl Connection {
    /// Sends requests in as few writes as may be and returns which of them were refused.
    ///
    /// Where more is refused than the receive buffer holds, nobody can tell what was done. These requests are sent again,
    /// half as many at a time, so they must bear being carried out twice.
    pub fn execute_all(&mut self, requests: &[Request]) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        let mut refused = Vec::new();
        let mut start = 0;
        while start < requests.len() {
            let end = start + fitting(&requests[start..]);
            self.write_or_halve(requests, start..end, &mut refused)?;
            start = end;
        }
        Ok(refused)
    }

    fn write_or_halve(
        &mut self,
        requests: &[Request],
        range: std::ops::Range<usize>,
        refused: &mut Vec<(usize, NetlinkError)>,
    ) -> Result<(), NetlinkError> {
        match self.write(&requests[range.clone()]) {
            Ok(found) => {
                refused.extend(found.into_iter().map(|(index, error)| (range.start + index, error)));
                Ok(())
            }
            Err(error) if error.is_overrun() && range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                self.drain()?;
                self.write_or_halve(requests, range.start..middle, refused)?;
                self.write_or_halve(requests, middle..range.end, refused)
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, requests: &[Request]) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        let first = self.reserve(requests.len() as u32);
        let mut bytes = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let mut request = request.clone();
            if index + 1 == requests.len() {
                set_flags(&mut request, libc::NLM_F_ACK);
            }
            bytes.extend(request.into_bytes(first + index as u32));
        }
        self.socket.send(&bytes, 0).map_err(NetlinkError::Send)?;
        self.refusals(first, requests.len())
    }

    /// Sequence numbers in a row, and returns the first.
    fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence.checked_add(count).map_or(1, |_| self.sequence + 1);
        self.sequence = first + count - 1;
        first
    }

    fn refusals(&mut self, first: u32, count: usize) -> Result<Vec<(usize, NetlinkError)>, NetlinkError> {
        let mut refused = Vec::new();
        loop {
            let length = self.receive()?;
            for reply in Replies(&self.buffer[..length]) {
                let index = reply.sequence.wrapping_sub(first) as usize;
                let Some(result) = verdict(&reply).filter(|_| index < count) else { continue };
                refused.extend(result.err().map(|error| (index, error)));
                if index + 1 == count {
                    return Ok(refused);
                }
            }
        }
    }

    /// Throws away what is left of the answers: the kernel sends no more while any of them waits.
    fn drain(&mut self) -> Result<(), NetlinkError> {
        loop {
            let mut buffer = self.buffer.as_mut_slice();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                received => drop(received.map_err(NetlinkError::Receive)?),
            }
        }
    }
}

/// How many of the requests go into one write: at least one.
fn fitting(requests: &[Request]) -> usize {
    let mut bytes = 0;
    let fit = requests.iter().take(MOST_REQUESTS).take_while(|request| {
        bytes += request.bytes.len().max(HEADER);
        bytes <= MOST_BYTES
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use netlink_sys::constants::NETLINK_ROUTE;

    use super::*;
    use crate::kernel::links::addresses;
    use crate::kernel::netns::Namespace;

    const LOOPBACK: [u8; 4] = [1, 0, 0, 0];

    /// `ip address add 10.0.HIGH.LOW/32 dev lo`, which refuses an address that is there.
    fn add(number: u16) -> Request {
        let [high, low] = number.to_be_bytes();
        let fixed = [[libc::AF_INET as u8, 32, 0, 0], LOOPBACK].concat();
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut request = Request::new(libc::RTM_NEWADDR, flags, &fixed);
        request.attribute(libc::IFA_LOCAL, &[10, 0, high, low]);
        request
    }

    #[test]
    fn refusals_are_told_by_their_place_and_stop_nothing() {
        let namespace = Namespace::new().unwrap();
        let (refused, addresses) = namespace
            .run(|| {
                let mut connection = Connection::open(NETLINK_ROUTE).unwrap();
                let requests: Vec<_> = [1, 2, 1, 3, 3].into_iter().map(add).collect();
                (connection.execute_all(&requests).unwrap(), addresses().unwrap())
            })
            .unwrap();
        let places: Vec<_> =
            refused.iter().map(|(index, error)| (*index, error.refusal().unwrap())).collect();
        assert_eq!(places, [(2, libc::EEXIST), (4, libc::EEXIST)]);
        assert_eq!(addresses.len(), 3);
    }

    /// Refusals of everything, into a receive buffer that holds few of them.
    #[test]
    fn a_full_receive_buffer_loses_no_request() {
        let namespace = Namespace::new().unwrap();
        let (refused, sequence, addresses) = namespace
            .run(|| {
                let mut connection = Connection::open(NETLINK_ROUTE).unwrap();
                connection.socket.set_rx_buf_sz(8_000).unwrap();
                let requests: Vec<_> = (0..300).map(|number| add(number / 2)).collect();
                let first = connection.execute_all(&requests).unwrap().len();
                let second = connection.execute_all(&requests).unwrap();
                assert!(first >= 150, "{first}");
                (second, connection.sequence, addresses().unwrap())
            })
            .unwrap();
        let places: Vec<_> = refused.iter().map(|(index, _)| *index).collect();
        assert_eq!(places, (0..300).collect::<Vec<_>>());
        assert_eq!(addresses.len(), 150);
        assert!(sequence > 600, "some were sent again");
    }

    #[test]
    fn a_write_is_bounded() {
        let small = vec![add(1); 1000];
        assert_eq!(fitting(&small), MOST_REQUESTS);
        let mut large = Request::new(1, 0, &[]);
        large.attribute(1, &[0; 20_000]);
        assert_eq!(fitting(&[large.clone(), large]), 1);
    }
}
