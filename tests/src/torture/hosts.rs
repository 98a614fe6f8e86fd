//! Several hosts on one store in PostgreSQL, under load and faults at random moments, and what must hold afterwards.
//!
//! The load is that of a single host: baskets through Kafka, and commands to carts over HTTP, which are sent to any of the hosts and
//! again to another one if they are not answered. A host is killed, frozen, cut off from the database or stopped in order, and comes
//! back. The database is restarted and the broker frozen. Some faults outlast the lease of a host.

use super::faults::pause;
use super::load::{self, CARTS};
use super::{Counted, NOTIFICATIONS, Plan, SENDERS, STALL_MAX, figures, setting, verified};
use crate::command_path::PAYLOAD;
use crate::cut::Cut;
use crate::host::TestHost;
use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::raised::Raised;
use crate::setting::Setting;
use crate::topic;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use wasmill_driver::api::Client;
use wasmill_driver::messages::Messages;

/// Longest wait for an answer. A frozen host gives none.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest fault of a host, in milliseconds. Its lease is shorter.
const FAULT_MS_MAX: u64 = 14_000;
/// Pause before a command is sent to another host.
const RETRY: Duration = Duration::from_millis(20);
/// Exit code of a host that others have removed.
const REMOVED: i32 = 4;
/// Parts that run on one host each. The source runs on all hosts, and Kafka divides its partitions.
const PARTS: usize = 3;
/// Keys of the source.
const GROUP: &str = "membership = \"group\"\nproperties = { session.timeout.ms = 6000, heartbeat.interval.ms = 500 }\n";

/// The account of a successful run.
#[derive(Debug)]
pub struct HostsAccount {
    hosts: usize,
    faults: usize,
    elapsed: Duration,
    /// Longest time from the beginning of a fault until all parts ran on hosts that serve.
    divided_max: Duration,
    /// How often a host ended because others had removed it.
    removed: usize,
    counted: Counted,
}

/// A host with its folder, and its way to the database.
struct Member {
    setting: Setting,
    host: TestHost,
    way: Cut,
}

/// What happens to a host.
enum Fault {
    Killed,
    /// It stops in order, and starts again.
    Stopped,
    Frozen(Duration),
    /// It does not reach the database.
    CutOff(Duration),
    DatabaseRestarted,
    BrokerFrozen(Duration),
}

/// The hosts and their load.
struct Scene {
    members: Vec<Member>,
    client: Client,
    server: Postgres,
    kafka: Kafka,
    over: AtomicBool,
    /// Number of commands that were answered.
    sent: AtomicU64,
}

/// Executes a plan with this many hosts, of which one has a fault at a time. `tell` is called with a line for the seed and for each
/// fault. Returns `None` if this machine has no Kafka or no PostgreSQL.
pub fn torture_hosts(plan: Plan, hosts: usize, tell: impl Fn(&str)) -> Option<HostsAccount> {
    tell(&format!("seed {}", plan.seed));
    let (kafka, server) = (Kafka::own()?, Postgres::own(&["fsync = on"])?);
    let url = server.database();
    let start = |_| {
        let (way, url) = server.through_a_cut(&url);
        let setting = setting(Some(&kafka), GROUP, &format!("[store]\nurl = \"{url}\"\n"));
        Member { host: setting.start(), setting, way }
    };
    let members: Vec<Member> = (0..hosts).map(start).collect();
    let notifications = Messages::from(kafka.brokers(), NOTIFICATIONS, &BTreeMap::new()).expect("the topic is there");
    let (over, sent) = Default::default();
    let scene = Scene { members, client: Client::new(ANSWER_MAX), server, kafka, over, sent };
    let (began, all_published) = (Instant::now(), AtomicBool::new(false));
    let (expected, (divided_max, removed), notified) = thread::scope(|scope| {
        // The flags are also raised if something fails below, so that the threads end.
        let (over, finish) = (Raised(&scene.over), Raised(&all_published));
        let reader = scope.spawn(|| notifications.read(&all_published, &AtomicU64::new(0)));
        let feeder = scope.spawn(|| load::feed(scene.kafka.brokers(), &scene.over, |records| scene.settled(records)));
        let scene = &scene;
        let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || scene.send(sender))).collect();
        let suffered = scene.suffer(plan, began, &tell);
        drop(over);
        senders.into_iter().for_each(|sender| sender.join().expect("a sender of commands"));
        let expected = feeder.join().expect("the feeder of baskets");
        scene.drained();
        drop(finish);
        (expected, suffered, reader.join().expect("the reader").expect("read the notifications"))
    });
    let messages = scene.kafka.read_committed(NOTIFICATIONS).len() as u64;
    assert_eq!(messages, notified, "each notification is published once");
    let Scene { members, server, sent, client, .. } = scene;
    let commands = sent.into_inner();
    let handled = handled(&members, &client);
    let all: Vec<Value> =
        members.iter().map(|member| figures(&member.host, &expected, handled, commands, notified)).collect();
    let verified = verified(&members[0].setting, "wasmill.toml");
    // Their ways to the database last longer than they do.
    let ways: Vec<Cut> = members
        .into_iter()
        .map(|Member { host, way, .. }| {
            host.stop();
            way
        })
        .collect();
    drop((ways, server));
    let figures = all.into_iter().next().expect("there is a host");
    let (faults, elapsed) = (plan.kills, began.elapsed());
    let counted = Counted { commands, figures, verified };
    Some(HostsAccount { hosts, faults, elapsed, divided_max, removed, counted })
}

