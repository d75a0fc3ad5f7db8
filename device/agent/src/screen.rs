//! What the screen shows, and how it is laid out: 240×240 and larger in colour, 128×64 in one.
//!
//! Draws on any target of embedded-graphics; knows no device.

use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{Point, Size};
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_9X15, FONT_9X15_BOLD, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::{BinaryColor, PixelColor, Rgb888, WebColors};
use embedded_graphics::primitives::{Primitive, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use embedded_graphics::{Drawable, Pixel};
use image::RgbImage;

use crate::canvas::Doubled;

/// Everything that a screen can show.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// The best label.
    pub label: Option<String>,
    /// Its probability, 0 to 1.
    pub probability: f32,
    /// Why the answer is not to be relied on, such as `unsure: rust or phoma`; none where it is.
    pub doubt: Option<String>,
    /// The classified picture.
    pub thumbnail: Option<RgbImage>,
    /// The slot that runs and what it has come to, such as `slot A committed`.
    pub slot: String,
    /// Name of the bundle that runs.
    pub model: String,
    /// The link.
    pub link: Link,
    /// Time for preprocessing and network.
    pub latency_ms: f32,
    /// Pictures in a row that the answer is the mean of.
    pub frames: usize,
    /// What there is to say in place of an answer.
    pub notice: Option<Notice>,
    /// What somebody should see to, besides the answer, in few words.
    pub warning: Option<String>,
}

/// What takes the place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// There are no pictures, and why.
    NoCamera(String),
    /// A bundle is coming in.
    Updating {
        /// Chunks received.
        done: u32,
        /// Chunks in all.
        total: u32,
    },
    /// A picture got no answer, or none can; why.
    Error(String),
}

impl Notice {
    fn title(&self) -> &'static str {
        match self {
            Self::NoCamera(_) => "no camera",
            Self::Updating { .. } => "updating",
            Self::Error(_) => "error",
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::NoCamera(reason) | Self::Error(reason) => reason,
            Self::Updating { .. } => "the old bundle works until the new one is tested",
        }
    }
}

/// What the link is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// No host is connected.
    #[default]
    Waiting,
    /// A host is connected.
    Connected,
    /// A bundle is coming in.
    Receiving {
        /// Chunks received.
        done: u32,
        /// Chunks in all.
        total: u32,
    },
}

impl Link {
    fn text(self) -> String {
        match self {
            Self::Waiting => "no host".into(),
            Self::Connected => "host connected".into(),
            Self::Receiving { done, total } => {
                format!("receiving {} %", u64::from(done) * 100 / u64::from(total.max(1)))
            }
        }
    }
}

/// Draws the layout for 320×240 in colour, and for what is larger or as high and three quarters as wide.
///
/// # Errors
///
/// The target's.
pub fn draw_colour<D: DrawTarget<Color = Rgb888>>(content: &Content, target: &mut D) -> Result<(), D::Error> {
    let size = target.bounding_box().size;
    let (width, height) = (size.width as i32, size.height as i32);
    target.clear(Rgb888::new(16, 20, 24))?;
    let grey = Rgb888::new(170, 178, 186);
    Rectangle::new(Point::zero(), Size::new(size.width, 24))
        .into_styled(PrimitiveStyle::with_fill(Rgb888::new(36, 46, 54)))
        .draw(target)?;
    let columns = size.width as usize / 9;
    let (room, foot_room) =
        (columns.saturating_sub(content.link.text().len() + 2).min(18), columns.saturating_sub(1).min(34));
    line(target, &fit(&content.model, room), Point::new(6, 5), &FONT_9X15_BOLD, Rgb888::CSS_WHITE, Alignment::Left)?;
    let link_colour = if content.link == Link::Waiting { grey } else { Rgb888::CSS_LIGHT_GREEN };
    line(target, &content.link.text(), Point::new(width - 6, 5), &FONT_9X15, link_colour, Alignment::Right)?;
    match &content.notice {
        Some(notice) => notice_in_colour(notice, target, grey)?,
        None => answer_in_colour(content, target, grey)?,
    }
    let foot = Rectangle::new(Point::new(0, height - 28), Size::new(size.width, 28));
    if let Some(warning) = &content.warning {
        foot.into_styled(PrimitiveStyle::with_fill(Rgb888::new(150, 30, 30))).draw(target)?;
        let text = fit(warning, foot_room);
        return line(target, &text, Point::new(8, height - 22), &FONT_9X15_BOLD, Rgb888::CSS_WHITE, Alignment::Left);
    }
    line(target, &fit(&content.slot, foot_room), Point::new(8, height - 22), &FONT_9X15, grey, Alignment::Left)
}

