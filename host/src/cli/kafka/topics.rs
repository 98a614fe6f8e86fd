//! `wasmill kafka topics`: lists, describes, creates and deletes topics.

use super::{Cluster, CommandFailure, confirmed, json_line, output};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::{Table, number};
use crate::kafka::admin::{TopicDescription, TopicSummary};
use crate::manifest::Topic;

#[derive(clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// List the topics.
    List {
        /// Also list Kafka's internal topics.
        #[arg(long)]
        internal: bool,
    },
    /// Show partitions, offsets and properties of a topic.
    Describe {
        /// The topic.
        topic: String,
    },
    /// Create a topic.
    Create {
        /// The topic.
        topic: String,
        /// The number of partitions.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        partitions: i32,
        /// The number of brokers that keep each partition.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
        replication: i32,
        /// A property of the topic, such as retention.ms=604800000; may be given several times.
        #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
        config: Vec<(String, String)>,
    },
    /// Delete a topic with all its records.
    Delete {
        /// The topic.
        topic: String,
        /// Confirm the deletion, which can't be undone.
        #[arg(long)]
        yes: bool,
    },
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn topics(cluster: &Cluster, command: Command, json: bool) -> Result<(), CommandFailure> {
    let admin = cluster.admin()?;
    match command {
        Command::List { internal } => {
            let topics = admin.topics(internal)?;
            if json {
                return topics.iter().try_for_each(json_line);
            }
            output::text(&list(&topics))
        }
        Command::Describe { topic } => {
            let description = admin.topic(&topic)?;
            if json { json_line(&description) } else { output::text(&describe(&description)) }
        }
        Command::Create { topic, partitions, replication, config } => {
            let settings = Topic { partitions, replication, config: config.into_iter().collect() };
            admin.create_topic(&topic, &settings)?;
            said(json, &format!("created topic {topic} with {partitions} partitions"), &topic)
        }
        Command::Delete { topic, yes } => {
            let records = admin.topic(&topic)?;
            let records: u64 = records.partitions.iter().map(|partition| partition.end - partition.beginning).sum();
            confirmed(yes, &format!("topic {topic} would be deleted with up to {} records", number(records)))?;
            admin.delete_topic(&topic)?;
            said(json, &format!("deleted topic {topic}"), &topic)
        }
    }
}

fn said(json: bool, text: &str, topic: &str) -> Result<(), CommandFailure> {
    if json { json_line(&serde_json::json!({ "ok": true, "topic": topic })) } else { output::line(text) }
}

fn list(topics: &[TopicSummary]) -> String {
    let mut table = Table::new([("TOPIC", Left), ("PARTITIONS", Right), ("REPLICATION", Right), ("UNHEALTHY", Right)]);
    for TopicSummary { topic, partitions, replication, unhealthy } in topics {
        table.row([topic.clone(), number(*partitions as u64), number(*replication as u64), number(*unhealthy as u64)]);
    }
    table.to_string()
}

fn describe(description: &TopicDescription) -> String {
    let TopicDescription { topic, partitions, config } = description;
    let mut table = Table::new([
        ("PARTITION", Right),
        ("LEADER", Right),
        ("REPLICAS", Left),
        ("IN SYNC", Left),
        ("BEGINNING", Right),
        ("END", Right),
    ]);
    let brokers = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    for partition in partitions {
        table.row([
            partition.partition.to_string(),
            partition.leader.map_or("none".to_owned(), |leader| leader.to_string()),
            brokers(&partition.replicas),
            brokers(&partition.in_sync),
            number(partition.beginning),
            number(partition.end),
        ]);
    }
    let mut text = format!("topic {topic}\n{table}");
    for entry in config {
        text += &format!("  {} = {}\n", entry.name, entry.value.as_deref().unwrap_or("(kept secret)"));
    }
    text
}
