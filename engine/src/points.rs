//! The points of a stage: the product of its axes, minus what it skips, minus what its inputs lack; and what is
//! linked to each of its ports at each point.

mod skips;

use skips::{SkipMatch, read_skips};

use crate::{
    axes::Axis,
    mistake::Mistake,
    problem::Report,
    spec::{InputSpec, StageSpec},
};

/// More points of one stage are refused, before they are counted out.
pub(crate) const MAX_POINTS: usize = 200_000;
/// More rows of the tables of one stage are refused, all points together.
pub(crate) const MAX_ROWS: usize = 2_000_000;

/// All combinations of labels of some axes. A point is an array that holds the place of a label for each axis of the
/// pipeline; a grid looks only at its own axes, so that joining on shared axes takes no work at all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grid {
    /// Axes, in the order of `axes:`.
    pub(crate) axes: Vec<usize>,
    strides: Vec<usize>,
    size: usize,
}

impl Grid {
    /// Fails with its size if it were too large.
    fn new(axes: Vec<usize>, all: &[Axis]) -> Result<Self, u128> {
        let mut size = 1u128;
        let mut strides = vec![0; axes.len()];
        for (i, axis) in axes.iter().enumerate().rev() {
            strides[i] = usize::try_from(size).unwrap_or(usize::MAX);
            size = size.saturating_mul(all[*axis].labels.len() as u128);
        }
        if size > MAX_POINTS as u128 {
            return Err(size);
        }
        Ok(Self { axes, strides, size: size as usize })
    }

    fn code(&self, at: &[usize]) -> usize {
        self.axes.iter().zip(&self.strides).map(|(axis, stride)| at[*axis] * stride).sum()
    }

    /// Sets `at` to the point number `code`.
    fn set(&self, code: usize, at: &mut [usize]) {
        let mut rest = code;
        for (axis, stride) in self.axes.iter().zip(&self.strides) {
            (at[*axis], rest) = (rest / stride, rest % stride);
        }
    }
}

/// A stage's points.
#[derive(Debug, Default)]
pub(crate) struct Points {
    pub(crate) grid: Grid,
    /// The node at each point of the grid, if the point exists.
    nodes: Vec<Option<u32>>,
    /// For each axis of the grid, the labels that some point has.
    present: Vec<Vec<usize>>,
    /// Axes that the stage gathers, with the labels that some joined point has.
    gathered: Vec<(usize, Vec<usize>)>,
    /// What is there before the stage gathers.
    joined: Grid,
    exists: Vec<bool>,
}

/// An input of a stage, joined by axes.
pub(crate) struct Link<'a> {
    pub(crate) input: &'a InputSpec,
    /// Number of the stage that it comes from.
    pub(crate) stage: usize,
    /// The axes that it brings.
    outer: Vec<usize>,
    /// Fixed coordinates: axis and label.
    fixed: Vec<(usize, usize)>,
    /// Axes of which it keeps a part.
    keep: Vec<(usize, Vec<bool>)>,
    /// Axes that it gathers by itself, with the labels in its table.
    gather: Vec<(usize, Vec<usize>)>,
}

impl<'a> Link<'a> {
    /// Joins `input` to the points of the stage that it comes from.
    pub(crate) fn new(
        input: &'a InputSpec,
        stage: usize,
        source: &Points,
        axes: &[Axis],
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let problems = report.len();
        let mut link = Self {
            input,
            stage,
            outer: source.grid.axes.clone(),
            fixed: Vec::new(),
            keep: Vec::new(),
            gather: Vec::new(),
        };
        let known = |of: &[usize]| of.iter().map(|axis| axes[*axis].name.clone()).collect::<Vec<_>>();
        let find = |name: &str, of: &[usize]| of.iter().copied().find(|axis| axes[*axis].name == name);
        for coord in &input.link.coords {
            let place = input.at.text(coord.axis.clone());
            let Some(axis) = find(&coord.axis, &source.grid.axes) else {
                let (link, axis) = (input.link.stage.clone(), coord.axis.clone());
                report.at(&place, Mistake::NoAxisThere { link, axis, known: known(&source.grid.axes) });
                continue;
            };
            let found: Vec<_> = coord.labels.iter().map(|label| axes[axis].label(label)).collect();
            let mut keep = vec![false; axes[axis].labels.len()];
            let some = found.iter().any(Result::is_ok);
            for label in found {
                match label {
                    Ok(label) if coord.listed => keep[label] = true,
                    Ok(label) => link.fixed.push((axis, label)),
                    Err(Mistake::LabelLeftOut { .. }) if some => {}
                    Err(mistake) => report.at(&input.at, mistake),
                }
            }
            if coord.listed {
                link.keep.push((axis, keep));
            } else {
                link.outer.retain(|outer| *outer != axis);
            }
        }
        let mut gather = Vec::new();
        for (name, place) in &input.gather {
            match find(name, &link.outer) {
                Some(axis) => gather.push(axis),
                None => {
                    let (text, axis) = (input.text.clone(), name.clone());
                    report.at(place, Mistake::NoAxisThere { link: text, axis, known: known(&link.outer) });
                }
            }
        }
        gather.sort_unstable();
        link.outer.retain(|axis| !gather.contains(axis));
        link.gather = gather.into_iter().map(|axis| (axis, link.labels(axis, source))).collect();
        (report.len() == problems).then_some(link)
    }

