//! Tunnels between network namespaces, and streams over Ethernet, by the library alone:
//! what goes in comes out, whatever the kernel does of the work, whatever lies between
//! the ends.

mod capture;
mod checksums;
mod crowd;
mod hosts;
mod hub;
mod lanes;
mod movement;
mod mtu;
mod offloads;
mod rekey;
mod streams;
mod traffic;
#[path = "../transfer/mod.rs"]
mod transfer;
mod unchanged;
mod wire;

use std::process::ExitCode;

use checksums::*;
use crowd::*;
use hub::*;
use lanes::*;
use movement::*;
use mtu::*;
use offloads::*;
use ouroboros_testing::{Needs, tests};
use rekey::*;
use streams::*;
use unchanged::*;

fn main() -> ExitCode {
    tests![
        Needs::Tunnels: with_each_offload_off_over_udp_everything_arrives,
            with_each_offload_off_inside_ipv6_everything_arrives,
            with_each_offload_off_on_ethernet_everything_arrives,
            a_bulk_transfer_moves_many_packets_in_a_call_and_the_statistics_tell,
            packets_that_were_cut_travel_with_right_headers_and_checksums,
            the_far_kernel_gets_checksums_as_it_takes_them,
            packets_that_are_too_large_are_answered_with_the_mtu,
            connections_of_hosts_behind_the_ends_offer_segments_that_fit,
            an_interface_whose_mtu_is_lowered_and_raised_is_followed,
            a_router_that_says_that_its_link_carries_less_is_believed,
            packets_of_every_kind_pass_unchanged_and_in_order,
            tcp_recovers_from_loss_with_the_help_of_its_options,
            marks_of_congestion_are_carried_outward_and_inward,
            keys_change_under_load_and_no_packet_is_lost,
            a_client_behind_another_address_is_followed_once_it_has_proved_to_be_there,
            several_connections_share_the_lanes_of_a_tunnel,
            who_does_not_know_of_lanes_has_one_flow,
            a_hub_tells_that_a_client_has_moved,
            copies_and_garbage_from_elsewhere_do_not_move_a_flow,
            many_clients_share_one_device_and_each_has_its_own_address,
            a_client_joins_and_leaves_while_the_only_other_one_floods,
            a_client_sends_from_its_own_address_only,
            clients_reach_each_other_if_the_hub_forwards,
            a_client_that_comes_back_takes_its_own_place_only,
            a_client_that_is_asked_and_does_not_answer_has_left,
            a_client_hears_its_configuration_and_its_changes,
            a_hundred_clients_have_a_server_and_the_next_one_when_it_was_killed,
            the_smallest_links_carry_ipv6_and_packets_of_its_least_mtu,
            a_link_that_becomes_too_small_for_ipv6_keeps_it,
            a_path_that_drops_what_is_too_large_and_says_nothing_is_measured;
        Needs::Namespaces: a_transfer_arrives_whole_over_ethernet
    ]
    .with_long(
        Needs::Tunnels,
        "ten_gigabytes_each_way_arrive_intact",
        ten_gigabytes_each_way_arrive_intact,
    )
    .with_long(
        Needs::Tunnels,
        "a_thousand_clients_have_a_server_and_the_next_one_when_it_was_killed",
        a_thousand_clients_have_a_server_and_the_next_one_when_it_was_killed,
    )
    .run()
}
