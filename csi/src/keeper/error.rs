//! Why a letter to the mounter came to nothing.

use penstock_protocol::control::mounter::from_mounter;

/// Why the mounter did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// None has connected.
    #[error(
        "the mounter of this node is not running yet; it will be tried again (see the pods of the DaemonSet penstock-mounter)"
    )]
    NoMounter,
    /// One is there, but has not taken over what its predecessor served.
    #[error("the mounter of this node has not taken a mounted revision over yet; it will be tried again")]
    NotServed,
    /// It ended, or does not take letters.
    #[error("the mounter of this node went away; it will be tried again")]
    Gone,
    /// It did not answer.
    #[error("the mounter of this node did not answer within {0} s; it will be tried again")]
    Silent(u64),
    /// It answered that it could not.
    #[error("{message}")]
    Failed {
        /// Its sentence.
        message: String,
        /// Whether it may work later.
        retry: bool,
    },
    /// Its answer makes no sense.
    #[error("the mounter of this node answered nonsense: {0}")]
    Nonsense(String),
    /// The kernel did not send again what a mounter left unanswered.
    #[error("reads that a mounter left unanswered are not sent again: {0}")]
    Resend(std::io::Error),
}

impl KeeperError {
    /// Whether it may work later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoMounter | Self::NotServed | Self::Gone | Self::Silent(_) => true,
            Self::Failed { retry, .. } => *retry,
            Self::Nonsense(_) | Self::Resend(_) => false,
        }
    }

    pub(super) fn unexpected(letter: &from_mounter::Letter) -> Self {
        Self::Nonsense(format!("an answer to another question: {letter:?}"))
    }
}
