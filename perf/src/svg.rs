//! Charts as inline SVG: lines over two axes, each linear or logarithmic. Pure text; all colours
//! are classes that the page's style sheet sets for light and dark.

use std::fmt::Write as _;

/// Size of a chart and of the room for its axes, in SVG units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;
/// Colours of the style sheet: lines beyond them start again.
pub(crate) const COLOUR_COUNT: usize = 8;

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// One axis: what it shows, and which values get a label.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) scale: Scale,
    /// Labels at given values instead of round numbers.
    pub(crate) marks: Vec<(f64, String)>,
}

/// One line of a chart.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) colour: usize,
    pub(crate) is_dashed: bool,
    /// What a pointer over the line shows.
    pub(crate) title: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart; nothing when no line has a point.
pub(crate) fn chart(x_axis: &Axis, y_axis: &Axis, lines: &[Line]) -> Option<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let x = Range::of(x_axis.scale, points().map(|point| point.0))?;
    let y = Range::of(y_axis.scale, points().map(|point| point.1))?;
    let place_x = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
    let place_y = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over {}\">\n",
        escape(y_axis.name),
        escape(x_axis.name)
    );
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, label) in x.marks(x_axis) {
        let at = place_x(value);
        push(
            &mut svg,
            &format!(
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>\
             <text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>\n",
                bottom + 15.0,
                escape(&label)
            ),
        );
    }
    for (value, label) in y.marks(y_axis) {
        let at = place_y(value);
        push(
            &mut svg,
            &format!(
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
             <text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                LEFT - 6.0,
                at + 4.0,
                escape(&label)
            ),
        );
    }
    push(
        &mut svg,
        &format!(
            "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
            f64::midpoint(LEFT, right),
            HEIGHT - 6.0,
            escape(x_axis.name)
        ),
    );
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|&(a, b)| format!("{:.1},{:.1}", place_x(a), place_y(b)))
            .collect();
        let dashes = if line.is_dashed { " dashed" } else { "" };
        push(
            &mut svg,
            &format!(
                "<polyline class=\"line c{}{dashes}\" points=\"{}\"><title>{}</title></polyline>\n",
                line.colour % COLOUR_COUNT,
                path.join(" "),
                escape(&line.title)
            ),
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Text as it may stand in markup.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A number as short as its size allows: 1234567 is 1.23M.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, "G"),
        size if size >= 1e6 => (value / 1e6, "M"),
        size if size >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        size if size >= 100.0 || scaled.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{scaled:.digits$}{unit}")
}

fn push(svg: &mut String, text: &str) {
    // Writing to a String can't fail.
    svg.write_str(text).ok();
}

/// What an axis spans.
#[derive(Clone, Copy, Debug)]
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    /// The span of some values: from 0 where linear, to whole powers of ten where logarithmic.
    fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut span: Option<(f64, f64)> = None;
        for value in values.filter(|value| value.is_finite()) {
            let (low, high) = span.unwrap_or((value, value));
            span = Some((low.min(value), high.max(value)));
        }
        let (low, high) = span?;
        let range = match scale {
            Scale::Linear => Self {
                scale,
                low: low.min(0.0),
                high: if high > low.min(0.0) { high } else { low + 1.0 },
            },
            Scale::Log => {
                let low = low.max(1e-3).log10().floor();
                let high = high.max(1e-3).log10().ceil().max(low + 1.0);
                Self { scale, low, high }
            }
        };
        Some(range)
    }

    /// Where a value lies, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-3).log10(),
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// Values that get a label.
    fn marks(&self, axis: &Axis) -> Vec<(f64, String)> {
        if !axis.marks.is_empty() {
            let shown = |value: f64| {
                let share = match self.scale {
                    Scale::Linear => (value - self.low) / (self.high - self.low),
                    Scale::Log => (value.max(1e-3).log10() - self.low) / (self.high - self.low),
                };
                (-0.001..=1.001).contains(&share)
            };
            return axis
                .marks
                .iter()
                .filter(|mark| shown(mark.0))
                .cloned()
                .collect();
        }
        match self.scale {
            Scale::Log => {
                let mut marks = Vec::new();
                let mut power = self.low;
                while power <= self.high {
                    marks.push((10f64.powf(power), short(10f64.powf(power))));
                    power += 1.0;
                }
                marks
            }
            Scale::Linear => {
                let step = round_step((self.high - self.low) / 5.0);
                let mut marks = Vec::new();
                let mut value = (self.low / step).ceil() * step;
                while value <= self.high {
                    marks.push((value, short(value)));
                    value += step;
                }
                marks
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least as large as what is wanted.
fn round_step(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.max(1e-9).log10().floor());
    let factor = wanted / power;
    let round = [1.0, 2.0, 5.0].into_iter().find(|round| *round >= factor);
    power * round.unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis {
            name: "seconds",
            scale,
            marks: Vec::new(),
        }
    }

    #[test]
    fn a_line_goes_from_corner_to_corner() {
        let line = Line {
            colour: 9,
            is_dashed: true,
            title: "a < b".to_owned(),
            points: vec![(0.0, 0.0), (10.0, 500.0)],
        };
        let svg = chart(&axis(Scale::Linear), &axis(Scale::Linear), &[line]).unwrap();
        assert!(svg.contains("points=\"64.0,260.0 628.0,12.0\""), "{svg}");
        assert!(svg.contains("class=\"line c1 dashed\""), "{svg}");
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert!(
            svg.contains(">10</text>") && svg.contains(">500</text>"),
            "{svg}"
        );
    }

    #[test]
    fn logarithms_span_whole_powers() {
        let range = Range::of(Scale::Log, [3.0, 700.0].into_iter()).unwrap();
        assert_eq!((range.low, range.high), (0.0, 3.0));
        assert!((range.share(10.0) - 1.0 / 3.0).abs() < 1e-9);
        let labels: Vec<String> = range
            .marks(&axis(Scale::Log))
            .into_iter()
            .map(|mark| mark.1)
            .collect();
        assert_eq!(labels, ["1", "10", "100", "1000"]);
    }

    #[test]
    fn nothing_and_one_value_are_no_division_by_zero() {
        assert!(Range::of(Scale::Linear, std::iter::empty()).is_none());
        let range = Range::of(Scale::Linear, std::iter::once(0.0)).unwrap();
        assert!(range.share(0.0).is_finite() && range.share(1.0) <= 1.0);
        assert!(chart(&axis(Scale::Linear), &axis(Scale::Log), &[]).is_none());
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.5, "1.50"),
            (9_999.0, "9999"),
            (12_345.0, "12.3k"),
            (2_000_000.0, "2M"),
        ] {
            assert_eq!(short(value), text);
        }
        assert_eq!((round_step(0.3), round_step(7.0)), (0.5, 10.0));
    }
}
