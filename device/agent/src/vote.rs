//! Answers of several pictures in a row, as long as they are of the same plant.
//!
//! What counts as the same plant is what a person sees on the screen: the picture has not become another one, and not much time
//! has passed. Pictures are compared as 16 by 16 grey fields, whatever their brightness and contrast, with the oldest that
//! counts, so that a camera that moves slowly comes to another plant as well. `docs/architecture.md` tells how often that is right.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use graft_runtime::{Model, Prediction};
use image::RgbImage;
use image::imageops::thumbnail;

/// The last answers on one plant.
pub struct Vote {
    /// Most pictures that count.
    most: usize,
    /// Between two pictures of one plant.
    gap: Duration,
    ballots: VecDeque<Ballot>,
    /// When the last picture was taken.
    last: Duration,
    model: Option<Arc<Model>>,
}

struct Ballot {
    prediction: Prediction,
    scene: Scene,
}

/// A picture as far as it is compared: grey, of mean 0 and length 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene([f32; (SIDE * SIDE) as usize]);

const SIDE: u32 = 16;
/// Pictures that are less alike show another plant.
pub const SAME: f32 = 0.7;

impl Vote {
    /// Lets the last `most` pictures of a plant count, none of them later than `gap` after the one before it.
    pub fn new(most: usize, gap: Duration) -> Self {
        Self { most, gap, ballots: VecDeque::new(), last: Duration::ZERO, model: None }
    }

    /// Adds the answer on a picture, taken at a time; returns the answer on the plant, and of how many pictures it is.
    pub fn add(
        &mut self,
        model: &Arc<Model>,
        now: Duration,
        scene: Scene,
        prediction: Prediction,
    ) -> (Prediction, usize) {
        let is_same_model = self.model.as_ref().is_some_and(|m| Arc::ptr_eq(m, model));
        let is_same = self.ballots.front().is_some_and(|oldest| oldest.scene.likeness(&scene) >= SAME);
        if !(is_same_model && is_same && now.saturating_sub(self.last) <= self.gap) {
            self.ballots.clear();
            self.model = Some(Arc::clone(model));
        }
        self.last = now;
        while self.ballots.len() >= self.most.max(1) {
            self.ballots.pop_front();
        }
        let together = model.together(self.ballots.iter().map(|b| &b.prediction).chain([&prediction]));
        self.ballots.push_back(Ballot { prediction: prediction.clone(), scene });
        (together.unwrap_or(prediction), self.ballots.len())
    }
}

impl Scene {
    /// Looks at a picture.
    pub fn of(picture: &RgbImage) -> Self {
        let small = thumbnail(picture, SIDE, SIDE);
        let mut grey = [0.0; (SIDE * SIDE) as usize];
        for (grey, p) in grey.iter_mut().zip(small.pixels()) {
            *grey = p.0.iter().map(|&v| f32::from(v)).sum();
        }
        let mean = grey.iter().sum::<f32>() / grey.len() as f32;
        grey.iter_mut().for_each(|v| *v -= mean);
        let length = grey.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length > 0.0 {
            grey.iter_mut().for_each(|v| *v /= length);
        }
        Self(grey)
    }

    /// Returns how much two pictures are alike, their correlation: 1 for the same, about 0 for any two. Without anything to be
    /// seen in either they are the same.
    pub fn likeness(&self, other: &Self) -> f32 {
        let is_blank = |s: &Self| s.0.iter().all(|&v| v == 0.0);
        match (is_blank(self), is_blank(other)) {
            (true, true) => 1.0,
            _ => self.0.iter().zip(other.0).map(|(a, b)| a * b).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use graft_runtime::Said;
    use image::Rgb;

    use super::*;
    use crate::tiny;

    fn model() -> Arc<Model> {
        Arc::new(Model::from_onnx(&tiny::mean_colour(["red", "green", "blue"])).unwrap())
    }

    /// Returns a picture whose pattern is another one for each number.
    fn picture(number: u32, brightness: u8) -> RgbImage {
        RgbImage::from_fn(96, 64, |x, y| {
            let on = (x * (number + 1) / 24 + y * (number % 3 + 1) / 16).is_multiple_of(2);
            Rgb([if on { brightness } else { brightness / 2 }; 3])
        })
    }

    fn answer(model: &Model, logits: [f32; 3]) -> Prediction {
        model.prediction(Said { logits: logits.to_vec(), distance: None }, Duration::ZERO).unwrap()
    }

    #[test]
    fn the_last_pictures_of_a_plant_count_until_it_is_another_or_late_or_another_model() {
        let (model, gap) = (model(), Duration::from_secs(10));
        let mut vote = Vote::new(3, gap);
        let at = Duration::from_secs;
        let mut add = |model: &Arc<Model>, now, number, brightness, logits| {
            let (found, of) = vote.add(model, at(now), Scene::of(&picture(number, brightness)), answer(model, logits));
            (found.label, of)
        };
        let (red, green) = ([4.0, 0.0, 0.0], [0.0, 1.0, 0.0]);
        assert_eq!(add(&model, 0, 1, 200, red), ("red".into(), 1));
        assert_eq!(add(&model, 1, 1, 100, green), ("red".into(), 2), "one that is surer than the other");
        assert_eq!(add(&model, 2, 1, 240, green), ("red".into(), 3));
        assert_eq!(add(&model, 3, 1, 200, green), ("green".into(), 3), "the first one counts no longer");
        assert_eq!(add(&model, 4, 2, 200, red), ("red".into(), 1), "another plant");
        assert_eq!(add(&model, 5, 2, 200, green), ("red".into(), 2));
        assert_eq!(add(&model, 16, 2, 200, green), ("green".into(), 1), "too late");
        assert_eq!(add(&self::model(), 17, 2, 200, red), ("red".into(), 1), "another model");
    }

    #[test]
    fn one_picture_is_its_own_answer() {
        let model = model();
        let mut vote = Vote::new(1, Duration::from_secs(10));
        for logits in [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]] {
            let alone = answer(&model, logits);
            let (found, of) = vote.add(&model, Duration::ZERO, Scene::of(&picture(1, 90)), alone.clone());
            assert_eq!((found, of), (alone, 1));
        }
    }

    #[test]
    fn likeness_is_pearsons_correlation_and_no_picture_breaks_it() {
        let scene = |values: &[u8]| {
            let at = |x: u32, y: u32| values[((y * SIDE + x) as usize * 7) % values.len()];
            Scene::of(&RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([at(x, y); 3])))
        };
        // Python 3.11, statistics.correlation of a[7 i % 5] and b[7 i % 5], i to 255.
        let found = scene(&[10, 80, 30, 200, 120]).likeness(&scene(&[20, 60, 90, 180, 30]));
        assert!((found - LIKENESS).abs() < 1e-4, "{found}");
        let grey = Scene::of(&RgbImage::from_pixel(40, 30, Rgb([90; 3])));
        let black = Scene::of(&RgbImage::from_pixel(1, 1, Rgb([0; 3])));
        assert_eq!((grey.likeness(&black), grey.likeness(&scene(&[1, 200]))), (1.0, 0.0));
    }

    const LIKENESS: f32 = 0.711028;
}
