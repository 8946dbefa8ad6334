//! The clients of names that have them in a file: listed, renamed, revoked, invited, and
//! taken up when they prove an invitation. The file is the only place that says who is a
//! client; what is done here is in force when it is answered.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use ouroboros::{
    LayerError,
    crypto::identity::Fingerprint,
    daemon::{
        protocol::{ClientRow, Response},
        security::{Authentication, NamePolicy},
    },
    proto::{
        hub::IpNet,
        negotiation::{Invited, Joining},
    },
    trust::{ClientEntry, ClientName, ClientsFile},
    wire::Name,
};

use super::{super::policy, Error, Outcome, State, Tables};
use crate::now;

impl State {
    /// Has clients that prove an invitation become clients, for as long as `state` is
    /// there.
    pub(in crate::irmd) fn admit_invited(state: &Arc<Self>) {
        let weak: Weak<Self> = Arc::downgrade(state);
        let admit = move |name: &Name, joining: Joining| {
            weak.upgrade().is_some_and(|state| state.admit(name, joining))
        };
        // It hosts the layers itself, so that this cannot fail.
        let _ = state.irm.set_admission(admit);
    }

    pub(super) async fn serve_clients(&self, name: &str) -> Outcome {
        let parsed: Name = name.parse()?;
        let created = self.tables().names.get(&parsed).is_some_and(|state| state.created);
        if !created {
            // It names a file.
            let file = format!("{}.clients", client_name(name)?);
            let file = ClientsFile::at(self.trust()?.path().join(file));
            file.create()?;
            let authentication = Authentication::Keys(file.path().to_owned());
            let policy = NamePolicy { authentication, native: true, ..NamePolicy::default() };
            self.put_policy(parsed.clone(), policy)?;
        }
        for layer in self.irm.layers() {
            if !layer.names().contains(&parsed) {
                layer.register(name).await?;
            }
        }
        Ok(Response::Done)
    }

    pub(super) fn list_clients(&self, name: Option<&str>, key: Option<&str>) -> Outcome {
        let only: Option<Fingerprint> = key.map(str::parse).transpose()?;
        let is_wanted = |key: &Fingerprint| only.is_none_or(|only| *key == only);
        let files = match name {
            Some(_) => vec![self.clients_file(name)?],
            None => files(&self.tables()),
        };
        let mut peers: HashMap<(String, String), Vec<String>> = HashMap::new();
        self.flows.for_each(|flow| {
            let key = flow.identity.as_ref().map(|peer| peer.fingerprint);
            if let Some(key) = key.filter(is_wanted) {
                let of_client = (flow.name.clone(), key.to_string());
                peers.entry(of_client).or_default().push(flow.peer.clone());
            }
        });
        let mut rows = Vec::new();
        for (service, file) in files {
            let entries = self.entries(&service, &file)?;
            for entry in entries.iter().filter(|entry| is_wanted(&entry.key)) {
                let of_client = (service.to_string(), entry.key.to_string());
                let peers = peers.get(&of_client).cloned().unwrap_or_default();
                let (service, key) = of_client;
                rows.push(ClientRow {
                    service,
                    name: entry.name.clone(),
                    key,
                    prefixes: entry.prefixes.iter().map(ToString::to_string).collect(),
                    invited_until: entry.invited_until,
                    peers,
                });
            }
        }
        Ok(Response::Clients(rows))
    }

    /// The lines of the clients' file of `name`, which are read again only when it has changed:
    /// each client that comes has its own looked up.
    fn entries(&self, name: &Name, file: &ClientsFile) -> Result<Arc<[ClientEntry]>, Error> {
        // Before it is read: what changes meanwhile is read again.
        let stamp = policy::stamp(file.path());
        let known = self.tables().names.get(name).and_then(|state| state.clients.clone());
        if let Some((_, entries)) = known.filter(|(known, _)| *known == stamp) {
            return Ok(entries);
        }
        let entries: Arc<[_]> = file.entries()?.into();
        if let Some(state) = self.tables().names.get_mut(name) {
            let settled = !policy::are_fresh(&[stamp]);
            state.clients = settled.then(|| (stamp, entries.clone()));
        }
        Ok(entries)
    }

