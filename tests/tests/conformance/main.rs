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

mod lab;
mod ledger;
mod subjects;

mod changing;
mod leaving;
mod reaching;

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
            reaching::p10_a_client_on_the_proxy_itself_is_served
            reaching::p10_a_backend_that_is_its_own_client_is_served
            changing::p02_no_connection_sees_half_of_a_change
            changing::p02_flows_and_new_connections_of_others_do_not_notice_swaps
            changing::p02_no_client_is_refused_while_its_listener_is_swapped_and_held_and_opened
            leaving::p03_nothing_reaches_a_backend_that_left
            leaving::p03_nothing_reaches_the_backend_of_a_listener_that_is_fenced
            leaving::p03_nothing_reaches_the_backend_of_a_listener_that_is_removed
        }
    };
}

mod nft {
    conforms!(crate::subjects::Nft);
}

mod memory {
    keeps_books!(crate::subjects::in_memory);
}
