//! Assignment of the addresses of a server's network. No I/O: `server` drives it.
//!
//! A client is its identity, or, without one, its flow. What it says of its
//! addresses is a wish, and granted where the address is free. Where a client
//! without an identity has it, that one is to be asked whether it is still there.
//! A client that cannot say (an older one) is sent everything as long as it is the
//! only one, and so is one that has chosen its address itself: a tunnel of two
//! ends. As soon as there are two, each has its own addresses, and one that cannot
//! say what is left of the network.
//!
//! An event costs what it changes, however many clients there are: who may be concerned
//! is in sets of its own, and whose prefixes may have changed is noted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ouroboros::{
    ClientId, FlowInfo,
    proto::hub::{AddressPool, Assignment, IpNet},
};

/// The server's network, and the clients that are there.
pub(super) struct Network {
    nets: Vec<IpNet>,
    pool: AddressPool<Holder>,
    clients: BTreeMap<ClientId, Member>,
    /// How many of the clients each holder is: a machine may be there twice for a moment.
    connected: HashMap<Holder, usize>,
    /// Those that have not asked: the last of them has what is left, one that lives before
    /// others.
    silent: BTreeSet<(bool, ClientId)>,
    /// Those that have less than they asked for.
    lacking: BTreeSet<ClientId>,
    /// The networks behind clients; of several with the same one, the first has it.
    behind: BTreeMap<IpNet, BTreeSet<ClientId>>,
    /// Those whose prefixes may have changed.
    changed: BTreeSet<ClientId>,
    /// Networks that have come behind a client, or are behind none any more.
    behind_changed: BTreeSet<IpNet>,
    unsaved: Unsaved,
}

/// The key of an assignment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Holder {
    /// An identity under a name: it comes back.
    Known(String),
    /// A client without an identity.
    Passing(ClientId),
}

/// What of the assignments the file does not have yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unsaved {
    /// Nothing.
    #[default]
    Nothing,
    /// Times of use only: they decide who loses an address once all are given.
    Times,
    /// Addresses.
    Addresses,
}

struct Member {
    holder: Holder,
    /// The addresses that it has or would like.
    asked: Option<Vec<IpNet>>,
    /// Its own.
    granted: Vec<IpAddr>,
    /// Those of the server's network that it is to have, and no others of their families.
    fixed: Vec<IpAddr>,
    /// Networks behind it.
    behind: BTreeSet<IpNet>,
    /// Something has come from it.
    heard: bool,
}

/// All addresses.
pub(super) fn everything() -> Vec<IpNet> {
    ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).collect()
}

/// The answer to a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Grant {
    /// The client's addresses, with the networks that they are in.
    pub(super) addresses: Vec<IpNet>,
    /// Addresses that it asked for in vain.
    pub(super) refused: Vec<IpAddr>,
    /// Those that have them and are known by no identity: they may be gone, and the
    /// client that asks may be one of them.
    pub(super) holders: Vec<ClientId>,
}

impl Network {
    /// The network that a server with these addresses is in.
    pub(super) fn new(nets: Vec<IpNet>) -> Self {
        let v4 = nets.iter().find_map(|net| match net {
            IpNet::V4(v4) => Some(*v4),
            IpNet::V6(_) => None,
        });
        let v6 = nets.iter().find_map(|net| match net {
            IpNet::V6(v6) => Some(*v6),
            IpNet::V4(_) => None,
        });
        let reserved: Vec<_> = nets.iter().map(IpNet::addr).collect();
        let pool = AddressPool::new(v4, v6, &reserved);
        Self {
            nets,
            pool,
            clients: BTreeMap::new(),
            connected: HashMap::new(),
            silent: BTreeSet::new(),
            lacking: BTreeSet::new(),
            behind: BTreeMap::new(),
            changed: BTreeSet::new(),
            behind_changed: BTreeSet::new(),
            unsaved: Unsaved::Nothing,
        }
    }

    /// Takes up what was remembered.
    pub(super) fn restore(&mut self, leases: Vec<(String, Assignment)>) {
        let known = |(key, assignment)| (Holder::Known(key), assignment);
        self.pool.restore(leases.into_iter().map(known));
    }

