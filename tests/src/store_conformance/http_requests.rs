//! HTTP requests of subscriptions: their attempts, their order and their answers.

use super::Place;
use super::requests::*;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use wasmill::model::*;
use wasmill::store::*;

const SUBSCRIPTION: &str = "checkout";
pub(super) const ENDPOINT: &str = "payments";
const QUEUE: RequestQueue<'static> = RequestQueue { subscription: SUBSCRIPTION, endpoint: ENDPOINT };

/// Far in the future, and still a number that a store can keep.
const LATER: u64 = 4_000_000_000_000;

/// Makes a request with this id and key. It asks for its answer.
pub(super) fn request(id: &str, key: Option<&str>) -> HttpRequest {
    HttpRequest {
        id: id.into(),
        endpoint: ENDPOINT.into(),
        method: "POST".to_owned(),
        path: "charges".to_owned(),
        headers: Vec::new(),
        body: b"{}".to_vec(),
        response: Some(id.as_bytes().to_vec()),
        key: key.map(|key| key.as_bytes().to_vec()),
        correlation_id: format!("flow of {}", key.unwrap_or_default()).into(),
        causation_id: "cause".into(),
        hops: 1,
        time_ms: 5,
        first_ms: 5,
        trace: Vec::new(),
    }
}

/// Makes a request whose answer nobody wants.
fn unheard(id: &str, key: &str) -> HttpRequest {
    HttpRequest { response: None, ..request(id, Some(key)) }
}

fn send(store: &dyn EventStore, requests: Vec<HttpRequest>) {
    let end = reader(store).checkpoint(SUBSCRIPTION).unwrap().unwrap_or_default();
    advance(store, Step { requests, ..step(SUBSCRIPTION, end, end) }).unwrap();
}

fn due(store: &dyn EventStore) -> Vec<KeptRequest> {
    reader(store).due_requests(QUEUE, LATER, usize::MAX).unwrap()
}

fn ids(requests: &[KeptRequest]) -> Vec<&str> {
    requests.iter().map(|kept| &*kept.request.id).collect()
}

fn begin(store: &dyn EventStore, number: u64) -> Result<u32, Error> {
    ask(|done| store.begin_attempt(number, done)).answer()
}

fn end(store: &dyn EventStore, number: u64, end: AttemptEnd) -> Result<(), Error> {
    ask(|done| store.end_attempt(number, end, done)).answer()
}

fn again(due_ms: u64) -> AttemptEnd {
    AttemptEnd::Again { due_ms, error: "no answer".to_owned() }
}

fn response(status: u16) -> HttpAnswer {
    HttpAnswer::Response { status, headers: vec![("a".to_owned(), b"b".to_vec())], body: b"body".to_vec() }
}

/// Returns the answers that came back.
fn answers(store: &dyn EventStore) -> Vec<HttpResponse> {
    let due = reader(store).due_callbacks(SUBSCRIPTION, LATER, &HashSet::new(), usize::MAX).unwrap();
    due.into_iter()
        .map(|kept| match kept.callback.content {
            CallbackContent::Response(response) => *response,
            other => panic!("{other:?}"),
        })
        .collect()
}

/// An attempt is begun once at a time. Its answer is delivered in the transaction that ends the request.
pub fn a_request_ends_with_its_answer_after_one_attempt_or_several<P: Place>() {
    let place = P::new();
    let store = place.open();
    send(&*store, vec![request("one", Some("a"))]);
    let mut changed = store.requests_changed();
    changed.mark_unchanged();
    let number = due(&*store)[0].number;
    assert!(reader(&*store).has_requests(QUEUE).unwrap());
    assert_eq!(begin(&*store, number).unwrap(), 1);
    assert!(matches!(begin(&*store, number), Err(Error::NotFound(_))), "an attempt is under way");
    assert_eq!((due(&*store), reader(&*store).next_request(QUEUE).unwrap()), (vec![], None));
    let (listed, total) = listed(&*store);
    assert!(matches!(listed[0].waits, RequestWait::Answer(since_ms) if since_ms > 0), "{listed:?}");
    assert_eq!((total, &listed[0].error), (1, &None));
    end(&*store, number, again(LATER)).unwrap();
    assert!(matches!(end(&*store, number, again(LATER)), Err(Error::NotFound(_))), "it has ended");
    assert!(changed.has_changed().unwrap(), "it may be due");
    assert_eq!(reader(&*store).next_request(QUEUE).unwrap(), Some(LATER));
    assert_eq!(reader(&*store).due_requests(QUEUE, LATER - 1, 9).unwrap(), []);
    assert_eq!(listed_one(&*store), (RequestWait::Due(LATER), Some("no answer".into())));
    assert_eq!(begin(&*store, number).unwrap(), 2);
    end(&*store, number, AttemptEnd::Ended(response(404))).unwrap();
    let [found] = &answers(&*store)[..] else { panic!("one answer") };
    assert_eq!((&*found.request_id, found.attempts, &found.answer), ("one", 2, &response(404)));
    assert_eq!(found.attachment, b"one");
    assert_eq!((due(&*store), reader(&*store).count_requests(QUEUE).unwrap()), (vec![], 0));
    assert!(!reader(&*store).has_requests(QUEUE).unwrap(), "it has ended");
    assert_eq!(letters(&*store, 10).1, 0, "who gets the answer needs no dead letter");
    store.close();
}

