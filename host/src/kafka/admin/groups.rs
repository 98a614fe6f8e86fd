//! Consumer groups of both protocols: their list, members and lag.

use super::Admin;
use crate::kafka::Error;
use serde::Serialize;
use std::collections::BTreeMap;

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// The protocol: `Classic` or `Consumer` (KIP-848).
    pub protocol: String,
    /// The state in Kafka's words, such as `Stable` or `Empty`.
    pub state: String,
}

/// A group with its members and partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupDescription {
    /// Name, protocol and state.
    #[serde(flatten)]
    pub group: Group,
    /// The partition assignor.
    pub assignor: String,
    /// The current members.
    pub members: Vec<GroupMember>,
    /// The partitions that it reads or has read, by topic and number.
    pub partitions: Vec<GroupPartition>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupMember {
    /// The id that Kafka gave it.
    pub id: String,
    /// The id of a static member.
    pub instance: Option<String>,
    /// The client id.
    pub client: String,
    /// The address of the member, as the broker sees it.
    pub host: String,
    /// The number of its partitions.
    pub partitions: usize,
}

/// A partition as a group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupPartition {
    /// The topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// The offset that the group reads next, as committed.
    pub committed: Option<u64>,
    /// The offset that the next record gets; `None` if the topic is gone.
    pub end: Option<u64>,
    /// The number of existing records that are not committed. Without a committed offset, it counts from the beginning.
    pub lag: Option<u64>,
    /// The member that it is assigned to.
    pub member: Option<String>,
}

impl Admin {
    /// Lists all consumer groups, by name.
    pub fn groups(&self) -> Result<Vec<Group>, Error> {
        self.need_a_real_cluster("listing groups")?;
        let listed = self.list_groups()?.into_iter();
        let mut groups: Vec<Group> = listed
            .map(|listed| Group { group: listed.group, protocol: listed.protocol, state: listed.state })
            .collect();
        groups.sort_by(|one, other| one.group.cmp(&other.group));
        Ok(groups)
    }

    /// Describes one group.
    pub fn group(&self, name: &str) -> Result<GroupDescription, Error> {
        self.need_a_real_cluster("describing groups")?;
        let described = self.describe_group(name)?;
        let committed = self.committed(name)?;
        if described.members.is_empty()
            && committed.is_empty()
            && !self.groups()?.iter().any(|group| group.group == name)
        {
            let cause = "it does not exist; `wasmill kafka groups list` shows all groups".to_owned();
            return Err(Error::Refused { what: format!("group {name}"), cause });
        }
        let mut partitions: BTreeMap<(String, i32), (Option<u64>, Option<String>)> = BTreeMap::new();
        for (topic, partition, offset) in committed {
            partitions.entry((topic, partition)).or_default().0 = Some(offset);
        }
        for member in &described.members {
            for place in &member.partitions {
                partitions.entry(place.clone()).or_default().1 = Some(member.id.clone());
            }
        }
        let partitions = partitions.into_iter();
        let partitions = partitions.map(|((topic, partition), (committed, member))| {
            let watermarks = self.watermarks(&topic, partition).ok();
            let lag = watermarks.map(|(low, high)| high.saturating_sub(committed.unwrap_or(low).max(low)));
            GroupPartition { topic, partition, committed, end: watermarks.map(|(_, high)| high), lag, member }
        });
        let member = |member: super::native::Member| GroupMember {
            id: member.id,
            instance: member.instance,
            client: member.client,
            host: member.host,
            partitions: member.partitions.len(),
        };
        let listed = described.listed;
        Ok(GroupDescription {
            group: Group { group: listed.group, protocol: listed.protocol, state: listed.state },
            assignor: described.assignor,
            partitions: partitions.collect(),
            members: described.members.into_iter().map(member).collect(),
        })
    }
}
