//! The bundled font: how wide a text is, what of it fits, and how characters that can't be seen are shown.

use std::{borrow::Cow, sync::LazyLock};

use skrifa::{
    FontRef, MetadataProvider,
    charmap::Charmap,
    instance::{LocationRef, Size},
    metrics::GlyphMetrics,
};

/// The name of the bundled family.
pub(super) const FAMILY: &str = "DejaVu Sans";
/// The bundled faces.
pub(super) static REGULAR: &[u8] = include_bytes!("../../fonts/DejaVuSans.ttf");
pub(super) static BOLD: &[u8] = include_bytes!("../../fonts/DejaVuSans-Bold.ttf");

/// A face at a size in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) bold: bool,
}

struct Face {
    characters: Charmap<'static>,
    glyphs: GlyphMetrics<'static>,
    units: f64,
}

static FACES: LazyLock<[Option<Face>; 2]> = LazyLock::new(|| {
    [REGULAR, BOLD].map(|bytes| {
        let font = FontRef::new(bytes).ok()?;
        let metrics = font.metrics(Size::unscaled(), LocationRef::default());
        let glyphs = font.glyph_metrics(Size::unscaled(), LocationRef::default());
        Some(Face { characters: font.charmap(), glyphs, units: f64::from(metrics.units_per_em) })
    })
});

impl Font {
    pub(super) const fn regular(size: f64) -> Self {
        Font { size, bold: false }
    }

    pub(super) const fn bold(size: f64) -> Self {
        Font { size, bold: true }
    }

    /// How wide `text` is. Kerning is left out, which makes it a little too wide rather than too narrow; a character
    /// that the font lacks counts a whole em.
    pub(super) fn width(self, text: &str) -> f64 {
        let face = FACES[usize::from(self.bold)].as_ref();
        let advance = |c: char| {
            let face = face?;
            let width = face.glyphs.advance_width(face.characters.map(c)?)?;
            Some(f64::from(width) / face.units)
        };
        text.chars().map(|c| advance(c).unwrap_or(1.0)).sum::<f64>() * self.size
    }

    /// `text`, or as much of its beginning as fits into `width` with an ellipsis.
    pub(super) fn fit(self, text: &str, width: f64) -> Cow<'_, str> {
        if self.width(text) <= width {
            return Cow::Owned(text.to_owned());
        }
        let room = width - self.width("…");
        let mut used = 0.0;
        let fits = |c: &char| {
            used += self.width(c.encode_utf8(&mut [0; 4]));
            used <= room
        };
        let kept: String = text.chars().take_while(fits).collect();
        Cow::Owned(format!("{}…", kept.trim_end()))
    }

    /// `text` in lines no wider than `width`, broken at spaces; a word that is wider gets an ellipsis.
    pub(super) fn wrap(self, text: &str, width: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}")) <= width => {
                    line.push(' ');
                    line.push_str(word);
                }
                _ => lines.push(self.fit(word, width).into_owned()),
            }
        }
        lines
    }
}

/// `text` with signs in place of what can't be seen: spaces, line ends, and characters that steer the layout.
pub(super) fn visible(text: &str) -> String {
    text.chars().fold(String::new(), |shown, c| match c {
        ' ' => shown + "␣",
        '\n' => shown + "↵",
        '\t' => shown + "⇥",
        c if hidden(c) || c.is_whitespace() => shown + &format!("U+{:04X}", u32::from(c)),
        c => shown + c.encode_utf8(&mut [0; 4]),
    })
}

/// Whether `c` may not stand in XML, or would steer how the text around it is laid out.
pub(super) fn hidden(c: char) -> bool {
    let steers = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || steers || matches!(c, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_the_fonts_own() {
        // Advances in the font's tables, in 2048ths of an em: space 651, "i" 569, "W" 2025 (regular).
        assert_eq!(Font::regular(2048.0).width(" iW"), 651.0 + 569.0 + 2025.0);
        assert!(Font::bold(10.0).width("share") > Font::regular(10.0).width("share"));
        assert_eq!(Font::regular(10.0).width("\u{4e2d}"), 10.0);
    }

    #[test]
    fn what_does_not_fit_is_cut() {
        let font = Font::regular(10.0);
        assert_eq!(font.fit("short", 100.0), "short");
        for width in [12.0, 30.0, 55.0] {
            let cut = font.fit("a long label that says too much", width);
            assert!(cut.ends_with('…') && font.width(&cut) <= width, "{cut}");
        }
        let lines = font.wrap("a title that takes some lines incomprehensibilities", 80.0);
        assert!(lines.len() > 2 && lines.iter().all(|line| font.width(line) <= 80.0), "{lines:?}");
    }

    #[test]
    fn the_invisible_is_shown() {
        assert_eq!(visible(" a\tb\n"), "␣a⇥b↵");
        assert_eq!(visible("\u{0}\u{202e}\u{a0}é"), "U+0000U+202EU+00A0é");
        let face = FACES[0].as_ref().unwrap();
        assert!("␣↵⇥…–".chars().all(|c| face.characters.map(c).is_some()));
    }
}
