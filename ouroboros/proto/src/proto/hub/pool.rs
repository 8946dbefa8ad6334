//! Addresses for clients. A client that comes back gets those it had, unless
//! the pool had to give them to another meanwhile: what was not in use for the
//! longest goes first.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The part of a pool that a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its IPv4 address, where the pool has any.
    pub v4: Option<std::net::Ipv4Addr>,
    /// Its IPv6 address, where the pool has any.
    pub v6: Option<std::net::Ipv6Addr>,
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

/// The networks to give addresses from, and who has which.
///
/// Its memory is [`assignments`](Self::assignments), for the caller to keep;
/// [`restore`](Self::restore) brings it back.
#[derive(Clone, Debug)]
pub struct AddressPool<K: Ord> {
    v4: Option<Ipv4Net>,
    v6: Option<Ipv6Net>,
    /// Never given: the server's own, for one.
    reserved: Vec<IpAddr>,
    assigned: BTreeMap<K, Assignment>,
    in_use: BTreeMap<IpAddr, K>,
    /// Hosts of each network, from its first address, below which none is free: so to
    /// give many does not look at those given before each time.
    full_below: (u32, u128),
}

impl<K: Ord + Clone> AddressPool<K> {
    /// A pool of at most one network of each family. `reserved` addresses are
    /// not given, nor are the first of a network, nor the last of one of IPv4.
    pub fn new(v4: Option<Ipv4Net>, v6: Option<Ipv6Net>, reserved: &[IpAddr]) -> Self {
        let (v4, v6) = (v4.map(|net| net.trunc()), v6.map(|net| net.trunc()));
        let (assigned, in_use) = (BTreeMap::new(), BTreeMap::new());
        Self { v4, v6, reserved: reserved.to_vec(), assigned, in_use, full_below: (1, 1) }
    }

