//! `GET /metrics`: the host's metrics for Prometheus, in the OpenMetrics text format. This is the only place that knows
//! the encoder of that format.

use super::Server;
use super::answer::HttpError;
use super::problem::ProblemType;
use crate::metrics::{Family, Unit, Value};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};
use std::fmt;

/// The media type of the metrics.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) async fn metrics(State(server): State<Server>) -> Result<Response, HttpError> {
    let families = server.host.metrics().await;
    let text = write(families);
    let text = text.map_err(|_| HttpError::new(ProblemType::HostFailed, "the metrics can't be written"))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

fn write(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("wasmill");
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let unit = family.unit.map(|unit| match unit {
                Unit::Seconds => registry::Unit::Seconds,
                Unit::Bytes => registry::Unit::Bytes,
            });
            let kind = family.samples.first().map_or(MetricType::Unknown, |(_, value)| kind(value));
            let mut metric = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            for (labels, value) in &family.samples {
                match labels.is_empty() {
                    true => put(&mut metric, value)?,
                    false => put(&mut metric.encode_family(labels)?, value)?,
                }
            }
        }
        Ok(())
    }
}

fn kind(value: &Value) -> MetricType {
    match value {
        Value::Counter(_) => MetricType::Counter,
        Value::Gauge(_) => MetricType::Gauge,
        Value::Histogram(_) => MetricType::Histogram,
    }
}

fn put(metric: &mut MetricEncoder<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(value) => metric.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Histogram(reading) => {
            metric.encode_histogram::<NoLabelSet>(reading.sum, reading.count(), &reading.buckets, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Histogram;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(0.7);
        let family = |name, unit, samples| Family { name, help: "What it is", unit, samples };
        let labels = vec![("source", "bas\"kets".to_owned()), ("partition", "0".to_owned())];
        let text = write(vec![
            family("source_lag", None, vec![(labels, Value::Gauge(3.0))]),
            family("sink_batch", Some(Unit::Seconds), vec![(vec![], Value::Histogram(histogram.read()))]),
            family("commands", None, vec![(vec![("outcome", "accepted".to_owned())], Value::Counter(7.0))]),
        ])
        .unwrap();
        let expected = "\
# HELP wasmill_source_lag What it is
# TYPE wasmill_source_lag gauge
wasmill_source_lag{source=\"bas\\\"kets\",partition=\"0\"} 3.0
# HELP wasmill_sink_batch_seconds What it is
# TYPE wasmill_sink_batch_seconds histogram
# UNIT wasmill_sink_batch_seconds seconds
wasmill_sink_batch_seconds_sum 0.7
wasmill_sink_batch_seconds_count 1
wasmill_sink_batch_seconds_bucket{le=\"0.5\"} 0
wasmill_sink_batch_seconds_bucket{le=\"1.0\"} 1
wasmill_sink_batch_seconds_bucket{le=\"+Inf\"} 1
# HELP wasmill_commands What it is
# TYPE wasmill_commands counter
wasmill_commands_total{outcome=\"accepted\"} 7.0
# EOF
";
        assert_eq!(text, expected);
    }
}
