//! The codec without a socket: heads of requests, frames, the meter, and a connection that is fed by hand.

mod connection;
mod heads;
mod meter;
