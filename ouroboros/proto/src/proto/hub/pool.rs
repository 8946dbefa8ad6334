//! Addresses for clients. A client that comes back gets those it had, unless
//! the pool had to give them to another meanwhile: what was not in use for the
//! longest goes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The part of a pool that a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its IPv4 address, where the pool has any.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address, where the pool has any.
    pub v6: Option<Ipv6Addr>,
    /// Seconds since 1970 when it was given or last used.
    pub used: u64,
}

/// No address can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// All are in use.
    #[error("all addresses of {0} are in use")]
    Exhausted(IpNet),
    /// The address that was asked for is not in the pool, or is another's.
    #[error("{0} cannot be given: it is in use, or not in the pool")]
    NotAvailable(IpAddr),
}

/// The networks to give addresses from, who has which, and who is connected and must not
/// lose theirs.
///
/// Its memory is [`assignments`](Self::assignments), for the caller to keep;
/// [`restore`](Self::restore) brings it back.
#[derive(Clone, Debug)]
pub struct AddressPool<K: Ord> {
    /// At most one of each family.
    families: Vec<Family>,
    /// Never given: the server's own, for one.
    reserved: Vec<IpAddr>,
    assigned: BTreeMap<K, Assignment>,
    in_use: BTreeMap<IpAddr, K>,
    connected: BTreeSet<K>,
    /// Clients with an assignment that are not connected, by when it was used.
    absent: BTreeSet<(u64, K)>,
}

/// The addresses of one family.
#[derive(Clone, Debug)]
struct Family {
    net: IpNet,
    /// Hosts, from the network's first address, below which none is free: so to give many
    /// does not look at those given before each time.
    full_below: u128,
}

impl Family {
    /// Hosts that are given have lower numbers. The last of an IPv4 network is not given, and
    /// more than a million are never looked at: there are not as many clients.
    fn hosts(&self) -> u128 {
        match self.net {
            IpNet::V4(net) => u128::from(u32::from(net.broadcast()) - u32::from(net.network())),
            IpNet::V6(net) => 1 << (128 - net.prefix_len()).min(20),
        }
    }

    fn address(&self, host: u128) -> IpAddr {
        match self.net {
            IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) + host as u32).into(),
            IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) + host).into(),
        }
    }

    /// `address` may be free again.
    fn set_free(&mut self, address: IpAddr) {
        let host = match (address, self.net) {
            (IpAddr::V4(v4), IpNet::V4(net)) => {
                u128::from(u32::from(v4).saturating_sub(net.network().into()))
            }
            (IpAddr::V6(v6), IpNet::V6(net)) => u128::from(v6).saturating_sub(net.network().into()),
            _ => return,
        };
        self.full_below = self.full_below.min(host.max(1));
    }

    /// Returns `true` if `address` is of this network, and one that clients have.
    fn has(&self, address: IpAddr) -> bool {
        let reserved =
            address == self.net.network() || address.is_ipv4() && address == self.net.broadcast();
        self.net.contains(&address) && !reserved
    }
}

impl Assignment {
    /// Its addresses.
    fn addresses(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::from).into_iter().chain(self.v6.map(IpAddr::from))
    }

    /// The one of the family of `net`.
    fn of(self, net: IpNet) -> Option<IpAddr> {
        self.addresses().find(|own| own.is_ipv4() == net.addr().is_ipv4())
    }

    /// Takes `address` in the place of the one of its family.
    fn put(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.v4 = Some(v4),
            IpAddr::V6(v6) => self.v6 = Some(v6),
        }
    }

    fn remove(&mut self, address: IpAddr) {
        self.v4 = self.v4.filter(|v4| IpAddr::from(*v4) != address);
        self.v6 = self.v6.filter(|v6| IpAddr::from(*v6) != address);
    }
}

