//! Records that become commands, compared with the same commands from memory.

use crate::deliveries::rate;
use crate::load::Loader;
use crate::records::PARTITIONS;
use rdkafka::producer::BaseRecord;
use wasmill_tests::command_path::{CommandPath, Load, PAYLOAD};
use wasmill_tests::kafka::Kafka;
use wasmill_tests::report::{Budget, Report, middle, rounds};
use wasmill_tests::setting::Setting;

/// Number of commands in one measurement, which takes a second or two.
const COMMANDS: usize = 300_000;
/// Number of measurements. Both sides keep all processors busy, and the machine's speed changes from second to second.
const ROUNDS: usize = 11;
const AGGREGATES: usize = 1_000;
const LINGER_MS: u32 = 20;

pub(crate) fn measure(kafka: &Kafka, report: &mut Report) {
    let topic = kafka.topic("aggregate", PARTITIONS);
    let loader = Loader::new(kafka.brokers(), &topic, LINGER_MS);
    for number in 0..COMMANDS {
        let key = format!("cart-{}", number % AGGREGATES);
        loader.send_record(BaseRecord::to(&topic).key(key.as_bytes()).payload(PAYLOAD.as_bytes()));
    }
    loader.flush();
    let [fed, read] = rounds(
        ROUNDS,
        [&mut || CommandPath::wasm().run(&Load::new(COMMANDS as u64, AGGREGATES as u64)).rate, &mut || {
            read(kafka, &topic)
        }],
    );
    let (rate, baseline) = middle(&read, &fed);
    report.judge("kafka/aggregate", rate, "1/s", baseline, Budget::AtLeast(0.8));
}

/// Returns the commands per second of a new host.
fn read(kafka: &Kafka, topic: &str) -> f64 {
    let setting = Setting::new(&format!(
        "[kafka]\nbrokers = \"{}\"\n[plugins.cart]\nfile = \"PLUGINS/cart.wasm\"\n\
         [sources.records]\ntopic = \"{topic}\"\naggregate = \"cart\"\ncommand = \"AddItems\"\n",
        kafka.brokers()
    ));
    let host = setting.start();
    let rate = rate(&host, COMMANDS);
    host.stop();
    rate
}
