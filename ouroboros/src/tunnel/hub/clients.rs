//! The clients of a hub, by number and by identity. Not here: their prefixes (`core`).

use std::collections::HashMap;

use super::{ClientId, client::Shared};
use crate::{flow::FlowInfo, wire::Name};

/// An identity under a name: the fingerprint's bytes.
type Identity = (Vec<u8>, Name);

/// Those that are there.
#[derive(Default)]
pub(super) struct Clients {
    by_id: HashMap<ClientId, Shared>,
    by_identity: HashMap<Identity, ClientId>,
}

impl Clients {
    pub(super) fn insert(&mut self, client: &Shared) {
        if let Some(identity) = identity(&client.info) {
            self.by_identity.insert(identity, client.id);
        }
        self.by_id.insert(client.id, client.clone());
    }

    pub(super) fn remove(&mut self, client: &Shared) {
        self.by_id.remove(&client.id);
        if let Some(identity) = identity(&client.info)
            && self.by_identity.get(&identity) == Some(&client.id)
        {
            self.by_identity.remove(&identity);
        }
    }

    pub(super) fn by_id(&self, client: ClientId) -> Option<Shared> {
        self.by_id.get(&client).cloned()
    }

    /// The client that has the identity of `info` under the same name.
    pub(super) fn by_identity(&self, info: &FlowInfo) -> Option<Shared> {
        self.by_id(*self.by_identity.get(&identity(info)?)?)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Shared> {
        self.by_id.values()
    }
}

fn identity(info: &FlowInfo) -> Option<Identity> {
    let identity = info.identity.as_ref()?;
    Some((identity.fingerprint.as_bytes().to_vec(), info.name.clone()))
}
