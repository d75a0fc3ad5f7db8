//! Charts as inline SVG. Colours come from the page's style, so that light, dark and print each have their own.

use crate::data::{Bin, Calibration, Coverage, Share, Value};
use crate::html::Html;

/// The inside of a chart, in pixels.
const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 260.0;
/// Around it.
const LEFT: f64 = 66.0;
const RIGHT: f64 = 26.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 46.0;

/// A chart with two linear axes.
struct Plot {
    x: [f64; 2],
    y: [f64; 2],
}

impl Plot {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let share = |v: f64, [low, high]: [f64; 2]| if high > low { (v - low) / (high - low) } else { 0.5 };
        (LEFT + WIDTH * share(x, self.x).clamp(0.0, 1.0), TOP + HEIGHT * (1.0 - share(y, self.y).clamp(0.0, 1.0)))
    }

    /// Draws the frame: grid, ticks and the names of the axes.
    fn frame(&self, html: &mut Html, told: &str, names: [&str; 2], ticks: [&[f64]; 2], shown: &dyn Fn(f64) -> String) {
        let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM);
        open(html, "chart", width, height, told);
        for &tick in ticks[0] {
            let (x, _) = self.at(tick, self.y[0]);
            line(html, "grid", (x, TOP), (x, TOP + HEIGHT));
            label(html, "tick middle", (x, TOP + HEIGHT + 16.0), &shown(tick));
        }
        for &tick in ticks[1] {
            let (_, y) = self.at(self.x[0], tick);
            line(html, "grid", (LEFT, y), (LEFT + WIDTH, y));
            label(html, "tick end", (LEFT - 7.0, y + 4.0), &shown(tick));
        }
        label(html, "axis middle", (LEFT + WIDTH / 2.0, height - 8.0), names[0]);
        let (x, y) = (14.0, TOP + HEIGHT / 2.0);
        let turned = format!("rotate(-90 {x} {y})");
        let (x, y) = (px(x), px(y));
        html.element("text", &[("class", "axis middle"), ("x", &x), ("y", &y), ("transform", &turned)], names[1]);
    }

    fn curve(&self, html: &mut Html, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let text: Vec<String> = points
            .map(|(x, y)| {
                let (x, y) = self.at(x, y);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        html.open("polyline", &[("class", class), ("points", &text.join(" "))]);
        html.close("polyline");
    }
}

/// Draws shares of right answers against probabilities, with and without the temperature.
pub(crate) fn reliability(html: &mut Html, calibration: &Calibration) {
    let plot = Plot { x: [0.0, 1.0], y: [0.0, 1.0] };
    let names = ["probability of the answer", "share of right answers"];
    let told = "Reliability diagram: how often answers of a probability are right";
    plot.frame(html, told, names, [&TENTHS, &TENTHS], &percent);
    plot.curve(html, "ideal", [(0.0, 0.0), (1.0, 1.0)].into_iter());
    let mut series = |class: &'static str, bins: &[Bin]| {
        for bin in bins {
            let ([low, high], x) = (bin.right.interval, bin.probability);
            let ((x, low), (_, high)) = (plot.at(x, low), plot.at(x, high));
            html.open("g", &[("class", class)]);
            line(html, "whisker", (x, low), (x, high));
            let (_, y) = plot.at(0.0, bin.right.share);
            let told = format!(
                "{} of {} right at a mean probability of {}",
                bin.right.hits,
                bin.right.n,
                percent1(bin.probability)
            );
            dot(html, (x, y), 4.0, &told);
            html.close("g");
        }
        plot.curve(html, class, bins.iter().map(|b| (b.probability, b.right.share)));
    };
    match &calibration.after {
        Some(after) => {
            series("before", &calibration.before);
            series("after", after);
        }
        None => series("after", &calibration.before),
    }
    html.close("svg");
}

