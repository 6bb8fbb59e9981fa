//! The drawing as SVG. Where things stand is worked out by the `layout` crate; how they look is said here.

use std::{collections::BTreeMap, fmt::Write as _};

use layout::{
    core::{
        base::Orientation,
        format::{ClipHandle, RenderBackend},
        geometry::Point,
        style::StyleAttr,
    },
    std_shapes::shapes::{Arrow, Element, ShapeKind},
    topo::layout::VisualGraph,
};

use super::{Drawing, Node, PLAIN};

/// More nodes than anyone can look at, and than can be laid out in a moment.
const LIMIT: usize = 300;
/// Widths of characters in a sans serif font, as shares of its size: on the safe side.
const BOLD: f64 = 0.62;
const WIDTH: f64 = 0.56;
const NAME: f64 = 13.0;
const SMALL: f64 = 11.0;
const LINE: f64 = 16.0;
const PADDING: f64 = 12.0;
const MARGIN: f64 = 24.0;

/// A drawing that has too many nodes to be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} nodes are too many to lay out as SVG: {LIMIT} at most")]
pub struct TooLarge(usize);

impl Drawing {
    /// As SVG. A thick arrow is a gather.
    ///
    /// # Errors
    /// If there are too many nodes.
    pub fn svg(&self) -> Result<String, TooLarge> {
        if self.nodes.len() > LIMIT {
            return Err(TooLarge(self.nodes.len()));
        }
        let mut layout = VisualGraph::new(Orientation::LeftToRight);
        let handles: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let shape = ShapeKind::new_box("");
                layout.add_node(Element::create(shape, StyleAttr::simple(), Orientation::LeftToRight, size(node)))
            })
            .collect();
        // Links between the same two are one line.
        let mut links: BTreeMap<(usize, usize, bool), Vec<&str>> = BTreeMap::new();
        for edge in &self.edges {
            links.entry((edge.from, edge.to, edge.table)).or_default().push(&edge.port);
        }
        for ((from, to, table), ports) in &links {
            let mut arrow = Arrow::simple(&ports.join(", "));
            arrow.look.font_size = SMALL as usize;
            arrow.look.line_width = if *table { 3 } else { 1 };
            layout.add_edge(arrow, handles[*from], handles[*to]);
        }
        let mut canvas = Canvas::default();
        layout.do_it(false, false, false, &mut canvas);

        let mut boxes = String::new();
        for (node, handle) in self.nodes.iter().zip(&handles) {
            let (from, to) = layout.pos(*handle).bbox(false);
            canvas.grow(from);
            canvas.grow(to);
            draw(node, from, to, &mut boxes);
        }
        let (from, mut to) = (canvas.from, canvas.to);
        let legend = self.legend(from.x, to.y + 34.0);
        if !legend.is_empty() {
            to.y += 40.0;
        }
        let (x, y) = (from.x - MARGIN, from.y - MARGIN);
        let (width, height) = (to.x - from.x + 2.0 * MARGIN, to.y - from.y + 2.0 * MARGIN);
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"{x:.1} {y:.1} {width:.1} {height:.1}\" \
             font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
             <title>{}</title>\n\
             <defs><marker id=\"end\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             markerUnits=\"userSpaceOnUse\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#667788\"/></marker></defs>\n\
             <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#ffffff\"/>\n\
             {}{boxes}{}{legend}</svg>\n",
            escaped(&self.title),
            canvas.lines,
            canvas.texts,
        ))
    }

    /// What the colours mean.
    fn legend(&self, x: f64, y: f64) -> String {
        let (mut text, mut x) = (String::new(), x);
        for shade in self.shades() {
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\" stroke=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{y:.1}\" font-size=\"{SMALL}\" fill=\"#333333\">{}</text>",
                y - 10.0,
                shade.fill,
                shade.line,
                x + 18.0,
                shade.word
            );
            x += 18.0 + width(shade.word, SMALL, WIDTH) + 20.0;
        }
        text
    }
}

/// The lines of a node with their sizes and colours.
fn lines(node: &Node) -> impl Iterator<Item = (&str, f64, f64, &'static str)> {
    let rest = [Some(node.kind.as_str()), node.points.as_deref()].into_iter().flatten();
    let rest = rest.map(|line| (line, SMALL, WIDTH, "fill=\"#55606e\""));
    [(node.name.as_str(), NAME, BOLD, "fill=\"#111111\" font-weight=\"bold\"")].into_iter().chain(rest)
}