    pub(super) fn rename_client(&self, name: Option<&str>, client: &str, to: &str) -> Outcome {
        let (_, file) = self.clients_file(name)?;
        file.rename(client, &client_name(to)?)?;
        Ok(Response::Done)
    }

    pub(super) fn revoke_client(&self, name: Option<&str>, client: &str) -> Outcome {
        let (service, file) = self.clients_file(name)?;
        file.revoke(client)?;
        self.read_clients_again(&service);
        tracing::info!(name = %service, client, "a client is revoked");
        Ok(Response::Done)
    }

    pub(super) fn invite_client(
        &self,
        name: Option<&str>,
        client: &str,
        key: &str,
        until: u64,
        prefixes: &[String],
    ) -> Outcome {
        let (service, file) = self.clients_file(name)?;
        let key: Fingerprint = key.parse()?;
        let prefix = |text: &String| {
            text.parse::<IpNet>().map_err(|_| Error::Prefix(text.escape_debug().to_string()))
        };
        let prefixes: Vec<_> = prefixes.iter().map(prefix).collect::<Result<_, _>>()?;
        file.invite(&client_name(client)?, Invited { key, until }, &prefixes, now())?;
        self.read_clients_again(&service);
        let server_key = self.server_key(&service)?;
        tracing::info!(name = %service, client, "a client is invited");
        Ok(Response::Invited { name: service.to_string(), server_key })
    }

    /// Makes a client of an invited one; whether it is one.
    fn admit(&self, name: &Name, joining: Joining) -> bool {
        let Joining { invitation, client } = joining;
        let file = files(&self.tables()).into_iter().find(|(known, _)| known == name);
        let Some((_, file)) = file else { return false };
        if let Err(reason) = file.join(invitation, client, now()) {
            tracing::warn!(%name, %client, %reason, "a client cannot join");
            return false;
        }
        self.read_clients_again(name);
        tracing::info!(%name, %client, "a client has joined by its invitation");
        true
    }

    /// Has what is in the clients' file now be in force.
    fn read_clients_again(&self, name: &Name) {
        if let Some(state) = self.tables().names.get_mut(name) {
            state.stamps.clear();
        }
        self.refresh();
    }

    /// The fingerprint of the key that the server of `name` shows.
    fn server_key(&self, name: &Name) -> Result<String, Error> {
        let tables = self.tables();
        let own = tables.names.get(name).and_then(|state| state.own.as_ref());
        let identity = own.and_then(|own| own.identity.as_ref());
        let key = identity.map(|identity| identity.fingerprint().to_string());
        key.ok_or_else(|| LayerError::NoSuchName(name.to_string()).into())
    }

    /// The clients' file of `name`; of the only name that has one, if there is no name.
    fn clients_file(&self, name: Option<&str>) -> Result<(Name, ClientsFile), Error> {
        let mut files = files(&self.tables());
        match name {
            Some(name) => {
                let parsed: Name = name.parse()?;
                let found = files.into_iter().find(|(known, _)| *known == parsed);
                found.ok_or_else(|| Error::NoClientsFile(name.to_owned()))
            }
            None if files.len() > 1 => {
                let names: Vec<_> = files.iter().map(|(name, _)| name.to_string()).collect();
                Err(Error::SeveralClientsFiles(names.join(", ")))
            }
            None => files.pop().ok_or(Error::NoClientsFiles),
        }
    }
}

/// The names that have their clients in a file.
fn files(tables: &Tables) -> Vec<(Name, ClientsFile)> {
    let file = |policy: &NamePolicy| match &policy.authentication {
        Authentication::Keys(path) => Some(ClientsFile::at(path)),
        _ => None,
    };
    let names = tables.names.iter();
    names.filter_map(|(name, state)| Some((name.clone(), file(&state.policy)?))).collect()
}

fn client_name(text: &str) -> Result<ClientName, Error> {
    text.parse().map_err(|error| Error::ClientName(text.escape_debug().to_string(), error))
}
