//! The tools on real interfaces: hosts are network namespaces, each with a
//! daemon of its own.

mod addresses;
mod confined;
mod devices;
mod eavesdropper;
mod full_tunnel;
mod host;
mod hostile;
mod hub;
mod joining;
mod killed;
mod known;
mod moving;
mod nat;
mod offices;
mod probe;
mod reaching;
mod reboot;
mod relayed;
mod returning;
mod rotation;
mod site;
mod status;
mod survival;
mod tools;
#[path = "../../../ouroboros/tests/transfer/mod.rs"]
mod transfer;
mod tutorial;

use std::process::ExitCode;

use addresses::*;
use confined::*;
use devices::*;
use eavesdropper::*;
use full_tunnel::*;
use hostile::*;
use hub::*;
use joining::*;
use killed::*;
use known::*;
use moving::*;
use nat::*;
use offices::*;
use ouroboros_testing::Needs;
use reaching::*;
use reboot::*;
use relayed::*;
use returning::*;
use rotation::*;
use status::*;
use survival::*;
use tools::*;
use tutorial::*;

fn main() -> ExitCode {
    if was_end() {
        return ExitCode::SUCCESS;
    }
    ouroboros_testing::tests![
        Needs::Tunnels:
            a_gibibyte_arrives_intact_through_an_encrypted_tunnel,
            the_tutorial_over_the_loopback_interface,
            a_tunnel_carries_tcp_over_every_layer_plain_and_encrypted,
            a_name_with_encryption_set_refuses_plain_flows,
            a_name_is_found_past_a_layer_that_cannot_look_it_up,
            a_process_is_bound_by_its_id,
            an_eavesdropper_reads_pings_of_a_plain_tunnel_only,
            ipv6_passes_inside_the_tunnel,
            a_server_and_its_clients_tell_how_their_tunnels_are,
            the_doctor_finds_what_is_missing,
            the_server_outlives_a_client_that_was_killed,
            a_client_outlives_a_server_that_was_killed,
            a_client_s_tunnel_comes_back_after_its_server_and_leaks_nothing_meanwhile,
            a_client_s_tunnel_comes_back_when_both_daemons_have_been_replaced,
            a_client_without_a_flow_ends_when_it_is_told_to,
            a_client_waits_for_its_daemon_a_layer_and_the_server_s_address,
            a_client_that_is_told_its_server_s_host_needs_no_line_in_the_hosts_file,
            a_client_s_tunnel_goes_on_from_another_address_and_leaks_nothing_meanwhile,
            a_client_that_was_told_its_address_goes_on_from_another_when_it_is_lost,
            a_client_s_tunnel_comes_back_with_its_link_and_leaks_nothing_meanwhile,
            a_client_that_comes_back_from_another_address_takes_its_place,
            a_client_s_tunnel_comes_back_after_a_sleep,
            the_tools_keep_no_right_that_they_do_not_need,
            a_server_is_known_by_the_key_of_its_first_use,
            authorities_vouch_for_both_ends,
            an_authority_of_irm_vouches_for_a_server,
            a_server_is_taken_by_the_key_that_the_user_says,
            a_client_that_comes_back_takes_no_other_server,
            a_name_for_some_clients_is_silent_to_all_others,
            the_tunnel_of_a_killed_daemon_goes_on_and_a_new_one_takes_its_place,
            tunnels_outlive_both_daemons_and_the_next_ones_serve_more,
            a_tunnel_over_several_flows_outlives_the_daemons_that_granted_them,
            a_server_that_waits_meets_the_next_daemon,
            root_without_the_right_to_packet_sockets_is_given_none,
            killed_applications_leave_nothing_and_the_next_ones_connect,
            malformed_and_oversized_management_does_not_disturb_a_daemon,
            garbage_in_the_peer_s_name_does_not_disturb_a_live_flow,
            a_server_gives_its_clients_addresses_and_has_one_device,
            a_server_s_own_demands_refuse_who_does_not_meet_them,
            resolvconf_has_the_resolvers_where_systemd_resolved_does_not_serve,
            clients_with_addresses_of_their_own_share_the_server,
            a_full_tunnel_takes_everything_but_its_own_packets_and_is_undone,
            a_kill_switch_lets_nothing_out_before_and_after_the_tunnel,
            clients_join_by_a_line_and_are_listed_renamed_and_revoked,
            a_tunnel_is_back_after_a_reboot_of_either_side,
            a_server_that_runs_follows_its_configuration_and_keeps_its_flows,
            hosts_behind_three_offices_reach_one_another,
            a_full_tunnel_from_behind_a_nat_lets_nothing_out_while_it_is_down,
            a_client_without_ipv4_has_both_families_inside,
            a_client_finds_its_server_at_another_address,
            clients_follow_a_server_to_the_key_that_it_has_announced,
            a_stolen_laptop_that_is_revoked_does_not_come_back,
            a_name_with_a_key_of_its_own_is_joined_by_that_key,
            a_client_has_the_addresses_and_networks_that_its_line_says,
            a_device_that_was_down_gets_its_ipv6_addresses_and_routes_back,
            a_device_that_is_renamed_is_followed,
            a_device_in_another_network_namespace_goes_on,
            a_device_that_is_deleted_ends_its_tunnel_and_is_named,
            ipv6_passes_inside_over_the_smallest_links,
            garbage_under_every_eid_does_not_disturb_a_live_flow;
        Needs::Namespaces:
            a_layer_on_an_address_that_is_not_there_yet_waits_for_it,
            pings_of_each_quality_are_answered_plain_and_encrypted,
            a_ping_of_nobody_says_so_and_succeeds,
            an_echo_is_returned,
            a_rate_is_measured_one_way_and_both,
            a_constant_bit_rate_is_counted,
            a_tunnel_that_waits_tells_what_it_waits_for;
        Needs::Root:
            an_application_without_privilege_has_its_ethernet_flows_relayed_and_its_udp_flows_not,
            a_transfer_whose_relay_is_killed_is_complete_at_neither_end,
            a_relayed_transfer_whose_end_is_killed_is_complete_at_neither
    ]
    .run()
}
