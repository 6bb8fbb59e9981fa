//! Predictions of several runs on the same test items, item by item.

use std::collections::{BTreeMap, HashMap};

use palinode_engine::stage::StageError;

use crate::records::Prediction;

/// The predictions of runs and of their references, in the order of the first run's items.
pub(super) struct Runs<'p> {
    pub(super) items: Vec<&'p Prediction>,
    /// By run, then item.
    pub(super) runs: Vec<Vec<&'p Prediction>>,
    /// The same for the references, if each run has one.
    pub(super) references: Option<Vec<Vec<&'p Prediction>>>,
}

impl<'p> Runs<'p> {
    pub(super) fn new(runs: &[&'p [Prediction]], references: Option<&[&'p [Prediction]]>) -> Result<Self, StageError> {
        let items: Vec<&Prediction> = runs.first().map_or(&[][..], |run| run).iter().collect();
        let places: HashMap<&str, usize> = items.iter().enumerate().map(|(at, item)| (item.id.as_str(), at)).collect();
        if places.len() < items.len() {
            return Err(StageError::failed("two predictions of one run are of the same test item"));
        }
        let align = |run: &&'p [Prediction]| align(run, &items, &places);
        let aligned = runs.iter().map(align).collect::<Result<_, _>>()?;
        let references = references.map(|runs| runs.iter().map(align).collect::<Result<_, _>>()).transpose()?;
        Ok(Runs { runs: aligned, references, items })
    }

    /// The places of each group's items.
    pub(super) fn groups(&self) -> BTreeMap<&'p str, Vec<usize>> {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, item) in self.items.iter().enumerate() {
            groups.entry(&item.group).or_default().push(at);
        }
        groups
    }
}

/// The predictions of `run` in the order of `items`.
fn align<'p>(
    run: &'p [Prediction],
    items: &[&Prediction],
    places: &HashMap<&str, usize>,
) -> Result<Vec<&'p Prediction>, StageError> {
    let mut aligned: Vec<Option<&Prediction>> = vec![None; items.len()];
    let differ = |what: String| {
        Err(StageError::failed(format!(
            "{what}: runs can only be compared, or pooled, on the same test items; gather what differs in them apart"
        )))
    };
    for prediction in run {
        let Some(&at) = places.get(prediction.id.as_str()) else {
            return differ(format!("the test item `{}` is in one run and not in another", prediction.id));
        };
        let item = items[at];
        for (what, one, other) in [("label", &item.label, &prediction.label), ("group", &item.group, &prediction.group)]
        {
            if one != other {
                return differ(format!("the {what} of the test item `{}` is `{one}` and `{other}`", prediction.id));
            }
        }
        aligned[at] = Some(prediction);
    }
    match aligned.iter().position(Option::is_none) {
        Some(at) => differ(format!("the test item `{}` is in one run and not in another", items[at].id)),
        None => Ok(aligned.into_iter().flatten().collect()),
    }
}
