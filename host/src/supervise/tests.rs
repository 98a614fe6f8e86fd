//! Tests of threads that panic.

use super::*;
use crossbeam_channel::{bounded, unbounded};

/// A part whose thread panics on request, with the state that outlives the panic.
struct Part {
    told: Receiver<&'static str>,
    lives: u32,
}

/// Starts a part that sends the number of its lives to `seen`, ends on "end", and panics on any other message.
fn part(told: Receiver<&'static str>, seen: Sender<u32>) -> Thread {
    let first = move || Ok::<_, String>(Part { told, lives: 1 });
    let again = |part: &mut Part| {
        part.lives += 1;
        Ok(())
    };
    let work = move |part: &mut Part| {
        seen.send(part.lives).unwrap();
        match part.told.recv() {
            Ok("end") | Err(_) => {}
            Ok(text) => panic!("{text}"),
        }
    };
    restarting("part", first, again, work).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_part_that_panics_begins_again_with_what_is_left_and_says_why() {
    let ((tell, told), (seen, lives)) = (unbounded(), unbounded());
    let part = part(told, seen);
    assert_eq!((lives.recv(), part.monitor().trouble()), (Ok(1), None));
    let own = (State::Running, None);
    assert_eq!(part.monitor().state(own.clone()), own);
    tell.send("first").unwrap();
    assert_eq!(lives.recv(), Ok(2));
    let (state, reason) = part.monitor().state(own);
    assert_eq!(state, State::Restarting);
    assert_eq!(reason.unwrap(), "its thread panicked and restarts: first");
    tell.send("second").unwrap();
    assert_eq!(lives.recv(), Ok(3));
    let (_, reason) = part.monitor().trouble().unwrap();
    assert_eq!(reason, "its thread panicked 2 times in a row and restarts: second");
    tell.send("end").unwrap();
    part.join();
}

#[test]
fn a_part_that_is_to_end_is_not_restarted() {
    let ((tell, told), (seen, lives)) = (unbounded(), unbounded());
    let part = part(told, seen);
    (0..20).for_each(|_| tell.send("again and again").unwrap());
    assert_eq!((lives.recv(), lives.recv()), (Ok(1), Ok(2)));
    part.join();
    assert!(lives.try_iter().count() < 18, "it must not have used up its panics: the pauses grow");
}

#[test]
fn what_could_not_be_made_at_first_is_an_error_and_later_is_tried_again() {
    let failing = || Err::<(), _>("no disk".to_owned());
    let started = restarting("part", failing, |_| Ok(()), |_| {});
    let Err(Unstarted::Needs(error)) = started else { panic!("it can't have started") };
    assert_eq!(error, "no disk");
    let panicking = || -> Result<(), String> { panic!("oh") };
    let started = restarting("part", panicking, |_| Ok(()), |_| {});
    let Err(Unstarted::Thread(error)) = started else { panic!("it can't have started") };
    assert_eq!(error, "it panicked: oh");

    let (seen, lives) = unbounded();
    let again = |life: &mut u32| {
        *life += 1;
        if *life == 2 { Err("no disk".to_owned()) } else { Ok(()) }
    };
    let work = move |life: &mut u32| {
        seen.send(*life).unwrap();
        assert_ne!(*life, 1, "the first one panics");
    };
    let part = restarting("part", || Ok(1), again, work).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((lives.recv(), lives.recv()), (Ok(1), Ok(3)));
    part.join();
}

#[test]
fn a_thread_that_runs_once_has_stopped_after_its_panic() {
    let thread = once("once", || panic!("that was it")).unwrap();
    thread.join();
    let (state, reason) = thread.monitor().trouble().unwrap();
    assert_eq!(state, State::Stopped);
    assert!(reason.starts_with("its thread panicked: that was it;"), "{reason}");
}

#[test]
fn a_thread_has_ended_only_when_it_has_dropped_all_it_held() {
    struct Slow(Receiver<()>, Sender<()>);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.recv().unwrap();
            self.1.send(()).unwrap();
        }
    }
    let ((go, wait), (done, dropped)) = (bounded(0), bounded(1));
    let held = Slow(wait, done);
    let thread = once("slow", move || drop(held)).unwrap();
    assert!(!thread.join_within(Duration::ZERO));
    go.send(()).unwrap();
    thread.join();
    assert!(dropped.try_recv().is_ok());
}

#[test]
fn a_lock_holds_on_after_its_holder_panicked() {
    let (mutex, lock) = (Arc::new(Mutex::new(1)), Arc::new(RwLock::new(1)));
    let (of_thread, also) = (mutex.clone(), lock.clone());
    let thread = once("holder", move || {
        let (mut held, mut alone) = (of_thread.held(), also.held_alone());
        (*held, *alone) = (2, 2);
        panic!("with both");
    });
    thread.unwrap().join();
    assert_eq!((*mutex.held(), *lock.held_shared()), (2, 2));
}
