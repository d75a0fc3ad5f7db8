//! The page.

use sha2::{Digest, Sha256};

use crate::base64;
use crate::chart::{self, MOST_CLASSES, percent1};
use crate::data::{
    Calibration, Classes, Coverage, GroupRow, Latency, Mistake, Picture, Quantization, Report, Share, Tag, Told, Value,
};
use crate::html::Html;

const STYLE: &str = include_str!("style.css");

/// Writes a report as one HTML file.
///
/// Its policy lets it load nothing and run nothing: pictures lie in it, and the only style is the one whose digest it names.
pub fn page(report: &Report) -> String {
    let mut html = Html::default();
    let digest = base64::encode(&Sha256::digest(STYLE));
    let policy =
        format!("default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'");
    html.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.open("meta", &[("http-equiv", "Content-Security-Policy"), ("content", &policy)]);
    html.raw("\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    html.raw("<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"generator\" content=\"graft\">\n");
    html.element("title", &[], &format!("{} on {} - graft report", report.model, report.data));
    html.raw("\n<style>");
    html.raw(STYLE);
    html.raw("</style>\n</head>\n<body>\n<main>\n<header>");
    html.element("h1", &[], &report.model);
    html.open("p", &[]);
    html.text("on ");
    html.name(&report.data);
    html.close("p");
    html.raw("</header>\n");
    tiles(&mut html, report);
    match &report.told {
        Told::Classes(classes) => of_classes(&mut html, classes),
        Told::Tags { tags, .. } => of_tags(&mut html, tags),
        Told::Values { values, .. } => values.iter().for_each(|v| of_value(&mut html, v)),
    }
    if let Some(quantization) = &report.quantization {
        of_quantization(&mut html, quantization);
    }
    of_latency(&mut html, &report.latency);
    facts(&mut html, report);
    html.raw("<footer>Written by graft. Everything on this page was computed by the engine that runs on the device; intervals are of 95 %.</footer>\n</main>\n</body>\n</html>\n");
    html.finish()
}

/// The figures that are looked for first.
fn tiles(html: &mut Html, report: &Report) {
    let mut tiles: Vec<(&str, f64, String, String)> = vec![];
    match &report.told {
        Told::Classes(c) => {
            let [low, high] = c.top1.interval.map(percent1);
            tiles.push(("top1", c.top1.share, percent1(c.top1.share), format!("right, {low} to {high}")));
            tiles.push(("macro_f1", c.macro_f1, format!("{:.3}", c.macro_f1), "macro F1".into()));
            let ece = c.calibration.ece_after.unwrap_or(c.calibration.ece_before);
            tiles.push(("ece", ece, percent1(ece), "calibration error".into()));
            tiles.push(("pictures", c.top1.n as f64, c.top1.n.to_string(), "pictures".into()));
        }
        Told::Tags { n, macro_f1, .. } => {
            tiles.push(("macro_f1", *macro_f1, format!("{macro_f1:.3}"), "macro F1".into()));
            tiles.push(("pictures", *n as f64, n.to_string(), "pictures".into()));
        }
        Told::Values { n, values } => {
            let r2 = values.iter().map(|v| v.r2.value).sum::<f64>() / values.len().max(1) as f64;
            let what = if values.len() > 1 { "mean R²" } else { "R²" };
            tiles.push(("r2", r2, format!("{r2:.3}"), what.into()));
            tiles.push(("pictures", *n as f64, n.to_string(), "pictures".into()));
        }
    }
    let (ms, threads) = (report.latency.median_ms, report.latency.threads);
    let plural = if threads == 1 { "" } else { "s" };
    tiles.push(("median_ms", ms, format!("{ms:.1} ms"), format!("a picture here, {threads} thread{plural}")));
    html.raw("<div class=\"tiles\">");
    for (key, value, shown, what) in tiles {
        html.raw("<div><b>");
        html.number(key, value, &shown);
        html.raw("</b>");
        html.element("span", &[], &what);
        html.raw("</div>");
    }
    html.raw("</div>\n");
}

fn of_classes(html: &mut Html, c: &Classes) {
    confusion(html, c);
    recall(html, c);
    if !c.groups.is_empty() {
        groups(html, &c.groups);
    }
    html.raw("<div class=\"pair\">\n");
    calibration(html, &c.calibration);
    coverage(html, &c.coverage);
    html.raw("</div>\n");
    mistakes(html, &c.mistakes);
}

