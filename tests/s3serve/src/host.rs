//! A runtime on a thread of its own, so that a blocking test can have a server beside it.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// Threads of a runtime.
const THREADS: usize = 2;
/// How long the end of a host waits for what blocks (writing and reading files of bodies).
const END: Duration = Duration::from_secs(5);

/// Tells tasks that the end has come.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when the host stops.
    pub async fn wait(&mut self) {
        // an error says that the host is gone, which is the same
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// The thread; stopped when dropped.
pub struct Host {
    stop: watch::Sender<bool>,
    runtime: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts a thread with a runtime that lives until the host is dropped.
    pub fn start(name: &str) -> io::Result<Host> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name(name)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, mut end) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let _ = end.wait_for(|stop| *stop).await;
                });
                // tasks end at their next await
                runtime.shutdown_timeout(END);
            })?;
        Ok(Host {
            stop,
            runtime: handle,
            thread: Some(thread),
        })
    }
    /// A sign of the end, for tasks.
    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }
    /// A socket that listens.
    pub fn listen(&self, at: std::net::SocketAddr) -> io::Result<TcpListener> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let _runtime = self.runtime.enter();
        TcpListener::from_std(listener)
    }
    /// Runs a task until it ends or the host stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stop = self.stop();
        self.runtime.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.wait() => {}
            }
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // a panic in there has failed its own request already
            let _ = thread.join();
        }
    }
}
