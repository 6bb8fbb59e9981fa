//! The colours of figures. Blue and orange, and blue and red, stay apart for colour-blind readers.

/// Text and axes.
pub(super) const INK: &str = "#222222";
/// What should be read second.
pub(super) const FAINT: &str = "#666666";
/// Grid lines.
pub(super) const GRID: &str = "#e4e4e4";
/// Toxic completions.
pub(super) const TOXIC: &str = "#e8743b";
/// Non-toxic completions.
pub(super) const NON_TOXIC: &str = "#4878cf";
/// Completions without a verdict.
pub(super) const UNPARSABLE: &str = "#bdbdbd";

/// Low, middle and high.
const SCALE: [[f64; 3]; 3] = [[58.0, 102.0, 178.0], [242.0, 240.0, 236.0], [196.0, 64.0, 52.0]];

/// Viridis at 0, 1/4, 1/2 and 3/4.
const RISING: [[f64; 3]; 4] = [[68.0, 1.0, 84.0], [59.0, 82.0, 139.0], [33.0, 145.0, 140.0], [94.0, 201.0, 98.0]];
/// The ends of the scale of one hue.
const PALE: [f64; 3] = [244.0, 247.0, 252.0];
const DEEP: [f64; 3] = [24.0, 66.0, 130.0];

/// A colour from blue (0) over near white to red (1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb([u8; 3]);

impl Rgb {
    pub(super) fn diverging(at: f64) -> Self {
        let at = if at.is_finite() { at.clamp(0.0, 1.0) * 2.0 } else { 1.0 };
        let (low, high, part) = if at < 1.0 { (SCALE[0], SCALE[1], at) } else { (SCALE[1], SCALE[2], at - 1.0) };
        Rgb([0, 1, 2].map(|i| (low[i] + (high[i] - low[i]) * part).round() as u8))
    }

    /// A colour from violet (0) to green (1) that gets lighter all the way: viridis without its yellow, which is too
    /// light for lines on white.
    pub(super) fn rising(at: f64) -> Self {
        let at = at.clamp(0.0, 1.0) * (RISING.len() - 1) as f64;
        let low = (at as usize).min(RISING.len() - 2);
        let part = at - low as f64;
        Rgb([0, 1, 2].map(|i| (RISING[low][i] + (RISING[low + 1][i] - RISING[low][i]) * part).round() as u8))
    }

    /// A colour from near white (0) to a deep blue (1).
    pub(super) fn sequential(at: f64) -> Self {
        let at = if at.is_finite() { at.clamp(0.0, 1.0) } else { 0.0 };
        Rgb([0, 1, 2].map(|i| (PALE[i] + (DEEP[i] - PALE[i]) * at).round() as u8))
    }

    pub(super) fn hex(self) -> String {
        let [r, g, b] = self.0;
        format!("#{r:02x}{g:02x}{b:02x}")
    }

    /// Black or white, whichever stands out more (WCAG's contrast).
    pub(super) fn text(self) -> &'static str {
        let luminance = self.luminance();
        if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) { "#000000" } else { "#ffffff" }
    }

    /// WCAG's relative luminance.
    fn luminance(self) -> f64 {
        let linear = self.0.map(|c| {
            let c = f64::from(c) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        });
        0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_out_from_every_colour_of_the_scale() {
        let steps = (0..=100).map(|step| f64::from(step) / 100.0);
        for (step, color) in steps.flat_map(|at| [(at, Rgb::diverging(at)), (at, Rgb::sequential(at))]) {
            let text = if color.text() == "#ffffff" { Rgb([255; 3]) } else { Rgb([0; 3]) };
            let (a, b) = (color.luminance(), text.luminance());
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            assert!(contrast >= 4.5, "{step}: {} on {}: {contrast}", color.text(), color.hex());
        }
    }

    #[test]
    fn the_ends_are_blue_and_red() {
        let ends = [0.0, 0.5, 1.0, -3.0, f64::NAN].map(|at| Rgb::diverging(at).hex());
        assert_eq!(ends, ["#3a66b2", "#f2f0ec", "#c44034", "#3a66b2", "#f2f0ec"]);
    }
}
