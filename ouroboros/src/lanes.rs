//! The flows of one tunnel, its *lanes*: allocated together, and found together
//! again where they arrive. Not here: what runs over them
//! ([`Tunnel::run_lanes`](crate::Tunnel::run_lanes)).

use std::{pin::pin, time::Duration};

use futures_lite::future;

use crate::{
    crypto::{Entropy, SystemEntropy, identity::Fingerprint},
    driver,
    error::AllocateError,
    flow::{Flow, FlowInfo, FlowSpec},
    irm::Irm,
    log::Limited,
    wire::{Name, PeerAddress, extension::Lane},
};

static INCOMPLETE: Limited = Limited::new();
static TOO_MANY: Limited = Limited::new();

/// Lanes of one tunnel that are accepted, at most.
const MOST_LANES: u8 = 64;
/// Tunnels whose lanes have not all arrived, at most; the oldest gives way.
const MOST_GROUPS: usize = 16;
/// How long the lanes of a tunnel may take to arrive, from the first on.
const GATHERING_TIMEOUT: Duration = Duration::from_secs(5);

impl Irm {
    /// Allocates the flows of a tunnel with `lanes` lanes. There is only one if
    /// that is all that is asked for, if the flows are not to be encrypted, or
    /// if the peer does not know of lanes, as one of 0.23.
    ///
    /// Dropping the future closes those that there are.
    ///
    /// # Errors
    ///
    /// One of them cannot be had; the others are closed.
    pub async fn allocate_lanes(
        &self,
        name: &str,
        spec: FlowSpec,
        lanes: u8,
    ) -> Result<Vec<Flow>, AllocateError> {
        if lanes < 2 || !spec.is_encrypted() {
            return Ok(vec![self.allocate(name, spec).await?]);
        }
        let mut group = [0; 16];
        SystemEntropy.fill(&mut group);
        let mut flows = Vec::with_capacity(lanes.into());
        for index in 0..lanes {
            let flow = self.allocate(name, spec.clone().lane(Lane { group, index, lanes })).await?;
            let alone = flow.info().lane.is_none();
            flows.push(flow);
            if alone {
                flows.drain(..flows.len() - 1);
                break;
            }
        }
        Ok(flows)
    }
}

/// Accepts tunnels: their flows, together.
#[derive(Debug)]
pub struct LaneAcceptor {
    irm: Irm,
    name: Option<String>,
    gathering: Gathering<Flow>,
}

impl LaneAcceptor {
    /// For tunnels to `name`, or to any name as
    /// [`Irm::accept_any`] says.
    #[must_use]
    pub fn new(irm: &Irm, name: Option<&str>) -> Self {
        let name = name.map(str::to_owned);
        Self { irm: irm.clone(), name, gathering: Gathering::default() }
    }

    /// Waits for a tunnel, and returns its flows in order: one flow, if it is
    /// not of several. Those of several must all come from the same host and
    /// identity within 5 s; they are closed otherwise.
    ///
    /// Cancel safe: flows of a tunnel that is not complete wait for the next call.
    ///
    /// # Errors
    ///
    /// As for [`Irm::accept`].
    pub async fn accept(&mut self) -> Result<Vec<Flow>, AllocateError> {
        let Self { irm, name, gathering } = self;
        let (irm, name) = (&*irm, name.as_deref());
        let accept = || async move {
            match name {
                Some(name) => irm.accept(name).await,
                None => irm.accept_any().await,
            }
        };
        let mut accepting = pin!(accept());
        loop {
            let due = gathering.due();
            let expired = async {
                driver::sleep_until(due).await;
                None
            };
            let arrived = async { Some(accepting.as_mut().await) };
            let arrived = future::or(arrived, expired).await;
            let now = driver::monotonic();
            gathering.expire(now);
            if let Some(flow) = arrived {
                let flow = flow?;
                if let Some(flows) = gathering.add(now, Claim::of(flow.info()), flow) {
                    return Ok(flows);
                }
                accepting.set(accept());
            }
        }
    }
}

/// The lane that a flow claims, and the identity of the peer that claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    name: Name,
    host: PeerAddress,
    identity: Option<Fingerprint>,
    lane: Option<Lane>,
}

impl Claim {
    fn of(info: &FlowInfo) -> Self {
        let identity = info.identity.as_ref().map(|identity| identity.fingerprint);
        Self { name: info.name.clone(), host: info.peer.host(), identity, lane: info.lane }
    }

    /// The same for all lanes of a tunnel.
    fn of_all(mut self) -> Self {
        if let Some(lane) = &mut self.lane {
            lane.index = 0;
        }
        self
    }
}

/// Lanes that wait for the others of their tunnels. Time is an argument.
#[derive(Debug)]
struct Gathering<F>(Vec<Group<F>>);

