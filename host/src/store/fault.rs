//! Fault points: named places between two steps of the writer, of a restore or of a move where a test can kill the process.
//!
//! They are in every build, because with a cargo feature the tests would run another program than users do. A point
//! costs a load and a well-predicted branch: nanoseconds in a transaction of milliseconds. Only the environment arms a
//! point, and it is read when the process first passes any. `WASMILL_KILL_AT=POINT:N` kills the process by SIGKILL when
//! it passes `POINT` for the N-th time. Nothing here knows the steps around a point.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that arms a point.
pub const KILL_AT: &str = "WASMILL_KILL_AT";

macro_rules! points {
    ($($point:ident $name:literal,)*) => {
        /// A place in the work on a store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names say it")]
        pub enum FaultPoint { $($point,)* }

        impl FaultPoint {
            /// All points, in the order in which a process passes them.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// Returns the name of the point in the environment variable.
            pub fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    TablesMade "tables-made",
    MadeAside "made-aside",
    MovedIntoPlace "moved-into-place",
    BeforeBegin "before-begin",
    Begun "begun",
    EventInserted "event-inserted",
    EventsInserted "events-inserted",
    OutcomeRemembered "outcome-remembered",
    DeadLetterKept "dead-letter-kept",
    DeadLetterExplained "dead-letter-explained",
    DeadLetterRemoved "dead-letter-removed",
    StreamArchived "stream-archived",
    StreamRestored "stream-restored",
    FactKept "fact-kept",
    CheckpointMoved "checkpoint-moved",
    CommandsKept "commands-kept",
    MessagesKept "messages-kept",
    SagaMoved "saga-moved",
    KeyChanged "key-changed",
    CallbackRemoved "callback-removed",
    CallbackKept "callback-kept",
    OutcomeKept "outcome-kept",
    HttpRequestKept "http-request-kept",
    AttemptBegun "attempt-begun",
    AttemptEnded "attempt-ended",
    AttemptsInterrupted "attempts-interrupted",
    SubscriptionDivided "subscription-divided",
    SinkMoved "sink-moved",
    MessagesForgotten "messages-forgotten",
    RequestDone "request-done",
    LedgerWritten "ledger-written",
    CommandsForgotten "commands-forgotten",
    LedgersWritten "ledgers-written",
    TalliesWritten "tallies-written",
    EntryIndexed "entry-indexed",
    SliceIndexed "slice-indexed",
    IndexMarkMoved "index-mark-moved",
    BeforeCommit "before-commit",
    Committed "committed",
    RunForgotten "run-forgotten",
    EntriesShown "entries-shown",
    WatchersWoken "watchers-woken",
    Answered "answered",
    AllAnswered "all-answered",
    BeforeFold "before-fold",
    Folded "folded",
    RestorePrepared "restore-prepared",
    RestoreDecided "restore-decided",
    StoreMovedAside "store-moved-aside",
    CopyInPlace "copy-in-place",
    RestoreEnded "restore-ended",
    MoveBegun "move-begun",
    PageMoved "page-moved",
    MoveCopied "move-copied",
    MoveCompared "move-compared",
    SourceMarked "source-marked",
    MoveEnded "move-ended",
}

impl FaultPoint {
    /// Returns whether a process passes the point only while it creates a store.
    pub fn is_of_making(self) -> bool {
        matches!(self, Self::TablesMade | Self::MadeAside | Self::MovedIntoPlace)
    }

    /// Returns whether a process passes the point only while it restores a store.
    pub fn is_of_restoring(self) -> bool {
        use FaultPoint::{CopyInPlace, RestoreDecided, RestoreEnded, RestorePrepared, StoreMovedAside};
        matches!(self, RestorePrepared | RestoreDecided | StoreMovedAside | CopyInPlace | RestoreEnded)
    }

    /// Returns whether a process passes the point only while it moves a store.
    pub fn is_of_moving(self) -> bool {
        use FaultPoint::{MoveBegun, MoveCompared, MoveCopied, MoveEnded, PageMoved, SourceMarked};
        matches!(self, MoveBegun | PageMoved | MoveCopied | MoveCompared | SourceMarked | MoveEnded)
    }
}

struct Armed {
    point: FaultPoint,
    passages_left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Passes a point. If the point is armed, this kills the process.
#[inline]
pub(super) fn at(point: FaultPoint) {
    if let Some(armed) = ARMED.get_or_init(arm)
        && armed.point == point
    {
        armed.pass();
    }
}

#[cold]
fn arm() -> Option<Armed> {
    let text = std::env::var(KILL_AT).ok()?;
    let armed = parse(&text);
    match &armed {
        Some(armed) => tracing::warn!("{KILL_AT}: this process will be killed at {}", armed.point.name()),
        None => tracing::warn!("{KILL_AT} is ignored: it wants POINT:N, not {text}"),
    }
    armed
}

fn parse(text: &str) -> Option<Armed> {
    let (name, passage) = text.split_once(':')?;
    let point = *FaultPoint::ALL.iter().find(|point| point.name() == name)?;
    Some(Armed { point, passages_left: AtomicU64::new(passage.parse().ok()?) })
}

impl Armed {
    #[cold]
    fn pass(&self) {
        if self.passages_left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // SAFETY: a signal to the process itself reads and writes no memory of ours.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }
}
