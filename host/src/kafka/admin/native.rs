//! Admin calls of librdkafka that rdkafka does not have: listing and describing groups, and their offsets.
//!
//! Answers borrow from librdkafka's event. The functions here return owned values.

use super::{ANSWER_MAX, Admin};
use crate::kafka::ids::{self, TopicIds};
use crate::kafka::native::{self, Event, slice, text};
use crate::kafka::{Error, error_hints};
use rdkafka::bindings::*;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use std::ffi::CString;
use std::sync::Arc;

/// A group in a list.
pub(super) struct Listed {
    pub(super) group: String,
    pub(super) protocol: String,
    pub(super) state: String,
}

/// A group with its members.
pub(super) struct Described {
    pub(super) listed: Listed,
    pub(super) assignor: String,
    pub(super) members: Vec<Member>,
}

/// A member of a group.
pub(super) struct Member {
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) client: String,
    pub(super) host: String,
    pub(super) partitions: Vec<(String, i32)>,
}

impl Admin {
    pub(super) fn list_groups(&self) -> Result<Vec<Listed>, Error> {
        let op = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS;
        // SAFETY: client, options and queue are alive during the call, which keeps what it needs of them.
        let event = self.call(op, |client, options, queue| unsafe {
            rd_kafka_ListConsumerGroups(client, options, queue);
        })?;
        // SAFETY: the event is of this call, so the result is there; everything in it lives as long as the event, and
        // is copied before that is dropped. The array has as many elements as its count says.
        unsafe {
            let result = rd_kafka_event_ListConsumerGroups_result(event.pointer());
            let mut count = 0;
            let groups = rd_kafka_ListConsumerGroups_result_valid(result, &mut count);
            let listed = |group: &*const rd_kafka_ConsumerGroupListing_t| Listed {
                group: text(rd_kafka_ConsumerGroupListing_group_id(*group)),
                protocol: text(rd_kafka_consumer_group_type_name(rd_kafka_ConsumerGroupListing_type(*group))),
                state: text(rd_kafka_consumer_group_state_name(rd_kafka_ConsumerGroupListing_state(*group))),
            };
            let mut failures = 0;
            let errors = rd_kafka_ListConsumerGroups_result_errors(result, &mut failures);
            if let Some(error) = slice(errors, failures).first() {
                return Err(refused("groups", *error));
            }
            Ok(slice(groups, count).iter().map(listed).collect())
        }
    }

