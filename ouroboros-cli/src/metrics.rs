//! Metrics in the text format 0.0.4 of Prometheus. Not here: how they are served (`http`),
//! what is counted.

use std::fmt::{Display, Write};

use crate::http::Page;

/// Text that grows by one family of samples after the other.
#[derive(Clone, Debug, Default)]
pub struct Metrics(String);

/// The kind of a family's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They grow until the process ends.
    Counter,
    /// They go up and down.
    Gauge,
}

/// The labels of a sample: names and values.
pub type Labels<'a> = [(&'a str, &'a str)];

impl Metrics {
    /// Adds a family: its samples, each with its labels and its value. Nothing if there are
    /// no samples.
    pub fn family<'a, V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (&'a Labels<'a>, V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let text = &mut self.0;
        // A text takes everything.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            text.push_str(name);
            for (at, (label, value)) in labels.iter().enumerate() {
                let value = escaped(value);
                let _ = write!(text, "{}{label}=\"{value}\"", if at == 0 { '{' } else { ',' });
            }
            let end = if labels.is_empty() { "" } else { "}" };
            let _ = writeln!(text, "{end} {value}");
        }
    }

    /// The page that a scraper reads.
    #[must_use]
    pub fn page(self) -> Page {
        Page { content_type: "text/plain; version=0.0.4; charset=utf-8", body: self.0 }
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_help_type_and_samples_with_escaped_labels() {
        let mut metrics = Metrics::default();
        metrics.family("o_flows", Kind::Gauge, "Flows.", [(&[][..], 3)]);
        let labels = [("name", "a\"b\\c\nd"), ("peer", "udp 10.0.0.1:1")];
        metrics.family("o_bytes_total", Kind::Counter, "Bytes.", [(&labels[..], 0.5)]);
        metrics.family("o_nothing", Kind::Gauge, "None.", [(&[][..], 1); 0]);
        let expected = "# HELP o_flows Flows.\n# TYPE o_flows gauge\no_flows 3\n\
             # HELP o_bytes_total Bytes.\n# TYPE o_bytes_total counter\n\
             o_bytes_total{name=\"a\\\"b\\\\c\\nd\",peer=\"udp 10.0.0.1:1\"} 0.5\n";
        assert_eq!(metrics.page().body, expected);
    }
}
