//! Packets of several sizes both ways, which arrive as they were sent.

use ouroboros::Flow;

/// Sends packets from each end to the other, up to the largest that both take.
pub(crate) async fn exchange(a: &Flow, b: &Flow) {
    for (from, to) in [(a, b), (b, a)] {
        for size in [1, 64, 1000, from.largest_packet().min(to.largest_packet())] {
            let packet: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            from.send(&packet).await.expect("sent");
            assert_eq!(to.recv_vec().await.expect("received"), packet);
        }
    }
}
