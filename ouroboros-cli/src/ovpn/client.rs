//! A client's tunnel: its device stays while flows come and go. Without a flow
//! packets wait in the device, and are dropped when it is full: none is ever
//! sent another way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_std::task;
use futures_lite::future;
use ouroboros::{
    AllocateError, Flow, FlowError, FlowInfo, FlowSpec, Irm, Trust, Tunnel, TunnelError,
    crypto::identity::Fingerprint,
    daemon::{Client, protocol::Request},
    proto::{
        hub::Configuration,
        negotiation::{Profile, ProfilePolicy},
    },
    transport::ServerHost,
    tun::InterfaceAddress,
    wire::{Name, PeerAddress},
};

use super::{
    Accepted, Outcome, Settings, announce, announce_own_key,
    attempts::Attempts,
    configured::{self, InForce},
    daemon_may_come,
    full_tunnel::{self, FullTunnel},
    layer::ensure_layer,
    networks,
    subject::{Subject, tell},
};
use crate::service;

/// How long one of several attempts may take. Shorter than the first one, so
/// that names are looked up anew soon.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The same, once a server has left several unanswered: one that is busy with a crowd of
/// clients would begin with each of them anew, and never come to an end.
const LONG_ATTEMPT: Duration = Duration::from_secs(12);
/// A server that was asked whether it is there and does not say so by then is
/// not there any more.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A flow that lived this long was one: when it ends, the next is had at once.
const LIVED: Duration = Duration::from_secs(10);

/// Runs a tunnel to the server of `name`, over one flow after the other, or
/// as many as there are lanes at a time. Waits for irmd, a layer and an address of the
/// server, as long as there are none.
///
/// # Errors
///
/// The first flow is refused, or not answered and [`Settings::wait`] is not set; its device
/// fails.
pub async fn client(irm: &Irm, name: &Name, spec: FlowSpec, settings: &Settings) -> Outcome {
    let full_tunnel = match settings.full_tunnel {
        true => Some(FullTunnel::begin(settings.kill_switch)?),
        false => {
            full_tunnel::clear_remains();
            None
        }
    };
    let outcome = run(irm, name, spec, settings, full_tunnel.as_ref()).await;
    if outcome.is_err() && full_tunnel.is_some_and(|full_tunnel| full_tunnel.failed()) {
        tell!(
            Subject::name(name),
            "Nothing leaves this machine until ovpn has been started again and ended \
             (--kill-switch)."
        );
    }
    outcome
}

async fn run(
    irm: &Irm,
    name: &Name,
    spec: FlowSpec,
    settings: &Settings,
    full_tunnel: Option<&FullTunnel>,
) -> Outcome {
    let lanes = u8::try_from(settings.lanes).unwrap_or(u8::MAX);
    if spec.has_manager_identity() {
        announce_own_key(Some(name)).await?;
    }
    if settings.ensure_layer {
        ensure_layer().await?;
    }
    tell!(Subject::name(name), "Allocating a flow to {name}.");
    let mut flows = first(irm, name, &spec, lanes, settings.wait).await?;
    meet(flows[0].info());
    let spec = as_good_as(flows[0].info(), spec);
    let mut settings = settings.clone();
    let chosen = !settings.addresses.is_empty();
    if !chosen {
        settings.addresses = configured::addresses(&configured::ask(&flows[0]).await?);
    }
    let mut tunnel = Arc::new(settings.tunnel().queues(flows.len()).build()?);
    let mut observing = settings.observed.client(&tunnel, networks(&settings.addresses));
    let mut in_force = InForce::default();
    let mut accepted = settings.changing.accepted;
    let mut attempts = Attempts::at(Subject::name(name));
    loop {
        let since = Instant::now();
        flows.iter().for_each(|flow| flow.expect_answers_within(PROBE_TIMEOUT));
        let device = tunnel.interface_name_now();
        let subject = Subject::server(flows[0].info());
        if let Some(full_tunnel) = full_tunnel {
            full_tunnel.lead(&device, &settings.addresses)?;
            tell!(subject.with("device", &device), "{}", full_tunnel.describe(&device));
        }
        let up = format!("{} is up.", settings.describe(&device));
        tell!(subject.with("device", &device), "{up}");
        service::status(&up);
        let own = networks(&settings.addresses);
        tunnel.ask(if chosen { &own } else { &[] });
        let known = match flows[0].info().peer {
            PeerAddress::Udp(address) => address.to_string().parse().ok(),
            _ => None,
        };
        let info = flows[0].info().clone();
        let ended = {
            let run = async { Ended::Flow(tunnel.run_lanes(flows).await) };
            let told = follow(&tunnel, &settings, &mut in_force, &mut accepted, chosen, &info);
            let watched = watch(&tunnel, settings.statistics, &subject);
            future::or(run, future::or(told, watched)).await
        };
        let ended = match ended {
            Ended::Flow(Ok(())) => FlowError::Closed,
            Ended::Flow(Err(TunnelError::Flow(error))) => error,
            Ended::Flow(Err(error)) => return Err(error.into()),
            Ended::Moved(addresses) => {
                tell!(subject, "The server has given this machine another address.");
                let lanes = tunnel.queues();
                drop((observing, tunnel));
                settings.addresses = addresses;
                tunnel = Arc::new(settings.tunnel().queues(lanes).build()?);
                observing = settings.observed.client(&tunnel, networks(&settings.addresses));
                in_force = InForce::default();
                FlowError::Closed
            }
        };
        tell!(subject, "The flow has ended: {ended}. Allocating another one.");
        if since.elapsed() >= LIVED {
            attempts = Attempts::at(Subject::name(name));
        }
        flows = again(irm, name, &spec, tunnel.queues(), known, &mut attempts).await;
        meet(flows[0].info());
    }
}

