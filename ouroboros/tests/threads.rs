//! Handles and futures can go to any thread: what a multi-threaded executor
//! asks of them. Checked by the compiler; nothing here runs.

use std::{net::IpAddr, time::Duration};

use ouroboros::{
    Flow, FlowCloser, FlowReceiver, FlowSender, FlowSpec, FlowWatcher, Hub, HubBuilder, Ipcp, Irm,
    LaneAcceptor, Layer, Packets, RawFlow, Tunnel, TunnelBuilder,
    daemon::{Client, Connection, Listener},
    transport::Udp,
};

const fn handle<T: Send + Sync + 'static>() {}
const fn movable<T: Send + 'static>() {}
const fn future<F: Future + Send>(_: &F) {}

const _: () = {
    handle::<Flow>();
    handle::<FlowCloser>();
    handle::<FlowSpec>();
    handle::<FlowWatcher>();
    handle::<FlowSender>();
    handle::<FlowReceiver>();
    handle::<Packets>();
    handle::<RawFlow>();
    handle::<Irm>();
    handle::<Layer>();
    handle::<Ipcp>();
    handle::<LaneAcceptor>();
    handle::<Tunnel>();
    handle::<TunnelBuilder>();
    handle::<Hub>();
    handle::<HubBuilder>();
    handle::<Client>();
    handle::<Connection>();
    handle::<Listener>();
    movable::<ouroboros::AllocateError>();
    movable::<ouroboros::FlowError>();
    movable::<ouroboros::LayerError>();
    movable::<ouroboros::TunnelError>();
};

#[expect(dead_code, reason = "compiled is enough")]
fn futures_of_a_flow(flow: &Flow, packets: &mut Packets) {
    future(&flow.send(&[]));
    future(&flow.send_many(&[[0; 1]]));
    future(&flow.recv(&mut []));
    future(&flow.recv_vec());
    future(&flow.recv_many(packets));
    future(&flow.ready());
    future(&flow.closed());
}

#[expect(dead_code, reason = "compiled is enough")]
fn futures_of_a_manager(irm: &Irm, layer: &Layer, acceptor: &mut LaneAcceptor) {
    let timeout = FlowSpec::raw().timeout(Duration::from_secs(1));
    future(&irm.bootstrap("layer", Udp::at(IpAddr::from([127, 0, 0, 1]))));
    future(&irm.list_layers());
    future(&irm.register("name", "layer"));
    future(&irm.unregister("name", "layer"));
    future(&irm.bind("name"));
    future(&irm.unbind("name"));
    future(&irm.accept("name"));
    future(&irm.accept_any());
    future(&irm.accept_raw(&[]));
    future(&irm.allocate("name", timeout.clone()));
    future(&irm.allocate_lanes("name", timeout.clone(), 2));
    future(&layer.register("name"));
    future(&layer.unregister("name"));
    future(&layer.allocate("name", timeout));
    future(&acceptor.accept());
}

#[expect(dead_code, reason = "compiled is enough")]
fn futures_of_a_tunnel(tunnel: &Tunnel, hub: &Hub, [first, second, third]: [Flow; 3]) {
    future(&tunnel.configuration());
    future(&tunnel.run(first));
    future(&tunnel.run_lanes(vec![second]));
    future(&hub.join(vec![third], &[]));
    future(&hub.next_event());
}
