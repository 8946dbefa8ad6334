//! Gives the bodies of the fuzz targets (`fuzz/bodies`) every file of their
//! corpora.

use ouroboros_testing::replay;

#[path = "../../fuzz/bodies/allocation.rs"]
mod allocation;
#[path = "../../fuzz/bodies/client.rs"]
mod client;
#[path = "../../fuzz/bodies/coalesce.rs"]
mod coalesce;
#[path = "../../fuzz/bodies/daemon.rs"]
mod daemon;
#[path = "../../fuzz/bodies/fragments.rs"]
mod fragments;
#[path = "../../fuzz/bodies/frct.rs"]
mod frct;
#[path = "../../fuzz/bodies/input.rs"]
mod input;
#[path = "../../fuzz/bodies/management.rs"]
mod management;
#[path = "../../fuzz/bodies/opening.rs"]
mod opening;
#[path = "../../fuzz/bodies/order.rs"]
mod order;
#[path = "../../fuzz/bodies/reliable.rs"]
mod reliable;
#[path = "../../fuzz/bodies/segment.rs"]
mod segment;
#[path = "../../fuzz/bodies/server.rs"]
mod server;
#[path = "../../fuzz/bodies/session.rs"]
mod session;

macro_rules! replayed {
    ($($target:ident),* $(,)?) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target), $target::body);
            }
        )*
    };
}

replayed!(
    allocation, client, coalesce, daemon, fragments, frct, management, opening, order, reliable,
    segment, server, session
);