    /// Labels of `axis` in its table: those of points that it keeps.
    fn labels(&self, axis: usize, source: &Points) -> Vec<usize> {
        let place = source.grid.axes.iter().position(|own| *own == axis);
        let present = place.map_or(&[] as &[usize], |place| &source.present[place]);
        let kept = |label: &usize| self.keep.iter().all(|(kept, labels)| *kept != axis || labels[*label]);
        present.iter().copied().filter(kept).collect()
    }

    /// What it brings at the point `at`.
    fn node(&self, source: &Points, at: &mut [usize]) -> Option<u32> {
        if self.keep.iter().any(|(axis, labels)| !labels[at[*axis]]) {
            return None;
        }
        let before: Vec<_> = self.fixed.iter().map(|(axis, _)| at[*axis]).collect();
        self.fixed.iter().for_each(|(axis, label)| at[*axis] = *label);
        let node = source.nodes[source.grid.code(at)];
        self.fixed.iter().zip(before).for_each(|((axis, _), label)| at[*axis] = label);
        node
    }

    /// Whether it brings anything at the point `at`.
    fn exists(&self, source: &Points, at: &mut [usize]) -> bool {
        if self.gather.is_empty() {
            return self.node(source, at).is_some();
        }
        let mut inner = at.to_vec();
        let mut found = false;
        each_row(&self.gather, &mut inner, &mut |inner| found = found || self.node(source, inner).is_some());
        found
    }
}

/// Calls `row` for each combination of the labels of `axes`, set in `at`.
fn each_row(axes: &[(usize, Vec<usize>)], at: &mut [usize], row: &mut dyn FnMut(&mut [usize])) {
    match axes.split_first() {
        None => row(at),
        Some(((axis, labels), rest)) => {
            for label in labels {
                at[*axis] = *label;
                each_row(rest, at, row);
            }
        }
    }
}

/// What is linked to a port at a point.
pub(crate) enum Bound {
    One(u32),
    Table(Vec<Row>),
}

/// The axes of a table, with the labels of each.
pub(crate) type Table = Vec<(usize, Vec<usize>)>;

/// A row of a table: axis and label of each gathered axis, and the node if there is one.
pub(crate) type Row = (Vec<(usize, usize)>, Option<u32>);

