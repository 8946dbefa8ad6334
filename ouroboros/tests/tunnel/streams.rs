//! Streams between hosts, without a tunnel.

use futures_lite::future::block_on;
use ouroboros::FlowSpec;

use crate::{
    hosts::Hosts,
    transfer::{in_time, size, transfer},
};

pub(crate) fn a_transfer_arrives_whole_over_ethernet() {
    let hosts = Hosts::on_ethernet();
    let [accepted, allocated] = hosts.flow(FlowSpec::reliable().encrypted());
    block_on(in_time(transfer(allocated, accepted, size())));
}