/// A step of a client.
enum Step {
    /// The server says something else.
    Told(Configuration),
    /// Something else is accepted.
    Changed(Accepted),
}

/// Why a tunnel has to begin anew.
enum Ended {
    /// Its flow has ended.
    Flow(Result<(), TunnelError>),
    /// It has other addresses now.
    Moved(Vec<InterfaceAddress>),
}

/// Does what the server says, for as long as the addresses stay.
async fn follow(
    tunnel: &Tunnel,
    settings: &Settings,
    in_force: &mut InForce,
    accepted: &mut Accepted,
    chosen: bool,
    info: &FlowInfo,
) -> Ended {
    let (mut last, mut next_key) = (None, None);
    loop {
        let told = async { Step::Told(tunnel.configuration().await) };
        let changed = async { Step::Changed(settings.next_change().await.accepted) };
        let told = match future::or(told, changed).await {
            Step::Told(told) => told,
            Step::Changed(now) => {
                *accepted = now;
                if let Some(told) = &last {
                    in_force.apply(tunnel, now, settings.full_tunnel, told, &Subject::server(info));
                }
                continue;
            }
        };
        if next_key != Some(told.next_key) {
            next_key = Some(told.next_key);
            remember_next_key(info, told.next_key).await;
        }
        let addresses = configured::addresses(&told);
        if addresses != settings.addresses {
            if !chosen && !addresses.is_empty() {
                return Ended::Moved(addresses);
            }
            tell!(
                Subject::server(info),
                "Warning: the server does not know this machine by its address: packets from it \
                 may be dropped there (--ip server takes the address that the server gives)."
            );
        }
        in_force.apply(tunnel, *accepted, settings.full_tunnel, &told, &Subject::server(info));
        last = Some(told);
    }
}

/// Has irmd take a server with the key `next` for that of the flow, too.
async fn remember_next_key(info: &FlowInfo, next: Option<Fingerprint>) {
    let Some(peer) = info.identity.as_ref().filter(|peer| !peer.is_certified()) else { return };
    let (name, key) = (info.name.to_string(), peer.fingerprint.to_string());
    let request = Request::AnnounceNextKey { name, key, next: next.map(|next| next.to_string()) };
    let subject = Subject::server(info);
    match (Client::new().ask(&request).await, next) {
        (Ok(_), Some(next)) => {
            tell!(
                subject,
                "The server announces its next key: {next} is taken for it, too, from now on."
            );
        }
        (Err(error), Some(_)) => {
            tell!(subject, "Warning: the server's next key is not kept: {error}.");
        }
        (_, None) => {}
    }
}

/// Prints traffic statistics every second, if that is wanted.
async fn watch(tunnel: &Tunnel, wanted: bool, subject: &Subject) -> Ended {
    if !wanted {
        return future::pending().await;
    }
    loop {
        task::sleep(Duration::from_secs(1)).await;
        let device = tunnel.interface_name_now();
        tell!(subject.with("device", &device), "{device}: {}", tunnel.statistics());
    }
}

/// Says whom the flow is with.
fn meet(info: &FlowInfo) {
    let subject = Subject::server(info);
    announce(info, &subject);
    if info.suite.is_some() && info.identity.is_none() {
        tell!(
            subject,
            "Warning: the server shows no key: who answers in its place is taken for it."
        );
    }
    if info.first_use && !info.remembered {
        tell!(
            subject,
            "Warning: this server cannot be remembered by its key, since irmd cannot write its known names: give the key with --server-key."
        );
    } else if info.first_use {
        let name = &info.name;
        tell!(
            subject,
            "The server of {name} is known by this key from now on: compare it with what `irm key show` says there."
        );
    }
}

/// Returns the specification of the flows that come after one with `info`: nothing weaker, and
/// nobody else.
fn as_good_as(info: &FlowInfo, spec: FlowSpec) -> FlowSpec {
    let Some(suite) = info.suite else { return spec };
    let mut security = spec.security().cloned().unwrap_or_default();
    security.suite = suite;
    if info.profile == Some(Profile::Native) {
        security.profile = ProfilePolicy::RequireNative;
    }
    if let Some(peer) = info.identity.as_ref().filter(|peer| !peer.is_certified()) {
        security.trust = Trust::Keys(vec![peer.fingerprint]);
    }
    spec.with_security(security)
}