impl Points {
    /// Joins the links of `stage`, and numbers its points from `base`.
    pub(crate) fn new(
        name: &str,
        stage: &StageSpec,
        links: &[Link<'_>],
        sources: &[Option<Points>],
        axes: &[Axis],
        base: u32,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let problems = report.len();
        let names = |of: &[usize]| of.iter().map(|axis| axes[*axis].name.clone()).collect::<Vec<_>>();
        let mut inherited: Vec<usize> = links.iter().flat_map(|link| link.outer.iter().copied()).collect();
        inherited.sort_unstable();
        inherited.dedup();
        let mut all = inherited.clone();
        for (axis, place) in &stage.over {
            let Some(index) = axes.iter().position(|declared| declared.name == *axis) else {
                let known = axes.iter().map(|axis| axis.name.clone()).collect();
                report.at(place, Mistake::UnknownAxis { axis: axis.clone(), known });
                continue;
            };
            if let Some(link) = links.iter().find(|link| link.outer.contains(&index)) {
                let port = link.input.port.clone();
                report.at(place, Mistake::OverInherited { axis: axis.clone(), port });
            } else {
                all.push(index);
            }
        }
        let mut gather = Vec::new();
        for (axis, place) in &stage.gather {
            match inherited.iter().copied().find(|index| axes[*index].name == *axis) {
                Some(index) => gather.push(index),
                None => report.at(place, Mistake::GatherNothing { axis: axis.clone(), known: names(&inherited) }),
            }
            if let Some(link) = links.iter().find(|link| link.gather.iter().any(|(own, _)| axes[*own].name == *axis)) {
                let port = link.input.port.clone();
                report.at(place, Mistake::GatheredTwice { axis: axis.clone(), port });
            }
        }
        all.sort_unstable();
        gather.sort_unstable();
        if stage.missing.is_some() && gather.is_empty() && links.iter().all(|link| link.gather.is_empty()) {
            report.at(&stage.place.to("missing").key(), Mistake::MissingWithoutGather);
        }
        let own: Vec<_> = all.iter().copied().filter(|axis| !gather.contains(axis)).collect();
        let mut skips = read_skips(name, stage, &own, &gather, axes, report);
        if report.len() > problems || all.iter().any(|axis| axes[*axis].broken) {
            return None;
        }
        let too_many = |points| Mistake::TooManyPoints { stage: name.to_owned(), points, limit: MAX_POINTS };
        let joined = Grid::new(all, axes).map_err(|size| report.at(&stage.place.key(), too_many(size))).ok()?;
        let grid = Grid::new(own, axes).ok()?;
        let labels = |link: &Link<'_>| link.gather.iter().map(|(_, labels)| labels.len() as u128).product::<u128>();
        let rows = joined.size as u128 * links.iter().map(labels).max().unwrap_or(1);
        if rows > MAX_ROWS as u128 {
            report.at(&stage.place.key(), Mistake::TooManyRows { stage: name.to_owned(), rows, limit: MAX_ROWS });
            return None;
        }
        let mut points = Self { grid, joined, ..Self::default() };
        points.fill(links, sources, &gather, &mut skips, axes, base);
        for skip in skips.iter().filter(|skip| !skip.hit && !skip.left_out) {
            report.at(skip.place, Mistake::SkipNothing { stage: name.to_owned() });
        }
        if points.nodes.iter().all(Option::is_none) {
            report.at(&stage.place.key(), Mistake::NoPoints { stage: name.to_owned() });
            return None;
        }
        Some(points)
    }

    fn fill(
        &mut self,
        links: &[Link<'_>],
        sources: &[Option<Points>],
        gather: &[usize],
        skips: &mut [SkipMatch<'_>],
        axes: &[Axis],
        base: u32,
    ) {
        let mut at = vec![0; axes.len()];
        let mut there = vec![false; self.grid.size];
        self.exists = vec![false; self.joined.size];
        let mut gathered: Vec<Vec<bool>> = gather.iter().map(|axis| vec![false; axes[*axis].labels.len()]).collect();
        for code in 0..self.joined.size {
            self.joined.set(code, &mut at);
            let mut exists = |link: &Link<'_>| sources[link.stage].as_ref().is_some_and(|s| link.exists(s, &mut at));
            if links.iter().all(&mut exists) {
                self.exists[code] = true;
                there[self.grid.code(&at)] = true;
                gather.iter().zip(&mut gathered).for_each(|(axis, seen)| seen[at[*axis]] = true);
            }
        }
        let seen = |seen: &Vec<bool>| seen.iter().enumerate().filter(|(_, s)| **s).map(|(label, _)| label).collect();
        self.gathered = gather.iter().copied().zip(gathered.iter().map(seen)).collect();
        let mut present: Vec<_> = self.grid.axes.iter().map(|axis| vec![false; axes[*axis].labels.len()]).collect();
        self.nodes = vec![None; self.grid.size];
        let mut next = base;
        for (code, there) in there.into_iter().enumerate() {
            self.grid.set(code, &mut at);
            // Each that matches is noted, not just the first.
            let skipped = there && skips.iter_mut().filter_map(|skip| skip.takes(&at)).count() > 0;
            if there && !skipped {
                self.nodes[code] = Some(next);
                next += 1;
                self.grid.axes.iter().zip(&mut present).for_each(|(axis, seen)| seen[at[*axis]] = true);
            }
        }
        self.present = present.iter().map(seen).collect();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// Calls `point` for each point, in order, with the places of its labels.
    pub(crate) fn each(&self, axes: usize, mut point: impl FnMut(&[usize])) {
        let mut at = vec![0; axes];
        for (code, _) in self.nodes.iter().enumerate().filter(|(_, node)| node.is_some()) {
            self.grid.set(code, &mut at);
            point(&at);
        }
    }

    /// What `link` brings to the point `at`, along `table`.
    pub(crate) fn bind(&self, link: &Link<'_>, table: &Table, source: &Points, at: &[usize]) -> Option<Bound> {
        let mut inner = at.to_vec();
        if table.is_empty() {
            return link.node(source, &mut inner).map(Bound::One);
        }
        let mut rows = Vec::new();
        let mut outer = at.to_vec();
        each_row(table, &mut inner, &mut |inner| {
            self.gathered.iter().for_each(|(axis, _)| outer[*axis] = inner[*axis]);
            let joined = !self.brings_gathered(link) || self.exists[self.joined.code(&outer)];
            let node = if joined { link.node(source, inner) } else { None };
            rows.push((table.iter().map(|(axis, _)| (*axis, inner[*axis])).collect(), node));
        });
        Some(Bound::Table(rows))
    }

    /// The axes along which `link` comes as a table; none if it comes as one result.
    pub(crate) fn table(&self, link: &Link<'_>) -> Table {
        let mut table = link.gather.clone();
        if self.brings_gathered(link) {
            table.extend(self.gathered.iter().cloned());
        }
        table.sort();
        table
    }

    /// A link that has none of the axes that the stage gathers stays one result.
    fn brings_gathered(&self, link: &Link<'_>) -> bool {
        self.gathered.iter().any(|(axis, _)| link.outer.contains(axis))
    }

    /// The axes that the stage gathers.
    pub(crate) fn gathered(&self) -> Vec<usize> {
        self.gathered.iter().map(|(axis, _)| *axis).collect()
    }
}