/// Draws the share of wrong answers against the share of pictures that are answered.
pub(crate) fn coverage(html: &mut Html, coverage: &Coverage) {
    let worst = coverage.points.iter().map(|p| p.risk).fold(0.0, f64::max);
    let top = ((worst * 1.1 * 10.0).ceil() / 10.0).clamp(0.1, 1.0);
    let plot = Plot { x: [0.0, 1.0], y: [0.0, top] };
    let step = if top > 0.5 {
        0.2
    } else if top > 0.2 {
        0.1
    } else {
        0.05
    };
    let ticks: Vec<f64> = (0..).map(|i| f64::from(i) * step).take_while(|t| *t <= top + 1e-9).collect();
    let names = ["pictures that are answered", "wrong among these answers"];
    plot.frame(html, "Wrong answers when only the most probable ones are given", names, [&TENTHS, &ticks], &percent);
    plot.curve(html, "after", coverage.points.iter().map(|p| (p.coverage, p.risk)));
    if let Some(sure) = coverage.sure {
        let at = plot.at(sure.coverage, sure.risk);
        html.open("g", &[("class", "before")]);
        dot(
            html,
            at,
            5.5,
            &format!("sure answers: {} answered, {} wrong", percent1(sure.coverage), percent1(sure.risk)),
        );
        html.close("g");
    }
    html.close("svg");
}

/// Draws told values against true ones.
pub(crate) fn scatter(html: &mut Html, value: &Value) {
    let all = || value.points.iter().flat_map(|(t, o)| [*t, *o]).filter(|v| v.is_finite());
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let (low, high) = if low < high { (low, high) } else { (low.min(0.0) - 1.0, high.max(0.0) + 1.0) };
    let ticks = round_ticks(low, high);
    let step = if ticks.len() > 1 { ticks[1] - ticks[0] } else { 1.0 };
    let digits = (-step.log10().floor()).clamp(0.0, 8.0) as usize;
    let range = [ticks[0].min(low), ticks[ticks.len() - 1].max(high)];
    let plot = Plot { x: range, y: range };
    let told = format!("Told against true values of {}", value.label);
    plot.frame(html, &told, ["true", "told"], [&ticks, &ticks], &|v| format!("{v:.digits$}"));
    plot.curve(html, "ideal", [(range[0], range[0]), (range[1], range[1])].into_iter());
    html.open("g", &[("class", "after cloud")]);
    for &(truth, told) in value.points.iter().filter(|(t, o)| t.is_finite() && o.is_finite()) {
        dot(html, plot.at(truth, told), 3.0, &format!("true {truth}, told {told}"));
    }
    html.close("g");
    html.close("svg");
}

/// Draws a share with its interval on a line from 0 to 1.
pub(crate) fn interval(html: &mut Html, share: &Share) {
    let (width, height, inset) = (150.0, 18.0, 6.0);
    let x = |v: f64| inset + (width - 2.0 * inset) * v.clamp(0.0, 1.0);
    let [low, high] = share.interval;
    open(html, "spark", width, height, &format!("{}, {} to {}", percent1(share.share), percent1(low), percent1(high)));
    let y = height / 2.0;
    line(html, "grid", (x(0.0), y), (x(1.0), y));
    for tick in [0.0, 0.5, 1.0] {
        line(html, "grid", (x(tick), 4.0), (x(tick), height - 4.0));
    }
    html.open("g", &[("class", "after")]);
    line(html, "whisker", (x(low), y), (x(high), y));
    dot(html, (x(share.share), y), 4.0, "");
    html.close("g");
    html.close("svg");
}

/// Draws the confusion matrix: a row for each true class, a column for each answer; columns go by numbers, which no length of a name
/// can push into each other.
pub(crate) fn confusion(html: &mut Html, labels: &[&str], counts: &[Vec<usize>]) {
    let n = labels.len();
    let cell = (560.0 / n as f64).clamp(17.0, 40.0);
    let longest = labels.iter().map(|l| shortened(l).chars().count()).max().unwrap_or(0) as f64;
    let (left, top) = (44.0 + 7.0 * longest, 44.0);
    let (width, height) = (left + cell * n as f64 + 8.0, top + cell * n as f64 + 8.0);
    let size = if cell >= 26.0 { "count" } else { "count small" };
    open(html, "matrix", width, height, "Confusion matrix: true classes down, answers across");
    label(html, "axis end", (left - 10.0, 18.0), "true class");
    label(html, "axis", (left, 18.0), "answer");
    for (row, (name, line)) in labels.iter().zip(counts).enumerate() {
        let number = format!("{}", row + 1);
        let (x, y) = (left + cell * row as f64, top + cell * row as f64);
        html.open("g", &[]);
        html.element("title", &[], name);
        label(html, "tick end", (left - 32.0, y + cell / 2.0 + 4.0), &shortened(name));
        label(html, "number end", (left - 8.0, y + cell / 2.0 + 4.0), &number);
        html.close("g");
        html.open("g", &[]);
        html.element("title", &[], name);
        label(
            html,
            if cell >= 22.0 { "number middle" } else { "number small middle" },
            (x + cell / 2.0, top - 8.0),
            &number,
        );
        html.close("g");
        let total: usize = line.iter().sum();
        for (column, &count) in line.iter().enumerate() {
            let (x, is_right) = (left + cell * column as f64, row == column);
            let share = if total > 0 { count as f64 / total as f64 } else { 0.0 };
            html.open("g", &[("class", if is_right { "right" } else { "wrong" })]);
            if count > 0 {
                html.element("title", &[], &format!("{count} of {total} {name}: {}", labels[column]));
            }
            let [fx, fy, side] = [x + 0.75, y + 0.75, cell - 1.5].map(px);
            // One picture of many is to be seen as well.
            let strength = if count > 0 { format!("{:.3}", 0.12 + 0.88 * share) } else { "0".to_owned() };
            let attributes = [
                ("class", "cell"),
                ("x", &*fx),
                ("y", &*fy),
                ("width", &*side),
                ("height", &*side),
                ("fill-opacity", &*strength),
            ];
            html.open("rect", &attributes);
            html.close("rect");
            if count > 0 {
                let class = format!("{size} middle {}", if share > 0.5 { "strong" } else { "" });
                label(html, &class, (x + cell / 2.0, y + cell / 2.0 + 4.0), &count.to_string());
            }
            html.close("g");
        }
    }
    html.close("svg");
}

