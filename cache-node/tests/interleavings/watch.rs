//! What the single flight uses of `tokio::sync::watch`, in the plainest way: a value that is replaced, and wakes who waits for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::sync::{Mutex, MutexGuard};

pub struct Sender<T>(Arc<Mutex<State<T>>>);

pub struct Receiver<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    value: T,
    waiting: Vec<Waker>,
}

/// The value, which nobody replaces meanwhile.
pub struct Ref<'a, T>(MutexGuard<'a, State<T>>);

impl<T> std::ops::Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        let waiting = Vec::new();
        Self(Arc::new(Mutex::new(State { value, waiting })))
    }

    pub fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.clone())
    }

    pub fn send_replace(&self, value: T) -> T {
        let mut state = self.0.lock().unwrap();
        let before = std::mem::replace(&mut state.value, value);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        before
    }
}

impl<T> Receiver<T> {
    /// Never fails here: whoever waits has the sender.
    pub async fn wait_for(&mut self, mut is_it: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, ()> {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap();
            if is_it(&state.value) {
                return Poll::Ready(());
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        // It is replaced once.
        Ok(Ref(self.0.lock().unwrap()))
    }
}
