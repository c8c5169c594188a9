//! A thread of the datapath's own, with the state that it shares with whoever gives it work. It ends with its owner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use shunt_core::datapath::DatapathError;

use crate::transaction::kernel;
use shunt_wire::wake::Wake;

/// The owner's side.
pub struct Thread<S> {
    shared: Arc<Shared<S>>,
    handle: Option<JoinHandle<()>>,
}

/// The thread's side.
pub struct Shared<S> {
    state: Mutex<S>,
    pub wake: Wake,
    over: AtomicBool,
}

impl<S: Default + Send + 'static> Thread<S> {
    /// It works in the network namespace of the caller. `starting` is for an error: `start the thread that …`.
    pub fn start(
        name: &str,
        starting: &'static str,
        work: impl FnOnce(Arc<Shared<S>>) + Send + 'static,
    ) -> Result<Self, DatapathError> {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Wake::new()?, over: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(theirs));
        Ok(Self { shared, handle: Some(handle.map_err(kernel(starting))?) })
    }
}

impl<S> Thread<S> {
    pub fn lock(&self) -> MutexGuard<'_, S> {
        self.shared.lock()
    }

    /// There is something for it to do.
    pub fn wake(&self) {
        self.shared.wake.wake();
    }
}

impl<S> Shared<S> {
    pub fn lock(&self) -> MutexGuard<'_, S> {
        // Nothing in the critical sections can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The owner is gone: the thread is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

impl<S> Drop for Thread<S> {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        self.shared.wake.wake();
        if let Some(handle) = self.handle.take() {
            // A panic there has been reported already, and there is nobody to hand it on to.
            let _ = handle.join();
        }
    }
}
