//! The test suite of every event store.
//!
//! The suite knows only `trait EventStore`. A store runs all of it by naming its [`Place`]:
//!
//! ```text
//! wasmill_tests::store_conformance!(MyPlace);
//! ```
//!
//! - [`requests`]: requests to a store, and the commands for them
//! - [`appends`]: expected versions, atomicity, order
//! - [`archives`]: streams that take no more events
//! - [`repetitions`]: command ids that their sender chose
//! - [`ledgers`]: commands of numbered sequences, which are settled once
//! - [`dead_letters`]: dead letters, retried or discarded
//! - [`readers`]: what readers see while others write
//! - [`steps`]: checkpoints and the effects that move with them
//! - [`callbacks`]: outcomes that a subscription asked for, and its timers
//! - [`http_requests`]: HTTP requests that a subscription asked for, and their attempts
//! - [`sagas`]: events of sagas in the steps of their inputs, and events that wait for one
//! - [`facts`]: the identity of a store, and the facts that it keeps
//! - [`places`]: parts of a manifest that are renamed or forgotten
//! - [`divisions`]: subscriptions that are divided into segments
//! - [`snapshots`]: a cache that is never wrong
//! - [`owners`]: two openers of one store
//! - [`closing`]: the end of a store
//! - [`histories`]: random histories against a model

pub mod appends;
pub mod archives;
pub mod callbacks;
pub mod closing;
pub mod dead_letters;
pub mod divisions;
pub mod facts;
pub mod histories;
pub mod http_requests;
pub mod ledgers;
pub mod owners;
pub mod places;
pub mod readers;
pub mod repetitions;
pub mod requests;
pub mod sagas;
pub mod snapshots;
pub mod steps;

use std::any::Any;
use std::sync::Arc;
use wasmill::store::{Error, EventStore};

/// The place of a store. It is empty when it is made, and removed when the value is dropped.
///
/// Its limits should be small, so that whatever a store puts off has to be done during the suite.
pub trait Place {
    /// Returns whether the tests are left out, because something is missing that the store needs. It says so.
    fn is_left_out() -> bool {
        false
    }

    /// Makes an empty place.
    fn new() -> Self;

    /// Opens the store, or returns why that fails.
    fn try_open(&self) -> Result<Arc<dyn EventStore>, Error>;

    /// Opens the store. The suite closes one before it opens the next, except where it is about two openers.
    fn open(&self) -> Arc<dyn EventStore> {
        self.try_open().expect("open the store")
    }

    /// Lets the next opener take the open store over, as if its owner had not been heard of for long.
    fn let_go(&self);

    /// Holds up all writes of the open store until the returned value is dropped.
    fn standstill(&self) -> Box<dyn Any>;
}