    /// Takes up what was remembered; what no longer fits the networks, or
    /// was given twice, is left out.
    pub fn restore(&mut self, remembered: impl IntoIterator<Item = (K, Assignment)>) {
        for (client, mut old) in remembered {
            old.v4 = old.v4.filter(|v4| self.is_available(&client, (*v4).into()));
            old.v6 = old.v6.filter(|v6| self.is_available(&client, (*v6).into()));
            if old.v4.is_some() || old.v6.is_some() {
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

    /// The addresses of `client` at `now` (seconds since 1970): those it had,
    /// or new ones, one of each family that the pool has. `is_connected` tells
    /// who must not lose theirs.
    ///
    /// # Errors
    ///
    /// [`PoolError::Exhausted`]: every address is held by somebody connected.
    pub fn assign(
        &mut self,
        client: &K,
        now: u64,
        is_connected: impl Fn(&K) -> bool,
    ) -> Result<Assignment, PoolError> {
        let mut assignment = self.assigned.get(client).copied().unwrap_or_default();
        assignment.used = now;
        if let (Some(net), None) = (self.v4, assignment.v4) {
            let hosts = u32::from(net.broadcast()) - u32::from(net.network());
            let address = |host| std::net::Ipv4Addr::from(u32::from(net.network()) + host).into();
            let host = (self.full_below.0..hosts).find(|host| self.is_free(address(*host)));
            self.full_below.0 = host.unwrap_or(hosts);
            let recovered = || self.recover(&is_connected, |old| old.v4.map(IpAddr::from));
            match host.map(address).or_else(recovered) {
                Some(IpAddr::V4(v4)) => {
                    self.forget(v4.into());
                    assignment.v4 = Some(v4);
                }
                _ => return Err(PoolError::Exhausted(net.into())),
            }
        }
        if let (Some(net), None) = (self.v6, assignment.v6) {
            // More are never looked at: there are not as many clients.
            let hosts = 1u128 << (128 - net.prefix_len()).min(20);
            let address = |host| std::net::Ipv6Addr::from(u128::from(net.network()) + host).into();
            let host = (self.full_below.1..hosts).find(|host| self.is_free(address(*host)));
            self.full_below.1 = host.unwrap_or(hosts);
            let recovered = || self.recover(&is_connected, |old| old.v6.map(IpAddr::from));
            match host.map(address).or_else(recovered) {
                Some(IpAddr::V6(v6)) => {
                    self.forget(v6.into());
                    assignment.v6 = Some(v6);
                }
                _ => return Err(PoolError::Exhausted(net.into())),
            }
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
        let before = match address {
            IpAddr::V4(v4) => assignment.v4.replace(v4).map(IpAddr::from),
            IpAddr::V6(v6) => assignment.v6.replace(v6).map(IpAddr::from),
        };
        if let Some(before) = before {
            self.set_free(before);
        }
        assignment.used = now;
        self.keep(client.clone(), assignment);
        Ok(assignment)
    }

    /// Takes back what `client` has.
    pub fn release(&mut self, client: &K) {
        if let Some(old) = self.assigned.remove(client) {
            let v4 = old.v4.map(IpAddr::from);
            v4.into_iter().chain(old.v6.map(IpAddr::from)).for_each(|own| self.set_free(own));
        }
    }

    fn set_free(&mut self, address: IpAddr) {
        self.in_use.remove(&address);
        match (address, self.v4, self.v6) {
            (IpAddr::V4(v4), Some(net), _) => {
                let host = u32::from(v4).saturating_sub(net.network().into());
                self.full_below.0 = self.full_below.0.min(host.max(1));
            }
            (IpAddr::V6(v6), _, Some(net)) => {
                let host = u128::from(v6).saturating_sub(net.network().into());
                self.full_below.1 = self.full_below.1.min(host.max(1));
            }
            _ => {}
        }
    }

    fn keep(&mut self, client: K, assignment: Assignment) {
        let v4 = assignment.v4.map(IpAddr::from);
        for address in v4.into_iter().chain(assignment.v6.map(IpAddr::from)) {
            self.in_use.insert(address, client.clone());
        }
        self.assigned.insert(client, assignment);
    }

    fn is_free(&self, address: IpAddr) -> bool {
        !self.in_use.contains_key(&address) && !self.reserved.contains(&address)
    }

    /// Returns `true` if `client` may have `address`.
    fn is_available(&self, client: &K, address: IpAddr) -> bool {
        let inside = match address {
            IpAddr::V4(v4) => self.v4.is_some_and(|net| {
                net.contains(&v4) && v4 != net.network() && v4 != net.broadcast()
            }),
            IpAddr::V6(v6) => self.v6.is_some_and(|net| net.contains(&v6) && v6 != net.network()),
        };
        let free = self.in_use.get(&address).is_none_or(|owner| owner == client);
        inside && free && !self.reserved.contains(&address)
    }

    /// An address that nobody connected has: the one unused for the longest.
    fn recover(
        &self,
        is_connected: impl Fn(&K) -> bool,
        address: impl Fn(&Assignment) -> Option<IpAddr>,
    ) -> Option<IpAddr> {
        let absent = self.assigned.iter().filter(|(client, _)| !is_connected(client));
        let held = absent.filter_map(|(_, old)| Some((old.used, address(old)?)));
        held.min_by_key(|(used, _)| *used).map(|(_, address)| address)
    }

    /// Takes `address` away from whoever has it.
    fn forget(&mut self, address: IpAddr) {
        let Some(owner) = self.in_use.remove(&address) else { return };
        if let Some(old) = self.assigned.get_mut(&owner) {
            match address {
                IpAddr::V4(_) => old.v4 = None,
                IpAddr::V6(_) => old.v6 = None,
            }
            if old.v4.is_none() && old.v6.is_none() {
                self.assigned.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        let one = first.assign(&1, 100, |_| false).expect("an address");
        let two = first.assign(&2, 101, |_| false).expect("an address");
        assert_eq!((one.v4, one.v6), (Some([10, 0, 0, 2].into()), "fd00::2".parse().ok()));
        assert_ne!(one.v4, two.v4);
        let mut second = pool();
        second.restore(first.assignments().map(|(client, kept)| (*client, *kept)));
        assert_eq!(second.assign(&2, 200, |_| false).expect("an address").v4, two.v4);
        assert_eq!(second.assign(&1, 200, |_| false).expect("an address").v6, one.v6);
    }

    #[test]
    fn a_full_pool_gives_what_was_unused_for_the_longest_and_is_not_connected() {
        let mut pool = pool();
        // 10.0.0.2 to .6: five of them.
        for client in 1..=5 {
            pool.assign(&client, client.into(), |_| true).expect("an address");
        }
        let net = "10.0.0.0/29".parse().unwrap();
        assert_eq!(pool.assign(&6, 6, |_| true), Err(PoolError::Exhausted(net)));
        let sixth = pool.assign(&6, 6, |client| *client != 3 && *client != 4).expect("one");
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
            for (now, (client, step, host)) in steps.into_iter().enumerate() {
                let now = now as u64;
                let _ = match step {
                    0 => pool.assign(&client, now, |other| other % 3 == 0).map(drop),
                    1 => pool.assign_fixed(&client, now, [10, 0, 0, host].into()).map(drop),
                    _ => { pool.release(&client); Ok(()) }
                };
                let mut seen = BTreeSet::new();
                for (client, assignment) in pool.assignments() {
                    let v4 = assignment.v4.map(IpAddr::from);
                    for address in v4.into_iter().chain(assignment.v6.map(IpAddr::from)) {
                        prop_assert!(seen.insert(address), "{address} twice");
                        prop_assert!(pool.is_available(client, address), "{address}");
                    }
                }
                prop_assert_eq!(seen.len(), pool.in_use.len());
                for host in 1..pool.full_below.0 {
                    let address = IpAddr::from([10, 0, 0, host as u8]);
                    prop_assert!(!pool.is_free(address), "{address} is free and not looked at");
                }
            }
        }
    }
}