    /// Returns the assignments to be remembered: those of clients that can come back.
    pub(super) fn leases(&self) -> Vec<(&str, &Assignment)> {
        let assignments = self.pool.assignments();
        let known = assignments.filter_map(|(holder, assignment)| match holder {
            Holder::Known(key) => Some((key.as_str(), assignment)),
            Holder::Passing(_) => None,
        });
        known.collect()
    }

    /// Returns what [`leases`](Self::leases) has changed in since the last call of
    /// [`set_saved`](Self::set_saved).
    pub(super) fn unsaved(&self) -> Unsaved {
        self.unsaved
    }

    /// The file has all of [`leases`](Self::leases).
    pub(super) fn set_saved(&mut self) {
        self.unsaved = Unsaved::Nothing;
    }

    /// A client has come.
    pub(super) fn joined(&mut self, client: ClientId, info: &FlowInfo) {
        let holder = match info.identity.as_ref() {
            // One machine may have several tunnels, by other names.
            Some(identity) => Holder::Known(format!("{} {}", identity.fingerprint, info.name)),
            None => Holder::Passing(client),
        };
        *self.connected.entry(holder.clone()).or_default() += 1;
        self.pool.set_connected(&holder, true);
        let (asked, granted, heard) = (None, Vec::new(), false);
        let (fixed, behind) = (Vec::new(), BTreeSet::new());
        let member = Member { holder, asked, granted, fixed, behind, heard };
        self.note_number_changes();
        self.clients.insert(client, member);
        self.note_number_changes();
        self.note_heir_changes();
        self.silent.insert((false, client));
        self.changed.insert(client);
    }

    /// A client has what its server's administrator has written: addresses of the
    /// server's network, and networks behind it.
    pub(super) fn assign(&mut self, client: ClientId, prefixes: Vec<IpNet>) {
        let inside = |prefix: &IpNet| {
            let host = prefix.prefix_len() == prefix.max_prefix_len();
            host && self.nets.iter().any(|net| net.contains(&prefix.addr()))
        };
        let (fixed, behind): (Vec<_>, Vec<_>) = prefixes.into_iter().partition(inside);
        let fixed: Vec<_> = fixed.iter().map(IpNet::addr).collect();
        let behind: BTreeSet<_> = behind.iter().map(IpNet::trunc).collect();
        let Some(member) = self.clients.get_mut(&client) else { return };
        member.fixed.clone_from(&fixed);
        let before = std::mem::replace(&mut member.behind, behind.clone());
        let holder = member.holder.clone();
        self.forget_behind(client, &before);
        for net in behind {
            let clients = self.behind.entry(net).or_default();
            self.changed.extend(clients.first());
            if clients.is_empty() {
                self.behind_changed.insert(net);
            }
            clients.insert(client);
        }
        self.changed.insert(client);
        // Who had one of them before, and is not there, gets another when it comes back.
        for address in fixed {
            let Some(former) = self.pool.holder(address) else { continue };
            if *former != holder && !self.connected.contains_key(former) {
                let former = former.clone();
                self.pool.release(&former);
                self.unsaved = Unsaved::Addresses;
            }
        }
    }

    fn forget_behind(&mut self, client: ClientId, nets: &BTreeSet<IpNet>) {
        for net in nets {
            let Some(clients) = self.behind.get_mut(net) else { continue };
            clients.remove(&client);
            self.changed.extend(clients.first());
            if clients.is_empty() {
                self.behind.remove(net);
                self.behind_changed.insert(*net);
            }
        }
    }

    /// Returns the networks that may have come behind a client or be behind none any more
    /// since the last call; `true`: there is a client.
    pub(super) fn take_behind_changed(&mut self) -> Vec<(IpNet, bool)> {
        let changed = std::mem::take(&mut self.behind_changed);
        changed.into_iter().map(|net| (net, self.behind.contains_key(&net))).collect()
    }

    /// A client has gone. One without an identity does not come back.
    pub(super) fn left(&mut self, client: ClientId) {
        self.note_number_changes();
        let Some(member) = self.clients.remove(&client) else { return };
        self.note_number_changes();
        self.silent.remove(&(member.heard, client));
        self.note_heir_changes();
        self.lacking.remove(&client);
        self.forget_behind(client, &member.behind);
        self.changed.remove(&client);
        if let Some(connected) = self.connected.get_mut(&member.holder) {
            *connected -= 1;
            if *connected == 0 {
                self.connected.remove(&member.holder);
                self.pool.set_connected(&member.holder, false);
            }
        }
        if matches!(member.holder, Holder::Passing(_)) {
            self.pool.release(&member.holder);
        }
    }

