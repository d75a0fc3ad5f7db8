//! Pictures from replays through the agent.

use std::path::Path;
use std::sync::Arc;

use graft_camera::{Replay, Step};
use graft_link::Host;
use graft_link::messages::{Request, Response};

use super::*;
use crate::agent::Start;
use crate::agent::tests::{RED, bundle, config, flash};
use crate::tiny;

fn agent(dir: &Path, more: &str) -> Mutex<Agent> {
    let mut agent = Agent::open(config(dir, more), Start::Counts).unwrap();
    flash(&mut agent, &bundle("one", RED, Some(1)));
    Mutex::new(agent)
}

fn frame(number: u64, pace: Pace) -> Step {
    let picture = Picture::File(tiny::png([200, number as u8, 3]));
    Step::Frame(Frame { number, name: format!("cam {number}"), picture, pace, ahead: Duration::ZERO })
}

/// Lets replays run through the agent to their end, one opened after the other.
fn run(feed: &Feed, agent: &Mutex<Agent>, replays: Vec<Replay>, choice: Choice) {
    let stop = AtomicBool::new(false);
    let mut replays = replays.into_iter();
    let mut open = || match replays.next() {
        Some(replay) => Ok(Box::new(replay) as Box<dyn Source>),
        None => Ok(Box::new(Replay::default()) as Box<dyn Source>),
    };
    thread::scope(|scope| {
        scope.spawn(|| feed.work(agent, &stop));
        feed.read(&mut open, choice, &stop);
    });
}

fn sum(counts: Counts) -> u64 {
    counts.skipped + counts.dropped + counts.refused + counts.classified + counts.waiting
}

#[test]
fn every_picture_is_accounted_for_also_when_the_source_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, feed) = (agent(dir.path(), ""), Feed::default());
    let broken = Step::Frame(Frame {
        number: 0,
        name: "cam".into(),
        picture: Picture::File(b"no picture".to_vec()),
        pace: Pace::Waits,
        ahead: Duration::ZERO,
    });
    let gone = Step::Frame(Frame {
        number: 0,
        name: "cam".into(),
        picture: Picture::Unreadable("permission denied".into()),
        pace: Pace::Waits,
        ahead: Duration::ZERO,
    });
    let first = (0..200).map(|n| frame(n, Pace::Passes)).chain([broken, Step::Fails("unplugged".into())]);
    let second = (0..100).map(|n| frame(n, Pace::Passes)).chain([gone, Step::Nothing]);
    run(&feed, &agent, vec![Replay::new(first), Replay::new(second)], Choice::default());
    let counts = feed.counts();
    assert_eq!((counts.seen, counts.refused, counts.waiting, counts.opened), (302, 2, 0, 2), "{counts:?}");
    assert_eq!(sum(counts), 302, "{counts:?}");
    assert!(counts.classified >= 8 && counts.dropped > 0, "{counts:?}");
    let report = agent.lock().unwrap().report();
    assert_eq!((report.predictions, feed.camera()), (counts.classified, Camera::Ended));
    let last = report.last.unwrap();
    assert_eq!((last.source.as_str(), last.label.as_str()), ("cam 99", "red"), "the newest is not dropped");
}

#[test]
fn files_wait_and_are_settled_when_their_predictions_are_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, feed) = (agent(dir.path(), ""), Feed::default());
    let replay = Replay::new((1..=300).map(|n| frame(n, Pace::Waits)));
    let settled = replay.settled();
    let log = dir.path().join("root/store/predictions.jsonl");
    let lines = || std::fs::read_to_string(&log).map_or(0, |t| t.lines().count());
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&feed, &agent, vec![replay], Choice::default()));
        while !running.is_finished() {
            // Read before what it is compared with.
            let done = settled.lock().unwrap().len();
            assert!(done <= lines(), "{done} settled");
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!((feed.counts().classified, sum(feed.counts()), lines()), (300, 300, 300));
    assert_eq!(*settled.lock().unwrap(), (1..=300).collect::<Vec<u64>>());
}

#[test]
fn a_camera_warms_up_and_gives_no_more_than_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, feed) = (agent(dir.path(), ""), Feed::default());
    let choice = Choice { per_minute: Some(60), warm_up: 3, is_live: true, ..Choice::default() };
    run(&feed, &agent, vec![Replay::new((1..=9).map(|n| frame(n, Pace::Passes)))], choice);
    assert_eq!((feed.counts().skipped, feed.counts().classified), (8, 1));
    assert_eq!(agent.lock().unwrap().report().last.unwrap().source, "cam 4");
}

#[test]
fn a_silent_camera_is_opened_again_and_the_screen_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, feed) = (agent(dir.path(), ""), Feed::default());
    let shot = || agent.lock().unwrap().answer(Request::Screen, &mut |_| Host::Waits);
    let choice = Choice { silence: Some(PATIENCE), ..Choice::default() };
    let silent = Replay::new([frame(1, Pace::Passes), Step::Nothing, Step::Nothing, frame(2, Pace::Passes)]);
    let before = shot();
    thread::scope(|scope| {
        let running = scope.spawn(|| run(&feed, &agent, vec![silent, Replay::new([])], choice));
        let gone = "the source has given no picture for 250ms";
        while !running.is_finished() && feed.camera() != Camera::Gone(gone.into()) {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(2 * PATIENCE);
        assert_ne!(shot(), before);
        assert_eq!(agent.lock().unwrap().report().camera, Camera::Gone(gone.into()));
    });
    assert_eq!((feed.counts().opened, feed.counts().classified), (2, 1));
}