fn answer_in_colour<D: DrawTarget<Color = Rgb888>>(
    content: &Content,
    target: &mut D,
    grey: Rgb888,
) -> Result<(), D::Error> {
    let size = target.bounding_box().size;
    let width = size.width as i32;
    let accent = if content.doubt.is_some() { AMBER } else { GREEN };
    let mut text_left = 10;
    if let Some(picture) = &content.thumbnail {
        thumbnail(target, picture, Rectangle::new(Point::new(8, 32), Size::new(104, 104)))?;
        text_left = 122;
    }
    let (text, colour) = match content.doubt.as_ref().or(content.label.as_ref()) {
        Some(answer) => (answer.as_str(), accent),
        None => ("ready", grey),
    };
    large(target, text, Point::new(text_left, 36), 3, colour)?;
    if content.label.is_some() {
        let bar = Rectangle::new(Point::new(8, 148), Size::new(size.width.saturating_sub(16), 34));
        probability_bar(target, bar, content.probability, accent, grey)?;
        let percent = percent(content.probability);
        let middle = Point::new(width / 2, 155);
        line(target, &percent, middle + Point::new(1, 1), &FONT_10X20, Rgb888::CSS_BLACK, Alignment::Center)?;
        line(target, &percent, middle, &FONT_10X20, Rgb888::CSS_WHITE, Alignment::Center)?;
        let time = format!("{:.0} ms", content.latency_ms);
        line(target, &time, Point::new(width - 8, 192), &FONT_9X15, grey, Alignment::Right)?;
        if content.frames > 1 {
            let frames = format!("{} pictures", content.frames);
            line(target, &frames, Point::new(8, 192), &FONT_9X15, grey, Alignment::Left)?;
        }
    }
    Ok(())
}

fn notice_in_colour<D: DrawTarget<Color = Rgb888>>(
    notice: &Notice,
    target: &mut D,
    grey: Rgb888,
) -> Result<(), D::Error> {
    let size = target.bounding_box().size;
    let colour = match notice {
        Notice::NoCamera(_) => AMBER,
        Notice::Updating { .. } => BLUE,
        Notice::Error(_) => RED,
    };
    Rectangle::new(Point::new(0, 24), Size::new(size.width, 4))
        .into_styled(PrimitiveStyle::with_fill(colour))
        .draw(target)?;
    large(target, notice.title(), Point::new(10, 40), 1, colour)?;
    let mut top = 84;
    if let Notice::Updating { done, total } = notice {
        let share = *done as f32 / (*total).max(1) as f32;
        let bar = Rectangle::new(Point::new(8, top), Size::new(size.width.saturating_sub(16), 34));
        probability_bar(target, bar, share, colour, grey)?;
        let middle = Point::new(size.width as i32 / 2, top + 7);
        line(target, &percent(share), middle + Point::new(1, 1), &FONT_10X20, Rgb888::CSS_BLACK, Alignment::Center)?;
        line(target, &percent(share), middle, &FONT_10X20, Rgb888::CSS_WHITE, Alignment::Center)?;
        top += 50;
    }
    let (room, rows) = ((size.width as usize).saturating_sub(20) / 9, (size.height as i32 - 28 - top) / 20);
    for (i, row) in wrap(notice.reason(), room, usize::try_from(rows).unwrap_or(0)).iter().enumerate() {
        let at = Point::new(10, top + 20 * i as i32);
        line(target, row, at, &FONT_9X15, Rgb888::CSS_WHITE, Alignment::Left)?;
    }
    Ok(())
}