fn listed(store: &dyn EventStore) -> (Vec<ListedRequest>, u64) {
    reader(store).requests(&RequestQuery { subscription: Some(SUBSCRIPTION), after: 0, limit: 100 }).unwrap()
}

fn listed_one(store: &dyn EventStore) -> (RequestWait, Option<Arc<str>>) {
    let (mut listed, _) = listed(store);
    let one = listed.pop().expect("a request");
    (one.waits, one.error)
}

/// Of each key only the first request is due. Requests without a key, and those to another endpoint, wait for nobody.
pub fn requests_of_one_key_to_one_endpoint_come_one_after_the_other<P: Place>() {
    let place = P::new();
    let store = place.open();
    let elsewhere = HttpRequest { endpoint: "mail".into(), ..request("mail", Some("a")) };
    send(&*store, vec![request("a1", Some("a")), request("a2", Some("a")), elsewhere, request("b1", Some("b"))]);
    send(&*store, vec![request("a3", Some("a")), request("free1", None), request("free2", None)]);
    assert_eq!(ids(&due(&*store)), ["a1", "b1", "free1", "free2"]);
    assert_eq!(reader(&*store).requested_endpoints(SUBSCRIPTION).unwrap(), ["mail", "payments"]);
    assert_eq!(reader(&*store).count_requests(QUEUE).unwrap(), 6);
    let (listed, total) = listed(&*store);
    let behind = listed.iter().filter(|listed| listed.waits == RequestWait::Earlier);
    assert_eq!((behind.map(|listed| &*listed.kept.request.id).collect::<Vec<_>>(), total), (vec!["a2", "a3"], 7));
    let number = |id: &str| listed.iter().find(|listed| *listed.kept.request.id == *id).unwrap().kept.number;
    assert!(begin(&*store, number("a2")).is_err(), "it is behind another one");
    // A pause of the first one holds the others.
    begin(&*store, number("a1")).unwrap();
    end(&*store, number("a1"), again(LATER)).unwrap();
    assert_eq!(ids(&reader(&*store).due_requests(QUEUE, LATER - 1, 9).unwrap()), ["b1", "free1", "free2"]);
    // One in the middle is given up, and nothing else moves.
    ask(|done| store.give_up_request(number("a2"), "enough".to_owned(), done)).answer().unwrap();
    assert_eq!(ids(&reader(&*store).due_requests(QUEUE, LATER - 1, 9).unwrap()), ["b1", "free1", "free2"]);
    begin(&*store, number("a1")).unwrap();
    end(&*store, number("a1"), AttemptEnd::Ended(response(200))).unwrap();
    assert_eq!(ids(&due(&*store)), ["b1", "free1", "free2", "a3"]);
    let given_up = &answers(&*store)[0];
    assert_eq!((given_up.attempts, &given_up.answer), (0, &HttpAnswer::Failed("enough".to_owned())));
    store.close();
}

/// A request that nobody asked about becomes a dead letter unless it succeeded, and a person can send it again.
pub fn a_request_that_did_not_succeed_is_dead_lettered_and_sent_again<P: Place>() {
    let place = P::new();
    let store = place.open();
    let all = ["good", "bad", "silent", "refused"].map(|id| unheard(id, id));
    send(&*store, all.to_vec());
    let answers_of = [response(204), response(500), HttpAnswer::Failed("no answer".to_owned())];
    for (kept, answer) in due(&*store).into_iter().zip(answers_of) {
        begin(&*store, kept.number).unwrap();
        end(&*store, kept.number, AttemptEnd::Ended(answer)).unwrap();
    }
    let refused = due(&*store)[0].number;
    ask(|done| store.refuse_request(refused, "not granted".to_owned(), done)).answer().unwrap();
    let again = ask(|done| store.refuse_request(refused, "not granted".to_owned(), done)).answer();
    assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
    assert_eq!(answers(&*store), []);
    let (mut letters, total) = reader(&*store).dead_letters(&DeadLetterQuery::newest(10)).unwrap();
    letters.reverse();
    let reasons: Vec<&str> = letters.iter().map(|kept| &*kept.letter.reason).collect();
    assert_eq!((reasons, total), (vec!["the server answered with status 500", "no answer", "not granted"], 3));
    assert!(letters.iter().all(|kept| kept.letter.consumer == SUBSCRIPTION), "{letters:?}");
    assert_eq!(letters[0].letter.place, "HTTP request bad (POST payments/charges)");
    ask(|done| store.republish_dead_letter(letters[0].number, done)).answer().unwrap();
    let gone = ask(|done| store.republish_dead_letter(letters[0].number, done)).answer();
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    let [sent] = &due(&*store)[..] else { panic!("it is due") };
    assert_eq!((&*sent.request.id, sent.attempts, sent.request.hops), ("bad", 1, 0));
    assert_eq!(begin(&*store, sent.number).unwrap(), 2, "the attempts are counted on");
    store.close();
}

