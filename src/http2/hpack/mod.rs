//! Head blocks (RFC 7541): the decoder takes whatever is valid, the encoder indexes what repeats and never what is secret.

mod decode;
mod encode;
mod huffman;
mod integer;
mod names;
mod table;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use encode::Encoder;
pub use names::{Names, Pseudo};

/// A block that cannot be decoded: the connection is lost, as nobody knows the table any more (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;
