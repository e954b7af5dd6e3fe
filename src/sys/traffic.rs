//! What a server has sent so far.

/// How much was asked of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests answered, in whatever way.
    pub requests: u64,
    /// Bytes of contents given to the network; headers are not counted.
    pub bytes: u64,
}
