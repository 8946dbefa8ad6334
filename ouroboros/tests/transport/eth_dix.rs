//! eth-dix on the loopback interface, by packet sockets and by libpcap.

use ouroboros::{transport::EthDix, wire::MacAddress};
use socket2::SockFilter;

use super::*;

pub(super) fn eth_dix_on_loopback() {
    isolated(|| {
        let here = EthDix::on("lo").open().unwrap();
        let there = EthDix::on("lo").open().unwrap();
        let other = EthDix::on("lo").ethertype(0xa001).open().unwrap();
        let (sends, hears) = (here.management().unwrap(), there.management().unwrap());
        other.management().unwrap().send(Destination::Broadcast, b"other").unwrap();
        sends.send(Destination::Broadcast, &[1; 2049]).unwrap();
        sends.send(Destination::Broadcast, b"query").unwrap();
        let lo = PeerAddress::Mac(MacAddress([0; 6]));
        assert_eq!(message(&*hears), (b"query".to_vec(), lo));
        assert_eq!(there.oversized(), 1);
        let again = hears.receive(&mut [0; 100]).unwrap_err();
        assert_eq!(again.kind(), std::io::ErrorKind::WouldBlock);

        let asks = here.open_requester(Eid(7), None).unwrap();
        let answers = there.open_responder(Eid(9), Eid(7), lo).unwrap();
        let stranger = there.open_responder(Eid(8), Eid(9), lo).unwrap();
        send(&*answers, &[b"early".to_vec()]);
        asks.connect(Eid(9), lo).unwrap();
        assert_eq!(receive(&*here, &*asks, 1), [b"early"]);
        send(&*asks, &mixed());
        assert_eq!(receive(&*there, &*answers, mixed().len()), mixed());

        assert_eq!(asks.largest_frame(), 8996);
        assert_eq!(send(&*asks, &[vec![1; 8996], vec![2; 8997], vec![3; 1]]), 1);
        assert_eq!(receive(&*there, &*answers, 2), [vec![1; 8996], vec![3; 1]]);
        let mut batch = ReceiveBatch::new(1 << 16);
        assert!(stranger.receive(&mut batch).is_err());
        assert!(batch.is_empty());
    });
}

pub(super) fn an_eth_dix_path_that_was_handed_over_carries_on_and_nobody_can_widen_its_filter() {
    isolated(|| {
        let here = EthDix::on("lo").open().unwrap();
        let lo = PeerAddress::Mac(MacAddress([0; 6]));
        let asks = here.open_requester(Eid(7), None).unwrap();
        assert!(asks.hand_over().is_none(), "the filter knows no peer yet");
        let answers = here.open_responder(Eid(9), Eid(7), lo).unwrap();
        asks.connect(Eid(9), lo).unwrap();
        let (asked, answered) =
            (handed(&*asks, (Eid(7), Eid(9)), lo), handed(&*answers, (Eid(9), Eid(7)), lo));
        send(&*asked, &mixed());
        assert_eq!(receive(&*here, &*answered, mixed().len()), mixed());
        send(&*answered, &mixed());
        assert_eq!(receive(&*here, &*asked, mixed().len()), mixed());
        assert_eq!(asked.largest_frame(), 8996);

        let socket: Socket = asked.hand_over().unwrap().unwrap().socket.into();
        const TAKE_ALL: SockFilter = SockFilter::new(0x06, 0, 0, u32::MAX);
        for error in [socket.attach_filter(&[TAKE_ALL]), socket.detach_filter()] {
            assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
    });
}

pub(super) fn eth_dix_says_what_is_missing() {
    isolated(|| {
        let error = EthDix::on("nowhere0").open().err().unwrap();
        assert!(matches!(&error, OpenError::NoSuchInterface(name) if name == "nowhere0"));
        assert!(error.to_string().contains("ip link"));
    });
}

#[cfg(feature = "pcap")]
pub(super) fn eth_dix_by_libpcap_talks_to_packet_sockets() {
    use ouroboros::transport::pcap::PcapDix;
    isolated(|| {
        let here = PcapDix::on("lo").open().unwrap();
        let there = EthDix::on("lo").open().unwrap();
        let (ours, theirs) = (here.management().unwrap(), there.management().unwrap());
        ours.send(Destination::Broadcast, b"query").unwrap();
        let (query, lo) = message(&*theirs);
        assert_eq!(query, b"query");
        theirs.send(Destination::Broadcast, &[1; 2049]).unwrap();
        theirs.send(Destination::Broadcast, b"answer").unwrap();
        while message(&*ours).0 != b"answer" {}
        assert_eq!(here.oversized(), 1);
        let asks = here.open_requester(Eid(7), None).unwrap();
        let answers = there.open_responder(Eid(9), Eid(7), lo).unwrap();
        asks.connect(Eid(9), lo).unwrap();
        send(&*answers, &mixed());
        assert_eq!(receive(&*here, &*asks, mixed().len()), mixed());
        send(&*asks, &mixed());
        assert_eq!(receive(&*there, &*answers, mixed().len()), mixed());
    });
}