fn confusion(html: &mut Html, c: &Classes) {
    let labels: Vec<&str> = c.classes.iter().map(|c| c.label.as_str()).collect();
    begin(
        html,
        "Confusion",
        "Each row is a true class, each column an answer, under the number of its class. The stronger a field, the larger its share of the row.",
    );
    if labels.len() <= MOST_CLASSES {
        html.raw("<div class=\"legend\"><span><svg width=\"12\" height=\"12\" class=\"right\"><rect class=\"cell\" width=\"12\" height=\"12\"></rect></svg>right</span>");
        html.raw("<span><svg width=\"12\" height=\"12\" class=\"wrong\"><rect class=\"cell\" width=\"12\" height=\"12\"></rect></svg>wrong</span></div>\n<div class=\"wide\">");
        chart::confusion(html, &labels, &c.confusion);
        html.raw("</div>\n");
    } else {
        html.element("p", &[], &format!("With {} classes a matrix is too fine to be read.", labels.len()));
    }
    let mut confused: Vec<(usize, usize, usize)> = vec![];
    for (truth, line) in c.confusion.iter().enumerate() {
        confused.extend(line.iter().enumerate().filter(|(a, n)| *a != truth && **n > 0).map(|(a, n)| (*n, truth, a)));
    }
    confused.sort_by(|a, b| b.0.cmp(&a.0).then(a.cmp(b)));
    if !confused.is_empty() {
        html.raw("<h3>Most often confused</h3>\n<div class=\"wide\"><table><tr><th>true class<th>answer<th class=\"n\">pictures</tr>\n");
        for (n, truth, answer) in confused.into_iter().take(MOST_CONFUSED) {
            html.raw("<tr>");
            for class in [truth, answer] {
                cell(html, labels.get(class).copied().unwrap_or_default());
            }
            number(html, "", n as f64, &n.to_string());
            html.raw("</tr>\n");
        }
        html.raw("</table></div>\n");
    }
    html.raw("</section>\n");
}

fn recall(html: &mut Html, c: &Classes) {
    begin(
        html,
        "Classes",
        "Recall is the share of a class's pictures that are found, with its interval (Wilson); precision the share of right ones among the answers of this class.",
    );
    html.raw("<div class=\"wide\"><table><tr><th class=\"n\">no.<th>class<th class=\"n\">pictures<th>recall, 0 to 100 %<th class=\"n\">recall<th class=\"n\">interval<th class=\"n\">precision<th class=\"n\">F1</tr>\n");
    for (i, row) in c.classes.iter().enumerate() {
        html.raw("<tr>");
        html.element("td", &[("class", "n key")], &(i + 1).to_string());
        cell(html, &row.label);
        share(html, &format!("recall.{i}"), &row.recall);
        number(html, "", row.precision, &percent1(row.precision));
        number(html, "", row.f1, &format!("{:.3}", row.f1));
        html.raw("</tr>\n");
    }
    html.raw("</table></div></section>\n");
}

fn groups(html: &mut Html, groups: &[GroupRow]) {
    begin(
        html,
        "Sites",
        "Each group of the set (a site, a field, a day) by itself, the worst first: a model that is good on the whole may fail somewhere. Mean recall counts its classes alike.",
    );
    html.raw("<div class=\"wide\"><table><tr><th>group<th class=\"n\">pictures<th>right, 0 to 100 %<th class=\"n\">right<th class=\"n\">interval<th class=\"n\">mean recall</tr>\n");
    for (i, row) in groups.iter().enumerate().take(MOST_GROUPS) {
        html.raw("<tr>");
        cell(html, &row.group);
        share(html, &format!("group.{i}"), &row.right);
        number(html, "", row.mean_recall, &percent1(row.mean_recall));
        html.raw("</tr>\n");
    }
    html.raw("</table></div>");
    if groups.len() > MOST_GROUPS {
        html.element("p", &[], &format!("and {} more, which --json names", groups.len() - MOST_GROUPS));
    }
    html.raw("</section>\n");
}

fn calibration(html: &mut Html, c: &Calibration) {
    begin(
        html,
        "Calibration",
        "Of answers with 80 % probability 80 % should be right: on the dashed line. Below it the model is too sure of itself.",
    );
    html.raw("<div class=\"legend\"><span>");
    match (c.ece_after, c.temperature) {
        (Some(after), Some(temperature)) => {
            html.raw(BEFORE);
            html.text("as trained: error ");
            html.number("ece_before", c.ece_before, &percent1(c.ece_before));
            html.raw("</span><span>");
            html.raw(AFTER);
            html.text(&format!("as shipped, temperature {temperature:.2}: error "));
            html.number("ece_after", after, &percent1(after));
        }
        _ => {
            html.raw(AFTER);
            html.text("without a temperature (graft pack --calibrate fits one): error ");
            html.number("ece_before", c.ece_before, &percent1(c.ece_before));
        }
    }
    html.raw("</span></div>\n");
    chart::reliability(html, c);
    html.raw("</section>\n");
}

