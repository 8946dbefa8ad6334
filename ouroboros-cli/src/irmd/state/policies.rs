//! The policies of names: set, demanded beyond by programs, read again when their files
//! have changed, and applied to what is accepted, to what is allocated and to the flows
//! that there are. Not here: what a policy's files come to (`irmd::policy`).

use ouroboros::{
    FlowSpec, RawFlow, Trust,
    daemon::{
        protocol::Response,
        security::{FlowSecurity, NameDemands, NamePolicy},
    },
    trust::{Pin, TrustError, TrustFolder},
    wire::Name,
};

use super::{
    super::policy::{self, Allocation, Files},
    Error, NameState, Outcome, Process, State,
};

impl State {
    /// Returns if the policy can be had.
    ///
    /// # Errors
    ///
    /// It cannot, as [`Error`] says.
    pub(in crate::irmd) fn check_policy(
        &self,
        name: &Name,
        policy: &NamePolicy,
    ) -> Result<(), Error> {
        self.files()?.accepted(policy, name, None).map(drop)
    }

    /// Creates the name, or changes its policy if it is there: its registrations and
    /// bindings stay, and flows that do not fit any more end.
    ///
    /// # Errors
    ///
    /// The policy cannot be had; then nothing has changed.
    pub(in crate::irmd) fn put_policy(&self, name: Name, policy: NamePolicy) -> Outcome {
        let files = self.files()?;
        let stamps = files.stamps(&policy);
        let accepted = files.accepted(&policy, &name, None)?;
        let mut tables = self.tables();
        let known = tables.names.entry(name.clone()).or_default();
        (known.created, known.policy, known.stamps) = (true, policy, stamps);
        (known.own, known.clients) = (Some(accepted), None);
        known.flaws.clear();
        self.apply(&name, known);
        Ok(Response::Done)
    }

    /// Reads the files of trust that have changed. Flows that were accepted and are
    /// not allowed any more end.
    pub fn refresh(&self) {
        self.untaken.close_expired();
        let Ok(files) = self.files() else { return };
        let mut tables = self.tables();
        for (name, state) in &mut tables.names {
            let had = state.demands.len();
            state.demands.retain(|_, (process, _)| process.lives());
            // Before the files are read: what changes meanwhile is read again.
            let stamps = files.stamps(&state.policy);
            if stamps != state.stamps {
                let last = state.own.as_ref().map(|own| (own, &mut state.flaws));
                let accepted = files.accepted(&state.policy, name, last);
                state.own = Some(accepted.unwrap_or_else(|reason| {
                    tracing::error!(%name, %reason, "a file of trust cannot be used");
                    state.own.take().unwrap_or_else(|| policy::without_files(&state.policy))
                }));
                state.stamps = if policy::are_fresh(&stamps) { Vec::new() } else { stamps };
            } else if state.demands.len() == had {
                // Certificates age, though no file changes.
                let own = state.own.as_ref();
                if let Some(own) = own.filter(|own| matches!(own.clients, Trust::Authorities(_))) {
                    self.flows.revoke_unless(name, own);
                }
                continue;
            }
            self.apply(name, state);
        }
    }

    /// Reads all files of trust, changed or not.
    pub fn reload(&self) {
        for state in self.tables().names.values_mut() {
            state.stamps.clear();
        }
        self.refresh();
    }

    /// Demands of flows to a name what process `pid` says, beyond the name's policy.
    ///
    /// # Errors
    ///
    /// It makes no sense, or cannot be had together with the policy.
    pub(in crate::irmd) fn demand(&self, pid: u32, demands: &[NameDemands]) -> Result<(), Error> {
        for NameDemands { name, security } in demands {
            let mut tables = self.tables();
            let state = tables.names.entry(name.clone()).or_default();
            let own = state.own.clone().unwrap_or_else(|| policy::without_files(&state.policy));
            policy::both(name, &own, security)?;
            let same = state
                .demands
                .get(&pid)
                .is_some_and(|(process, known)| process.lives() && known == security);
            if !same {
                state.demands.insert(pid, (Process::with_id(pid)?, security.clone()));
                self.apply(name, state);
            }
        }
        Ok(())
    }

    /// Has the name's policy, and what is demanded beyond it, hold for what is
    /// accepted and for the flows that there are.
    fn apply(&self, name: &Name, state: &NameState) {
        let own = state.own.clone().unwrap_or_else(|| policy::without_files(&state.policy));
        let all = state
            .demands
            .values()
            .try_fold(own.clone(), |all, (_, demanded)| policy::both(name, &all, demanded));
        let security = all.unwrap_or_else(|reason| {
            tracing::error!(%reason, "no flow is accepted: what the policy and the programs demand contradicts itself");
            own.clients(Trust::Keys(Vec::new()))
        });
        // It hosts the layers itself, so that this cannot fail. First, so that a flow which
        // is admitted meanwhile meets the one or the other.
        let _ = self.irm.set_policy(name.clone(), security.clone());
        self.flows.revoke_unless(name, &security);
    }

    pub(super) fn trust(&self) -> Result<TrustFolder, Error> {
        Ok(self.trust.clone().map_or_else(TrustFolder::of_user, Ok)?)
    }

    fn files(&self) -> Result<Files<'_>, Error> {
        Ok(Files { folder: self.trust()?, keys: &self.keys })
    }

    /// Allocates a flow to `name`, as the application says and as the name has
    /// it here. A server that is met for the first time is known from then on.
    ///
    /// # Errors
    ///
    /// As [`Error`] says.
    pub async fn allocate(
        &self,
        name: &Name,
        spec: FlowSpec,
        asked: Option<&FlowSecurity>,
    ) -> Result<RawFlow, Error> {
        let files = self.files()?;
        let policy = self.tables().names.get(name).map(|state| state.policy.clone());
        let Allocation { spec, remembered } =
            files.allocated(&policy.unwrap_or_default(), name, spec, asked)?;
        let known = files.folder.known_names();
        let mut flow = self.irm.allocate_raw(name, spec).await.map_err(|error| {
            let changed = error.untrusted_key().filter(|_| remembered);
            let changed = changed.and_then(|shown| known.check(name, shown).err());
            match changed {
                Some(changed) => error.advise(changed.to_string()),
                None => error,
            }
        })?;
        if let Some(peer) = &flow.info.identity {
            let next = files.folder.next_keys().shown(name, peer.fingerprint).and_then(|is_next| {
                if is_next && remembered { known.add(name, peer.fingerprint) } else { Ok(()) }
            });
            if let Err(error) = next {
                tracing::error!(%name, %error, "that the server shows its next key is not kept");
            }
        }
        if let Some(peer) = flow.info.identity.as_ref().filter(|_| remembered) {
            let met = known.verify_or_pin(name, peer.fingerprint);
            match met {
                Ok(met) => flow.info.first_use = met == Pin::New,
                // First use is allowed, or there would be no flow: this one is as good
                // as one that is written down.
                Err(error @ TrustError::Io(..)) => {
                    tracing::error!(
                        %name, %error, key = %peer.fingerprint,
                        "the server cannot be remembered: whoever answers next is taken for it, \
                         unless its key is given (ovpn --server-key)"
                    );
                    (flow.info.first_use, flow.info.remembered) = (true, false);
                }
                Err(error) => return Err(Error::Remember(name.to_string(), error)),
            }
        }
        Ok(flow)
    }
}
