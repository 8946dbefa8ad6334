//! The connection on which a daemon knows of a flow whose packets do not pass it: frames from
//! elsewhere and a revocation come on it. The flow outlives the daemon; the next one is told
//! of it on another connection. Not here: the messages (`control`, `protocol`).

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_io::Timer;

use super::{
    Connection, DaemonError, Failure,
    client::{ANSWER_TIMEOUT, exchange},
    protocol::{ReportedFlow, Request, Response},
};
use crate::sync::lock;

/// How often to look whether the daemon is back.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// The control channel of a flow.
pub(super) struct Channel {
    path: PathBuf,
    flow: ReportedFlow,
    /// `None`: the flow has ended.
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Channel {
    /// The channel of `flow`, which the daemon at `path` has granted on `connection`.
    pub(super) fn new(path: &Path, flow: ReportedFlow, connection: Arc<Connection>) -> Self {
        Self { path: path.to_owned(), flow, connection: Mutex::new(Some(connection)) }
    }

    /// Returns the present connection; `None`: the flow has ended.
    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        lock(&self.connection).clone()
    }

    /// The flow has ended: the daemon is told by the connection's end.
    pub(super) fn end(&self) {
        if let Some(connection) = lock(&self.connection).take() {
            connection.end();
        }
    }

    /// Waits for the next daemon, tells it of the flow and returns the connection; `None`: the
    /// flow has ended, or that daemon does not take it.
    pub(super) async fn report(&self) -> Option<Arc<Connection>> {
        while self.connection().is_some() {
            match self.report_once().await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    let mut present = lock(&self.connection);
                    // It may have ended meanwhile; then the connection does, too.
                    *present.as_mut()? = connection.clone();
                    return Some(connection);
                }
                Err(
                    DaemonError::NotRunning(_)
                    | DaemonError::NotAnswering(_)
                    | DaemonError::Lost(_)
                    | DaemonError::Busy,
                ) => {}
                Err(error) => {
                    tracing::warn!(name = %self.flow.info.name, %error,
                        "irmd does not take a flow that has outlived the one before");
                    return None;
                }
            }
            Timer::after(RETRY).await;
        }
        None
    }

    async fn report_once(&self) -> Result<Connection, DaemonError> {
        let request = Request::ReportFlow(Box::new(self.flow.clone()));
        let ((response, _), connection) = exchange(&self.path, &request, ANSWER_TIMEOUT).await?;
        match response {
            Response::Done => Ok(connection),
            Response::Error(Failure::Daemon(error)) => Err(error),
            Response::Error(failure) => Err(DaemonError::Refused(failure.to_string())),
            _ => Err(DaemonError::Unexpected),
        }
    }
}