fn coverage(html: &mut Html, c: &Coverage) {
    begin(
        html,
        "Answering less often",
        "Where only answers above some probability are given, fewer are wrong. The lower the curve, the better doubt and mistake go together.",
    );
    html.raw("<div class=\"legend\"><span>mean over the curve ");
    html.number("area", c.area, &percent1(c.area));
    html.raw("</span>");
    if let Some(sure) = c.sure {
        html.raw("<span>");
        html.raw(BEFORE);
        html.text("sure answers: ");
        html.number("sure_coverage", sure.coverage, &percent1(sure.coverage));
        html.text(" answered, ");
        html.number("sure_risk", sure.risk, &percent1(sure.risk));
        html.text(" of them wrong");
        html.raw("</span>");
    }
    html.raw("</div>\n");
    chart::coverage(html, c);
    html.raw("</section>\n");
}

fn mistakes(html: &mut Html, mistakes: &[Mistake]) {
    if mistakes.is_empty() {
        return;
    }
    let is_marked = mistakes.iter().any(|m| m.marked.is_some());
    let marked = " To the right, what spoke for the answer stays bright: places whose covering makes it less probable.";
    let told = "The most confident wrong answers, as the network saw the pictures. Some may be labelled wrongly.";
    begin(html, "Worst mistakes", &format!("{told}{}", if is_marked { marked } else { "" }));
    html.raw("<div class=\"mistakes\">\n");
    for m in mistakes {
        html.raw("<figure><div>");
        picture(html, &m.seen, &format!("{}, as the network saw it", m.file));
        if let Some(marked) = &m.marked {
            picture(html, marked, &format!("what in {} spoke for {}", m.file, m.answer));
        }
        html.raw("</div><figcaption>is <b>");
        html.name(&m.truth);
        html.raw("</b>, said <b>");
        html.name(&m.answer);
        html.raw("</b> ");
        html.number("", m.probability, &percent1(m.probability));
        html.raw("<br><span class=\"soft\">");
        html.name(&m.file);
        html.raw("</span></figcaption></figure>\n");
    }
    html.raw("</div></section>\n");
}

fn picture(html: &mut Html, Picture(jpeg): &Picture, told: &str) {
    html.open("img", &[("alt", told), ("src", &format!("data:image/jpeg;base64,{}", base64::encode(jpeg)))]);
}

fn of_tags(html: &mut Html, tags: &[Tag]) {
    begin(
        html,
        "Tags",
        "Recall is the share of a tag's pictures that are found, precision the share of right ones among those said to have it; both with their intervals (Wilson).",
    );
    html.raw("<div class=\"wide\"><table><tr><th>tag<th class=\"n\">pictures<th>recall, 0 to 100 %<th class=\"n\">recall<th class=\"n\">interval<th class=\"n\">said<th>precision, 0 to 100 %<th class=\"n\">precision<th class=\"n\">interval<th class=\"n\">F1</tr>\n");
    for (i, tag) in tags.iter().enumerate() {
        html.raw("<tr>");
        cell(html, &tag.label);
        share(html, &format!("recall.{i}"), &tag.recall);
        share(html, &format!("precision.{i}"), &tag.precision);
        number(html, "", tag.f1, &format!("{:.3}", tag.f1));
        html.raw("</tr>\n");
    }
    html.raw("</table></div></section>\n");
}

fn of_value(html: &mut Html, value: &Value) {
    html.raw("<section>");
    html.element("h2", &[], &value.label);
    html.raw("<p>Each picture is a point; on the dashed line it was told right.</p>\n");
    chart::scatter(html, value);
    html.raw("<dl>");
    for (what, key, of) in [("mean absolute error", "mae", &value.mae), ("R²", "r2", &value.r2)] {
        html.element("dt", &[], what);
        html.open("dd", &[]);
        html.number(&format!("{key}.{}", value.label), of.value, &format!("{:.4}", of.value));
        html.text(&format!(" ({:.4} to {:.4})", of.interval[0], of.interval[1]));
        html.close("dd");
    }
    html.element("dt", &[], "root of the mean square error");
    html.element("dd", &[], &format!("{:.4}", value.rmse));
    html.raw("</dl></section>\n");
}