/// Writes rows in letters of twice the size, or in large ones where fewer than ten of those have room.
fn large<D: DrawTarget<Color = Rgb888>>(
    target: &mut D,
    text: &str,
    at: Point,
    rows: usize,
    colour: Rgb888,
) -> Result<(), D::Error> {
    let width = usize::try_from(target.bounding_box().size.width as i32 - at.x).unwrap_or(0);
    if width < 10 * 18 {
        for (i, row) in wrap(text, width / 10, rows * 34 / 24).iter().enumerate() {
            line(target, row, at + Point::new(0, 24 * i as i32), &FONT_10X20, colour, Alignment::Left)?;
        }
        return Ok(());
    }
    for (i, row) in wrap(text, width / 18, rows).iter().enumerate() {
        let at = at + Point::new(0, 34 * i as i32);
        line(&mut Doubled { inner: target, at }, row, Point::zero(), &FONT_9X15_BOLD, colour, Alignment::Left)?;
    }
    Ok(())
}

const GREEN: Rgb888 = Rgb888::new(110, 210, 120);
const AMBER: Rgb888 = Rgb888::new(255, 190, 60);
const BLUE: Rgb888 = Rgb888::new(90, 170, 255);
const RED: Rgb888 = Rgb888::new(255, 100, 90);

/// Draws the layout for 128×64 in one colour.
///
/// # Errors
///
/// The target's.
pub fn draw_mono<D: DrawTarget<Color = BinaryColor>>(content: &Content, target: &mut D) -> Result<(), D::Error> {
    let (on, width) = (BinaryColor::On, target.bounding_box().size.width);
    let right = width as i32;
    target.clear(BinaryColor::Off)?;
    let foot = |target: &mut D| {
        let text = match (&content.warning, content.link) {
            (Some(warning), _) => format!("! {warning}"),
            (None, Link::Waiting) => content.slot.clone(),
            (None, link) => link.text(),
        };
        line(target, &fit(&text, 21), Point::new(0, 53), &FONT_6X10, on, Alignment::Left)
    };
    if let Some(notice) = &content.notice {
        line(target, notice.title(), Point::new(0, 1), &FONT_9X15_BOLD, on, Alignment::Left)?;
        let mut top = 20;
        if let Notice::Updating { done, total } = notice {
            let share = *done as f32 / (*total).max(1) as f32;
            let bar = Rectangle::new(Point::new(0, 21), Size::new(width.saturating_sub(34), 12));
            probability_bar(target, bar, share, on, on)?;
            line(target, &percent(share), Point::new(right, 22), &FONT_6X10, on, Alignment::Right)?;
            top = 37;
        }
        let rows = usize::try_from((53 - top) / 10).unwrap_or(0);
        for (i, row) in wrap(notice.reason(), 21, rows).iter().enumerate() {
            line(target, row, Point::new(0, top + 10 * i as i32), &FONT_6X10, on, Alignment::Left)?;
        }
        return foot(target);
    }
    let text = match (&content.label, &content.doubt) {
        // There is little room, and a question says it too.
        (Some(_), Some(doubt)) => doubt.strip_prefix("unsure: ").unwrap_or(doubt),
        (Some(label), None) => label,
        (None, _) => "ready",
    };
    if text.chars().count() <= 14 {
        line(target, &fit(text, 14), Point::new(0, 1), &FONT_9X15_BOLD, on, Alignment::Left)?;
    } else {
        // Two small rows say more than half a word in large ones.
        for (i, row) in wrap(text, 21, 2).iter().enumerate() {
            line(target, row, Point::new(0, 9 * i as i32), &FONT_6X10, on, Alignment::Left)?;
        }
    }
    if content.label.is_some() {
        let bar = Rectangle::new(Point::new(0, 21), Size::new(width.saturating_sub(34), 12));
        probability_bar(target, bar, content.probability, on, on)?;
        line(target, &percent(content.probability), Point::new(right, 22), &FONT_6X10, on, Alignment::Right)?;
        let time = format!("{:.0} ms", content.latency_ms);
        line(target, &time, Point::new(right, 41), &FONT_6X10, on, Alignment::Right)?;
    }
    line(target, &fit(&content.model, 13), Point::new(0, 41), &FONT_6X10, on, Alignment::Left)?;
    foot(target)
}

