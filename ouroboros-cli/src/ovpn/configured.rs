//! What a client does about what its server tells it of the network.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use async_std::task;
use futures_lite::future;
use ouroboros::{
    Flow, FlowError, Tunnel,
    proto::{
        hub::{Asking, Configuration, IpNet},
        negotiation::Profile,
    },
    tun::InterfaceAddress,
};

use super::{Accepted, Settings};

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
        let mut asking = Asking::new(start.elapsed(), &[]);
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

/// What of a configuration is in force at the device.
#[derive(Debug, Default)]
pub(super) struct InForce {
    routes: Vec<IpNet>,
    resolvers: Configuration,
}

impl InForce {
    /// Takes a configuration, as far as it is accepted.
    pub(super) fn apply(&mut self, tunnel: &Tunnel, settings: &Settings, told: &Configuration) {
        let Accepted { routes, dns } = settings.accepted;
        let device = &tunnel.interface_name_now();
        let mut told = told.clone();
        // In the main table it would lead the tunnel's own packets into the tunnel.
        told.routes.retain(|route| route.prefix_len() > 0);
        if routes {
            for route in self.routes.iter().filter(|route| !told.routes.contains(route)) {
                let _ = tunnel.remove_route(*route);
            }
            for route in told.routes.iter().filter(|route| !self.routes.contains(route)) {
                match tunnel.add_route(*route) {
                    Ok(()) => println!("Route: {route} through {device}."),
                    Err(error) => println!("The server's route {route} cannot be made: {error}."),
                }
            }
        } else if !told.routes.is_empty() && self.routes != told.routes {
            println!("The server offers routes: {} (--accept-routes).", list(&told.routes));
        }
        self.routes.clone_from(&told.routes);
        let mut resolvers = Configuration::default();
        resolvers.dns_servers.clone_from(&told.dns_servers);
        resolvers.search_domains.clone_from(&told.search_domains);
        if resolvers == self.resolvers {
            return;
        }
        if dns {
            resolve(device, &resolvers, settings.full_tunnel);
        } else {
            let servers = list(&told.dns_servers);
            println!("The server offers resolvers: {servers} (--accept-dns).");
        }
        self.resolvers = resolvers;
    }
}

/// Has systemd-resolved ask these resolvers for the device, for all names if `everything`
/// goes there; it forgets them when the device goes.
fn resolve(device: &str, told: &Configuration, everything: bool) {
    let run = |words: &[String]| {
        let outcome = Command::new("resolvectl").args(words).output();
        outcome.is_ok_and(|output| output.status.success())
    };
    let mut servers = vec!["dns".to_owned(), device.to_owned()];
    servers.extend(told.dns_servers.iter().map(ToString::to_string));
    let mut domains = vec!["domain".to_owned(), device.to_owned()];
    domains.extend(told.search_domains.iter().cloned());
    domains.extend(everything.then(|| "~.".to_owned()));
    if run(&servers) && (domains.len() == 2 || run(&domains)) {
        println!("Resolvers of {device}: {}.", list(&told.dns_servers));
    } else {
        println!(
            "Warning: there is no systemd-resolved to use the server's resolvers: {}; put them \
             into /etc/resolv.conf yourself.",
            list(&told.dns_servers)
        );
    }
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<_> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}