impl<K: Ord + Clone> AddressPool<K> {
    /// A pool of at most one network of each family. `reserved` addresses are
    /// not given, nor are the first of a network, nor the last of one of IPv4.
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>, reserved: &[IpAddr]) -> Self {
        let nets = v4.map(IpNet::from).into_iter().chain(v6.map(IpNet::from));
        Self {
            families: nets.map(|net| Family { net: net.trunc(), full_below: 1 }).collect(),
            reserved: reserved.to_vec(),
            assigned: BTreeMap::new(),
            in_use: BTreeMap::new(),
            connected: BTreeSet::new(),
            absent: BTreeSet::new(),
        }
    }

    /// Takes up what was remembered; what no longer fits the networks, or
    /// was given twice, is left out.
    pub fn restore(&mut self, remembered: impl IntoIterator<Item = (K, Assignment)>) {
        for (client, mut old) in remembered {
            old.v4 = old.v4.filter(|v4| self.is_available(&client, (*v4).into()));
            old.v6 = old.v6.filter(|v6| self.is_available(&client, (*v6).into()));
            if old.addresses().next().is_some() {
                self.keep(client, old);
            }
        }
    }

    /// Returns all clients with their assignments.
    pub fn assignments(&self) -> impl Iterator<Item = (&K, &Assignment)> {
        self.assigned.iter()
    }

    /// What `client` has.
    pub fn assignment(&self, client: &K) -> Option<&Assignment> {
        self.assigned.get(client)
    }

    /// Who has `address`.
    pub fn holder(&self, address: IpAddr) -> Option<&K> {
        self.in_use.get(&address)
    }

    /// `client` is connected (`true`): it does not lose what it has. Or it is no more.
    pub fn set_connected(&mut self, client: &K, connected: bool) {
        let changed = match connected {
            true => self.connected.insert(client.clone()),
            false => self.connected.remove(client),
        };
        if let Some(own) = self.assigned.get(client).filter(|_| changed) {
            let entry = (own.used, client.clone());
            let _ = if connected { self.absent.remove(&entry) } else { self.absent.insert(entry) };
        }
    }

    /// The addresses of `client` at `now` (seconds since 1970): those it had,
    /// or new ones, one of each family that the pool has.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`]: every address is held by somebody connected.
    pub fn assign(&mut self, client: &K, now: u64) -> Result<Assignment, PoolError> {
        let mut assignment = self.assigned.get(client).copied().unwrap_or_default();
        assignment.used = now;
        for index in 0..self.families.len() {
            let net = self.families[index].net;
            if assignment.of(net).is_some() {
                continue;
            }
            let Some(address) = self.free(index).or_else(|| self.recover(net)) else {
                // What it would have had of the other family.
                let taken = assignment.addresses().filter(|own| !self.in_use.contains_key(own));
                taken.collect::<Vec<_>>().into_iter().for_each(|own| self.set_free(own));
                return Err(PoolError::Exhausted(net));
            };
            self.forget(address);
            assignment.put(address);
        }
        self.keep(client.clone(), assignment);
        Ok(assignment)
    }

    /// Gives `client` the address that it, or its administrator, asks for.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotAvailable`]: it is somebody else's, or not in the pool.
    pub fn assign_fixed(
        &mut self,
        client: &K,
        now: u64,
        address: IpAddr,
    ) -> Result<Assignment, PoolError> {
        if !self.is_available(client, address) {
            return Err(PoolError::NotAvailable(address));
        }
        let mut assignment = self.assigned.get(client).copied().unwrap_or_default();
        if let Some(before) = assignment.of(address.into()) {
            self.set_free(before);
        }
        assignment.put(address);
        assignment.used = now;
        self.keep(client.clone(), assignment);
        Ok(assignment)
    }

    /// Takes back what `client` has.
    pub fn release(&mut self, client: &K) {
        if let Some(old) = self.remove(client) {
            old.addresses().for_each(|own| self.set_free(own));
        }
    }

    fn set_free(&mut self, address: IpAddr) {
        self.in_use.remove(&address);
        self.families.iter_mut().for_each(|family| family.set_free(address));
    }

    fn keep(&mut self, client: K, assignment: Assignment) {
        self.remove(&client);
        for address in assignment.addresses() {
            self.in_use.insert(address, client.clone());
        }
        if !self.connected.contains(&client) {
            self.absent.insert((assignment.used, client.clone()));
        }
        self.assigned.insert(client, assignment);
    }

    fn remove(&mut self, client: &K) -> Option<Assignment> {
        let old = self.assigned.remove(client)?;
        self.absent.remove(&(old.used, client.clone()));
        Some(old)
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.in_use.contains_key(&address) && !self.reserved.contains(&address)
    }

    /// Returns `true` if `client` may have `address`.
    fn is_available(&self, client: &K, address: IpAddr) -> bool {
        let inside = self.families.iter().any(|family| family.has(address));
        let free = self.in_use.get(&address).is_none_or(|owner| owner == client);
        inside && free && !self.reserved.contains(&address)
    }

    /// The first address of a family that nobody has.
    fn free(&mut self, index: usize) -> Option<IpAddr> {
        let (family, hosts) = (&self.families[index], self.families[index].hosts());
        let mut looked_at = family.full_below..hosts;
        let host = looked_at.find(|host| self.is_free(family.address(*host)));
        let address = host.map(|host| family.address(host));
        self.families[index].full_below = host.unwrap_or(hosts);
        address
    }

    /// An address that nobody connected has: the one unused for the longest.
    fn recover(&self, net: IpNet) -> Option<IpAddr> {
        self.absent.iter().find_map(|(_, client)| self.assigned.get(client)?.of(net))
    }

    /// Takes `address` away from whoever has it.
    fn forget(&mut self, address: IpAddr) {
        let Some(owner) = self.in_use.remove(&address) else { return };
        let Some(mut old) = self.remove(&owner) else { return };
        old.remove(address);
        if old.addresses().next().is_some() {
            self.keep(owner, old);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool() -> AddressPool<u8> {
        let reserved = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let v6 = "fd00::/64".parse().unwrap();
        AddressPool::new(Some("10.0.0.0/29".parse().unwrap()), Some(v6), &reserved)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_comes_back_has_the_same_address_also_after_a_restart() {
        let mut first = pool();
        let one = first.assign(&1, 100).expect("an address");
        let two = first.assign(&2, 101).expect("an address");
        assert_eq!((one.v4, one.v6), (Some([10, 0, 0, 2].into()), "fd00::2".parse().ok()));
        assert_ne!(one.v4, two.v4);
        let mut second = pool();
        second.restore(first.assignments().map(|(client, kept)| (*client, *kept)));
        assert_eq!(second.assign(&2, 200).expect("an address").v4, two.v4);
        assert_eq!(second.assign(&1, 200).expect("an address").v6, one.v6);
    }

    #[test]
    fn a_full_pool_gives_what_was_unused_for_the_longest_and_is_not_connected() {
        let mut pool = pool();
        // 10.0.0.2 to .6: five of them.
        for client in 1..=5 {
            pool.set_connected(&client, true);
            pool.assign(&client, client.into()).expect("an address");
        }
        let net = "10.0.0.0/29".parse().unwrap();
        assert_eq!(pool.assign(&6, 6), Err(PoolError::Exhausted(net)));
        pool.set_connected(&4, false);
        pool.set_connected(&3, false);
        let sixth = pool.assign(&6, 6).expect("one");
        assert_eq!(sixth.v4, Some([10, 0, 0, 4].into()), "the third client's");
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_unless_it_is_anothers() {
        let mut pool = pool();
        assert_eq!(
            pool.assign_fixed(&1, 1, ip("10.0.0.5")).unwrap().v4,
            Some([10, 0, 0, 5].into())
        );
        for refused in ["10.0.0.5", "10.0.0.1", "10.0.0.0", "10.0.0.7", "10.0.1.3", "fd00::1"] {
            let error = PoolError::NotAvailable(ip(refused));
            assert_eq!(pool.assign_fixed(&2, 1, ip(refused)), Err(error), "{refused}");
        }
        pool.assign_fixed(&1, 2, ip("10.0.0.6")).expect("another");
        pool.assign_fixed(&2, 3, ip("10.0.0.5")).expect("free again");
        pool.release(&1);
        pool.assign_fixed(&2, 4, ip("10.0.0.6")).expect("free again");
    }

    proptest! {
        #[test]
        fn nobody_has_an_address_of_another(
            steps in prop::collection::vec((0..12u8, 0..3u8, 0..9u8), 1..80)
        ) {
            let mut pool = pool();
            (0..12).step_by(3).for_each(|client| pool.set_connected(&client, true));
            for (now, (client, step, host)) in steps.into_iter().enumerate() {
                let now = now as u64;
                let _ = match step {
                    0 => pool.assign(&client, now).map(drop),
                    1 => pool.assign_fixed(&client, now, [10, 0, 0, host].into()).map(drop),
                    _ => { pool.release(&client); Ok(()) }
                };
                let mut seen = BTreeSet::new();
                for (client, assignment) in pool.assignments() {
                    for address in assignment.addresses() {
                        prop_assert!(seen.insert(address), "{address} twice");
                        prop_assert!(pool.is_available(client, address), "{address}");
                    }
                }
                prop_assert_eq!(seen.len(), pool.in_use.len());
                let absent = pool.assignments().filter(|(client, _)| **client % 3 != 0);
                let absent: BTreeSet<_> = absent.map(|(client, own)| (own.used, *client)).collect();
                prop_assert_eq!(&absent, &pool.absent);
                for host in 1..pool.families[0].full_below {
                    let address = IpAddr::from([10, 0, 0, host as u8]);
                    prop_assert!(!pool.is_free(address), "{address} is free and not looked at");
                }
            }
        }
    }
}
