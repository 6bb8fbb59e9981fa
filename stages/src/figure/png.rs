//! PNG from the very SVG that is published, at twice its size, with no font but the bundled one.

use std::sync::{Arc, LazyLock};

use palinode_engine::stage::StageError;
use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{
        Options, Tree,
        fontdb::{Database, Source},
    },
};

use super::font::{BOLD, FAMILY, REGULAR};

/// Pixels of the PNG per pixel of the SVG.
const SCALE: f32 = 2.0;

static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    for face in [REGULAR, BOLD] {
        fonts.load_font_source(Source::Binary(Arc::new(face)));
    }
    fonts.set_sans_serif_family(FAMILY);
    Arc::new(fonts)
});

/// The SVG as usvg reads it.
pub(super) fn tree(svg: &str) -> Result<Tree, StageError> {
    let options = Options { fontdb: Arc::clone(&FONTS), font_family: FAMILY.to_owned(), ..Options::default() };
    Tree::from_str(svg, &options).map_err(|error| StageError::failed(format!("the figure is no valid SVG: {error}")))
}

/// The PNG of `svg`.
pub(super) fn render(svg: &str) -> Result<Vec<u8>, StageError> {
    let tree = tree(svg)?;
    let size = tree.size().to_int_size().scale_by(SCALE);
    let mut pixels = size.and_then(|size| Pixmap::new(size.width(), size.height())).ok_or_else(|| {
        StageError::failed("the figure is too large for a PNG; draw fewer panels, or choose one prompt")
    })?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| StageError::failed(format!("the figure can't be written as PNG: {error}")))
}
