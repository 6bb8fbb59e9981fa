//! Table 1 of "Low-rank finetuning for LLMs: A fairness perspective" (2024), as printed: HBG and AP in percent.

/// Models and data sets, in the order of the columns.
pub(super) const COLUMNS: [&str; 4] = ["GPT-2/IMDb", "GPT-2/SST-2", "OPT/IMDb", "OPT/SST-2"];
/// What the paper calls its two splits, "majority/minority".
pub(super) const SPLITS: [&str; 2] = ["50/50", "25/75"];

/// HBG and AP, by column.
type Cells = [(Option<f64>, f64); 4];

/// By split, then rank; `full` has no HBG.
const ROWS: [(&str, &str, Cells); 8] = [
    ("50/50", "2", [(Some(3.4), 14.5), (Some(1.8), 17.4), (Some(1.9), 7.2), (Some(0.3), 6.9)]),
    ("50/50", "8", [(Some(2.0), 13.4), (Some(0.5), 19.5), (Some(0.2), 5.9), (Some(0.7), 7.7)]),
    ("50/50", "64", [(Some(0.8), 10.3), (Some(0.9), 14.2), (Some(0.1), 6.5), (Some(0.7), 7.7)]),
    ("50/50", "full", [(None, 11.2), (None, 8.8), (None, 5.9), (None, 7.4)]),
    ("25/75", "2", [(Some(4.9), 7.8), (Some(1.8), 11.5), (Some(1.9), 7.2), (Some(0.7), 3.8)]),
    ("25/75", "8", [(Some(2.3), 5.1), (Some(0.9), 10.1), (Some(0.2), 5.9), (Some(0.1), 3.9)]),
    ("25/75", "64", [(Some(0.5), 3.4), (Some(0.0), 7.5), (Some(0.1), 6.5), (Some(0.1), 3.4)]),
    ("25/75", "full", [(None, 2.0), (None, 2.1), (None, 5.9), (None, 3.4)]),
];

/// HBG and AP that the paper prints for a rank.
pub(super) fn printed(split: &str, column: &str, rank: &str) -> Option<(Option<f64>, f64)> {
    let at = COLUMNS.iter().position(|name| *name == column)?;
    ROWS.iter().find(|row| row.0 == split && row.1 == rank).map(|row| row.2[at])
}