    /// Whether a client is alone decides what it has. Called before and after there is one
    /// more or less.
    fn note_number_changes(&mut self) {
        if self.clients.len() == 1 {
            self.changed.extend(self.clients.keys());
        }
    }

    /// Called before one is added that may be the last of the silent, and after one is removed.
    fn note_heir_changes(&mut self) {
        self.changed.extend(self.silent.last().map(|(_, client)| *client));
    }

    /// Clients that have not asked, and of which nothing has come yet.
    pub(super) fn unheard(&self) -> Vec<ClientId> {
        let unheard = self.silent.iter().take_while(|(heard, _)| !heard);
        unheard.map(|(_, client)| *client).collect()
    }

    /// Something has come from a client.
    pub(super) fn heard(&mut self, client: ClientId) {
        let Some(member) = self.clients.get_mut(&client) else { return };
        member.heard = true;
        if self.silent.remove(&(false, client)) {
            self.note_heir_changes();
            self.silent.insert((true, client));
            self.changed.insert(client);
        }
    }

    /// A client asks; `None`: it is not there. `now` is seconds since 1970.
    pub(super) fn requested(
        &mut self,
        client: ClientId,
        wanted: Vec<IpNet>,
        now: u64,
    ) -> Option<Grant> {
        let member = self.clients.get_mut(&client)?;
        member.asked = Some(wanted);
        if self.silent.remove(&(member.heard, client)) {
            self.note_heir_changes();
        }
        let grant = self.grant(client, now)?;
        let holder = |address: &IpAddr| match self.pool.holder(*address)? {
            Holder::Passing(holder) if *holder != client => Some(*holder),
            _ => None,
        };
        let holders: BTreeSet<_> = grant.refused.iter().filter_map(holder).collect();
        Some(Grant { holders: holders.into_iter().collect(), ..grant })
    }

    /// Grants what a client has asked for, as far as it is free.
    fn grant(&mut self, client: ClientId, now: u64) -> Option<Grant> {
        let member = self.clients.get_mut(&client)?;
        let wanted = member.asked.as_deref().unwrap_or_default();
        let mut grant = Grant::default();
        member.granted.clear();
        let (holder, fixed) = (&member.holder, &member.fixed);
        let before = self.pool.assignment(holder).map(|had| (had.v4, had.v6));
        let other = |address: &IpAddr| {
            fixed.iter().any(|own| own.is_ipv4() == address.is_ipv4()) && !fixed.contains(address)
        };
        let asked = wanted.iter().map(IpNet::addr);
        for address in asked.chain(fixed.iter().copied().filter(|_| wanted.is_empty())) {
            if other(&address) {
                grant.refused.push(address);
                continue;
            }
            match self.pool.assign_fixed(holder, now, address) {
                Ok(_) => member.granted.push(address),
                Err(_) => grant.refused.push(address),
            }
        }
        if wanted.is_empty()
            && let Ok(assignment) = self.pool.assign(holder, now)
        {
            member.granted.clear();
            member.granted.extend(assignment.v4.map(IpAddr::from));
            member.granted.extend(assignment.v6.map(IpAddr::from));
        }
        if matches!(holder, Holder::Known(_)) {
            let after = self.pool.assignment(holder).map(|has| (has.v4, has.v6));
            let unsaved = if before == after { Unsaved::Times } else { Unsaved::Addresses };
            self.unsaved = self.unsaved.max(unsaved);
        }
        let is_lacking = member.granted.is_empty() || wanted.len() > member.granted.len();
        if is_lacking {
            self.lacking.insert(client);
        } else {
            self.lacking.remove(&client);
        }
        self.changed.insert(client);
        let within = |address: &IpAddr| {
            let net = self.nets.iter().find(|net| net.contains(address))?;
            IpNet::new(*address, net.prefix_len()).ok()
        };
        grant.addresses = member.granted.iter().filter_map(within).collect();
        Some(grant)
    }

    /// Returns what a client has that has asked, after [`assign`](Self::assign).
    pub(super) fn granted_anew(&mut self, client: ClientId, now: u64) -> Option<Grant> {
        self.clients.get(&client)?.asked.as_ref()?;
        self.grant(client, now)
    }

