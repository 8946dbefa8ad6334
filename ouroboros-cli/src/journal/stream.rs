//! Log lines as the journal of systemd takes them from a stream: with their priority in
//! front (sd-daemon(3)), and without a time, which the journal has itself.

use std::{env, fmt, os::fd::AsFd};

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Writer},
    },
    registry::LookupSpan,
};

/// Returns `true` if the service manager says that this stream goes to the journal
/// (`JOURNAL_STREAM`, systemd.exec(5)).
pub(crate) fn is_behind(stream: impl AsFd) -> bool {
    let Ok(status) = fstat(stream) else { return false };
    let said = env::var("JOURNAL_STREAM").unwrap_or_default();
    said == format!("{}:{}", status.st_dev, status.st_ino)
}

/// Formats events for the journal.
pub(crate) struct Prefixed(Format<Full, ()>);

impl Prefixed {
    pub(crate) fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// The priority of syslog(3).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