/// A host that ends in the middle of attempts leaves them behind, and the next one sees it.
pub fn attempts_in_the_middle_of_which_a_host_ended_are_shown<P: Place>() {
    let place = P::new();
    let store = place.open();
    send(&*store, vec![request("under way", Some("a")), request("behind", Some("a")), request("new", Some("b"))]);
    let number = due(&*store)[0].number;
    begin(&*store, number).unwrap();
    assert_eq!(ids(&due(&*store)), ["new"]);
    store.close();
    let store = place.open();
    assert_eq!(ids(&due(&*store)), ["new"], "the store does not know who makes attempts");
    let (of, own) =
        (|of| ask(|done| store.interrupt_attempts(of, done)).answer().unwrap(), || vec![SUBSCRIPTION.into()]);
    assert_eq!(of(InterruptedOf::These(vec!["other".into()])), [], "of a part that runs, none is interrupted");
    assert_eq!(of(InterruptedOf::Others(own())), []);
    let interrupted = of(InterruptedOf::These(own()));
    let told: Vec<(&str, u32, u32)> =
        interrupted.iter().map(|kept| (&*kept.request.id, kept.attempts, kept.interrupted)).collect();
    assert_eq!(told, [("under way", 1, 1)]);
    assert_eq!(of(InterruptedOf::Others(Vec::new())), []);
    assert_eq!(ids(&due(&*store)), ["new", "under way"]);
    let (listed, _) = listed(&*store);
    assert!(listed[0].error.as_ref().is_some_and(|error| error.contains("the host ended")), "{listed:?}");
    assert_eq!(begin(&*store, number).unwrap(), 2);
    store.close();
}

/// Nobody gives up a request whose answer may be on its way.
pub fn a_request_is_given_up_between_two_attempts_alone<P: Place>() {
    let place = P::new();
    let store = place.open();
    let give_up = |number: u64| ask(|done| store.give_up_request(number, "enough".to_owned(), done)).answer();
    assert!(matches!(give_up(7), Err(Error::NotFound(_))));
    send(&*store, vec![unheard("one", "a"), unheard("two", "a")]);
    let number = due(&*store)[0].number;
    begin(&*store, number).unwrap();
    let refused = give_up(number);
    assert!(matches!(&refused, Err(Error::Invalid(text)) if text.contains("under way")), "{refused:?}");
    end(&*store, number, again(LATER)).unwrap();
    give_up(number).unwrap();
    assert_eq!((ids(&due(&*store)), letters(&*store, 10).1), (vec!["two"], 0), "a person knows already");
    store.close();
}

/// A request is under way for its flow until its answer is handled.
pub fn a_flow_is_not_at_rest_while_a_request_has_not_ended<P: Place>() {
    let place = P::new();
    let store = place.open();
    send(&*store, vec![request("one", Some("a"))]);
    let under_way = |correlation_id: &str| {
        let subscriptions = [SUBSCRIPTION.to_owned()];
        let flow = FlowQuery { correlation_id, subscriptions: &subscriptions, streams: &HashMap::new(), now_ms: LATER };
        let UnderWay { requests, callbacks, .. } = reader(&*store).under_way(&flow).unwrap();
        (requests, callbacks)
    };
    assert_eq!((under_way("flow of a"), under_way("another")), ((1, 0), (0, 0)));
    let number = due(&*store)[0].number;
    begin(&*store, number).unwrap();
    assert_eq!(under_way("flow of a"), (1, 0));
    end(&*store, number, AttemptEnd::Ended(response(200))).unwrap();
    assert_eq!(under_way("flow of a"), (0, 1));
    store.close();
}

/// The requests of a subscription belong to its place.
pub fn requests_follow_the_name_of_their_subscription<P: Place>() {
    let place = P::new();
    let store = place.open();
    send(&*store, vec![request("one", Some("a"))]);
    let part = |name: &str| Part { kind: PartKind::Subscription, name: name.to_owned() };
    let places = |store: &dyn EventStore| reader(store).places().unwrap();
    assert_eq!(places(&*store)[0].requests, 1);
    ask(|done| store.carry_over(&[(part(SUBSCRIPTION), "till".to_owned())], done)).answer().unwrap();
    let of_till = RequestQueue { subscription: "till", endpoint: ENDPOINT };
    let moved = reader(&*store).due_requests(of_till, LATER, 9).unwrap();
    assert_eq!((ids(&moved), &*moved[0].subscription, due(&*store)), (vec!["one"], "till", vec![]));
    begin(&*store, moved[0].number).unwrap();
    ask(|done| store.forget(&part("till"), done)).answer().unwrap();
    assert_eq!(reader(&*store).count_requests(of_till).unwrap(), 0);
    let gone = end(&*store, moved[0].number, AttemptEnd::Ended(response(200)));
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    store.close();
}