impl Fault {
    fn draw(rng: &mut fastrand::Rng) -> Self {
        let time = |rng: &mut fastrand::Rng, max_ms| Duration::from_millis(rng.u64(1..=max_ms));
        match rng.u8(0..20) {
            0..7 => Self::Killed,
            7..10 => Self::Stopped,
            10..14 => Self::Frozen(time(rng, FAULT_MS_MAX)),
            14..18 => Self::CutOff(time(rng, FAULT_MS_MAX)),
            18 => Self::DatabaseRestarted,
            _ => Self::BrokerFrozen(time(rng, 4_000)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Killed => write!(f, "killed"),
            Self::Stopped => write!(f, "stopped and started"),
            Self::Frozen(time) => write!(f, "frozen for {} ms", time.as_millis()),
            Self::CutOff(time) => write!(f, "cut off from the database for {} ms", time.as_millis()),
            Self::DatabaseRestarted => write!(f, "killed with the database"),
            Self::BrokerFrozen(time) => write!(f, "killed while the broker is frozen for {} ms", time.as_millis()),
        }
    }
}

impl Scene {
    /// Divides the time into equal parts, and lets a host have a fault at a random moment of each. Returns the longest time until all
    /// parts ran again, and how often a host was removed.
    fn suffer(&self, plan: Plan, began: Instant, tell: &impl Fn(&str)) -> (Duration, usize) {
        let mut rng = fastrand::Rng::with_seed(plan.seed);
        let (mut divided_max, mut removed) = (Duration::ZERO, 0);
        for number in 0..plan.kills {
            let moment = plan.time.mul_f64((number as f64 + rng.f64()) / plan.kills as f64);
            let (fault, which) = (Fault::draw(&mut rng), rng.usize(0..self.members.len()));
            pause(moment.saturating_sub(began.elapsed()));
            let at = Instant::now();
            self.strike(&fault, &self.members[which]);
            removed += self.divided();
            divided_max = divided_max.max(at.elapsed());
            tell(&format!(
                "fault {} of {} at {:.1} s: host {which} {fault}; all parts run again after {} ms",
                number + 1,
                plan.kills,
                (at - began).as_secs_f64(),
                at.elapsed().as_millis()
            ));
        }
        (divided_max, removed)
    }

    fn strike(&self, fault: &Fault, Member { host, way, .. }: &Member) {
        match fault {
            Fault::Killed => _ = host.crash(),
            Fault::Stopped => host.restart(),
            Fault::Frozen(time) => {
                host.freeze();
                pause(*time);
                host.wake();
            }
            Fault::CutOff(time) => way.apart(|| pause(*time)),
            Fault::DatabaseRestarted => self.server.restart(|| host.kill()),
            Fault::BrokerFrozen(time) => {
                self.kafka.freeze();
                pause(*time / 2);
                host.crash();
                pause(*time / 2);
                self.kafka.wake();
            }
        }
    }

