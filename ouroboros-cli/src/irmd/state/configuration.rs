//! What a daemon has, as its configuration file would say it. Not here: what a file may
//! say (`configuration`).

use ouroboros::daemon::protocol::{Request, Security, text_of_path};

use super::{NameState, State, lock};
use crate::configuration::{Configuration, Ipcp, Policy};

impl State {
    /// What there is. IPCPs that are in no layer, and bindings of processes, are in no
    /// file: they are not told.
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
                let request = created(name.to_string(), state);
                found.names.insert(name.to_string(), Policy { line: 0, request });
            }
        }
        found
    }

    /// Keeps what the file says, to tell it.
    pub(in crate::irmd) fn set_from_file(&self, configuration: Configuration) {
        *lock(&self.from_file) = configuration;
    }
}

/// The request that creates the name as it is.
fn created(name: String, state: &NameState) -> Request {
    let policy = state.policy.clone();
    let path = |path: std::path::PathBuf| text_of_path(&path);
    Request::CreateName {
        name,
        server: policy.server.map(Security::Suite),
        client: policy.client.map(Security::Suite),
        authentication: policy.authentication,
        native: policy.native,
        key: policy.key.map(path),
        certificate: policy.certificate.map(path),
    }
}
