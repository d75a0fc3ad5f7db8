//! Any sequence of events, in any order: whatever a host does and whenever the power goes, a board that once ran a good
//! bundle runs one.

use proptest::prelude::*;

use super::*;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Event {
    Step(Step),
    /// The power goes at a moment of the step, and what was not synced is lost in one way of many.
    Cut(Step, u64),
    /// A call of the step fails: the disk is full or fails once.
    Fault(Step, Fault),
    /// A file rots that only one bundle needs.
    Rot(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let which = || prop::sample::select(vec![Which::First, Which::Head, Which::Other, Which::Bad]);
    prop_oneof![
        4 => which().prop_map(Step::Flash),
        2 => (which(), 0..20usize).prop_map(|(which, chunks)| Step::Part(which, chunks)),
        2 => Just(Step::Picture),
        1 => Just(Step::Commit),
        1 => Just(Step::Rollback),
        2 => Just(Step::Restart),
        1 => Just(Step::Factory(Which::First)),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![(0..150u64).prop_map(Fault::Full), (0..300u64).prop_map(Fault::Error)];
    prop_oneof![
        4 => steps().prop_map(Event::Step),
        4 => (steps(), any::<u64>()).prop_map(|(step, seed)| Event::Cut(step, seed)),
        2 => (steps(), fault).prop_map(|(step, fault)| Event::Fault(step, fault)),
        1 => any::<u64>().prop_map(Event::Rot),
    ]
}

/// Checks a board that was just started or goes on.
fn check(device: &Device, bundles: &Bundles, had_one: bool) -> Result<(), TestCaseError> {
    let slots = device.slots();
    prop_assert_eq!(device.running().map(|r| r.slot), slots.current());
    match device.running() {
        None => prop_assert!(!had_one, "nothing runs"),
        Some(running) => {
            prop_assert!(running.model != bundles.digest(Which::Bad));
            prop_assert_eq!(slots.installed(running.slot).map(|i| i.digest), Some(running.model));
            prop_assert!(slots.verify(running.slot).is_ok());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_board_that_once_ran_runs(events in prop::collection::vec(events(), 1..20), by_hand: bool) {
        let bundles = Bundles::new(1, 6).unwrap();
        let confirm = if by_hand { Confirm::ByHand } else { Confirm::After(CONFIRM_AFTER) };
        let mut scene = Scene { disk: Simulated::default(), bundles: &bundles, clock: clock_2026, confirm };
        let mut device = scene.start().unwrap();
        let mut had_one = false;
        for event in events {
            match event {
                Event::Step(next) => {
                    let _ = step(&mut device, next, &scene);
                }
                Event::Cut(next, seed) => {
                    let mut random = Random::new(seed, 0);
                    scene.disk.film();
                    let _ = step(&mut device, next, &scene);
                    let moments = scene.disk.moments();
                    let moment = &moments[random.below(moments.len() as u64) as usize];
                    let mut disks = moment.cuts(8, None, &mut random);
                    let choice = random.below(disks.len() as u64) as usize;
                    scene.disk = disks.swap_remove(choice);
                    device = scene.start().unwrap();
                }
                Event::Fault(next, fault) => {
                    scene.disk.fail(fault);
                    let _ = step(&mut device, next, &scene);
                    scene.disk.fail(Fault::None);
                }
                Event::Rot(seed) => {
                    // Where there is another bundle that may run.
                    let Ok(_) = device.slots().back() else { continue };
                    let below = match device.slots().current() {
                        Some(Slot::A) => "slots/a/",
                        _ => "slots/b/",
                    };
                    scene.disk.flip(below, &mut Random::new(seed, 0));
                    device = scene.start().unwrap();
                }
            }
            check(&device, &bundles, had_one)?;
            had_one |= device.running().is_some();
        }
        // However it came to this, a flash gets through.
        let mut outcome = flash(&mut device, bundles.of(Which::Other), usize::MAX);
        if matches!(outcome, Err((RefusalCode::State, _))) {
            step(&mut device, Step::Commit, &scene).unwrap();
            outcome = flash(&mut device, bundles.of(Which::Other), usize::MAX);
        }
        prop_assert_eq!(outcome, Ok(()));
        prop_assert_eq!(model(&device), Some(bundles.digest(Which::Other)));
        let device = scene.start().unwrap();
        check(&device, &bundles, true)?;
    }
}
