//! Applies the configuration that a server sends its client.

use std::time::{Duration, Instant};

use async_std::task;
use futures_lite::future;
use ouroboros::{
    Flow, FlowError, Tunnel,
    proto::{
        hub::{Configuration, ConfigurationClient, IpNet},
        negotiation::Profile,
    },
    tun::InterfaceAddress,
};

use super::{
    Accepted,
    resolving::Resolving,
    subject::{Subject, tell},
};

/// How long a server may take to say which addresses this machine has.
const CONFIGURATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often to see whether it has to be asked again.
const REPEAT: Duration = Duration::from_millis(250);

/// Asks for the configuration before there is a device.
///
/// # Errors
///
/// The server does not say.
pub(super) async fn ask(
    flow: &Flow,
) -> Result<Configuration, Box<dyn std::error::Error + Send + Sync>> {
    if flow.info().profile != Some(Profile::Native) {
        return Err("the server cannot give addresses to a tunnel of this kind: encrypt it \
                    (--crypt), or choose an address (--ip ADDRESS/PREFIX)"
            .into());
    }
    let start = Instant::now();
    let asked = async {
        let mut asking = ConfigurationClient::new(start.elapsed(), &[]);
        let mut buffer = vec![0; 65_535];
        loop {
            while let Some(packet) = asking.poll_transmit() {
                flow.send(&packet).await?;
            }
            let told = asking.poll().filter(|told| !told.addresses.is_empty());
            if told.is_some() {
                return Ok::<_, FlowError>(told);
            }
            let received = async { flow.recv(&mut buffer).await.map(Some) };
            let later = async {
                task::sleep(REPEAT).await;
                Ok(None)
            };
            match future::or(received, later).await? {
                Some(size) => asking.handle(&buffer[..size]),
                None => asking.handle_timeout(start.elapsed()),
            }
        }
    };
    let late = async {
        task::sleep(CONFIGURATION_TIMEOUT).await;
        Ok(None)
    };
    future::or(asked, late).await?.ok_or_else(|| {
        "the server has not said which address this machine has: its addresses are used up, or it \
         is older; choose one (--ip ADDRESS/PREFIX)"
            .into()
    })
}

/// The addresses of a configuration as a device has them.
pub(super) fn addresses(configuration: &Configuration) -> Vec<InterfaceAddress> {
    let address = |net: &IpNet| InterfaceAddress::new(net.addr(), net.prefix_len()).ok();
    configuration.addresses.iter().filter_map(address).collect()
}

/// The parts of a configuration that are in force at the device.
#[derive(Debug, Default)]
pub(super) struct InForce {
    routes: Vec<IpNet>,
    /// Routes that were offered and are not accepted.
    offered: Vec<IpNet>,
    resolvers: Configuration,
    resolving: Option<Resolving>,
}

impl InForce {
    /// Takes a configuration, as far as it is accepted.
    pub(super) fn apply(
        &mut self,
        tunnel: &Tunnel,
        accepted: Accepted,
        full_tunnel: bool,
        told: &Configuration,
        subject: &Subject,
    ) {
        let device = &tunnel.interface_name_now();
        let subject = &subject.with("device", device);
        let mut told = told.clone();
        // In the main table it would lead the tunnel's own packets into the tunnel.
        told.routes.retain(|route| route.prefix_len() > 0);
        let (wanted, offered) = match accepted.routes {
            true => (told.routes, Vec::new()),
            false => (Vec::new(), told.routes),
        };
        for route in self.routes.iter().filter(|route| !wanted.contains(route)) {
            let _ = tunnel.remove_route(*route);
        }
        for route in wanted.iter().filter(|route| !self.routes.contains(route)) {
            let subject = subject.with("route", route);
            match tunnel.add_route(*route) {
                Ok(()) => tell!(subject, "Route: {route} through {device}."),
                Err(error) => {
                    tell!(subject, "The server's route {route} cannot be made: {error}.");
                }
            }
        }
        if !offered.is_empty() && self.offered != offered {
            let routes = list(&offered);
            let subject = subject.with("routes", &routes);
            tell!(subject, "The server offers routes: {routes} (--accept-routes).");
        }
        (self.routes, self.offered) = (wanted, offered);
        let mut resolvers = Configuration::default();
        resolvers.dns_servers = told.dns_servers;
        resolvers.search_domains = told.search_domains;
        if resolvers == self.resolvers && self.resolving.is_some() == accepted.dns {
            return;
        }
        // Ends what there was.
        self.resolving = None;
        if accepted.dns && !resolvers.dns_servers.is_empty() {
            self.resolving = Resolving::begin(device, &resolvers, full_tunnel, subject);
        } else if !resolvers.dns_servers.is_empty() && resolvers != self.resolvers {
            let servers = list(&resolvers.dns_servers);
            let subject = subject.with("resolvers", &servers);
            tell!(subject, "The server offers resolvers: {servers} (--accept-dns).");
        }
        self.resolvers = resolvers;
    }
}

pub(super) fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
