//! What is done with a mounter so that it and this process hold the same connections.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use penstock_mount::fuse;
use penstock_protocol::connection::{Connection, Unanswered};
use penstock_protocol::control::mounter::{Complete, HandBack, Ping, Serve, Stop, from_mounter, to_mounter};
use penstock_protocol::ids::ConnectionId;

use super::link::Link;
use super::takeover::{LinkId, Step};
use super::{Keeper, KeeperError, Kept, State};
use crate::limits::{HAND_OVER_PAUSE, PING_DEADLINE, PING_INTERVAL, SERVE_DEADLINE, STOP_DEADLINE};
use crate::metrics::Done;

impl Keeper {
    /// Does what is left to be done with a mounter, and waits for more, until the mounter goes away. Meanwhile it is asked
    /// now and then whether it is there.
    pub(super) fn take_steps(&self, id: LinkId, link: &Link) {
        let mut failing = BTreeSet::new();
        loop {
            let mut all_done = true;
            let steps = self.wait_for_steps(id, link);
            if steps.is_empty() && link.is_open() {
                let asked = link.ask(to_mounter::Letter::Ping(Ping {}), &[], PING_DEADLINE);
                self.heard(id, &asked.map(drop));
            }
            for step in steps {
                let taken = self.take_step(id, link, step);
                // The kernel resends, whatever became of the mounter.
                if !matches!(step, Step::Resend(_)) {
                    self.heard(id, &taken);
                }
                match taken {
                    Ok(()) => drop(failing.remove(&step)),
                    Err(error) => {
                        all_done = false;
                        if failing.insert(step) && link.is_open() {
                            tracing::error!(?step, %error, "a hand-over failed; it is tried again");
                        }
                    }
                }
            }
            if !link.is_open() {
                return;
            }
            if !all_done {
                std::thread::sleep(HAND_OVER_PAUSE);
            }
        }
    }

    /// The next steps; none when there were none for a while, or the mounter has gone.
    fn wait_for_steps(&self, id: LinkId, link: &Link) -> Vec<Step> {
        let nothing = |state: &mut State| link.is_open() && state.takeover.todo(id).is_empty();
        let waited = self.changed.wait_timeout_while(self.state(), PING_INTERVAL, nothing);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.takeover.todo(id)
    }

    /// Notes whether a mounter answers, whatever it answers.
    fn heard(&self, id: LinkId, outcome: &Result<(), KeeperError>) {
        let answers = !matches!(outcome, Err(KeeperError::Silent(_) | KeeperError::Gone));
        self.state().takeover.heard(id, answers);
        self.changed.notify_all();
    }

    fn take_step(&self, id: LinkId, link: &Link, step: Step) -> Result<(), KeeperError> {
        match step {
            Step::TakeBack(connection) => return self.take_back(id, link, connection),
            Step::HandOver(connection) => {
                // Otherwise it was unmounted a moment ago.
                if let Some(kept) = self.kept_of(connection) {
                    serve(link, &kept.connection, &kept.descriptors, true)?;
                    let number = kept.connection.number;
                    tracing::info!(revision = %kept.connection.revision, number, "a mounter took a connection over");
                    self.metrics.done(Done::HandedOver);
                }
            }
            Step::Stop(connection) => {
                let letter = to_mounter::Letter::Stop(Stop {
                    connection: connection.as_bytes().to_vec(),
                });
                link.ask(letter, &[], STOP_DEADLINE)?;
            }
            Step::Resend(connection) => {
                self.state().takeover.ask_resend(id, connection, false);
                // Mounters look into the ledger by themselves.
                let can = |kept: &Arc<Kept>| kept.connection.unanswered == Unanswered::Resent;
                let kept = self.kept_of(connection).filter(can);
                if let Some(descriptor) = kept.as_ref().and_then(|kept| kept.descriptors.first()) {
                    fuse::resend(descriptor).map_err(|error| {
                        self.state().takeover.ask_resend(id, connection, true);
                        KeeperError::Resend(error)
                    })?;
                    self.metrics.done(Done::Resent);
                }
            }
            Step::Complete => {
                link.ask(to_mounter::Letter::Complete(Complete {}), &[], SERVE_DEADLINE)?;
            }
        }
        self.done(id, step);
        Ok(())
    }

    /// Asks for the descriptors of a connection that this process does not keep. If it is not mounted on this node, nobody
    /// needs them.
    fn take_back(&self, id: LinkId, link: &Link, connection: ConnectionId) -> Result<(), KeeperError> {
        let letter = to_mounter::Letter::HandBack(HandBack {
            connection: connection.as_bytes().to_vec(),
        });
        let (handed_back, descriptors) = match link.ask(letter, &[], SERVE_DEADLINE) {
            Ok((from_mounter::Letter::HandedBack(handed_back), descriptors)) => (handed_back, descriptors),
            Ok((other, _)) => return Err(KeeperError::unexpected(&other)),
            // It ended meanwhile.
            Err(KeeperError::Failed { retry: false, .. }) => {
                self.done(id, Step::Stop(connection));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let found = handed_back.connection.map(Connection::try_from).and_then(Result::ok);
        let found = found.filter(|found| found.id == connection);
        // A number is one connection: a second one of it would be another mounter's, or made up.
        let is_free = |found: &Connection| self.id_of(found.number).is_none_or(|other| other == found.id);
        let adopted = found
            .filter(is_free)
            .and_then(|found| Some(((self.adopt)(&found, descriptors)?, found)));
        match adopted {
            Some((descriptors, found)) => {
                tracing::info!(revision = %found.revision, number = found.number, "a mounter handed a connection back");
                let kept = Kept {
                    connection: found,
                    descriptors,
                };
                self.insert(kept, None);
                self.metrics.done(Done::TakenBack);
            }
            None => {
                tracing::info!(%connection, "a mounter holds a connection that is not mounted here any more");
                self.state().takeover.unwanted(connection);
            }
        }
        Ok(())
    }

    fn done(&self, id: LinkId, step: Step) {
        self.state().takeover.done(id, step);
        self.changed.notify_all();
    }

    fn kept_of(&self, id: ConnectionId) -> Option<Arc<Kept>> {
        self.state().kept.get(&id).cloned()
    }
}

/// Lets a mounter serve a connection.
pub(super) fn serve(
    link: &Link,
    connection: &Connection,
    descriptors: &[OwnedFd],
    initialised: bool,
) -> Result<(), KeeperError> {
    let letter = to_mounter::Letter::Serve(Serve {
        connection: Some(connection.into()),
        initialised,
    });
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    match link.ask(letter, &descriptors, SERVE_DEADLINE)? {
        (from_mounter::Letter::Serving(_), _) => Ok(()),
        (other, _) => Err(KeeperError::unexpected(&other)),
    }
}
