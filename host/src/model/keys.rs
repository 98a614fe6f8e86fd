//! The names under which parts keep their progress in a store: names of subscriptions, ledgers, sinks and facts.
//!
//! A store has them as text, and so has an [`Origin`](super::Origin). `Display` writes them and `parse` reads them.
//! Nothing outside of this file interprets the parts of a name.

use super::{Position, Segment};
use std::fmt::{self, Display, Formatter};

/// The prefix of the names of partitions' ledgers.
const KAFKA: &str = "kafka/";
/// The prefix of the names of subscriptions' ledgers, and of facts about subscriptions.
const SUBSCRIPTION: &str = "subscription/";
/// The prefix of the name of a source's subscription.
const SOURCE: &str = "source/";
/// The prefix of the names of schedules' ledgers.
const SCHEDULE: &str = "schedule/";
const EVENTS: &str = "events/";
const DEAD_LETTERS: &str = "dead-letters";
const CLUSTER: &str = "kafka/cluster";
const CLOCK: &str = "clock";
const STARTS: &str = "kafka/start/";
const TOPIC_ID: &str = "kafka/topic/";
const PAUSED: &str = "/paused";
const DIVISIONS: &str = "/divisions";
const PROJECTION: &str = "projection/";

/// The name of a subscription, or of a segment of one. The subscriptions of plugins and of sources never have the same name, because
/// names in a manifest have no slash and no colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionName<'a> {
    /// `NAME`: a plugin's subscription to recorded events. `NAME:2of4`: a segment of it.
    Plugin(&'a str, Segment),
    /// `source/NAME`: the subscription of a plugin to the records of this source.
    Source(&'a str),
}

/// The name of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerName<'a> {
    /// The records of a partition.
    Partition(PartitionName<'a>),
    /// `subscription/SUBSCRIPTION`: the commands that a subscription sends.
    Commands(SubscriptionName<'a>),
    /// `schedule/NAME`: the commands that a schedule sends, each under its due time in seconds since
    /// 1970-01-01T00:00:00Z.
    ///
    /// A command settles all due times up to its own, so the ledger is a watermark without ranges.
    Schedule(&'a str),
    /// `dead-letters`: commands that retry dead letters, each under the number of its dead letter.
    ///
    /// A number is not settled as long as the dead letter exists. When the command is accepted or rejected, the same
    /// transaction removes the dead letter, so the command takes effect once however often it is retried. When the
    /// command is malformed, the dead letter stays and gets the reason.
    DeadLetters,
}

/// The name of the ledger of a partition: `kafka/SOURCE/TOPIC/PARTITION`, then `@ID` if the topic has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionName<'a> {
    /// The source that reads it.
    pub source: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The number of the partition.
    pub partition: i32,
    /// The topic's id, so that a recreated topic has other ledgers.
    pub topic_id: Option<&'a str>,
}

/// The name under which a sink keeps its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkName<'a> {
    /// `NAME`: a sink of the outbox's messages. It counts messages.
    Messages(&'a str),
    /// `events/NAME`: a sink of events. It counts positions.
    Events(&'a str),
    /// `dead-letters/SOURCE`: the sink of a source's dead letters. It counts the numbers of dead letters.
    DeadLetters(&'a str),
}

/// The name of a fact: a text that a part keeps in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FactName<'a> {
    /// The id of the Kafka cluster that the store works with.
    Cluster,
    /// The time that the manual clock shows.
    Clock,
    /// The starting offsets of the partitions that existed when the source was first created.
    Starts(&'a str),
    /// The id of a topic whose offsets are in a consumer group.
    TopicId {
        /// The source that reads it.
        source: &'a str,
        /// The topic.
        topic: &'a str,
    },
    /// The time when a person paused a subscription. There is no such fact if it is not paused.
    Paused(SubscriptionName<'a>),
    /// What the segments before a segment have handled beyond its checkpoint.
    Divisions(SubscriptionName<'a>),
    /// An event that a projection skips.
    Skipped {
        /// The projection.
        projection: &'a str,
        /// The event's position.
        position: Position,
    },
}

impl<'a> SubscriptionName<'a> {
    /// Reads a name.
    pub fn parse(text: &'a str) -> Self {
        if let Some(source) = text.strip_prefix(SOURCE) {
            return Self::Source(source);
        }
        let divided = text.split_once(':').and_then(|(plugin, segment)| Some((plugin, Segment::parse(segment)?)));
        divided.map_or(Self::Plugin(text, Segment::WHOLE), |(plugin, segment)| Self::Plugin(plugin, segment))
    }

    /// Returns the plugin or the source.
    pub fn owner(&self) -> &'a str {
        match self {
            Self::Plugin(name, _) | Self::Source(name) => name,
        }
    }

    /// Returns the name of the whole subscription. Dead letters, and the ids of effects, have this one, so that they mean the same
    /// however the subscription is divided.
    pub fn whole(self) -> Self {
        match self {
            Self::Plugin(name, _) => Self::Plugin(name, Segment::WHOLE),
            Self::Source(_) => self,
        }
    }

    /// Returns the name of the same kind of subscription of another plugin or source.
    pub fn with_owner(self, owner: &'a str) -> Self {
        match self {
            Self::Plugin(_, segment) => Self::Plugin(owner, segment),
            Self::Source(_) => Self::Source(owner),
        }
    }

    /// Returns the ledger of its commands.
    pub fn ledger(self) -> LedgerName<'a> {
        LedgerName::Commands(self)
    }
}

impl<'a> PartitionName<'a> {
    /// Returns the prefix of the names of all partitions of a source.
    pub fn prefix_of_source(source: &str) -> String {
        format!("{KAFKA}{source}/")
    }

    /// Returns the prefix of the names of all partitions of a topic.
    pub fn prefix_of_topic(source: &str, topic: &str) -> String {
        format!("{KAFKA}{source}/{topic}/")
    }

    /// Reads a name. Returns `None` if it is not the name of a partition.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix(KAFKA)?.splitn(3, '/');
        let (source, topic, last) = (parts.next()?, parts.next()?, parts.next()?);
        let (partition, topic_id) = match last.split_once('@') {
            Some((partition, id)) => (partition, Some(id)),
            None => (last, None),
        };
        Some(Self { source, topic, partition: partition.parse().ok()?, topic_id })
    }
}

impl<'a> LedgerName<'a> {
    /// Reads a name. Returns `None` if this host has no such kind of ledger.
    pub fn parse(text: &'a str) -> Option<Self> {
        if Self::is_of_dead_letters(text) {
            return Some(Self::DeadLetters);
        }
        if let Some(schedule) = text.strip_prefix(SCHEDULE) {
            return Some(Self::Schedule(schedule));
        }
        match text.strip_prefix(SUBSCRIPTION) {
            Some(subscription) => Some(Self::Commands(SubscriptionName::parse(subscription))),
            None => PartitionName::parse(text).map(Self::Partition),
        }
    }

    /// Returns whether a name is that of the ledger of dead letters. It is cheap, because each command with an origin
    /// is checked.
    pub fn is_of_dead_letters(text: &str) -> bool {
        text == DEAD_LETTERS
    }

    /// Returns the source, the subscriber or the schedule that owns the ledger, or `None` for the ledger of dead letters,
    /// which the host owns.
    pub fn owner(&self) -> Option<&'a str> {
        match self {
            Self::Partition(partition) => Some(partition.source),
            Self::Commands(subscription) => Some(subscription.owner()),
            Self::Schedule(name) => Some(name),
            Self::DeadLetters => None,
        }
    }

    /// Returns the same name with another source, subscriber or schedule. The ledger of dead letters stays the same.
    pub fn with_owner(self, owner: &'a str) -> Self {
        match self {
            Self::Partition(partition) => Self::Partition(PartitionName { source: owner, ..partition }),
            Self::Commands(subscription) => Self::Commands(subscription.with_owner(owner)),
            Self::Schedule(_) => Self::Schedule(owner),
            Self::DeadLetters => Self::DeadLetters,
        }
    }
}

impl<'a> SinkName<'a> {
    /// Reads a name.
    pub fn parse(text: &'a str) -> Self {
        if let Some(name) = text.strip_prefix(EVENTS) {
            return Self::Events(name);
        }
        match text.strip_prefix(DEAD_LETTERS).and_then(|rest| rest.strip_prefix('/')) {
            Some(source) => Self::DeadLetters(source),
            None => Self::Messages(text),
        }
    }

    /// Returns the same name with another sink or source.
    pub fn with_owner(self, owner: &'a str) -> Self {
        match self {
            Self::Messages(_) => Self::Messages(owner),
            Self::Events(_) => Self::Events(owner),
            Self::DeadLetters(_) => Self::DeadLetters(owner),
        }
    }
}

impl<'a> FactName<'a> {
    /// Returns the prefix of the names of all events that a projection skips.
    pub fn prefix_of_skipped(projection: &str) -> String {
        format!("{PROJECTION}{projection}/skipped/")
    }

    /// Reads a name. Returns `None` if this host has no such kind of fact.
    pub fn parse(text: &'a str) -> Option<Self> {
        match text {
            CLUSTER => return Some(Self::Cluster),
            CLOCK => return Some(Self::Clock),
            _ => {}
        }
        if let Some(source) = text.strip_prefix(STARTS) {
            return Some(Self::Starts(source));
        }
        if let Some(rest) = text.strip_prefix(TOPIC_ID) {
            return rest.split_once('/').map(|(source, topic)| Self::TopicId { source, topic });
        }
        if let Some(rest) = text.strip_prefix(SUBSCRIPTION) {
            let of = |suffix| rest.strip_suffix(suffix).map(SubscriptionName::parse);
            return of(PAUSED).map(Self::Paused).or_else(|| of(DIVISIONS).map(Self::Divisions));
        }
        let (projection, position) = text.strip_prefix(PROJECTION)?.split_once("/skipped/")?;
        Some(Self::Skipped { projection, position: Position(position.parse().ok()?) })
    }

    /// Returns the same name about another part. The facts about the cluster and the clock stay the same.
    pub fn with_owner(self, owner: &'a str) -> Self {
        match self {
            Self::Cluster => Self::Cluster,
            Self::Clock => Self::Clock,
            Self::Starts(_) => Self::Starts(owner),
            Self::TopicId { topic, .. } => Self::TopicId { source: owner, topic },
            Self::Paused(subscription) => Self::Paused(subscription.with_owner(owner)),
            Self::Divisions(subscription) => Self::Divisions(subscription.with_owner(owner)),
            Self::Skipped { position, .. } => Self::Skipped { projection: owner, position },
        }
    }
}

impl Display for SubscriptionName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(name, Segment::WHOLE) => f.write_str(name),
            Self::Plugin(name, segment) => write!(f, "{name}:{segment}"),
            Self::Source(name) => write!(f, "{SOURCE}{name}"),
        }
    }
}