    /// Clients that were refused something and get it now.
    pub(super) fn reconsider(&mut self, now: u64) -> Vec<(ClientId, Grant)> {
        let lacking = self.lacking.clone();
        let granted =
            lacking.into_iter().filter_map(|client| Some((client, self.grant(client, now)?)));
        granted
            .filter(|(_, grant)| grant.refused.is_empty() && !grant.addresses.is_empty())
            .collect()
    }

    /// Returns the prefixes that each client has now whose prefixes may have changed since
    /// the last call.
    pub(super) fn take_changed(&mut self) -> Vec<(ClientId, Vec<IpNet>)> {
        let changed = std::mem::take(&mut self.changed);
        let of = |client| Some((client, self.prefixes(client)?));
        changed.into_iter().filter_map(of).collect()
    }

    /// Has [`take_changed`](Self::take_changed) return a client once more.
    pub(super) fn note_changed(&mut self, client: ClientId) {
        self.changed.insert(client);
    }

    /// The prefixes of a client; `None`: it is not there.
    fn prefixes(&self, client: ClientId) -> Option<Vec<IpNet>> {
        let member = self.clients.get(&client)?;
        let mut prefixes: Vec<_> =
            member.granted.iter().map(|address| IpNet::from(*address)).collect();
        let has = |net: &&IpNet| self.behind.get(*net).and_then(BTreeSet::first) == Some(&client);
        prefixes.extend(member.behind.iter().filter(has));
        if self.silent.last().is_some_and(|(_, heir)| *heir == client) {
            prefixes.extend(self.nets.iter().map(IpNet::trunc));
        }
        let chose = member.asked.as_ref().is_none_or(|asked| !asked.is_empty());
        if self.clients.len() == 1 && chose {
            prefixes.extend(everything());
        }
        Some(prefixes)
    }
}

#[cfg(test)]
mod tests {
    use ouroboros::{
        Identity, PeerIdentity,
        crypto::{SystemEntropy, identity::IdentityKey},
        wire::{Eid, PeerAddress, QosSpec},
    };

    use ouroboros_testing::Random;

    use super::*;

    fn network() -> Network {
        Network::new(nets(&["10.9.0.1/24", "fd09::1/64"]))
    }

    fn info(host: u8, key: Option<&Identity>) -> FlowInfo {
        let peer = PeerAddress::Udp(([10, 0, 0, host], 1000).into());
        let name = "my_vpn".parse().expect("a name");
        let mut info = FlowInfo::new(name, peer, (Eid(1), Eid(2)), QosSpec::RAW);
        info.identity = key.map(|identity| PeerIdentity {
            fingerprint: identity.fingerprint(),
            common_name: "my_vpn".to_owned(),
            certified_until: None,
        });
        info
    }

