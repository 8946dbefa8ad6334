//! Who gets which addresses of a server's network. No I/O: `server` drives it.
//!
//! A client is its identity, or, without one, its flow. What it says of its
//! addresses is a wish, and granted where the address is free. Where a client
//! without an identity has it, that one is to be asked whether it is still there.
//! A client that cannot say (an older one) is sent everything as long as it is the
//! only one, and so is one that has chosen its address itself: a tunnel of two
//! ends. As soon as there are two, each has its own addresses, and one that cannot
//! say what is left of the network.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ouroboros::{
    ClientId, FlowInfo,
    proto::hub::{AddressPool, Assignment, IpNet},
};

/// The server's network, and the clients that are there.
pub(super) struct Network {
    nets: Vec<IpNet>,
    pool: AddressPool<String>,
    clients: BTreeMap<ClientId, Member>,
}

struct Member {
    key: String,
    /// It has no identity, and does not come back.
    passing: bool,
    /// The addresses that it has or would like.
    asked: Option<Vec<IpNet>>,
    /// Its own.
    granted: Vec<IpAddr>,
    /// Those of the server's network that it is to have, and no others of their families.
    fixed: Vec<IpAddr>,
    /// Networks behind it.
    behind: Vec<IpNet>,
    /// Something has come from it.
    heard: bool,
}