    pub(super) fn describe_group(&self, group: &str) -> Result<Described, Error> {
        let what = format!("group {group}");
        let name = c_string(&what, group)?;
        let mut names = [name.as_ptr()];
        let op = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        // SAFETY: as in `list_groups`; the names are copied by the call.
        let event = self.call(op, |client, options, queue| unsafe {
            rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue);
        })?;
        // SAFETY: as in `list_groups`; member numbers are below the count.
        unsafe {
            let result = rd_kafka_event_DescribeConsumerGroups_result(event.pointer());
            let mut count = 0;
            let groups = rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
            let Some(&group) = slice(groups, count).first() else {
                return Err(Error::Refused { what, cause: "Kafka did not describe it; try again".into() });
            };
            let error = rd_kafka_ConsumerGroupDescription_error(group);
            if !error.is_null() && rd_kafka_error_code(error) != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(refused(&what, error));
            }
            let members = 0..rd_kafka_ConsumerGroupDescription_member_count(group);
            Ok(Described {
                listed: Listed {
                    group: text(rd_kafka_ConsumerGroupDescription_group_id(group)),
                    protocol: text(rd_kafka_consumer_group_type_name(rd_kafka_ConsumerGroupDescription_type(group))),
                    state: text(rd_kafka_consumer_group_state_name(rd_kafka_ConsumerGroupDescription_state(group))),
                },
                assignor: text(rd_kafka_ConsumerGroupDescription_partition_assignor(group)),
                members: members.map(|n| member(rd_kafka_ConsumerGroupDescription_member(group, n))).collect(),
            })
        }
    }

    /// Returns the offsets that a group has committed, by topic and partition.
    pub(super) fn committed(&self, group: &str) -> Result<Vec<(String, i32, u64)>, Error> {
        let what = format!("group {group}");
        let name = c_string(&what, group)?;
        let op = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        // SAFETY: as in `list_groups`; no list of partitions means all of them. The request is copied by the call and
        // destroyed here, once.
        let event = self.call(op, |client, options, queue| unsafe {
            let request = rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), std::ptr::null());
            let mut requests = [request];
            rd_kafka_ListConsumerGroupOffsets(client, requests.as_mut_ptr(), requests.len(), options, queue);
            rd_kafka_ListConsumerGroupOffsets_destroy(request);
        })?;
        // SAFETY: as in `list_groups`.
        unsafe {
            let result = rd_kafka_event_ListConsumerGroupOffsets_result(event.pointer());
            let mut count = 0;
            let groups = rd_kafka_ListConsumerGroupOffsets_result_groups(result, &mut count);
            let Some(&group) = slice(groups, count).first() else { return Ok(Vec::new()) };
            let error = rd_kafka_group_result_error(group);
            if !error.is_null() {
                return Err(refused(&what, error));
            }
            let committed = |partition: &rd_kafka_topic_partition_t| {
                let offset = u64::try_from(partition.offset).ok()?;
                Some((text(partition.topic), partition.partition, offset))
            };
            Ok(partitions(rd_kafka_group_result_partitions(group)).iter().filter_map(committed).collect())
        }
    }

    /// Makes an admin call and waits for its answer.
    fn call(
        &self,
        op: rd_kafka_admin_op_t,
        call: impl FnOnce(*mut rd_kafka_t, *const rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
    ) -> Result<Event, Error> {
        let client = self.client.client().native_ptr();
        // SAFETY: the client outlives this call.
        let event = unsafe { native::ask(client, op, None, ANSWER_MAX, |options, queue| call(client, options, queue)) };
        event.map_err(|code| self.away(code))
    }

    fn away(&self, code: RDKafkaErrorCode) -> Error {
        Error::Unreachable { brokers: self.connection.brokers().to_owned(), cause: error_hints::answer(code) }
    }

    /// Returns the ids of existing topics.
    pub(super) fn topic_ids(&self, topics: &[Arc<str>]) -> Result<TopicIds, Error> {
        // SAFETY: the client outlives this call.
        let ids = unsafe { ids::topic_ids(self.client.client().native_ptr(), topics, ANSWER_MAX) };
        ids.map_err(|code| self.away(code))
    }

    /// Returns the id of the cluster.
    pub fn cluster_id(&self) -> Result<Option<String>, Error> {
        // SAFETY: the client outlives this call.
        let id = unsafe { ids::cluster_id(self.client.client().native_ptr(), ANSWER_MAX) };
        id.map_err(|code| self.away(code))
    }

    /// Sets offsets of a group that has no members, by topic, partition and offset.
    pub(super) fn commit(&self, group: &str, offsets: &[(&str, i32, u64)]) -> Result<(), Error> {
        let what = format!("group {group}");
        let name = c_string(&what, group)?;
        let mut wanted = Vec::new();
        for (topic, partition, offset) in offsets {
            wanted.push((c_string(&what, topic)?, *partition, i64::try_from(*offset).unwrap_or(i64::MAX)));
        }
        let op = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS;
        // SAFETY: as in `list_groups`; list and request are copied by the calls and destroyed here, once. A partition
        // that was added is there until its list is destroyed.
        let event = self.call(op, |client, options, queue| unsafe {
            let list = rd_kafka_topic_partition_list_new(i32::try_from(wanted.len()).unwrap_or(0));
            for (topic, partition, offset) in &wanted {
                (*rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition)).offset = *offset;
            }
            let request = rd_kafka_AlterConsumerGroupOffsets_new(name.as_ptr(), list);
            rd_kafka_topic_partition_list_destroy(list);
            let mut requests = [request];
            rd_kafka_AlterConsumerGroupOffsets(client, requests.as_mut_ptr(), requests.len(), options, queue);
            rd_kafka_AlterConsumerGroupOffsets_destroy(request);
        })?;
        // SAFETY: as in `list_groups`.
        unsafe {
            let result = rd_kafka_event_AlterConsumerGroupOffsets_result(event.pointer());
            let mut count = 0;
            let groups = rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &mut count);
            let Some(&group) = slice(groups, count).first() else { return Ok(()) };
            let error = rd_kafka_group_result_error(group);
            if !error.is_null() {
                return Err(not_set(what, rd_kafka_error_code(error).into()));
            }
            let failed = partitions(rd_kafka_group_result_partitions(group))
                .iter()
                .find(|partition| partition.err != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
            failed.map_or(Ok(()), |partition| Err(not_set(what, partition.err.into())))
        }
    }
}

fn not_set(what: String, code: RDKafkaErrorCode) -> Error {
    use RDKafkaErrorCode::{NonEmptyGroup, UnknownMemberId};
    let cause = match code {
        NonEmptyGroup | UnknownMemberId => {
            "its offsets can't be set while it has members: stop them, and wait until their session is over \
             (`session.timeout.ms`, 45 s by default); `wasmill kafka groups describe` shows them"
                .to_owned()
        }
        code => error_hints::answer(code),
    };
    Error::Refused { what, cause }
}

/// # Safety
/// The member lives.
unsafe fn member(member: *const rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: the caller's promise; an assignment belongs to its member.
    unsafe {
        let instance = text(rd_kafka_MemberDescription_group_instance_id(member));
        let assignment = rd_kafka_MemberDescription_assignment(member);
        let assigned =
            if assignment.is_null() { &[] } else { partitions(rd_kafka_MemberAssignment_partitions(assignment)) };
        Member {
            id: text(rd_kafka_MemberDescription_consumer_id(member)),
            instance: Some(instance).filter(|instance| !instance.is_empty()),
            client: text(rd_kafka_MemberDescription_client_id(member)),
            host: text(rd_kafka_MemberDescription_host(member)),
            partitions: assigned.iter().map(|assigned| (text(assigned.topic), assigned.partition)).collect(),
        }
    }
}

/// # Safety
/// The list lives for `'a`, or is null.
unsafe fn partitions<'a>(list: *const rd_kafka_topic_partition_list_t) -> &'a [rd_kafka_topic_partition_t] {
    if list.is_null() {
        return &[];
    }
    // SAFETY: a list has as many elements as its count says.
    unsafe { slice((*list).elems, usize::try_from((*list).cnt).unwrap_or(0)) }
}

/// # Safety
/// The error lives.
unsafe fn refused(what: &str, error: *const rd_kafka_error_t) -> Error {
    // SAFETY: the caller's promise.
    let code: RDKafkaErrorCode = unsafe { rd_kafka_error_code(error) }.into();
    Error::Refused { what: what.to_owned(), cause: error_hints::answer(code) }
}

fn c_string(what: &str, name: &str) -> Result<CString, Error> {
    let cause = "its name has a NUL character: leave it out".to_owned();
    CString::new(name).map_err(|_| Error::Refused { what: what.to_owned(), cause })
}