    fn identity() -> Identity {
        let name = "my_vpn".parse().expect("a name");
        Identity::self_signed(IdentityKey::generate(&mut SystemEntropy), &name)
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn of(network: &Network, client: ClientId) -> Vec<IpNet> {
        network.prefixes(client).expect("there")
    }

    fn id(number: u64) -> ClientId {
        ClientId::from_number(number)
    }

    #[test]
    fn a_single_client_that_chose_its_address_has_everything_and_two_have_their_own() {
        let mut network = network();
        network.joined(id(1), &info(2, None));
        assert_eq!(of(&network, id(1)), nets(&["10.9.0.0/24", "fd09::/64", "0.0.0.0/0", "::/0"]));
        network.requested(id(1), nets(&["10.9.0.7/24"]), 1).expect("there");
        assert_eq!(of(&network, id(1)), nets(&["10.9.0.7/32", "0.0.0.0/0", "::/0"]));
        // One that cannot say gets what is left of the network.
        network.joined(id(2), &info(3, None));
        assert_eq!(of(&network, id(1)), nets(&["10.9.0.7/32"]));
        assert_eq!(of(&network, id(2)), nets(&["10.9.0.0/24", "fd09::/64"]));
        // Of two of them the one that lives.
        network.joined(id(3), &info(4, None));
        network.heard(id(2));
        assert_eq!(of(&network, id(2)), nets(&["10.9.0.0/24", "fd09::/64"]));
        assert_eq!(of(&network, id(3)), []);
    }

    #[test]
    fn a_client_that_starts_anew_and_cannot_say_takes_the_place_of_its_former_flow() {
        let mut network = network();
        let own = nets(&["10.9.0.0/24", "fd09::/64"]);
        network.joined(id(1), &info(2, None));
        network.heard(id(1));
        // From the same host: the former flow has not ended, since no 0.23 client says so.
        network.joined(id(2), &info(2, None));
        assert_eq!(of(&network, id(1)), own, "nothing has come from the new one");
        network.heard(id(2));
        assert_eq!((of(&network, id(1)), of(&network, id(2))), (Vec::new(), own));
        network.left(id(1));
        assert!(of(&network, id(2)).contains(&nets(&["0.0.0.0/0"])[0]));
    }

    #[test]
    fn a_client_that_asks_the_server_never_has_more_than_its_own() {
        let mut network = network();
        network.joined(id(1), &info(2, None));
        let grant = network.requested(id(1), Vec::new(), 1).expect("there");
        assert_eq!(grant.addresses, nets(&["10.9.0.2/24", "fd09::2/64"]));
        assert_eq!(of(&network, id(1)), nets(&["10.9.0.2/32", "fd09::2/128"]));
    }

    #[test]
    fn a_client_has_what_is_written_for_it_and_who_had_that_before_has_not() {
        let (mut network, alice, bob) = (network(), identity(), identity());
        // Bob had it, and is away.
        network.joined(id(1), &info(2, Some(&bob)));
        network.requested(id(1), nets(&["10.9.0.7/24"]), 1).expect("there");
        network.left(id(1));
        network.joined(id(2), &info(3, Some(&alice)));
        let behind = nets(&["10.9.0.7/32", "172.16.2.1/24", "fd16::/64"]);
        network.assign(id(2), behind);
        let grant = network.requested(id(2), Vec::new(), 2).expect("there");
        assert_eq!(grant.addresses, nets(&["10.9.0.7/24", "fd09::2/64"]));
        let all = ["10.9.0.7/32", "fd09::2/128", "172.16.2.0/24", "fd16::/64"];
        assert_eq!(of(&network, id(2)), nets(&all));
        let behind = |text: &str| (nets(&[text])[0], true);
        let expected = [behind("172.16.2.0/24"), behind("fd16::/64")];
        assert_eq!(network.take_behind_changed(), expected);
        // What it would like instead it does not get.
        let grant = network.requested(id(2), nets(&["10.9.0.8/24"]), 3).expect("there");
        assert_eq!(
            (grant.addresses, grant.refused),
            (Vec::new(), vec![nets(&["10.9.0.8/24"])[0].addr()])
        );
        let grant = network.requested(id(2), nets(&["10.9.0.7/24"]), 4).expect("there");
        assert_eq!(grant.addresses, nets(&["10.9.0.7/24"]));
        // Bob is back, and has the same network behind it: the first has it.
        network.joined(id(3), &info(2, Some(&bob)));
        network.assign(id(3), nets(&["10.9.0.7/32", "172.16.2.0/24"]));
        let grant = network.requested(id(3), Vec::new(), 5).expect("there");
        assert_eq!(grant.addresses, nets(&["10.9.0.2/24", "fd09::3/64"]));
        assert_eq!(of(&network, id(3)), nets(&["10.9.0.2/32", "fd09::3/128"]));
        network.take_changed();
        network.left(id(2));
        let own = ["10.9.0.2/32", "fd09::3/128", "172.16.2.0/24"];
        assert_eq!(network.take_changed(), [(id(3), nets(&own))]);
        assert_eq!(network.take_behind_changed(), [(nets(&["fd16::/64"])[0], false)]);
    }

    #[test]
    fn an_address_is_not_taken_from_who_has_it_unless_by_itself() {
        let (mut network, alice) = (network(), identity());
        let wanted = || nets(&["10.9.0.7/24"]);
        network.joined(id(1), &info(2, Some(&alice)));
        network.requested(id(1), wanted(), 1).expect("there");
        for stranger in [info(2, None), info(3, None), info(2, Some(&identity()))] {
            network.joined(id(2), &stranger);
            let grant = network.requested(id(2), wanted(), 2).expect("there");
            assert_eq!((grant.addresses, grant.holders), (Vec::new(), Vec::new()));
            assert_eq!(grant.refused, [wanted()[0].addr()]);
            network.left(id(2));
        }
        // A machine with an identity keeps what it had.
        network.left(id(1));
        network.joined(id(3), &info(9, Some(&alice)));
        let grant = network.requested(id(3), Vec::new(), 3).expect("there");
        assert_eq!(grant.addresses[0], wanted()[0]);
        // One without is asked whether it is there, and keeps what it has until then.
        let wanted = || nets(&["10.9.0.8/24"]);
        network.joined(id(4), &info(5, None));
        network.requested(id(4), wanted(), 4).expect("there");
        for client in [5, 6] {
            network.joined(id(client), &info(5, None));
            let grant = network.requested(id(client), wanted(), 5).expect("there");
            assert_eq!((grant.addresses, grant.holders), (Vec::new(), vec![id(4)]));
            assert_eq!(of(&network, id(4)), nets(&["10.9.0.8/32"]));
        }
        assert_eq!(network.leases().len(), 1, "of who can come back");
        assert_eq!(network.reconsider(6), []);
        network.left(id(4));
        assert_eq!(network.reconsider(7).len(), 1, "who was refused first has it now");
        assert_eq!(of(&network, id(5)), nets(&["10.9.0.8/32"]));
    }

    #[test]
    fn what_is_to_be_remembered_first_is_addresses_and_not_when_they_were_used() {
        let (mut network, alice) = (network(), identity());
        network.joined(id(1), &info(2, None));
        network.requested(id(1), Vec::new(), 1).expect("there");
        assert_eq!(network.unsaved(), Unsaved::Nothing, "it does not come back");
        network.joined(id(2), &info(2, Some(&alice)));
        network.requested(id(2), Vec::new(), 2).expect("there");
        assert_eq!(network.unsaved(), Unsaved::Addresses);
        network.set_saved();
        network.left(id(2));
        network.joined(id(3), &info(2, Some(&alice)));
        network.requested(id(3), Vec::new(), 3).expect("there");
        assert_eq!(network.unsaved(), Unsaved::Times, "the same as before");
        network.requested(id(3), nets(&["10.9.0.9/24"]), 4).expect("there");
        assert_eq!(network.unsaved(), Unsaved::Addresses);
    }

    /// What [`Network::take_changed`] leaves out has not changed: whatever the steps, who
    /// has only been told of changes knows what everybody has.
    #[test]
    fn changes_alone_tell_what_everybody_has() {
        let keys: Vec<_> = (0..3).map(|_| identity()).collect();
        let behind = [&["172.16.2.0/24"][..], &["172.16.2.0/24", "172.16.3.0/24", "10.9.0.9/32"]];
        let mut random = Random::new(1);
        let mut network = network();
        let mut known = HashMap::new();
        let mut routed = BTreeSet::new();
        for step in 0..3000 {
            let number = random.below(6);
            let client = id(number);
            let there = network.clients.contains_key(&client);
            match random.below(7) {
                0 | 1 if !there => {
                    network.joined(client, &info(2, keys.get(number as usize)));
                }
                2 => network.left(client),
                3 => network.heard(client),
                4 => drop(network.requested(client, Vec::new(), step)),
                5 => {
                    let host = random.below(6);
                    let wanted = format!("10.9.0.{}/24", host + 6);
                    drop(network.requested(client, nets(&[&wanted]), step));
                }
                _ => {
                    let behind = behind.get(random.below(3) as usize).copied();
                    network.assign(client, nets(behind.unwrap_or_default()));
                }
            }
            network.reconsider(step);
            known.retain(|client, _| network.clients.contains_key(client));
            known.extend(network.take_changed());
            for client in network.clients.keys() {
                assert_eq!(known.get(client), network.prefixes(*client).as_ref(), "{step}");
            }
            for (net, is_behind) in network.take_behind_changed() {
                let _ = if is_behind { routed.insert(net) } else { routed.remove(&net) };
            }
            assert!(routed.iter().eq(network.behind.keys()), "{step}");
            // Nobody has what is another's.
            let mut seen = BTreeSet::new();
            for prefix in known.values().flatten() {
                assert!(seen.insert(*prefix), "{step}: {prefix} twice");
            }
        }
    }
}
