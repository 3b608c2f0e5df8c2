//! Growing pauses until a deadline, and what is said when it has passed.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::ClientError;
use crate::limits::{RETRY_PAUSE_MAX, RETRY_PAUSE_MIN};

pub(crate) struct Patience {
    started: Instant,
    deadline: Duration,
    pause: Duration,
    /// What the last node said, or why it could not be reached.
    pub(crate) last: String,
    /// What a node said about drift: more than that nobody could help.
    pub(crate) drifted: Option<String>,
}

impl Patience {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            started: Instant::now(),
            deadline,
            pause: RETRY_PAUSE_MIN,
            last: "nobody was asked".to_owned(),
            drifted: None,
        }
    }

    /// Pauses.
    ///
    /// # Errors
    /// When the deadline passes before the pause does.
    pub(crate) async fn wait(&mut self) -> Result<(), ClientError> {
        if self.started.elapsed() + self.pause > self.deadline {
            return Err(self.over());
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
        Ok(())
    }

    /// The error when nobody else is asked.
    pub(crate) fn over(&self) -> ClientError {
        match &self.drifted {
            Some(said) => ClientError::Drifted(said.clone()),
            None => ClientError::Unavailable {
                seconds: self.started.elapsed().as_secs(),
                last: self.last.clone(),
            },
        }
    }
}
