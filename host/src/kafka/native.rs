//! Calls of librdkafka that rdkafka does not have, for any client: its log level, and admin calls with their answers.
//!
//! Answers borrow from librdkafka's event. Callers return owned values.

use rdkafka::bindings::*;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use std::ffi::{CStr, c_char};
use std::time::Duration;

/// Changes the log level of a client, from its next line on.
pub(super) fn set_log_level<C: ClientContext>(client: &Client<C>, level: RDKafkaLogLevel) {
    // SAFETY: the client lives as long as its reference.
    unsafe { rd_kafka_set_log_level(client.native_ptr(), level as i32) }
}

/// Returns a broker that exists. Any broker knows the topics and the cluster. By itself librdkafka would ask the
/// controller, which a new client may not know yet.
///
/// # Safety
/// The client lives during the call.
pub(super) unsafe fn some_broker(client: *mut rd_kafka_t, answer_max: Duration) -> Result<i32, RDKafkaErrorCode> {
    let mut metadata = std::ptr::null();
    // SAFETY: the client lives by the caller's promise; the metadata is set if the call succeeds, and is destroyed
    // once.
    unsafe {
        match rd_kafka_metadata(client, 0, std::ptr::null_mut(), &mut metadata, wait_ms(answer_max)) {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                // This need not be the broker that answered, because the id behind a bootstrap address is not known
                // yet.
                let count = usize::try_from((*metadata).broker_cnt).unwrap_or(0);
                let broker = slice((*metadata).brokers, count).first().map(|broker| broker.id);
                rd_kafka_metadata_destroy(metadata);
                broker.ok_or(RDKafkaErrorCode::BrokerNotAvailable)
            }
            code => Err(code.into()),
        }
    }
}

fn wait_ms(max: Duration) -> i32 {
    i32::try_from(max.as_millis()).unwrap_or(i32::MAX)
}

/// Makes a call and waits for the answer: of the given broker, or of one that librdkafka chooses.
///
/// # Safety
/// The client lives during the call, and `call` passes its arguments to an admin call of librdkafka.
pub(super) unsafe fn ask(
    client: *mut rd_kafka_t,
    op: rd_kafka_admin_op_t,
    broker: Option<i32>,
    answer_max: Duration,
    call: impl FnOnce(*const rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
) -> Result<Event, RDKafkaErrorCode> {
    // SAFETY: the client lives by the caller's promise, and options and queue are destroyed once, after their last use.
    // The queue gets one event, or none if there is no answer.
    let event = unsafe {
        let queue = rd_kafka_queue_new(client);
        let options = rd_kafka_AdminOptions_new(client, op);
        let mut cause: [c_char; 256] = [0; 256];
        rd_kafka_AdminOptions_set_request_timeout(options, wait_ms(answer_max), cause.as_mut_ptr(), cause.len());
        if let Some(broker) = broker {
            rd_kafka_AdminOptions_set_broker(options, broker, cause.as_mut_ptr(), cause.len());
        }
        call(options, queue);
        let event = rd_kafka_queue_poll(queue, wait_ms(answer_max + Duration::from_secs(1)));
        rd_kafka_AdminOptions_destroy(options);
        rd_kafka_queue_destroy(queue);
        event
    };
    if event.is_null() {
        return Err(RDKafkaErrorCode::OperationTimedOut);
    }
    let event = Event(event);
    // SAFETY: the event is there.
    match unsafe { rd_kafka_event_error(event.0) } {
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(event),
        code => Err(code.into()),
    }
}

/// An answer, which is freed when this is dropped.
pub(super) struct Event(*mut rd_kafka_event_t);

impl Event {
    pub(super) fn pointer(&self) -> *mut rd_kafka_event_t {
        self.0
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: only this value owns the event.
        unsafe { rd_kafka_event_destroy(self.0) }
    }
}

/// # Safety
/// The array has `count` elements that live for `'a`, or is null.
pub(super) unsafe fn slice<'a, T>(array: *const T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if array.is_null() || count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(array, count) } }
}

/// # Safety
/// The text ends with NUL, or is null.
pub(super) unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
}
