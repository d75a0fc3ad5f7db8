//! The page from the outside: what a hostile label does, what is on it.

use super::*;
use crate::data::{Bin, ClassRow, Estimate, Layer, OnDevice, Point};

fn share(hits: usize, n: usize) -> Share {
    Share { hits, n, share: hits as f64 / n.max(1) as f64, interval: [0.1, 0.9] }
}

fn report(labels: &[&str]) -> Report {
    let n = labels.len();
    let row = |label: &&str| ClassRow { label: (*label).to_owned(), recall: share(8, 10), precision: 0.75, f1: 0.774 };
    let bins = vec![Bin { probability: 0.7, right: share(5, 9) }, Bin { probability: 0.95, right: share(11, 11) }];
    let points =
        vec![Point { at_least: 0.9, coverage: 0.5, risk: 0.1 }, Point { at_least: 0.0, coverage: 1.0, risk: 0.2 }];
    let mistake = Mistake {
        file: labels[0].to_owned(),
        truth: labels[0].to_owned(),
        answer: labels[n - 1].to_owned(),
        probability: 0.97,
        seen: Picture(vec![0xff, 0xd8]),
        marked: Some(Picture(vec![0xff, 0xd9])),
    };
    let classes = Classes {
        top1: share(16, 20),
        macro_f1: 0.774,
        classes: labels.iter().map(row).collect(),
        confusion: (0..n).map(|i| (0..n).map(|j| if i == j { 8 } else { 2 }).collect()).collect(),
        groups: vec![GroupRow { group: labels[0].to_owned(), right: share(3, 4), mean_recall: 0.75 }],
        calibration: Calibration {
            before: bins.clone(),
            ece_before: 0.12,
            after: Some(bins),
            ece_after: Some(0.034),
            temperature: Some(1.5),
        },
        coverage: Coverage { points, area: 0.11, sure: Some(Point { at_least: 0.9, coverage: 0.5, risk: 0.1 }) },
        mistakes: vec![mistake],
    };
    Report {
        model: labels[0].to_owned(),
        data: labels[0].to_owned(),
        facts: vec![("model".into(), labels[0].to_owned())],
        told: Told::Classes(Box::new(classes)),
        quantization: Some(Quantization {
            shipped: "int8".into(),
            why: labels[0].to_owned(),
            method: "mse".into(),
            layers: vec![Layer { name: labels[0].to_owned(), is_float: false, snr_db: Some(21.0), share: 0.5 }],
            device: Some(OnDevice { ms: 7.25, float_ms: 14.5, memory: Some(4_400_000), engine: labels[0].to_owned() }),
        }),
        latency: Latency {
            median_ms: 2.0,
            min_ms: 1.5,
            p95_ms: 3.0,
            runs: 9,
            threads: 1,
            engine: labels[0].to_owned(),
            machine: labels[0].to_owned(),
        },
        skipped: vec![(labels[0].to_owned(), labels[0].to_owned())],
    }
}

/// The tags of a page, in their order, with all that stands in them.
fn tags(page: &str) -> Vec<&str> {
    page.split('<').skip(1).map(|t| t.split('>').next().unwrap_or_default()).collect()
}

#[test]
fn a_hostile_label_changes_no_tag_of_the_page() {
    let hostile = "</title></style><script>x()</script><img src=x onerror=x()>\" onload=x() '";
    let plain = page(&report(&["rust", "healthy"]));
    let found = page(&report(&[hostile, "healthy"]));
    let names =
        |page: &str| tags(page).iter().map(|t| t.split(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&plain), names(&found));
    for tag in tags(&found) {
        let attributes = tag.split('"').step_by(2).collect::<String>();
        assert!(!attributes.contains("onload") && !attributes.contains("onerror"), "{tag}");
    }
    assert!(!found.contains("<script") && !found.contains("<img src=x"));
}

#[test]
fn a_page_asks_for_nothing_and_runs_nothing() {
    let page = page(&report(&["rust", "healthy"]));
    for word in ["http:", "https:", "//", "<script", "<link", "@import", "url(", " style=", " on"] {
        let found: Vec<&str> = tags(&page).into_iter().filter(|t| t.contains(word)).collect();
        assert!(
            found.is_empty()
                || word == " on"
                    && found.iter().all(|t| !t.contains(" on") || t.contains("content=") || t.contains("aria-label=")),
            "{word}: {found:?}"
        );
    }
    // hashlib.sha256(open("style.css", "rb").read()) is what a browser takes of the element: nothing may stand beside it.
    assert!(page.contains(&format!("<style>{STYLE}</style>")));
    assert!(page.contains("default-src &#39;none&#39;; img-src data:"));
}

#[test]
fn numbers_are_there_for_people_and_for_programs() {
    let page = page(&report(&["rust", "healthy"]));
    for text in [
        "<data value=\"0.8\" data-key=\"top1\">80.0 %</data>",
        "<data value=\"0.12\" data-key=\"ece_before\">12.0 %</data>",
        "<data value=\"0.034\" data-key=\"ece_after\">3.4 %</data>",
        "<data value=\"0.8\" data-key=\"recall.1\">80.0 %</data>",
        "<data value=\"0.75\" data-key=\"group.0\">75.0 %</data>",
        "<data value=\"7.25\" data-key=\"device_ms\">7.25 ms</data> on one thread, in float <data value=\"14.5\"",
        "src=\"data:image/jpeg;base64,/9g=\"",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn tags_and_values_have_pages_of_their_own() {
    let tag = Tag { label: "rust".into(), recall: share(3, 4), precision: share(3, 5), f1: 0.667 };
    let told = Told::Tags { n: 9, macro_f1: 0.667, tags: vec![tag] };
    let of_tags = page(&Report { told, ..report(&["a", "b"]) });
    assert!(of_tags.contains("data-key=\"precision.0\"") && !of_tags.contains("Confusion"));
    let estimate = |value| Estimate { value, interval: [0.1, 0.2] };
    for points in [vec![], vec![(1.0, 1.0)], vec![(0.0, 3.0), (2.0, f64::NAN), (5.0, 4.0)]] {
        let value = Value { label: "yield".into(), mae: estimate(0.5), rmse: 0.6, r2: estimate(0.9), points };
        let values = page(&Report { told: Told::Values { n: 2, values: vec![value] }, ..report(&["a", "b"]) });
        assert!(values.contains("data-key=\"mae.yield\""));
        // A number that is none would stand in an attribute of the chart.
        let odd: Vec<&str> = tags(&values).into_iter().filter(|t| t.contains("NaN") || t.contains("\"inf")).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }
}

#[test]
fn one_class_and_many_classes_have_a_page() {
    let names: Vec<String> = (0..80).map(|i| format!("class {i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for n in [1, 2, 60, 61, 80] {
        let page = page(&report(&names[..n]));
        assert_eq!(page.contains("class=\"matrix\""), n <= MOST_CLASSES, "{n}");
        assert!(!page.contains("NaN"));
    }
}
