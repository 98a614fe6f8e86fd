//! Where a partition ends, transactions that are still open included.
//!
//! A consumer that reads what is committed is told the end of that alone (the last stable offset), also where it asks for
//! watermarks. But each answer to its fetches has the high watermark as well, and librdkafka keeps it.

use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use std::ffi::CString;

/// The high watermark as of the last fetch; `None` where the partition has not been fetched from.
pub(super) fn high<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) -> Option<u64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive, the topic ends with NUL, and both offsets are written before the call returns, which
    // keeps no pointer.
    let code = unsafe {
        native::rd_kafka_get_watermark_offsets(client.native_ptr(), topic.as_ptr(), partition, &mut low, &mut high)
    };
    // A partition that was never fetched from has no offset, which is a negative number.
    (code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| u64::try_from(high).ok())?
}