#[derive(Debug)]
struct Group<F> {
    claim: Claim,
    until: Duration,
    lanes: Vec<Option<F>>,
}

impl<F> Default for Gathering<F> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<F> Gathering<F> {
    /// When the first group is given up.
    fn due(&self) -> Option<Duration> {
        self.0.iter().map(|group| group.until).min()
    }

    fn expire(&mut self, now: Duration) {
        self.0.retain(|group| {
            let waits = now < group.until;
            if !waits {
                let name = &group.claim.name;
                if let Some(times) = INCOMPLETE.report() {
                    tracing::info!(%name, times, "a tunnel's lanes have not all arrived");
                }
            }
            waits
        });
    }

    /// Takes a flow; all flows of its tunnel if it was the last.
    fn add(&mut self, now: Duration, claim: Claim, flow: F) -> Option<Vec<F>> {
        let Some(Lane { index, lanes, .. }) = claim.lane.filter(|lane| lane.lanes > 1) else {
            return Some(vec![flow]);
        };
        if lanes > MOST_LANES {
            if let Some(times) = TOO_MANY.report() {
                tracing::info!(name = %claim.name, lanes, times, "a tunnel with too many lanes");
            }
            return None;
        }
        let claim = claim.of_all();
        let known = self.0.iter().position(|group| group.claim == claim);
        let at = known.unwrap_or_else(|| {
            if self.0.len() == MOST_GROUPS {
                self.0.remove(0);
            }
            let lanes = (0..lanes).map(|_| None).collect();
            self.0.push(Group { claim, until: now + GATHERING_TIMEOUT, lanes });
            self.0.len() - 1
        });
        // One that comes again takes the place of the former.
        *self.0[at].lanes.get_mut(usize::from(index))? = Some(flow);
        if self.0[at].lanes.iter().all(Option::is_some) {
            return Some(self.0.remove(at).lanes.into_iter().flatten().collect());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::IdentityKey;

    const START: Duration = Duration::from_secs(100);

    fn claim(group: u8, index: u8, lanes: u8) -> Claim {
        let lane = Some(Lane { group: [group; 16], index, lanes });
        let host = PeerAddress::Udp(([10, 0, 0, 1], 0).into());
        Claim { name: "my_vpn".parse().unwrap(), host, identity: None, lane }
    }

    #[test]
    fn lanes_come_together_in_order_whatever_order_they_arrive_in() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.add(START, claim(1, 2, 3), 'c'), None);
        assert_eq!(gathering.add(START, claim(2, 0, 2), 'x'), None);
        assert_eq!(gathering.add(START, claim(1, 0, 3), 'a'), None);
        let plain = Claim { lane: None, ..claim(1, 0, 3) };
        assert_eq!(gathering.add(START, plain, 'p'), Some(vec!['p']));
        assert_eq!(gathering.add(START, claim(1, 0, 3), 'A'), None, "again");
        assert_eq!(gathering.add(START, claim(1, 1, 3), 'b'), Some(vec!['A', 'b', 'c']));
        assert_eq!(gathering.add(START, claim(2, 1, 2), 'y'), Some(vec!['x', 'y']));
        assert_eq!(gathering.due(), None);
        assert_eq!(gathering.add(START, claim(9, 0, 1), 'o'), Some(vec!['o']));
    }

    #[test]
    fn others_cannot_join_a_tunnel_that_is_not_theirs() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.add(START, claim(1, 0, 2), 'a'), None);
        let elsewhere =
            Claim { host: PeerAddress::Udp(([10, 0, 0, 2], 0).into()), ..claim(1, 1, 2) };
        let key = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let somebody = Claim { identity: Some(key), ..claim(1, 1, 2) };
        let to_another = Claim { name: "other".parse().unwrap(), ..claim(1, 1, 2) };
        for stranger in [elsewhere, somebody, to_another, claim(1, 1, 3)] {
            assert_eq!(gathering.add(START, stranger, 'z'), None);
        }
        assert_eq!(gathering.add(START, claim(1, 1, 2), 'b'), Some(vec!['a', 'b']));
    }

    #[test]
    fn what_waits_is_bounded_in_time_and_number() {
        let mut gathering = Gathering::default();
        assert_eq!(gathering.add(START, claim(1, 0, 2), 1), None);
        assert_eq!(gathering.due(), Some(START + GATHERING_TIMEOUT));
        gathering.expire(START + GATHERING_TIMEOUT);
        assert_eq!((gathering.due(), gathering.0.len()), (None, 0));
        assert_eq!(gathering.add(START, claim(1, 0, MOST_LANES + 1), 1), None);
        assert!(gathering.0.is_empty());
        for group in 0..200 {
            assert_eq!(gathering.add(START, claim(group, 0, 2), 1), None);
        }
        assert_eq!(gathering.0.len(), MOST_GROUPS);
    }
}
