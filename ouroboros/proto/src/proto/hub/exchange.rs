//! The exchange of a configuration over a flow that loses packets: one end
//! asks until it is answered, the other repeats each answer until it has
//! arrived. Who drives it sends what [`poll_transmit`](ConfigurationServer::poll_transmit)
//! gives as packets of the flow.

use std::{collections::VecDeque, time::Duration};

use ipnet::IpNet;

use super::configuration::{Configuration, LARGEST, Message, PART, Part};

/// First wait before a repetition; each is twice as long as the one before.
const RETRY: Duration = Duration::from_millis(250);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(4);
/// Parts of one configuration, at most.
const MOST_PARTS: usize = LARGEST.div_ceil(PART);

/// Repetitions.
#[derive(Clone, Copy, Debug)]
struct Repeat {
    next: Duration,
    wait: Duration,
}

impl Repeat {
    fn new(now: Duration) -> Self {
        Self { next: now + RETRY, wait: RETRY }
    }

    /// Returns `true` if it is time, and sets the next.
    fn is_due(&mut self, now: Duration) -> bool {
        let due = now >= self.next;
        if due {
            self.wait = (self.wait * 2).min(LONGEST);
            self.next = now + self.wait;
        }
        due
    }
}

/// Returns `true` if the first byte of a packet says that it may be one of the
/// exchange, and cannot be IP's.
pub(super) fn is_exchange(packet: &[u8]) -> bool {
    packet.first().is_some_and(|byte| byte >> 4 == 0)
}

/// The client's end.
#[derive(Debug)]
pub struct ConfigurationClient {
    wanted: Vec<IpNet>,
    /// Until the first answer.
    repeat: Option<Repeat>,
    /// The newest configuration that came whole.
    have: Option<u32>,
    /// One that is coming.
    coming: Option<(u32, Vec<Option<Vec<u8>>>)>,
    news: Option<Configuration>,
    transmits: VecDeque<Vec<u8>>,
}

impl ConfigurationClient {
    /// Asks for a configuration; `wanted` are the addresses that this end would
    /// like, or has.
    pub fn new(now: Duration, wanted: &[IpNet]) -> Self {
        let wanted: Vec<_> = wanted.iter().copied().take(8).collect();
        let transmits = VecDeque::from([Message::Request(wanted.clone()).encode()]);
        let repeat = Some(Repeat::new(now));
        Self { wanted, repeat, have: None, coming: None, news: None, transmits }
    }

    /// Returns `true` if `packet`, which a tunnel has received, is for
    /// [`handle`](Self::handle) and no IP packet.
    pub fn is_for(packet: &[u8]) -> bool {
        is_exchange(packet)
    }

    /// Takes a packet of the server.
    pub fn handle(&mut self, packet: &[u8]) {
        let Some(Message::Part(part)) = Message::parse(packet) else { return };
        if let Some(have) = self.have {
            if part.serial == have {
                // The acknowledgement was lost.
                self.acknowledge(have);
                return;
            }
            // An older one, late.
            if part.serial.wrapping_sub(have) > u32::MAX / 2 {
                return;
            }
        }
        let count = usize::from(part.count);
        if count > MOST_PARTS {
            return;
        }
        let (serial, parts) = match &mut self.coming {
            Some((serial, parts)) if *serial == part.serial && parts.len() == count => {
                (*serial, parts)
            }
            coming => {
                let (serial, parts) = coming.insert((part.serial, vec![None; count]));
                (*serial, parts)
            }
        };
        parts[usize::from(part.index)] = Some(part.bytes.to_vec());
        if parts.iter().any(Option::is_none) {
            return;
        }
        let whole: Vec<u8> = parts.drain(..).flatten().flatten().collect();
        self.coming = None;
        self.have = Some(serial);
        self.repeat = None;
        self.acknowledge(serial);
        if let Some(configuration) = Configuration::parse(&whole) {
            self.news = Some(configuration);
        }
    }

    fn acknowledge(&mut self, serial: u32) {
        // One for each packet that came, at most.
        self.transmits.clear();
        self.transmits.push_back(Message::Received(serial).encode());
    }

    /// A configuration that came, once.
    pub fn poll(&mut self) -> Option<Configuration> {
        self.news.take()
    }

    /// A packet to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.repeat.map(|repeat| repeat.next)
    }

    /// Asks again if it is time.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.repeat.as_mut().is_some_and(|repeat| repeat.is_due(now)) {
            self.transmits.clear();
            self.transmits.push_back(Message::Request(self.wanted.clone()).encode());
        }
    }
}

/// The server's end.
#[derive(Debug, Default)]
pub struct ConfigurationServer {
    serial: u32,
    /// The configuration of that serial, encoded.
    bytes: Vec<u8>,
    /// Until it has arrived.
    repeat: Option<Repeat>,
    asked: bool,
    /// The addresses that the client asked for.
    wanted: Option<Vec<IpNet>>,
    transmits: VecDeque<Vec<u8>>,
}

impl ConfigurationServer {
    /// For a client that has not asked yet: nothing is sent to one that does
    /// not know the exchange.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns `true` if `packet`, which a tunnel has received, is for
    /// [`handle`](Self::handle) and no IP packet.
    pub fn is_for(packet: &[u8]) -> bool {
        is_exchange(packet)
    }

