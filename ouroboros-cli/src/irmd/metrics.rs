//! The counters of a daemon, as metrics. Not here: serving them (`http`).

use super::State;
use crate::{
    http::Page,
    metrics::{Kind, Metrics},
};

/// The metrics of the daemon now.
#[must_use]
pub fn page(state: &State) -> Page {
    let mut metrics = Metrics::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    metrics.family("irmd_info", Kind::Gauge, "The daemon.", [(&version[..], 1)]);
    let layers = state.irm.layers();
    let counts: Vec<_> =
        layers.iter().map(|layer| ([("layer", layer.name())], layer.ipcps().len())).collect();
    let counts = counts.iter().map(|(labels, count)| (&labels[..], *count));
    metrics.family("irmd_ipcps", Kind::Gauge, "IPCPs of a layer.", counts);
    let counts: Vec<_> =
        layers.iter().map(|layer| ([("layer", layer.name())], layer.names().len())).collect();
    let counts = counts.iter().map(|(labels, count)| (&labels[..], *count));
    metrics.family("irmd_names", Kind::Gauge, "Names registered in a layer.", counts);
    let flows = state.flows.list();
    let relayed = flows.iter().filter(|flow| flow.relayed).count();
    let (handed, kept) = ([("packets", "handed over")], [("packets", "relayed")]);
    let counts = [(&handed[..], flows.len() - relayed), (&kept[..], relayed)];
    metrics.family("irmd_flows", Kind::Gauge, "Flows that applications have.", counts);

    let ipcps: Vec<_> = layers.iter().flat_map(|layer| layer.ipcps()).collect();
    let mut dropped = Vec::new();
    for ipcp in &ipcps {
        let counters = ipcp.counters();
        for (cause, count) in [
            ("malformed", counters.malformed),
            ("unsupported", counters.unsupported),
            ("too weak", counters.too_weak),
            ("quality of service", counters.quality),
            ("not fresh", counters.not_fresh),
            ("clocks differ", counters.clocks),
            ("beyond a limit", counters.over_limit),
            ("cookie asked for", counters.cookies),
            ("unauthorized", counters.unauthorized),
            ("unknown name", counters.unknown_name),
            ("unexpected", counters.unexpected),
            ("bad reply", counters.bad_replies),
            ("unanswered", counters.unanswered),
        ] {
            dropped.push(([("ipcp", ipcp.name()), ("cause", cause)], count));
        }
    }
    let dropped = dropped.iter().map(|(labels, count)| (&labels[..], *count));
    let help = "Management messages that an IPCP has dropped.";
    metrics.family("irmd_management_dropped_total", Kind::Counter, help, dropped);
    metrics.page()
}