fn of_quantization(html: &mut Html, q: &Quantization) {
    begin(html, "Quantization", "");
    html.open("p", &[("class", "told")]);
    html.element("b", &[], &q.shipped);
    html.text(&format!(": {}", q.why));
    html.close("p");
    if let Some(d) = &q.device {
        html.open("p", &[]);
        html.text("A picture on the board: ");
        html.number("device_ms", d.ms, &format!("{:.2} ms", d.ms));
        html.text(" on one thread, in float ");
        html.number("device_float_ms", d.float_ms, &format!("{:.2} ms", d.float_ms));
        let memory = d.memory.map_or(String::new(), |bytes| format!("; {:.1} MB of memory", bytes as f64 / 1e6));
        html.text(&format!("{memory}; {}.", d.engine));
        html.close("p");
    }
    html.element("p", &[], &format!("Ranges: {}. The layers that add the most noise:", q.method));
    html.raw("<div class=\"wide\"><table><tr><th>layer<th>numbers<th class=\"n\">signal over noise<th class=\"n\">share of the noise</tr>\n");
    for layer in q.layers.iter().take(MOST_LAYERS) {
        html.raw("<tr>");
        cell(html, &layer.name);
        html.element("td", &[], if layer.is_float { "f32" } else { "8 bits" });
        html.element("td", &[("class", "n")], &layer.snr_db.map_or("exact".into(), |s| format!("{s:.1} dB")));
        number(html, "", layer.share, &percent1(layer.share));
        html.raw("</tr>\n");
    }
    html.raw("</table></div>");
    if q.layers.len() > MOST_LAYERS {
        html.element("p", &[], &format!("and {} more; graft quantize explain shows all", q.layers.len() - MOST_LAYERS));
    }
    html.raw("</section>\n");
}

fn of_latency(html: &mut Html, l: &Latency) {
    begin(
        html,
        "Latency",
        "Of the network alone, on the machine that wrote this page; a board is slower (graftd bench tells how much).",
    );
    html.raw("<dl>");
    for (what, ms) in [("median", l.median_ms), ("fastest", l.min_ms), ("95 of 100 below", l.p95_ms)] {
        html.element("dt", &[], what);
        html.element("dd", &[], &format!("{ms:.2} ms"));
    }
    let threads = format!("{}, each picture on {} of its threads", l.runs, l.threads);
    for (what, told) in [("runs", &threads), ("engine", &l.engine), ("machine", &l.machine)] {
        html.element("dt", &[], what);
        html.element("dd", &[], told);
    }
    html.raw("</dl></section>\n");
}

fn facts(html: &mut Html, report: &Report) {
    begin(html, "What this is about", "");
    html.raw("<dl>");
    for (what, told) in &report.facts {
        html.element("dt", &[], what);
        html.open("dd", &[]);
        html.name(told);
        html.close("dd");
    }
    html.raw("</dl>");
    if !report.skipped.is_empty() {
        html.element("h3", &[], &format!("{} pictures could not be read", report.skipped.len()));
        html.raw("<dl>");
        for (file, reason) in report.skipped.iter().take(MOST_SKIPPED) {
            html.open("dt", &[]);
            html.name(file);
            html.close("dt");
            html.element("dd", &[], reason);
        }
        html.raw("</dl>");
        if report.skipped.len() > MOST_SKIPPED {
            html.element("p", &[], &format!("and {} more", report.skipped.len() - MOST_SKIPPED));
        }
    }
    html.raw("</section>\n");
}

fn begin(html: &mut Html, title: &'static str, told: &str) {
    html.raw("<section>");
    html.element("h2", &[], title);
    if !told.is_empty() {
        html.element("p", &[], told);
    }
}

fn cell(html: &mut Html, name: &str) {
    html.open("td", &[("class", "name")]);
    html.name(name);
    html.close("td");
}

fn number(html: &mut Html, key: &str, value: f64, shown: &str) {
    html.open("td", &[("class", "n")]);
    html.number(key, value, shown);
    html.close("td");
}

/// Fields of a share: of how many, as a line, as a number, its interval.
fn share(html: &mut Html, key: &str, share: &Share) {
    html.element("td", &[("class", "n")], &share.n.to_string());
    html.open("td", &[("class", "line")]);
    if share.n > 0 {
        chart::interval(html, share);
    }
    html.close("td");
    if share.n == 0 {
        html.raw("<td class=\"n\">–</td><td class=\"n\">–</td>");
        return;
    }
    number(html, key, share.share, &percent1(share.share));
    let [low, high] = share.interval;
    html.element("td", &[("class", "n soft")], &format!("{:.0} to {:.0} %", 100.0 * low, 100.0 * high));
}

const BEFORE: &str =
    "<svg width=\"16\" height=\"12\" class=\"before\"><circle class=\"dot\" cx=\"8\" cy=\"6\" r=\"4\"></circle></svg>";
const AFTER: &str =
    "<svg width=\"16\" height=\"12\" class=\"after\"><circle class=\"dot\" cx=\"8\" cy=\"6\" r=\"4\"></circle></svg>";
/// Lines of a table.
const MOST_CONFUSED: usize = 10;
const MOST_GROUPS: usize = 60;
const MOST_LAYERS: usize = 12;
const MOST_SKIPPED: usize = 50;

#[cfg(test)]
mod tests;