fn line<D: DrawTarget>(
    target: &mut D,
    text: &str,
    at: Point,
    font: &MonoFont<'_>,
    colour: D::Color,
    alignment: Alignment,
) -> Result<(), D::Error> {
    let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Top).build();
    Text::with_text_style(&ascii(text), at, MonoTextStyle::new(font, colour), style).draw(target)?;
    Ok(())
}

fn probability_bar<D: DrawTarget>(
    target: &mut D,
    bar: Rectangle,
    share: f32,
    fill: D::Color,
    frame: D::Color,
) -> Result<(), D::Error>
where
    D::Color: PixelColor,
{
    bar.into_styled(PrimitiveStyle::with_stroke(frame, 1)).draw(target)?;
    let inside = Size::new(bar.size.width.saturating_sub(4), bar.size.height.saturating_sub(4));
    // A probability that is no number shows as none.
    let filled = (inside.width as f32 * share.clamp(0.0, 1.0)).round() as u32;
    Rectangle::new(bar.top_left + Point::new(2, 2), Size::new(filled, inside.height))
        .into_styled(PrimitiveStyle::with_fill(fill))
        .draw(target)
}

fn thumbnail<D: DrawTarget<Color = Rgb888>>(
    target: &mut D,
    picture: &RgbImage,
    place: Rectangle,
) -> Result<(), D::Error> {
    let side = picture.width().min(picture.height()).max(1);
    let (left, top) =
        ((picture.width() - side.min(picture.width())) / 2, (picture.height() - side.min(picture.height())) / 2);
    let pixels = place.points_of(side).filter_map(|(at, x, y)| {
        let p = picture.get_pixel_checked(left + x, top + y)?;
        Some(Pixel(at, Rgb888::new(p[0], p[1], p[2])))
    });
    target.draw_iter(pixels)
}

trait PointsOf {
    /// Returns each point of a rectangle with the place in a square of `side` that lies under it.
    fn points_of(&self, side: u32) -> impl Iterator<Item = (Point, u32, u32)>;
}

impl PointsOf for Rectangle {
    fn points_of(&self, side: u32) -> impl Iterator<Item = (Point, u32, u32)> {
        let Rectangle { top_left, size } = *self;
        (0..size.height).flat_map(move |y| {
            (0..size.width).map(move |x| {
                let at = top_left + Point::new(x as i32, y as i32);
                (at, x * side / size.width, y * side / size.height)
            })
        })
    }
}

fn percent(share: f32) -> String {
    format!("{:.0} %", 100.0 * share.clamp(0.0, 1.0))
}

/// Replaces what the fonts have not: accents go, the rest becomes `?`.
fn ascii(text: &str) -> String {
    let plain = |c: char| match c {
        ' '..='~' => c,
        'à'..='å' => 'a',
        'À'..='Å' => 'A',
        'è'..='ë' => 'e',
        'È'..='Ë' => 'E',
        'ì'..='ï' => 'i',
        'ò'..='ö' | 'ø' => 'o',
        'Ò'..='Ö' | 'Ø' => 'O',
        'ù'..='ü' => 'u',
        'Ù'..='Ü' => 'U',
        'ñ' => 'n',
        'ç' => 'c',
        c if c.is_whitespace() => ' ',
        _ => '?',
    };
    text.chars().map(plain).collect()
}

/// Cuts a text to `room` characters, with dots where something is lost.
fn fit(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room.saturating_sub(2)).chain("..".chars()).collect()
}

/// Breaks a text at spaces and underscores into at most `rows` rows of `room` characters.
fn wrap(text: &str, room: usize, rows: usize) -> Vec<String> {
    let room = room.max(3);
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split([' ', '_']).filter(|w| !w.is_empty()) {
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= room {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    let lost = lines.len() > rows;
    lines.truncate(rows);
    if let Some(last) = lines.last_mut().filter(|_| lost) {
        last.push_str(" ..");
    }
    lines.iter().map(|l| fit(l, room)).collect()
}

#[cfg(test)]
mod tests;
