//! A thread that owns something blocking, and runs what it is sent on it, one after the other; what cannot wait, first.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// How many jobs may wait before those who send them wait as well.
const QUEUE: usize = 16_384;

/// The way to something that lives on a thread of its own: the datapath's netlink socket, the store's database.
pub struct Worker<T> {
    jobs: mpsc::Sender<Job<T>>,
    first: mpsc::Sender<Job<T>>,
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone(), first: self.first.clone() }
    }
}

/// The worker's thread has ended, which it only does when the agent does, or when a job panicked.
#[derive(Debug, thiserror::Error)]
#[error("the worker is gone")]
pub struct Gone;

impl<T: Send + 'static> Worker<T> {
    /// Moves `owned` to a new thread of that name. The thread ends when the last `Worker` is dropped.
    pub fn start(name: &str, mut owned: T) -> std::io::Result<Self> {
        let (jobs, mut inbox) = mpsc::channel::<Job<T>>(QUEUE);
        let (first, mut urgent) = mpsc::channel::<Job<T>>(QUEUE);
        // Only to wait for either queue; jobs themselves do not await.
        let waiting = tokio::runtime::Builder::new_current_thread().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut next = || {
                waiting.block_on(async {
                    tokio::select! {
                        biased;
                        Some(job) = urgent.recv() => Some(job),
                        Some(job) = inbox.recv() => Some(job),
                        else => None,
                    }
                })
            };
            while let Some(job) = next() {
                job(&mut owned);
            }
        })?;
        Ok(Self { jobs, first })
    }

    /// Runs `job` on the thread and returns what it returned.
    pub async fn run<R: Send + 'static>(&self, job: impl FnOnce(&mut T) -> R + Send + 'static) -> Result<R, Gone> {
        Self::run_on(&self.jobs, job).await
    }

    /// The same, before everything that waits already.
    pub async fn run_first<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        Self::run_on(&self.first, job).await
    }

    async fn run_on<R: Send + 'static>(
        queue: &mpsc::Sender<Job<T>>,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (reply, answer) = oneshot::channel();
        let job: Job<T> = Box::new(move |owned| {
            // Whoever asked may have given up waiting.
            let _ = reply.send(job(owned));
        });
        queue.send(job).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Has `job` run some time, without waiting; an error if too many wait already.
    pub fn send(&self, job: impl FnOnce(&mut T) + Send + 'static) -> Result<(), Gone> {
        self.jobs.try_send(Box::new(job)).map_err(|_| Gone)
    }

    /// Whether the thread gets round to a job within `patience`.
    pub async fn is_responsive(&self, patience: Duration) -> bool {
        matches!(tokio::time::timeout(patience, self.run(|_| ())).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_run_in_order_on_what_the_worker_owns() {
        let worker = Worker::start("test", Vec::new()).unwrap();
        for n in 0..10 {
            worker.run(move |list: &mut Vec<i32>| list.push(n)).await.unwrap();
        }
        assert_eq!(worker.run(|list| list.clone()).await.unwrap(), (0..10).collect::<Vec<_>>());
        assert!(worker.is_responsive(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn what_cannot_wait_comes_before_all_that_waits() {
        let worker = Worker::start("test", Vec::new()).unwrap();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        worker.send(move |_| gate.recv().unwrap()).unwrap();
        for n in 0..100 {
            worker.send(move |list: &mut Vec<i32>| list.push(n)).unwrap();
        }
        let first = worker.run_first(|list| list.clone());
        let release = async { go.send(()).unwrap() };
        let (before, ()) = tokio::join!(first, release);
        assert_eq!(before.unwrap(), Vec::<i32>::new());
        assert_eq!(worker.run(|list| list.len()).await.unwrap(), 100);
    }

    #[tokio::test]
    async fn a_panicking_job_is_an_error_for_whoever_waits_and_for_all_after_it() {
        let worker = Worker::start("test", ()).unwrap();
        assert!(worker.run(|()| panic!("on purpose")).await.is_err());
        assert!(worker.run(|()| ()).await.is_err());
    }
}