    /// Returns `true` once the client has asked.
    pub fn was_asked(&self) -> bool {
        self.asked
    }

    /// Takes a packet of the client.
    pub fn handle(&mut self, now: Duration, packet: &[u8]) {
        match Message::parse(packet) {
            Some(Message::Request(wanted)) => {
                if !self.asked {
                    self.wanted = Some(wanted);
                }
                self.asked = true;
                // What it has not heard of it hears again, if there is any yet.
                self.send(now);
            }
            Some(Message::Received(serial)) if serial == self.serial => self.repeat = None,
            _ => {}
        }
    }

    /// Sends the client a configuration once it has asked, and again until it has
    /// acknowledged it. Returns `false` if it is longer than [`LARGEST`].
    pub fn configure(&mut self, now: Duration, configuration: &Configuration) -> bool {
        let Some(bytes) = configuration.encode() else { return false };
        if self.serial == 0 || bytes != self.bytes {
            self.serial = self.serial.wrapping_add(1).max(1);
            self.bytes = bytes;
            self.send(now);
        }
        true
    }

    fn send(&mut self, now: Duration) {
        if self.asked && self.serial != 0 {
            self.repeat = Some(Repeat::new(now));
            self.push_parts();
        }
    }

    fn push_parts(&mut self) {
        self.transmits.clear();
        let parts: Vec<_> = self.bytes.chunks(PART).collect();
        let parts = if parts.is_empty() { vec![&[][..]] } else { parts };
        let (serial, count) = (self.serial, parts.len() as u8);
        for (index, bytes) in parts.into_iter().enumerate() {
            let part = Part { serial, index: index as u8, count, bytes };
            self.transmits.push_back(Message::Part(part).encode());
        }
    }

    /// Returns the addresses that the client asks for; once.
    pub fn poll(&mut self) -> Option<Vec<IpNet>> {
        self.wanted.take()
    }

    /// A packet to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.repeat.map(|repeat| repeat.next)
    }

    /// Sends the configuration again if it is time.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.repeat.as_mut().is_some_and(|repeat| repeat.is_due(now)) {
            self.push_parts();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn configuration(routes: usize) -> Configuration {
        let routes = (0..routes).map(|n| {
            IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + ((n as u32) << 8)).into(), 24)
        });
        Configuration { routes: routes.map(Result::unwrap).collect(), ..Configuration::default() }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_sent_to_a_client_that_has_not_asked() {
        let mut server = ConfigurationServer::new();
        assert!(server.configure(SECOND, &configuration(3)));
        assert_eq!((server.poll_transmit(), server.poll_timeout()), (None, None));
        server.handle(SECOND, b"\x45 an IP packet");
        assert!(!server.was_asked());
        let mut client = ConfigurationClient::new(SECOND, &["10.0.0.2/24".parse().unwrap()]);
        server.handle(SECOND, &client.poll_transmit().expect("a request"));
        assert_eq!(server.poll(), Some(vec!["10.0.0.2/24".parse().unwrap()]));
        client.handle(&server.poll_transmit().expect("an answer"));
        assert_eq!(client.poll(), Some(configuration(3)));
        server.handle(SECOND, &client.poll_transmit().expect("an acknowledgement"));
        assert_eq!((client.poll_timeout(), server.poll_timeout()), (None, None));
    }

    #[test]
    fn an_old_part_that_is_late_changes_nothing() {
        let mut server = ConfigurationServer::new();
        let mut client = ConfigurationClient::new(SECOND, &[]);
        server.handle(SECOND, &client.poll_transmit().expect("a request"));
        server.configure(SECOND, &configuration(1));
        let old = server.poll_transmit().expect("a part");
        server.configure(SECOND, &configuration(2));
        client.handle(&server.poll_transmit().expect("a part"));
        assert_eq!(client.poll(), Some(configuration(2)));
        client.handle(&old);
        assert_eq!(client.poll(), None);
    }

    proptest! {
        /// Whatever is lost, repeated or late, the client has the newest in the
        /// end.
        #[test]
        fn the_newest_arrives_in_the_end(
            routes in prop::collection::vec(0..600usize, 1..4),
            lost in prop::collection::vec(any::<bool>(), 0..60),
        ) {
            let (mut now, mut lost) = (SECOND, lost.into_iter());
            let (mut client, mut server) = (ConfigurationClient::new(now, &[]), ConfigurationServer::new());
            let mut told = routes.iter();
            let mut has = None;
            for _ in 0..400 {
                if let Some(routes) = told.next() {
                    prop_assert!(server.configure(now, &configuration(*routes)));
                }
                while let Some(packet) = client.poll_transmit() {
                    if !lost.next().unwrap_or(false) {
                        server.handle(now, &packet);
                    }
                }
                while let Some(packet) = server.poll_transmit() {
                    if !lost.next().unwrap_or(false) {
                        client.handle(&packet);
                    }
                }
                has = client.poll().or(has);
                now += RETRY;
                client.handle_timeout(now);
                server.handle_timeout(now);
            }
            prop_assert_eq!(has, Some(configuration(*routes.last().unwrap())));
            prop_assert_eq!((client.poll_timeout(), server.poll_timeout()), (None, None));
        }
    }
}