/// The first flows. Waits for what may come by itself: irmd, a layer, an address of the
/// name, a way to it; with `wait`, also an answer of the server.
async fn first(
    irm: &Irm,
    name: &Name,
    spec: &FlowSpec,
    lanes: u8,
    wait: bool,
) -> Result<Vec<Flow>, AllocateError> {
    let spec = if wait { spec.clone().timeout(ATTEMPT) } else { spec.clone() };
    let mut attempts = Attempts::at(Subject::name(name));
    loop {
        attempts.pause().await;
        match irm.allocate_lanes(name.as_str(), spec.clone(), lanes).await {
            Err(AllocateError::TimedOut) if wait => {
                attempts.say(&format!("No flow yet: {}.", AllocateError::TimedOut));
            }
            Err(error) if may_pass(&error) => attempts.say(&format!("No flow yet: {error}.")),
            outcome => return outcome,
        }
    }
}

/// Returns `true` if the same allocation may work later although nobody corrects it.
fn may_pass(error: &AllocateError) -> bool {
    match error {
        AllocateError::NoLayer
        | AllocateError::NameNotFound
        | AllocateError::NotResolved { .. }
        | AllocateError::NoSuchServer { .. }
        | AllocateError::Busy
        | AllocateError::Gone
        | AllocateError::Transport(_) => true,
        AllocateError::Daemon(error) => daemon_may_come(error),
        _ => false,
    }
}

/// Attempts until there are as many flows again. Whatever is missing may come back: the
/// network, the peer, irmd; and who is in between may go away.
async fn again(
    irm: &Irm,
    name: &Name,
    spec: &FlowSpec,
    lanes: usize,
    known: Option<ServerHost>,
    attempts: &mut Attempts,
) -> Vec<Flow> {
    let queues = u8::try_from(lanes).unwrap_or(u8::MAX);
    attempts.begin();
    let mut anew = false;
    let mut timeout = ATTEMPT;
    loop {
        attempts.pause().await;
        // Where its name is looked up in turn with where it was: the resolver may be
        // beyond the tunnel.
        anew = !anew;
        let spec = match &known {
            Some(known) if !anew => spec.clone().at_server(known.clone()),
            _ => spec.clone(),
        };
        let reason = match irm.allocate_lanes(name.as_str(), spec.timeout(timeout), queues).await {
            Ok(flows) if flows.len() == lanes => return flows,
            Ok(_) => "the server knows of one flow only".to_owned(),
            Err(error) => {
                if matches!(error, AllocateError::TimedOut) {
                    timeout = (timeout * 2).min(LONG_ATTEMPT);
                }
                error.to_string()
            }
        };
        attempts.say(&format!("No flow yet: {reason}."));
    }
}

#[cfg(test)]
mod tests {
    use ouroboros::{
        PeerIdentity,
        crypto::{Cipher, KeyExchange, Suite, SystemEntropy, identity::IdentityKey},
        wire::{Eid, QosSpec},
    };

    use super::*;

    #[test]
    fn flows_that_come_after_are_never_weaker() {
        let peer = PeerAddress::Udp(([10, 0, 0, 1], 3435).into());
        let name: Name = "my_vpn".parse().expect("a name");
        let plain = FlowInfo::new(name, peer, (Eid(1), Eid(2)), QosSpec::RAW);
        assert!(!as_good_as(&plain, FlowSpec::raw()).is_encrypted());

        let suite =
            Suite { kex: KeyExchange::P256, cipher: Cipher::ChaCha20Poly1305, ..Suite::default() };
        let fingerprint = IdentityKey::generate(&mut SystemEntropy).public_key().fingerprint();
        let identity = |certified: bool| {
            let certified_until = certified.then_some(1_900_000_000);
            let common_name = "my_vpn".to_owned();
            Some(PeerIdentity { fingerprint, common_name, certified_until })
        };
        // Encrypted because the daemon had it so: it may not next time.
        for asked in [FlowSpec::raw(), FlowSpec::raw().encrypted()] {
            for (profile, peer) in [
                (Profile::Native, identity(false)),
                (Profile::Native, identity(true)),
                (Profile::Wire023, None),
            ] {
                let info = plain.clone().encrypted(suite, profile, peer.clone());
                let next = as_good_as(&info, asked.clone());
                let security = next.security().expect("encrypted");
                assert_eq!(security.suite, suite);
                let native = security.profile == ProfilePolicy::RequireNative;
                assert_eq!(native, profile == Profile::Native);
                match (&security.trust, peer) {
                    (Trust::Keys(keys), Some(peer)) if !peer.is_certified() => {
                        assert_eq!(keys, &[fingerprint]);
                    }
                    (Trust::Anyone, None) => {}
                    // Authorities vouch for its next key as well.
                    (Trust::Anyone, Some(peer)) => assert!(peer.is_certified()),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
