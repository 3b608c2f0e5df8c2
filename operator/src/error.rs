//! What can go wrong in a reconcile; the step is part of the text.

/// A reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be asked.
    #[error("{step}: {source}")]
    Api {
        /// What was tried, as a verb phrase.
        step: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// An object of ours does not have the shape of its kind: a fault of this program.
    #[error("{step}: {source}")]
    Shape {
        /// What was built.
        step: &'static str,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// An object without a name or namespace, which the API server never sends.
    #[error("an object without {0}")]
    Incomplete(&'static str),
}

impl Error {
    /// For `map_err` after a call to the API server.
    pub fn api(step: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api {
            step,
            source: Box::new(source),
        }
    }

    /// What it says to people: of the API server its own sentence, without the rest of its answer.
    pub fn sentence(&self) -> String {
        match self {
            Self::Api { step, source } => match source.as_ref() {
                kube::Error::Api(status) => format!("{step}: {}", status.message),
                other => format!("{step}: {other}"),
            },
            Self::Shape { .. } | Self::Incomplete(_) => self.to_string(),
        }
    }

    /// Whether somebody else changed the object meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409))
    }
}
