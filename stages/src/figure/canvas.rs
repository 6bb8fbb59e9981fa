//! What a figure is drawn with: rectangles, lines, texts and groups, in pixels from the top left.

use svg::node::{Node as _, Text, element::Element};

use super::{
    color::INK,
    font::{FAMILY, Font, hidden},
};

/// A drawing of a fixed size on white.
pub(super) struct Canvas {
    root: Element,
}

/// Where a text stands from its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let (width, height) = (width.ceil(), height.ceil());
        let mut root = Element::new("svg");
        root.assign("xmlns", "http://www.w3.org/2000/svg");
        root.assign("width", number(width));
        root.assign("height", number(height));
        root.assign("viewBox", format!("0 0 {} {}", number(width), number(height)));
        root.assign("font-family", format!("{FAMILY}, sans-serif"));
        root.append(rect(0.0, 0.0, width, height, "#ffffff"));
        Canvas { root }
    }

    pub(super) fn add(&mut self, element: Element) {
        self.root.append(element);
    }

    /// The SVG.
    pub(super) fn finish(self) -> String {
        format!("{}\n", self.root)
    }
}

/// A length as the figure writes it: hundredths of a pixel, no trailing zeros, never `-0`.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    (rounded + 0.0).to_string()
}

pub(super) fn rect(x: f64, y: f64, width: f64, height: f64, fill: &str) -> Element {
    let mut rect = Element::new("rect");
    [("x", x), ("y", y), ("width", width.max(0.0)), ("height", height.max(0.0))]
        .into_iter()
        .for_each(|(name, value)| rect.assign(name, number(value)));
    rect.assign("fill", fill);
    rect
}

/// Lines shorter than this, in pixels, are left out: a renderer fails at them.
pub(super) const SHORTEST: f64 = 0.1;

pub(super) fn line(from: (f64, f64), to: (f64, f64), stroke: &str, width: f64) -> Element {
    let mut line = Element::new("line");
    [("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1), ("stroke-width", width)]
        .into_iter()
        .for_each(|(name, value)| line.assign(name, number(value)));
    line.assign("stroke", stroke);
    line
}

/// A text whose baseline is at `at`.
pub(super) fn text(at: (f64, f64), font: Font, anchor: Anchor, content: &str) -> Element {
    let mut text = Element::new("text");
    text.assign("x", number(at.0));
    text.assign("y", number(at.1));
    text.assign("font-size", number(font.size));
    text.assign("fill", INK);
    if font.bold {
        text.assign("font-weight", "bold");
    }
    match anchor {
        Anchor::Start => {}
        Anchor::Middle => text.assign("text-anchor", "middle"),
        Anchor::End => text.assign("text-anchor", "end"),
    }
    text.append(Text::new(clean(content)));
    text
}

/// The same element with another fill.
pub(super) fn fill(mut element: Element, fill: &str) -> Element {
    element.assign("fill", fill);
    element
}

/// The same text, read upwards.
pub(super) fn upward(mut text: Element, at: (f64, f64)) -> Element {
    text.assign("transform", format!("rotate(-90 {} {})", number(at.0), number(at.1)));
    text
}

/// A group that stands for the results at `mark`, with what a reader sees on pointing at it.
pub(super) fn marked(mark: &str, tooltip: &str) -> Element {
    let mut group = Element::new("g");
    group.assign("data-mark", clean(mark));
    let mut title = Element::new("title");
    title.append(Text::new(clean(tooltip)));
    group.append(title);
    group
}

/// Without what XML can't hold.
fn clean(text: &str) -> String {
    text.chars().map(|c| if hidden(c) && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_fixed() {
        let shown = [0.1 + 0.2, -0.001, 12.0, 1.005, -3.456].map(number).join(" ");
        assert_eq!(shown, "0.3 0 12 1 -3.46");
    }

    #[test]
    fn a_drawing_escapes_what_it_holds() {
        let mut canvas = Canvas::new(40.0, 20.2);
        let mut group = marked("name=\"a<b\"", "x & y\u{1}");
        group.append(text((1.0, 2.0), Font::bold(9.0), Anchor::End, "שלום <&> \u{202e}"));
        canvas.add(group);
        insta::assert_snapshot!(canvas.finish(), @r##"
        <svg font-family="DejaVu Sans, sans-serif" height="21" viewBox="0 0 40 21" width="40" xmlns="http://www.w3.org/2000/svg">
        <rect fill="#ffffff" height="21" width="40" x="0" y="0"/>
        <g data-mark="name=&quot;a&lt;b&quot;">
        <title>x &amp; y�</title>
        <text fill="#222222" font-size="9" font-weight="bold" text-anchor="end" x="1" y="2">שלום &lt;&amp;&gt; �</text>
        </g>
        </svg>
        "##);
    }
}
