//! Which client has which prefixes. The longest prefix decides, for where a
//! packet goes and for who may have sent it alike.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// The prefix is another client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is another client's")]
pub struct Taken(pub IpNet);

/// A table of prefixes and the clients that have them. A look-up takes as many
/// steps as a prefix is long, however many there are.
///
/// ```
/// use ouroboros::proto::hub::Router;
/// let mut router = Router::new();
/// router.insert("10.0.0.2/32".parse()?, 'a')?;
/// router.insert("10.0.0.0/24".parse()?, 'b')?;
/// assert_eq!(router.client("10.0.0.2".parse()?), Some(&'a'));
/// assert_eq!(router.client("10.0.0.3".parse()?), Some(&'b'));
/// assert_eq!(router.client("10.0.1.3".parse()?), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Router<C> {
    v4: PrefixMap<Ipv4Net, C>,
    v6: PrefixMap<Ipv6Net, C>,
}

impl<C> Default for Router<C> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<C: Clone + PartialEq> Router<C> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `client` a prefix; bits behind its length do not count.
    ///
    /// # Errors
    ///
    /// Another client has exactly this one.
    pub fn insert(&mut self, prefix: IpNet, client: C) -> Result<(), Taken> {
        if self.owner(prefix).is_some_and(|owner| *owner != client) {
            return Err(Taken(prefix.trunc()));
        }
        match prefix.trunc() {
            IpNet::V4(net) => self.v4.insert(net, client),
            IpNet::V6(net) => self.v6.insert(net, client),
        };
        Ok(())
    }

    /// The client that has exactly this prefix.
    pub fn owner(&self, prefix: IpNet) -> Option<&C> {
        match prefix.trunc() {
            IpNet::V4(net) => self.v4.get(&net),
            IpNet::V6(net) => self.v6.get(&net),
        }
    }

    /// Takes a prefix away from whoever has exactly this one.
    pub fn remove(&mut self, prefix: IpNet) -> Option<C> {
        match prefix.trunc() {
            IpNet::V4(net) => self.v4.remove(&net),
            IpNet::V6(net) => self.v6.remove(&net),
        }
    }

    /// Gives `client` the prefixes `after` in place of `before`, those that it has. Takes
    /// as long as these are, however many others there are.
    ///
    /// # Errors
    ///
    /// One of `after` is another client's; nothing has changed.
    pub fn replace(&mut self, client: &C, before: &[IpNet], after: &[IpNet]) -> Result<(), Taken> {
        let is_taken = |prefix: &&IpNet| self.owner(**prefix).is_some_and(|owner| owner != client);
        if let Some(taken) = after.iter().find(is_taken) {
            return Err(Taken(taken.trunc()));
        }
        for prefix in before {
            if self.owner(*prefix) == Some(client) {
                self.remove(*prefix);
            }
        }
        after.iter().try_for_each(|prefix| self.insert(*prefix, client.clone()))
    }

    /// The client that `address` belongs to.
    pub fn client(&self, address: IpAddr) -> Option<&C> {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map(|(_, client)| client),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map(|(_, client)| client),
        }
    }

    /// Returns how many prefixes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Returns `true` if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A slow model of the table.
    #[derive(Default)]
    struct Model(Vec<(IpNet, u8)>);

    impl Model {
        fn insert(&mut self, prefix: IpNet, client: u8) -> bool {
            let prefix = prefix.trunc();
            match self.0.iter().find(|(known, _)| *known == prefix) {
                Some((_, owner)) => *owner == client,
                None => {
                    self.0.push((prefix, client));
                    true
                }
            }
        }

        fn prefixes(&self, client: u8) -> Vec<IpNet> {
            let of_client = self.0.iter().filter(|(_, owner)| *owner == client);
            of_client.map(|(prefix, _)| *prefix).collect()
        }

        fn replace(&mut self, client: u8, prefixes: &[IpNet]) -> bool {
            let others: Vec<_> = self.0.iter().filter(|(_, owner)| *owner != client).collect();
            if others.iter().any(|(taken, _)| prefixes.iter().any(|new| new.trunc() == *taken)) {
                return false;
            }
            self.0.retain(|(_, owner)| *owner != client);
            prefixes.iter().all(|prefix| self.insert(*prefix, client))
        }

        fn client(&self, address: IpAddr) -> Option<u8> {
            let holding = self.0.iter().filter(|(prefix, _)| prefix.contains(&address));
            holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, client)| *client)
        }
    }

    /// Few addresses, so that prefixes meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        (any::<bool>(), prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..4u8).prop_map(
            |(v4, high, low)| {
                if v4 {
                    [10, high, 0, low].into()
                } else {
                    IpAddr::from([0xfd, high, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low])
                }
            },
        )
    }

    fn prefix() -> impl Strategy<Value = IpNet> {
        (address(), 0..=128u8).prop_map(|(address, length)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length % (longest + 1)).expect("a length that fits")
        })
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(IpNet, u8),
        Replace(u8, Vec<IpNet>),
        Look(IpAddr),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (prefix(), 0..5u8).prop_map(|(prefix, client)| Step::Insert(prefix, client)),
            2 => (0..5u8, prop::collection::vec(prefix(), 0..3))
                .prop_map(|(client, prefixes)| Step::Replace(client, prefixes)),
            6 => address().prop_map(Step::Look),
        ]
    }

    proptest! {
        #[test]
        fn the_longest_prefix_decides(steps in prop::collection::vec(step(), 1..120)) {
            let (mut router, mut model) = (Router::new(), Model::default());
            for step in steps {
                match step {
                    Step::Insert(prefix, client) => {
                        let taken = router.insert(prefix, client).is_ok();
                        prop_assert_eq!(taken, model.insert(prefix, client));
                    }
                    Step::Replace(client, after) => {
                        let before = model.prefixes(client);
                        let replaced = router.replace(&client, &before, &after).is_ok();
                        prop_assert_eq!(replaced, model.replace(client, &after));
                    }
                    Step::Look(address) => {
                        prop_assert_eq!(router.client(address).copied(), model.client(address));
                    }
                }
                prop_assert_eq!(router.len(), model.0.len());
            }
        }
    }
}
