use palinode_engine::stage::StageError;
use serde_json::{Value, json};

use super::DisparityTable;
use crate::{
    evaluate_groups::tests::study,
    testing::{Bench, Done, problems},
};

fn table(with: Value) -> Result<Done, StageError> {
    Bench::new().input("metrics", study(true).outputs["metrics"].clone()).run::<DisparityTable>(with)
}

#[test]
fn rows_are_keyed_by_what_was_kept_with_the_papers_numbers_where_they_were_put() {
    let with = json!({
        "caption": "Disparity & more",
        "paper": [{ "where": { "kept": 0.25 }, "split": "25/75", "column": "GPT-2/SST-2" }],
    });
    let done = table(with).unwrap();
    insta::assert_snapshot!(done.text("table", "table.md"), @"");
    insta::assert_snapshot!(done.text("table", "table.tex"), @"");
    let csv = done.text("table", "table.csv");
    insta::assert_snapshot!(csv.lines().take(2).collect::<Vec<_>>().join("\n"), @"");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(reader.records().filter(|record| record.as_ref().is_ok_and(|record| record.len() == 27)).count(), 9);
}

#[test]
fn what_can_not_be_told_is_told() {
    let wrong = json!({ "paper": [{ "where": {}, "split": "75/25", "column": "BERT" }], "share": "rank" });
    insta::assert_snapshot!(problems::<DisparityTable>(wrong), @"");
    let nowhere = json!({ "paper": [{ "where": { "kept": 0.3 }, "split": "50/50", "column": "GPT-2/IMDb" }] });
    insta::assert_snapshot!(table(nowhere).err().unwrap(), @"");
    insta::assert_snapshot!(table(json!({ "rank": "r" })).err().unwrap(), @"");
}

#[test]
fn bytes_are_those_of_this_revision() {
    insta::assert_snapshot!(table(json!({})).unwrap().digest(), @"");
}
