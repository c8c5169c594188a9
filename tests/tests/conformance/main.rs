//! What every datapath promises, proved on real packets between namespaces, over IPv4 and IPv6. The list of the tests'
//! names is the contract: `nft::p03_nothing_reaches_a_backend_that_left::v4`.
//!
//! A datapath plugs in with an implementation of [`lab::Subject`] and a line of [`conforms!`] at the end of this file.
//! What can be promised without a packet is in [`ledger`], and the in-memory datapath is held to it as well.
//!
//! | promise | module |
//! | --- | --- |
//! | 1 new connections reach a live backend from the chosen source; 10 clients on the proxy, hairpins | `reaching` |
//! | 2 one transaction a change, which others do not notice | `changing` |
//! | 3 nothing reaches a backend that left | `leaving` |
//! | 4 severing ends both ends | `severing` |
//! | 5 draining until the kernel's deadline | `draining` |
//! | 6 holding and refusing | `refusing`, `holding`, `flood` |
//! | 7 leases | `leasing` |
//! | 8 restarts | `restarting` |
//! | 9 allow-lists and limits | `admitting` |
//! | 11 ICMP errors and path MTU | `icmp` |
//! | 12 who is who | `telling` |
//! | 13 nothing foreign is touched | `neighbours` |
//! | 14 weights of replica listeners | `spreading` |
//! | 15 flows that a fence spares, and blocking them one by one | `sparing` |

mod lab;
mod ledger;
mod subjects;

mod admitting;
mod changing;
mod draining;
mod flood;
mod holding;
mod icmp;
mod leasing;
mod leaving;
mod neighbours;
mod reaching;
mod refusing;
mod restarting;
mod severing;
mod sparing;
mod spreading;
mod telling;

/// A test for each family of each promise that needs packets.
macro_rules! with_packets {
    ($subject:ty => $($group:ident::$name:ident)*) => {$(
        mod $name {
            #[test]
            fn v4() -> anyhow::Result<()> {
                crate::lab::prove::<$subject>(concat!(module_path!(), "::v4"), shunt_tests::star::Ip::V4, crate::$group::$name)
            }

            #[test]
            fn v6() -> anyhow::Result<()> {
                crate::lab::prove::<$subject>(concat!(module_path!(), "::v6"), shunt_tests::star::Ip::V6, crate::$group::$name)
            }
        }
    )*};
}

/// A test for each family of each promise about what is committed.
macro_rules! without_packets {
    ($prove:path => $($name:ident)*) => {$(
        mod $name {
            #[test]
            fn v4() -> anyhow::Result<()> {
                $prove(concat!(module_path!(), "::v4"), shunt_tests::star::Ip::V4, crate::ledger::$name)
            }

            #[test]
            fn v6() -> anyhow::Result<()> {
                $prove(concat!(module_path!(), "::v6"), shunt_tests::star::Ip::V6, crate::ledger::$name)
            }
        }
    )*};
}

/// The contract of what is committed.
macro_rules! keeps_books {
    ($prove:path) => {
        without_packets! { $prove =>
            p02_a_change_is_taken_whole_or_not_at_all
            p02_a_change_touches_only_what_it_names
            p02_what_is_already_so_is_no_change
            p02_a_removed_listener_is_committed_no_more
            p06_a_fenced_listener_has_no_backend
            p07_a_lease_that_is_renewed_stays
            p07_a_lease_that_ran_out_is_told_once_and_leaves_a_fence
            p08_a_reopened_datapath_adopts_what_was_committed
            p13_a_purged_datapath_holds_nothing_and_can_begin_anew
            p15_a_fence_that_spares_a_backend_leads_nowhere_and_is_adopted
            p15_only_a_fence_spares
            p15_only_flows_of_a_spared_backend_are_blocked
            p15_a_lapsed_lease_ends_a_sparing
        }
    };
}