    /// Waits until all hosts serve and each part runs on one of them. Starts those that have ended. Returns how many had ended by
    /// themselves.
    fn divided(&self) -> usize {
        let (mut ended, deadline) = (0, Instant::now() + STALL_MAX);
        loop {
            ended += self.members.iter().filter(|member| member.host.revive() == Some(REMOVED)).count();
            let views: Vec<_> = self.members.iter().filter_map(|member| self.parts(member)).collect();
            let all: BTreeSet<&String> = views.iter().flatten().collect();
            let count: usize = views.iter().map(Vec::len).sum();
            if views.len() == self.members.len() && all.len() == PARTS && count == PARTS {
                return ended;
            }
            assert!(Instant::now() < deadline, "the parts are not divided: {views:?}\n{}", self.logs());
            pause(RETRY);
        }
    }

    /// Returns the parts that run on one host alone, which a host says it runs. `None` if it does not answer, or does not know all
    /// hosts.
    fn parts(&self, member: &Member) -> Option<Vec<String>> {
        let answer = self.client.get(&member.host.url("/v1/status")).ok().filter(|answer| answer.status == 200)?;
        let status: Value = serde_json::from_str(&answer.text).ok()?;
        let hosts = status["hosts"].as_array()?;
        let this = hosts.iter().find(|host| host["this"] == true).filter(|_| hosts.len() == self.members.len())?;
        Some(this["parts"].as_array()?.iter().map(ToString::to_string).collect())
    }

    fn logs(&self) -> String {
        self.members.iter().map(|member| member.host.log_end()).collect::<Vec<_>>().join("\n---\n")
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits until the hosts have settled this many records of the source.
    fn settled(&self, records: u64) {
        let deadline = Instant::now() + 2 * STALL_MAX;
        while handled(&self.members, &self.client) < records {
            assert!(Instant::now() < deadline, "the source does not get to {records}\n{}", self.logs());
            pause(RETRY);
        }
    }

    /// Sends commands to carts that no other sender uses, so that the version in each answer is known. Each goes to the next host, and
    /// to another one under the same id if it is not answered.
    fn send(&self, sender: u64) {
        let payload: Value = serde_json::from_str(PAYLOAD).expect("the payload is JSON");
        for number in (0..).take_while(|_| !self.is_over()) {
            let (cart, version) = (number % CARTS, number / CARTS + 1);
            let path = format!("/v1/commands/cart/{sender}-{cart}/AddItems");
            let key = format!("{sender}-{cart}-{version}");
            let (since, mut host) = (Instant::now(), (number + sender) as usize);
            let answer = loop {
                let member = &self.members[host % self.members.len()];
                match self.client.post(&member.host.url(&path), &payload, &[("idempotency-key", &key)]) {
                    Ok(answer) if answer.status < 500 => break answer,
                    refused => {
                        assert!(since.elapsed() < STALL_MAX, "{key} is refused: {refused:?}\n{}", self.logs());
                    }
                }
                host += 1;
                pause(RETRY);
            };
            let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            assert_eq!((answer.status, &body["version"]), (200, &json!(version)), "{key}: {answer:?}");
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all hosts are drained at the same position, twice.
    fn drained(&self) {
        let (mut last, deadline) = (None, Instant::now() + 2 * STALL_MAX);
        loop {
            self.divided();
            let ask = |member: &Member| {
                let answer = self.client.get(&member.host.url("/v1/drained?timeout_ms=2000")).ok()?;
                let body: Value = serde_json::from_str(&answer.text).ok()?;
                body["position"].as_u64().filter(|_| body["drained"] == true)
            };
            let positions: BTreeSet<Option<u64>> = self.members.iter().map(ask).collect();
            let now = positions.first().copied().flatten().filter(|_| positions.len() == 1);
            if now.is_some() && now == last {
                return;
            }
            last = now;
            assert!(Instant::now() < deadline, "they are not drained: {positions:?}\n{}", self.logs());
        }
    }
}

/// Returns how many records of the source are settled.
fn handled(members: &[Member], client: &Client) -> u64 {
    let path = "/v1/sources/baskets/wait?handled=0&timeout_ms=0";
    let answers = members.iter().filter_map(|member| client.get(&member.host.url(path)).ok());
    let answers = answers.filter(|answer| answer.status == 200);
    topic::settled(answers.map(|answer| serde_json::from_str(&answer.text).expect("the progress of a source is JSON")))
}

impl fmt::Display for HostsAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, faults, elapsed, divided_max, removed, counted } = self;
        writeln!(
            f,
            "{faults} faults of {hosts} hosts in {:.0} s; all parts ran again within {} ms of the beginning of a fault; {removed} times a \
             host had been removed and ended",
            elapsed.as_secs_f64(),
            divided_max.as_millis()
        )?;
        write!(f, "{counted}")
    }
}