impl Display for PartitionName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{KAFKA}{}/{}/{}", self.source, self.topic, self.partition)?;
        self.topic_id.map_or(Ok(()), |id| write!(f, "@{id}"))
    }
}

impl Display for LedgerName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(partition) => partition.fmt(f),
            Self::Commands(subscription) => write!(f, "{SUBSCRIPTION}{subscription}"),
            Self::Schedule(name) => write!(f, "{SCHEDULE}{name}"),
            Self::DeadLetters => f.write_str(DEAD_LETTERS),
        }
    }
}

impl Display for SinkName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Messages(name) => f.write_str(name),
            Self::Events(name) => write!(f, "{EVENTS}{name}"),
            Self::DeadLetters(source) => write!(f, "{DEAD_LETTERS}/{source}"),
        }
    }
}

impl Display for FactName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str(CLUSTER),
            Self::Clock => f.write_str(CLOCK),
            Self::Starts(source) => write!(f, "{STARTS}{source}"),
            Self::TopicId { source, topic } => write!(f, "{TOPIC_ID}{source}/{topic}"),
            Self::Paused(subscription) => write!(f, "{SUBSCRIPTION}{subscription}{PAUSED}"),
            Self::Divisions(subscription) => write!(f, "{SUBSCRIPTION}{subscription}{DIVISIONS}"),
            Self::Skipped { projection, position } => {
                write!(f, "{}{position}", Self::prefix_of_skipped(projection))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_what_it_was() {
        let segment = Segment::of(Some(b"7"), 4);
        let subscriptions = [
            SubscriptionName::Plugin("warehouse", Segment::WHOLE),
            SubscriptionName::Plugin("warehouse", segment),
            SubscriptionName::Source("tills"),
        ];
        let partition = PartitionName { source: "tills", topic: "baskets", partition: 3, topic_id: None };
        let partitions = [partition, PartitionName { topic_id: Some("7f@2"), ..partition }];
        let ledgers = partitions.map(LedgerName::Partition).into_iter().chain(subscriptions.map(LedgerName::Commands));
        for ledger in ledgers.chain([LedgerName::Schedule("close-day"), LedgerName::DeadLetters]) {
            assert_eq!(LedgerName::parse(&ledger.to_string()), Some(ledger));
        }
        for sink in [SinkName::Messages("out"), SinkName::Events("feed"), SinkName::DeadLetters("tills")] {
            assert_eq!(SinkName::parse(&sink.to_string()), sink);
        }
        let [paused, of_segment, of_source] = subscriptions.map(FactName::Paused);
        let divisions = FactName::Divisions(subscriptions[1]);
        let topic_id = FactName::TopicId { source: "tills", topic: "baskets" };
        let skipped = FactName::Skipped { projection: "sales", position: Position(7) };
        for fact in [
            FactName::Cluster,
            FactName::Clock,
            FactName::Starts("tills"),
            topic_id,
            paused,
            of_segment,
            of_source,
            divisions,
            skipped,
        ] {
            assert_eq!(FactName::parse(&fact.to_string()), Some(fact));
        }
        assert_eq!(subscriptions[1].whole(), subscriptions[0]);
        assert_eq!(subscriptions[1].with_owner("depot").to_string(), format!("depot:{segment}"));
    }

    #[test]
    fn what_is_no_name_of_the_host_has_no_meaning() {
        for text in ["", "kafka/", "kafka/tills/baskets", "kafka/tills/baskets/x", "kafka/tills/baskets/1x@7f"] {
            assert_eq!(LedgerName::parse(text), None, "{text}");
        }
        for text in ["", "kafka/topic/tills", "subscription/warehouse", "projection/sales/skipped/x", "discarded"] {
            assert_eq!(FactName::parse(text), None, "{text}");
        }
    }
}