/// All addresses.
pub(super) fn everything() -> Vec<IpNet> {
    ["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).collect()
}

/// What becomes of a request.
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
        Self { nets, pool, clients: BTreeMap::new() }
    }

    /// Takes up what was remembered.
    pub(super) fn restore(&mut self, leases: Vec<(String, Assignment)>) {
        self.pool.restore(leases);
    }

    /// What is to be remembered: of clients that can come back.
    pub(super) fn leases(&self) -> Vec<(&String, &Assignment)> {
        let passing =
            |key: &String| self.clients.values().any(|member| member.passing && member.key == *key);
        self.pool.assignments().filter(|(key, _)| !passing(key)).collect()
    }

    /// A client has come.
    pub(super) fn joined(&mut self, client: ClientId, info: &FlowInfo) {
        let fingerprint = info.identity.as_ref().map(|identity| identity.fingerprint);
        let key = match fingerprint {
            // One machine may have several tunnels, by other names.
            Some(key) => format!("{key} {}", info.name),
            None => format!("{client:?}"),
        };
        let passing = fingerprint.is_none();
        let (asked, granted, heard) = (None, Vec::new(), false);
        let (fixed, behind) = (Vec::new(), Vec::new());
        let member = Member { key, passing, asked, granted, fixed, behind, heard };
        self.clients.insert(client, member);
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
        let Some(member) = self.clients.get_mut(&client) else { return };
        let key = member.key.clone();
        (member.fixed, member.behind) = (fixed.clone(), behind.iter().map(IpNet::trunc).collect());
        // Who had one of them before, and is not there, gets another when it comes back.
        let present: Vec<_> = self.clients.values().map(|member| &member.key).collect();
        let holds = |held: &Assignment| {
            let addresses = held.v4.map(IpAddr::from).into_iter().chain(held.v6.map(IpAddr::from));
            addresses.into_iter().any(|address| fixed.contains(&address))
        };
        let absent = self
            .pool
            .assignments()
            .filter(|(holder, held)| **holder != key && holds(held) && !present.contains(holder));
        let absent: Vec<_> = absent.map(|(holder, _)| holder.clone()).collect();
        absent.iter().for_each(|holder| self.pool.release(holder));
    }

    /// The networks behind the clients that are there.
    pub(super) fn behind(&self) -> BTreeSet<IpNet> {
        self.clients.values().flat_map(|member| member.behind.iter().copied()).collect()
    }

    /// A client has gone. One without an identity does not come back.
    pub(super) fn left(&mut self, client: ClientId) {
        if let Some(member) = self.clients.remove(&client)
            && member.passing
        {
            self.pool.release(&member.key);
        }
    }

    /// Clients of which nothing has come yet.
    pub(super) fn unheard(&self) -> Vec<ClientId> {
        let unheard = self.clients.iter().filter(|(_, member)| !member.heard);
        unheard.map(|(client, _)| *client).collect()
    }

    /// Something has come from a client.
    pub(super) fn heard(&mut self, client: ClientId) {
        if let Some(member) = self.clients.get_mut(&client) {
            member.heard = true;
        }
    }

    /// A client asks; `None`: it is not there. `now` is seconds since 1970.
    pub(super) fn requested(
        &mut self,
        client: ClientId,
        wanted: Vec<IpNet>,
        now: u64,
    ) -> Option<Grant> {
        self.clients.get_mut(&client)?.asked = Some(wanted);
        let grant = self.grant(client, now)?;
        let holds = |member: &Member| {
            member.passing && member.granted.iter().any(|own| grant.refused.contains(own))
        };
        let holders = self.clients.iter().filter(|(_, member)| holds(member));
        let holders = holders.map(|(holder, _)| *holder).collect();
        Some(Grant { holders, ..grant })
    }

    /// Grants what a client has asked for, as far as it is free.
    fn grant(&mut self, client: ClientId, now: u64) -> Option<Grant> {
        let connected: Vec<String> =
            self.clients.values().map(|member| member.key.clone()).collect();
        let member = self.clients.get_mut(&client)?;
        let wanted = member.asked.clone().unwrap_or_default();
        let mut grant = Grant::default();
        member.granted.clear();
        let key = member.key.clone();
        let fixed = member.fixed.clone();
        let other = |address: &IpAddr| {
            fixed.iter().any(|own| own.is_ipv4() == address.is_ipv4()) && !fixed.contains(address)
        };
        let asked = wanted.iter().map(IpNet::addr);
        for address in asked.chain(fixed.iter().copied().filter(|_| wanted.is_empty())) {
            if other(&address) {
                grant.refused.push(address);
                continue;
            }
            match self.pool.assign_fixed(&key, now, address) {
                Ok(_) => member.granted.push(address),
                Err(_) => grant.refused.push(address),
            }
        }
        if wanted.is_empty() {
            let is_connected = |key: &String| connected.contains(key);
            if let Ok(assignment) = self.pool.assign(&key, now, is_connected) {
                member.granted.clear();
                member.granted.extend(assignment.v4.map(IpAddr::from));
                member.granted.extend(assignment.v6.map(IpAddr::from));
            }
        }
        let within = |address: &IpAddr| {
            let net = self.nets.iter().find(|net| net.contains(address))?;
            IpNet::new(*address, net.prefix_len()).ok()
        };
        grant.addresses = member.granted.iter().filter_map(within).collect();
        Some(grant)
    }

    /// Clients that were refused something and get it now.
    pub(super) fn reconsider(&mut self, now: u64) -> Vec<(ClientId, Grant)> {
        let lacking = self.clients.iter().filter(|(_, member)| {
            member.asked.as_ref().is_some_and(|asked| {
                member.granted.is_empty() || asked.len() > member.granted.len()
            })
        });
        let lacking: Vec<_> = lacking.map(|(client, _)| *client).collect();
        let granted =
            lacking.into_iter().filter_map(|client| Some((client, self.grant(client, now)?)));
        granted
            .filter(|(_, grant)| grant.refused.is_empty() && !grant.addresses.is_empty())
            .collect()
    }

    /// What each client has now.
    pub(super) fn prefixes(&self) -> Vec<(ClientId, Vec<IpNet>)> {
        let alone = self.clients.len() == 1;
        // Of those that cannot say, the one that came last and lives.
        let silent = self.clients.iter().filter(|(_, member)| member.asked.is_none());
        let heir = silent.max_by_key(|(client, member)| (member.heard, **client));
        let heir = heir.map(|(client, _)| *client);
        let mut taken = BTreeSet::new();
        let of = |(client, member): (&ClientId, &Member)| {
            let own = member.granted.iter().map(|address| IpNet::from(*address));
            let mut prefixes: Vec<_> = own.collect();
            // Of two with the same network behind them, the first.
            prefixes.extend(member.behind.iter().filter(|net| taken.insert(**net)));
            if heir == Some(*client) {
                prefixes.extend(self.nets.iter().map(IpNet::trunc));
            }
            let chose = member.asked.as_ref().is_none_or(|asked| !asked.is_empty());
            if alone && chose {
                prefixes.extend(everything());
            }
            (*client, prefixes)
        };
        self.clients.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use ouroboros::{
        Identity, PeerIdentity,
        crypto::{SystemEntropy, identity::IdentityKey},
        wire::{Eid, PeerAddress, QosSpec},
    };

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
        let found = network.prefixes().into_iter().find(|(other, _)| *other == client);
        found.expect("there").1
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
        assert_eq!(network.behind().len(), 2);
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
        network.left(id(2));
        assert!(of(&network, id(3)).contains(&nets(&["172.16.2.0/24"])[0]));
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
}
