//! The state of a daemon as its configuration file would have it. Not here: what a file may say
//! (`configuration`).

use ouroboros::sync::lock;

use super::State;
use crate::configuration::{Configuration, Ipcp, PlacedPolicy};

impl State {
    /// Returns the configuration. IPCPs that are in no layer, and bindings of processes, are in
    /// no file, and left out.
    pub(in crate::irmd) fn configuration(&self) -> Configuration {
        let mut found = Configuration::default();
        for layer in self.irm.layers() {
            let called = layer.name().to_owned();
            for name in layer.names() {
                found.registrations.insert((name.to_string(), called.clone()));
            }
            for ipcp in layer.ipcps() {
                let transport = self.tables().transports.get(ipcp.name()).cloned();
                let Some(transport) = transport else { continue };
                let ipcp = (ipcp.name().to_owned(), Ipcp::new(called.clone(), transport));
                found.ipcps.extend([ipcp]);
            }
        }
        for (name, state) in &self.tables().names {
            let programs = state.programs.iter().map(|path| (name.to_string(), path.clone()));
            found.programs.extend(programs);
            if state.created {
                let policy = state.policy.clone();
                found.names.insert(name.to_string(), PlacedPolicy { line: 0, policy });
            }
        }
        found
    }

    /// Keeps what the file says, to tell it.
    pub(in crate::irmd) fn set_from_file(&self, configuration: Configuration) {
        *lock(&self.from_file) = configuration;
    }
}