fn width(text: &str, size: f64, share: f64) -> f64 {
    text.chars().count() as f64 * size * share
}

fn size(node: &Node) -> Point {
    let widest = lines(node).map(|(line, size, share, _)| width(line, size, share)).fold(40.0, f64::max);
    Point::new(widest + 2.0 * PADDING, lines(node).count() as f64 * LINE + PADDING)
}

fn draw(node: &Node, from: Point, to: Point, text: &mut String) {
    let shade = node.state.unwrap_or(PLAIN);
    let _ = writeln!(
        text,
        "<g><title>{}{}{}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"5\" fill=\"{}\" stroke=\"{}\"/>",
        escaped(&node.name),
        if shade.word.is_empty() { "" } else { ": " },
        shade.word,
        from.x,
        from.y,
        to.x - from.x,
        to.y - from.y,
        shade.fill,
        shade.line
    );
    let middle = (from.x + to.x) / 2.0;
    for (i, (line, size, _, style)) in lines(node).enumerate() {
        let y = from.y + PADDING / 2.0 + (i as f64 + 0.75) * LINE;
        let _ = writeln!(
            text,
            "<text x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" font-size=\"{size}\" {style}>{}</text>",
            escaped(line)
        );
    }
    text.push_str("</g>\n");
}

/// Takes what the layout gives: paths of arrows, and places of their labels.
struct Canvas {
    lines: String,
    texts: String,
    from: Point,
    to: Point,
}

impl Default for Canvas {
    fn default() -> Self {
        let (from, to) = (Point::splat(f64::INFINITY), Point::splat(f64::NEG_INFINITY));
        Self { lines: String::new(), texts: String::new(), from, to }
    }
}

impl Canvas {
    fn grow(&mut self, point: Point) {
        self.from = Point::new(self.from.x.min(point.x), self.from.y.min(point.y));
        self.to = Point::new(self.to.x.max(point.x), self.to.y.max(point.y));
    }
}

impl RenderBackend for Canvas {
    fn draw_rect(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>, _: Option<ClipHandle>) {}

    fn draw_line(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_circle(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_text(&mut self, at: Point, text: &str, _: &StyleAttr) {
        if text.is_empty() {
            return;
        }
        let half = width(text, SMALL, WIDTH) / 2.0;
        self.grow(Point::new(at.x - half, at.y - SMALL));
        self.grow(Point::new(at.x + half, at.y + SMALL));
        // A border of white keeps lines from running through letters.
        let _ = writeln!(
            self.texts,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"{SMALL}\" fill=\"#44546a\" \
             stroke=\"#ffffff\" stroke-width=\"4\" stroke-linejoin=\"round\" paint-order=\"stroke\">{}</text>",
            at.x,
            at.y + SMALL / 3.0,
            escaped(text)
        );
    }

    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        _dashed: bool,
        _head: (bool, bool),
        look: &StyleAttr,
        _: Option<String>,
        _: &str,
    ) {
        // The first pair leaves its point by a control point, each later one comes to its point by one.
        let [(start, leave), (control, next), rest @ ..] = path else { return };
        let mut d = format!(
            "M{:.1} {:.1}C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
            start.x, start.y, leave.x, leave.y, control.x, control.y, next.x, next.y
        );
        for (control, to) in rest {
            let _ = write!(d, "S{:.1} {:.1} {:.1} {:.1}", control.x, control.y, to.x, to.y);
        }
        path.iter().flat_map(|(a, b)| [a, b]).for_each(|point| self.grow(*point));
        let _ = writeln!(
            self.lines,
            "<path d=\"{d}\" fill=\"none\" stroke=\"#667788\" stroke-width=\"{}\" marker-end=\"url(#end)\"/>",
            if look.line_width > 1 { 2.6 } else { 1.2 }
        );
    }

    fn create_clip(&mut self, _: Point, _: Point, _: usize) -> ClipHandle {
        0
    }
}

/// Text of XML; characters that XML can't hold become `?`.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}
