//! Figures: the kinds that draw, and a small layout layer over the `svg` crate. Marks carry `data-mark` attributes and
//! text is measured with the bundled font, so a figure's bytes and layout are the same on every machine.

pub(crate) mod accuracy;
pub(crate) mod boundary;
mod canvas;
mod color;
pub(crate) mod confusion;
pub(crate) mod curve;
pub(crate) mod divergence;
mod font;
pub(crate) mod honest_race;
pub(crate) mod lens;
mod plot;
mod png;
mod ticks;
pub(crate) mod toxicity;

use palinode_engine::{
    context::Context,
    stage::{OutputPort, ParamProblem, PortType, StageError},
};
use serde_json::Value;

use canvas::Canvas;

/// The output port of every kind that draws.
fn output() -> OutputPort {
    OutputPort::new("figure", PortType::Figure, "figure.svg, figure.png, and what is drawn as figure.csv")
}

/// Writes a drawing and its data to the port `figure`.
fn save<R: AsRef<[String]>>(ctx: &Context<'_>, canvas: Canvas, header: &[&str], rows: &[R]) -> Result<(), StageError> {
    let svg = canvas.finish();
    let output = ctx.output("figure")?;
    output.write("figure.png", png::render(&svg)?)?;
    output.write("figure.svg", svg)?;
    output.write("figure.csv", table(header, rows)?)
}

/// Rows as CSV.
fn table<R: AsRef<[String]>>(header: &[&str], rows: &[R]) -> Result<Vec<u8>, StageError> {
    let failed = |error: csv::Error| StageError::failed(error.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header).map_err(failed)?;
    rows.iter().try_for_each(|row| writer.write_record(row.as_ref())).map_err(failed)?;
    writer.into_inner().map_err(|error| StageError::failed(error.to_string()))
}

/// A label as people read it: texts without quotes.
pub(crate) fn label(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether two labels are the same: `1` and `1.0` are.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Coordinates as a mark names them: `rank=8,seed=1`.
pub(crate) fn mark(coords: &[(String, Value)]) -> String {
    coords.iter().map(|(axis, value)| format!("{axis}={}", label(value))).collect::<Vec<_>>().join(",")
}

/// Coordinates as a title: `rank 8, seed 1`.
pub(crate) fn title(coords: &[(String, Value)]) -> String {
    coords.iter().map(|(axis, value)| format!("{axis} {}", label(value))).collect::<Vec<_>>().join(", ")
}

/// A problem if a measure is out of bounds.
fn measure(field: &str, value: Option<f64>, least: f64, most: f64) -> Option<ParamProblem> {
    let problem = |value| ParamProblem::new(field, format!("{value} is not from {least} to {most} pixels"));
    value.filter(|value| !(least..=most).contains(value)).map(problem)
}

/// Boxes of these widths in rows no wider than `room`, by their place: no more rows than needed, and about as many boxes
/// in each.
fn flow(widths: &[f64], gap: f64, room: f64) -> Vec<Vec<usize>> {
    let fill = |limit: usize| {
        let (mut rows, mut used): (Vec<Vec<usize>>, f64) = (Vec::new(), 0.0);
        for (at, width) in widths.iter().enumerate() {
            match rows.last_mut() {
                Some(row) if row.len() < limit && used + gap + width <= room => {
                    row.push(at);
                    used += gap + width;
                }
                _ => {
                    rows.push(vec![at]);
                    used = *width;
                }
            }
        }
        rows
    };
    let rows = fill(usize::MAX);
    let even = fill(widths.len().div_ceil(rows.len().max(1)));
    if even.len() == rows.len() { even } else { rows }
}

/// Checks that every text of `svg` lies within it, as usvg lays it out.
#[cfg(test)]
fn inside(svg: &str) {
    fn visit(group: &resvg::usvg::Group, size: resvg::usvg::Size) -> usize {
        let mut texts = 0;
        for node in group.children() {
            let area = node.abs_bounding_box();
            match node {
                resvg::usvg::Node::Group(group) => texts += visit(group, size),
                resvg::usvg::Node::Text(text) => {
                    texts += 1;
                    let within = area.left() >= 0.0 && area.right() <= size.width();
                    let said: String = text.chunks().iter().map(|chunk| chunk.text()).collect();
                    assert!(
                        within && area.top() >= 0.0 && area.bottom() <= size.height(),
                        "{said}: {area:?}, {size:?}"
                    );
                }
                _ => {}
            }
        }
        texts
    }
    let tree = png::tree(svg).expect("valid SVG");
    assert!(visit(tree.root(), tree.size()) > 3);
}

#[cfg(test)]
mod tests {
    use super::flow;

    #[test]
    fn boxes_flow_into_even_rows() {
        assert_eq!(flow(&[30.0; 4], 5.0, 100.0), [[0, 1], [2, 3]]);
        assert_eq!(flow(&[30.0; 3], 5.0, 100.0), [[0, 1, 2]]);
        assert_eq!(flow(&[200.0, 10.0, 10.0, 10.0], 5.0, 100.0), [vec![0], vec![1, 2, 3]]);
        assert!(flow(&[], 5.0, 100.0).is_empty());
    }
}
