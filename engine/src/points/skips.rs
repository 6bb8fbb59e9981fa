//! `skip`: partial matches that take points away.

use crate::{axes::Axis, mistake::Mistake, problem::Report, source::Place, spec::StageSpec};

/// A `skip` by axes and labels. An empty one matches nothing.
pub(super) struct SkipMatch<'a> {
    pub(super) place: &'a Place,
    matches: Vec<(usize, Vec<usize>)>,
    /// It matched a point.
    pub(super) hit: bool,
    /// It names only labels that `--set` left out: it may match nothing.
    pub(super) left_out: bool,
}

impl SkipMatch<'_> {
    /// Whether it takes away the point `at`; then it has matched something.
    pub(super) fn takes(&mut self, at: &[usize]) -> Option<()> {
        let matches = !self.matches.is_empty() && self.matches.iter().all(|(axis, labels)| labels.contains(&at[*axis]));
        self.hit |= matches;
        matches.then_some(())
    }
}

pub(super) fn read_skips<'a>(
    name: &str,
    stage: &'a StageSpec,
    own: &[usize],
    gather: &[usize],
    axes: &[Axis],
    report: &mut Report<'_>,
) -> Vec<SkipMatch<'a>> {
    let mut skips = Vec::new();
    for skip in &stage.skip {
        let mut read = SkipMatch { place: &skip.place, matches: Vec::new(), hit: false, left_out: false };
        for (axis, labels, place) in &skip.matches {
            let Some(index) = own.iter().copied().find(|index| axes[*index].name == *axis) else {
                let gathered = gather.iter().any(|index| axes[*index].name == *axis);
                let known = own.iter().map(|axis| axes[*axis].name.clone()).collect();
                let mistake = Mistake::SkipAxis { stage: name.to_owned(), axis: axis.clone(), gathered, known };
                report.at(&place.key(), mistake);
                continue;
            };
            let mut found = Vec::new();
            for label in labels {
                match axes[index].label(label) {
                    Ok(label) => found.push(label),
                    Err(Mistake::LabelLeftOut { .. }) => {}
                    Err(mistake) if !axes[index].broken => report.at(place, mistake),
                    Err(_) => {}
                }
            }
            read.left_out |= found.is_empty() && !labels.is_empty();
            read.matches.push((index, found));
        }
        skips.push(read);
    }
    skips
}
