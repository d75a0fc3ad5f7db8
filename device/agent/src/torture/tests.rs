//! Boards survive, careless ones do not, and what is said of it is the same each time.

use super::*;

/// What a debug build tries in seconds.
const SOME: Plan = Plan { seed: 1, chunks: 4, ways: 6, depth: 1, stride: 13, flips: 6, slip: None };

fn run(plan: &Plan) -> Matrix {
    torture(plan, &AtomicBool::new(false), &|_, _| ()).unwrap()
}

#[test]
fn no_board_is_lost() {
    let matrix = run(&SOME);
    for row in &matrix.rows {
        assert!(row.tally.is_clean(), "{row:?}");
    }
    for trouble in Trouble::ALL {
        let (points, tally) = matrix.sum(|row| row.trouble == trouble);
        assert!(points > 20 && tally.tried >= points && tally.old > 0 && tally.new > 0, "{trouble:?}: {tally:?}");
    }
}

/// What the disk simulates is worth something only if it catches who is careless.
#[test]
fn every_carelessness_loses_boards() {
    let bundles = Bundles::new(SOME.seed, SOME.chunks).unwrap();
    for slip in [Slip::FileSync, Slip::FolderSync, Slip::StateFirst] {
        let plan = Plan { slip: Some(slip), depth: 0, stride: 3, ..SOME };
        let mut sum = Tally::default();
        for story in &STORIES {
            let row = Ordeal::new(&plan, &bundles, Trouble::PowerCut, story, &AtomicBool::new(false)).run().unwrap();
            assert_eq!(row.tally.is_clean(), row.first_lost.is_none());
            sum += row.tally;
        }
        assert!(sum.dead > 0 && sum.half_activated > 0, "{slip:?}: {sum:?}");
    }
}

#[test]
fn the_same_seed_finds_the_same() {
    let told = |seed| format!("{:?}", run(&Plan { seed, stride: 97, flips: 2, ..SOME }).rows);
    let first = told(5);
    assert_eq!(first, told(5));
    assert_ne!(first, told(6));
}

#[test]
fn a_raised_flag_ends_it() {
    let matrix = torture(&Plan::full(1), &AtomicBool::new(true), &|_, _| ()).unwrap();
    assert!(matrix.is_stopped && matrix.rows.is_empty());
}
