//! The end of a partition, including open transactions.
//!
//! A consumer that reads only committed records gets the last stable offset as the end, even if it asks for watermarks.
//! But each answer to its fetches also has the high watermark, and librdkafka keeps it.

use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use std::ffi::CString;

/// Returns the high watermark as of the last fetch; `None` if the partition was never fetched from.
pub(super) fn high<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) -> Option<u64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive, the topic ends with NUL, and both offsets are written before the call returns, which
    // keeps no pointer.
    let code = unsafe {
        native::rd_kafka_get_watermark_offsets(client.native_ptr(), topic.as_ptr(), partition, &mut low, &mut high)
    };
    // The offset is negative if the partition was never fetched from.
    (code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| u64::try_from(high).ok())?
}
