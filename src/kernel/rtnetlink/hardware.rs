//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// A hardware address, `0a:58:0a:f4:01:05`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardwareAddress(pub [u8; 6]);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a hardware address, which is six bytes in hexadecimal: 0a:58:0a:f4:01:05")]
pub struct ParseHardwareAddressError(String);

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for HardwareAddress {
    type Err = ParseHardwareAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2);
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes
            .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
            .map(HardwareAddress)
            .ok_or_else(|| ParseHardwareAddressError(text.to_owned()))
    }
}