#[test]
fn what_takes_too_long_is_stuck_and_what_is_idle_is_not() {
    let feed = Feed::default();
    assert!(!feed.is_stuck(Duration::ZERO));
    feed.state().work = Some(Instant::now());
    thread::sleep(Duration::from_millis(2));
    assert!(feed.is_stuck(Duration::from_millis(1)) && !feed.is_stuck(Duration::from_secs(60)));
    feed.done(Fate::Classified);
    assert!(!feed.is_stuck(Duration::from_millis(1)));
    feed.ask();
    thread::sleep(Duration::from_millis(2));
    assert!(feed.is_stuck(Duration::from_millis(1)), "a source that does not come back");
    feed.state().is_over = true;
    assert!(!feed.is_stuck(Duration::from_millis(1)));
}

/// Neither starves the other: a host that asks all the time, and a source that always has a picture.
#[test]
fn a_host_and_the_source_share_the_agent_and_an_update_goes_through() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, feed) = (agent(dir.path(), ""), Feed::default());
    let stop = AtomicBool::new(false);
    let turns = agent.lock().unwrap().turns();
    let in_turn = || {
        let _waiting = turns.wait();
        agent.lock().unwrap()
    };
    thread::scope(|scope| {
        scope.spawn(|| feed.work(&agent, &stop));
        scope.spawn(|| {
            let endless = || Ok(Box::new(Endless(0)) as Box<dyn Source>);
            feed.read(&mut { endless }, Choice::default(), &stop);
        });
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            let (asked, before) = (Instant::now(), feed.counts().classified);
            let judged = in_turn().classify("host.png", &tiny::png([0, 0, 99])).unwrap();
            assert_eq!(judged.classified.label, "blue");
            longest = longest.max(asked.elapsed());
            while feed.counts().classified == before {
                assert!(asked.elapsed() < Duration::from_secs(20), "the source waits for ever");
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(longest < Duration::from_secs(5), "{longest:?}");
        let second = bundle("two", RED, Some(1));
        let answer = flash(&mut in_turn(), &second);
        assert!(matches!(answer, Response::Finished { ref slot, .. } if slot == "B"), "{answer:?}");
        let before = feed.counts().classified;
        while feed.counts().classified < before + 5 {
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let report = agent.lock().unwrap().report();
    assert_eq!((report.bundle.as_deref(), sum(feed.counts())), (Some("two"), feed.counts().seen));
    assert_eq!(report.predictions, feed.counts().classified + 50);
}

/// A source that always has a picture.
struct Endless(u64);

impl Source for Endless {
    fn next(&mut self, _patience: Duration) -> Result<Next, SourceError> {
        self.0 += 1;
        match frame(self.0, Pace::Waits) {
            Step::Frame(frame) => Ok(Next::Frame(frame)),
            _ => Ok(Next::End),
        }
    }
}

#[test]
fn files_wait_for_a_bundle_and_a_camera_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let agent = Mutex::new(Agent::open(config(dir.path(), ""), Start::Counts).unwrap());
    let feed = Feed::default();
    thread::scope(|scope| {
        let steps = (1..=3).map(|n| frame(n, Pace::Passes)).chain([Step::Nothing, frame(4, Pace::Waits)]);
        let running = scope.spawn(|| run(&feed, &agent, vec![Replay::new(steps)], Choice::default()));
        while feed.counts().seen < 4 {
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(2 * PATIENCE);
        assert_eq!((feed.counts().dropped, feed.counts().waiting, running.is_finished()), (3, 1, false));
        flash(&mut agent.lock().unwrap(), &bundle("one", RED, Some(1)));
    });
    assert_eq!((feed.counts().dropped, feed.counts().classified), (3, 1));
}

#[test]
fn the_answer_on_a_plant_is_the_mean_and_predictions_say_of_how_many() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path(), "vote = 3\npictures = \"keep\"\ndisplay = \"png:screen.png\"");
    let feed = Arc::new(Feed::default());
    agent.lock().unwrap().attach(Arc::clone(&feed));
    run(&feed, &agent, vec![Replay::new((1..=5).map(|n| frame(n, Pace::Waits)))], Choice::default());
    let mut agent = agent.lock().unwrap();
    let predictions = agent.answer(Request::Predictions { after: 0, count: 9 }, &mut |_| Host::Waits);
    let Response::Predictions { predictions, .. } = predictions else { panic!() };
    let frames: Vec<u32> = predictions.iter().map(|p| p.frames).collect();
    assert_eq!(frames, [1, 2, 3, 3, 3]);
    let report = agent.report();
    assert_eq!((report.frames.classified, report.store.pictures.kept, report.last.unwrap().frames), (5, 5, 3));
}
