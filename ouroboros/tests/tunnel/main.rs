//! Tunnels between network namespaces, by the library alone: what goes in comes
//! out, whatever the kernel does of the work, whatever lies between the ends.

mod capture;
mod checksums;
mod hosts;
mod offloads;
mod traffic;

use std::process::ExitCode;

use checksums::*;
use offloads::*;
use ouroboros_testing::{Needs, tests};

fn main() -> ExitCode {
    tests![
        Needs::Tunnels: with_each_offload_off_over_udp_everything_arrives,
            with_each_offload_off_inside_ipv6_everything_arrives,
            with_each_offload_off_on_ethernet_everything_arrives,
            a_bulk_transfer_moves_many_packets_in_a_call_and_the_statistics_tell,
            packets_that_were_cut_travel_with_right_headers_and_checksums,
            the_far_kernel_gets_checksums_as_it_takes_them,
    ]
    .run()
}
