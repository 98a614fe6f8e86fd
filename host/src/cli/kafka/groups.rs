//! `wasmill kafka groups`: lists and describes consumer groups.

use super::{Cluster, CommandFailure, json_line, output};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::{Table, number};
use crate::kafka::admin::{Group, GroupDescription};

#[derive(clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// List the consumer groups.
    List,
    /// Show the members of a group, their partitions, and the lag of each partition.
    Describe {
        /// The group.
        group: String,
    },
}

pub(super) fn groups(cluster: &Cluster, command: Command, json: bool) -> Result<(), CommandFailure> {
    let admin = cluster.admin()?;
    match command {
        Command::List => {
            let groups = admin.groups()?;
            if json { groups.iter().try_for_each(json_line) } else { output::text(&list(&groups)) }
        }
        Command::Describe { group } => {
            let description = admin.group(&group)?;
            if json { json_line(&description) } else { output::text(&describe(&description)) }
        }
    }
}

fn list(groups: &[Group]) -> String {
    let mut table = Table::new([("GROUP", Left), ("PROTOCOL", Left), ("STATE", Left)]);
    for Group { group, protocol, state } in groups {
        table.row([group.clone(), protocol.clone(), state.clone()]);
    }
    table.to_string()
}

fn describe(description: &GroupDescription) -> String {
    let GroupDescription { group: Group { group, protocol, state }, assignor, members, partitions } = description;
    let assignor = if assignor.is_empty() { "none" } else { assignor };
    let mut text = format!("group {group}, protocol {protocol}, state {state}, assignor {assignor}\n");
    if !members.is_empty() {
        let columns = [("MEMBER", Left), ("INSTANCE", Left), ("CLIENT", Left), ("HOST", Left), ("PARTITIONS", Right)];
        let mut table = Table::new(columns);
        for member in members {
            let instance = member.instance.clone().unwrap_or_else(|| "-".to_owned());
            let count = number(member.partitions as u64);
            table.row([member.id.clone(), instance, member.client.clone(), member.host.clone(), count]);
        }
        text += &format!("\n{table}");
    }
    let columns =
        [("TOPIC", Left), ("PARTITION", Right), ("COMMITTED", Right), ("END", Right), ("LAG", Right), ("MEMBER", Left)];
    let mut table = Table::new(columns);
    let or_dash = |count: Option<u64>| count.map_or("-".to_owned(), number);
    for partition in partitions {
        table.row([
            partition.topic.clone(),
            partition.partition.to_string(),
            or_dash(partition.committed),
            or_dash(partition.end),
            or_dash(partition.lag),
            partition.member.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let lag: u64 = partitions.iter().filter_map(|partition| partition.lag).sum();
    text + &format!("\n{table}total lag: {} records\n", number(lag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::admin::GroupPartition;

    #[test]
    fn a_group_without_members_shows_its_lag() {
        let partition = GroupPartition {
            topic: "baskets".into(),
            partition: 3,
            committed: None,
            end: Some(1_200),
            lag: Some(1_200),
            member: None,
        };
        let group = Group { group: "tills".into(), protocol: "Classic".into(), state: "Empty".into() };
        let description =
            GroupDescription { group, assignor: String::new(), members: vec![], partitions: vec![partition] };
        let expected = "group tills, protocol Classic, state Empty, assignor none\n\n\
                        TOPIC    PARTITION  COMMITTED    END    LAG  MEMBER\n\
                        baskets          3          -  1,200  1,200  -\n\
                        total lag: 1,200 records\n";
        assert_eq!(describe(&description), expected);
    }
}