/// Defines the tests of all behaviours for a [`Place`].
#[macro_export]
macro_rules! store_conformance {
    ($place:ty) => {
        $crate::store_conformance! { $place:
            appends {
                an_expectation_is_met_or_the_conflict_names_the_actual_version,
                an_append_fails_with_the_one_that_it_depends_on,
                of_twenty_appends_on_one_version_one_succeeds,
                the_events_of_an_append_are_recorded_all_or_none,
                positions_increase_in_commit_order_and_versions_have_no_gaps,
                many_streams_in_one_transaction_keep_their_versions,
                an_event_keeps_what_its_command_said,
                streams_are_told_apart_by_type_and_id,
                an_append_without_events_is_accepted_and_changes_nothing,
                outcomes_are_counted_exactly,
                statistics_say_what_is_there,
            }
            repetitions {
                a_repeated_command_id_gets_its_first_outcome,
                a_command_id_with_other_content_is_refused,
                a_refusal_is_remembered_like_a_success,
                a_conflict_is_not_remembered,
            }
            ledgers {
                a_repeated_origin_adds_nothing,
                an_origin_settles_the_gap_before_it,
                settling_out_of_order_leaves_the_ranges_ahead,
                a_ledger_starts_where_it_is_told_and_never_goes_back,
                a_ledger_is_begun_once,
                a_ledger_that_is_reset_settles_again_from_there,
                a_refused_append_settles_nothing,
                a_malformed_command_is_settled_and_dead_lettered_once,
                a_refused_command_is_dead_lettered_if_it_asks_for_it,
                dead_lettering_settles_its_origin_and_happens_once,
                ledgers_are_listed_by_how_they_begin,
            }
            dead_letters {
                a_letter_keeps_what_it_takes_to_try_it_again,
                a_number_is_never_given_twice,
                dead_letters_are_listed_newest_first_by_consumer,
                a_command_tried_again_takes_the_letter_away_once,
                a_command_that_fails_again_leaves_the_newest_reason,
                a_message_goes_into_the_outbox_again_once,
                dead_letters_are_discarded_together,
            }
            callbacks {
                an_outcome_that_was_asked_for_is_kept_and_nothing_is_dead_lettered,
                a_callback_goes_with_what_came_of_it,
                a_timer_is_replaced_or_cancelled_by_its_name,
                callbacks_are_read_in_order_without_those_of_some_keys,
                callbacks_follow_the_name_of_their_subscription,
                steps_in_a_row_fail_together_whatever_they_have_reached,
                a_new_callback_wakes_who_waits,
            }
            http_requests {
                a_request_ends_with_its_answer_after_one_attempt_or_several,
                requests_of_one_key_to_one_endpoint_come_one_after_the_other,
                a_request_that_did_not_succeed_is_dead_lettered_and_sent_again,
                attempts_in_the_middle_of_which_a_host_ended_are_shown,
                a_request_is_given_up_between_two_attempts_alone,
                a_flow_is_not_at_rest_while_a_request_has_not_ended,
                requests_follow_the_name_of_their_subscription,
            }
            sagas {
                a_step_of_sagas_is_recorded_whole_or_not_at_all,
                an_ended_saga_is_archived_and_its_timers_are_cancelled,
                an_event_that_is_deferred_waits_while_its_saga_is_held,
                a_reset_forgets_the_events_that_were_deferred,
            }
            archives {
                an_archived_stream_takes_no_more_events_and_reads_as_before,
                a_restored_stream_goes_on_where_it_was,
                what_was_asked_before_is_recorded_and_what_comes_after_is_not,
                a_command_to_an_archived_stream_settles_nothing,
                only_a_stream_with_events_is_archived,
                archived_streams_are_listed_by_type_and_id,
            }
            readers {
                a_stream_is_read_from_a_version_in_both_directions,
                everything_is_read_page_by_page_through_a_filter,
                a_search_finds_the_same_in_both_directions_and_resumes_where_it_ended,
                the_first_event_of_a_time_is_found,
                a_page_of_large_events_ends_before_its_limit_and_the_next_goes_on,
                followers_skip_nothing_while_writers_are_busy,
                followers_skip_nothing_while_writers_are_slow,
                streams_are_whole_while_others_write,
                streams_are_whole_whenever_the_store_is_opened_again,
            }
            steps {
                of_two_owners_of_a_checkpoint_one_loses_with_all_its_effects,
                records_are_settled_with_what_came_of_them,
                a_step_of_records_is_taken_only_directly_after_the_one_before_it,
                a_dead_letter_goes_with_what_came_of_it,
                commands_get_consecutive_origins,
                pending_commands_are_those_not_settled_in_order,
                messages_are_numbered_without_gaps,
                the_position_of_a_sink_moves_only_from_where_it_is,
                what_a_sink_could_not_publish_is_kept_with_its_position_or_not_at_all,
                a_sink_counts_what_its_name_says,
                nothing_moves_past_the_end,
                what_a_step_dead_letters_is_kept_newest_first,
                a_key_is_held_once_and_moves_by_compare_and_set,
                a_reset_moves_a_checkpoint_anywhere_and_frees_all_keys,
                a_key_that_waits_behind_a_dead_letter_goes_on_when_it_is_removed,
            }
            facts {
                a_store_keeps_its_identity,
                facts_are_kept_until_they_are_forgotten,
            }
            places {
                a_part_goes_on_under_another_name_with_all_that_it_has,
                a_part_that_is_forgotten_begins_again,
            }
            divisions {
                what_a_subscription_has_moves_with_its_keys,
                segments_take_over_from_others_at_different_checkpoints,
                a_subscription_begins_with_all_its_segments,
                two_timers_of_one_name_stay_in_their_segments,
            }
            snapshots {
                the_newest_snapshot_is_found_by_its_stream_and_code,
                a_snapshot_of_other_code_takes_the_place_of_the_old_one,
                a_snapshot_past_the_end_of_its_stream_is_not_found,
            }
            owners {
                a_second_opener_is_refused_while_the_first_one_owns_the_store,
                a_store_that_is_closed_can_be_opened_at_once,
                a_host_that_lost_its_store_has_no_effect,
                a_host_that_lost_its_store_has_no_effect_even_in_the_middle_of_its_work,
            }
            closing {
                a_closed_store_has_finished_what_was_queued,
                a_closed_store_answers_that_it_is_closed,
            }
            histories {
                any_history_ends_as_the_model_says,
            }
        }
    };
    ($place:ty: $($group:ident { $($behaviour:ident),* $(,)? })*) => {
        $(
            mod $group {
                use super::*;
                $(
                    #[test]
                    fn $behaviour() {
                        if !<$place as $crate::store_conformance::Place>::is_left_out() {
                            $crate::store_conformance::$group::$behaviour::<$place>();
                        }
                    }
                )*
            }
        )*
    };
}