/// Most classes of which a matrix is drawn.
pub(crate) const MOST_CLASSES: usize = 60;

/// Writes a share in whole percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// Writes a share in percent with one digit.
pub(crate) fn percent1(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Keeps beginning and end of a long name.
pub(crate) fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= LONGEST {
        return name.to_owned();
    }
    let (head, tail) = (LONGEST * 3 / 5, LONGEST - LONGEST * 3 / 5 - 1);
    letters[..head].iter().chain(&['…']).chain(&letters[letters.len() - tail..]).collect()
}

const TENTHS: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
/// Letters of a name in a chart.
const LONGEST: usize = 44;

/// Returns about five round numbers that span a range.
fn round_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * magnitude).find(|s| *s >= rough).unwrap_or(rough);
    let first = (low / step).floor();
    let count = ((high / step).ceil() - first).clamp(1.0, 20.0) as i32;
    (0..=count).map(|i| (first + f64::from(i)) * step).collect()
}

fn open(html: &mut Html, class: &str, width: f64, height: f64, told: &str) {
    let ([w, h], shape) = ([width, height].map(px), format!("0 0 {width:.1} {height:.1}"));
    html.open(
        "svg",
        &[("class", class), ("viewBox", &shape), ("width", &w), ("height", &h), ("role", "img"), ("aria-label", told)],
    );
}

fn line(html: &mut Html, class: &str, from: (f64, f64), to: (f64, f64)) {
    let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(px);
    html.open("line", &[("class", class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)]);
    html.close("line");
}

fn dot(html: &mut Html, at: (f64, f64), radius: f64, told: &str) {
    let [x, y, r] = [at.0, at.1, radius].map(px);
    html.open("circle", &[("class", "dot"), ("cx", &x), ("cy", &y), ("r", &r)]);
    if !told.is_empty() {
        html.element("title", &[], told);
    }
    html.close("circle");
}

fn label(html: &mut Html, class: &str, at: (f64, f64), text: &str) {
    let [x, y] = [at.0, at.1].map(px);
    html.element("text", &[("class", class), ("x", &x), ("y", &y)], text);
}

fn px(v: f64) -> String {
    format!("{v:.1}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_span_the_range() {
        for (low, high) in [(0.0, 1.0), (-3.2, 17.9), (1e-5, 9e-5), (99.0, 101.0), (-1e6, 5e6)] {
            let ticks = round_ticks(low, high);
            assert!(ticks[0] <= low + 1e-9 && ticks[ticks.len() - 1] >= high - 1e-9, "{low} {high}: {ticks:?}");
            assert!((3..=12).contains(&ticks.len()), "{low} {high}: {ticks:?}");
        }
    }

    #[test]
    fn long_names_keep_both_ends() {
        let name = shortened("Tomato_Spider_mites_Two_spotted_spider_mite_of_the_north");
        assert!(
            name.chars().count() == LONGEST && name.starts_with("Tomato_Spider") && name.ends_with("north"),
            "{name}"
        );
        assert_eq!(shortened("rust"), "rust");
    }
}