/// The whole contract.
macro_rules! conforms {
    ($subject:ty) => {
        keeps_books!(crate::lab::prove_ledger::<$subject>);
        with_packets! { $subject =>
            reaching::p01_a_connection_comes_from_the_proxys_address_when_masqueraded
            reaching::p01_a_connection_comes_from_a_pool_when_there_is_one
            reaching::p01_a_connection_comes_from_the_client_without_snat
            reaching::p01_a_listener_need_not_be_an_address_of_the_proxy
            reaching::p01_a_client_that_a_dead_backend_does_not_answer_reaches_the_next_one
            reaching::p10_a_client_on_the_proxy_itself_is_served
            reaching::p10_a_backend_that_is_its_own_client_is_served
            changing::p02_no_connection_sees_half_of_a_change
            changing::p02_flows_and_new_connections_of_others_do_not_notice_swaps
            changing::p02_no_client_is_refused_while_its_listener_is_swapped_and_held_and_opened
            leaving::p03_nothing_reaches_a_backend_that_left
            leaving::p03_nothing_reaches_the_backend_of_a_listener_that_is_fenced
            leaving::p03_nothing_reaches_the_backend_of_a_listener_that_is_removed
            severing::p04_a_swap_ends_idle_flows_at_both_ends
            severing::p04_a_fence_ends_idle_flows_at_both_ends
            severing::p04_a_removal_ends_idle_flows_at_both_ends
            severing::p04_flows_without_snat_end_at_both_ends
            severing::p04_flows_of_clients_on_the_proxy_itself_end_at_both_ends
            severing::p04_flows_of_a_backend_that_is_its_own_client_end_at_both_ends
            severing::p04_a_client_that_uses_the_port_of_a_severed_flow_again_is_let_in
            severing::p04_flows_that_the_client_has_half_closed_end_at_both_ends
            severing::p04_flows_that_the_server_has_half_closed_end_at_both_ends
            severing::p04_a_flood_of_busy_and_idle_flows_ends_at_both_ends
            severing::p04_flows_of_many_pairs_end_at_both_ends_and_each_pair_is_told_of
            severing::p04_an_end_that_is_gone_does_not_keep_the_other_from_ending
            severing::p04_a_server_that_speaks_to_a_severed_client_is_reset
            severing::p04_single_flows_are_severed_and_the_others_of_their_pair_are_not
            draining::p05_a_drained_flow_goes_on_until_the_kernels_deadline
            draining::p05_a_drain_ends_though_the_agent_is_gone
            draining::p05_idle_flows_of_a_drain_that_is_over_end_at_both_ends
            draining::p05_a_backend_that_returns_while_it_drains_keeps_its_flows
            draining::p05_a_fence_can_drain
            draining::p05_kept_flows_go_on_until_they_end_by_themselves
            draining::p05_a_removed_listener_keeps_its_flows_guarded
            refusing::p06_a_refusing_listener_refuses_at_once
            refusing::p06_a_refusing_listener_resets_what_was_established
            holding::p06_a_held_connection_is_refused_when_the_hold_is_over
            holding::p06_a_hold_can_be_cut_short_and_begun_anew
            holding::p06_a_held_client_is_let_in_before_it_knocks_again
            holding::p06_a_held_client_on_the_proxy_itself_is_let_in_before_it_knocks_again
            holding::p06_a_client_that_was_held_under_a_former_agent_is_let_in
            holding::p06_two_hundred_held_clients_are_all_let_in
            holding::p06_a_held_client_that_gave_up_leaves_nothing_at_the_server
            flood::p06_a_flood_of_syns_on_a_held_listener_harms_nobody_else
            leasing::p07_a_lease_that_is_not_renewed_ends_flows_and_takes_no_new_ones
            leasing::p07_nothing_reaches_the_backend_once_the_lease_is_over
            leasing::p07_a_lease_of_a_spread_ends_for_all_of_its_backends
            leasing::p07_a_renewed_lease_is_not_noticed
            leasing::p07_without_a_lease_an_agent_that_is_gone_leaves_the_mappings_forwarding
            restarting::p08_no_flow_notices_a_restart
            restarting::p08_new_connections_are_served_while_nobody_is_there
            admitting::p09_who_is_not_among_a_thousand_networks_is_refused_and_counted
            admitting::p09_who_is_among_a_thousand_networks_is_served
            admitting::p09_established_flows_are_not_asked_when_the_list_changes
            admitting::p09_a_stranger_is_refused_by_a_listener_that_holds
            admitting::p09_a_listener_takes_so_many_connections_and_one_more_when_one_closes
            admitting::p09_a_source_takes_so_many_connections_and_others_take_theirs
            admitting::p09_severed_connections_give_their_places_back
            admitting::p09_a_listener_without_limits_is_not_limited_by_anothers
            icmp::p11_large_transfers_pass_a_narrow_link_of_the_proxys_own
            icmp::p11_large_transfers_pass_a_narrow_link_beyond_the_proxy
            icmp::p11_large_transfers_pass_a_narrow_link_without_snat
            icmp::p11_large_transfers_reach_a_client_beyond_a_narrow_link
            icmp::p11_errors_about_a_dead_flow_do_not_reach_the_old_backend
            telling::p12_every_flow_is_told_with_its_client_its_backend_and_whom_that_sees
            telling::p12_a_flow_is_found_by_the_port_that_its_backend_sees
            telling::p12_flows_are_found_by_whom_their_backend_sees
            telling::p12_the_telling_can_be_broken_off_and_begun_again
            telling::p12_the_phases_and_bytes_of_a_flow_are_told
            telling::p12_how_full_the_tables_are_is_told
            neighbours::p13_a_purge_leaves_the_host_as_it_was
            neighbours::p13_a_purge_takes_limits_lists_leases_and_pools_with_it
            neighbours::p13_foreign_rules_and_marks_stay_in_force
            neighbours::p13_what_is_not_for_a_listener_passes_untouched
            spreading::p14_ten_thousand_connections_follow_the_weights
            spreading::p14_a_backend_that_leaves_loses_only_its_own_flows
            spreading::p14_flows_do_not_notice_that_a_backend_joins_or_weights_change
            sparing::p15_spared_flows_go_on_while_new_ones_are_held
            sparing::p15_spared_flows_go_on_while_new_ones_are_refused
            sparing::p15_a_blocked_flows_bytes_arrive_after_it_is_unblocked_and_not_before
            sparing::p15_a_client_that_was_blocked_for_a_moment_need_not_send_again
            sparing::p15_a_client_on_the_proxy_that_was_blocked_goes_on
            sparing::p15_a_statement_of_many_packets_survives_being_blocked_whole
            sparing::p15_what_the_server_sends_reaches_a_blocked_client
            sparing::p15_a_blocked_flow_can_be_severed_and_the_others_go_on
            sparing::p15_withdrawing_the_sparing_severs_what_is_left
            sparing::p15_a_backend_that_leads_again_has_its_flows_unblocked
            sparing::p15_nothing_of_it_survives_leading_elsewhere
            sparing::p15_no_flow_notices_a_restart_while_it_is_spared
            sparing::p15_a_lease_that_runs_out_ends_spared_flows
            sparing::p15_what_somebody_took_out_is_put_back
        }
    };
}

mod nft {
    conforms!(crate::subjects::Nft);
}

mod ebpf {
    conforms!(crate::subjects::Ebpf);
}

mod memory {
    keeps_books!(crate::subjects::in_memory);
}
