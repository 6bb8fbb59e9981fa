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
    insta::assert_snapshot!(done.text("table", "table.md"), @"
    **Disparity & more**

    | kept | rank | HBG | signed gap | AP | change of AP | paper's HBG | paper's AP |
    | --- | --- | --- | --- | --- | --- | --- | --- |
    | 100% (800 : 1000) | 2 | 7.5 ± 0.0 | −7.5 [−13.8, −3.7] | 9.4 ± 0.9 | +5.0 [−5.0, +11.2] |  |  |
    |  | 8 | 3.7 ± 0.0 | −3.8 [−8.8, −1.2] | 6.9 ± 0.9 | +2.5 [−3.7, +7.5] |  |  |
    |  | full | – |  | 4.4 ± 0.9 |  |  |  |
    | 50% (400 : 1000) | 2 | 7.5 ± 0.0 | −7.5 [−13.1, −2.5] | 20.6 ± 0.9 | +5.0 [−1.9, +11.9] |  |  |
    |  | 8 | 3.7 ± 0.0 | −3.7 [−7.5, +0.0] | 18.1 ± 0.9 | +2.5 [−1.3, +6.2] |  |  |
    |  | full | – |  | 15.6 ± 0.9 |  |  |  |
    | 25% (200 : 1000) | 2 | 7.5 ± 0.0 | −7.5 [−11.9, −2.5] | 31.9 ± 0.9 | +5.0 [−0.6, +11.3] | 1.8 | 11.5 |
    |  | 8 | 3.8 ± 0.0 | −3.7 [−7.5, +0.0] | 29.4 ± 0.9 | +2.5 [−1.2, +6.3] | 0.9 | 10.1 |
    |  | full | – |  | 26.9 ± 0.9 |  | – | 2.1 |

    Percent. Kept: the share of the minority that training kept, with the training examples of minority and majority. HBG: how far the minority's accuracy is from that of full finetuning with the same seed. AP: highest minus lowest accuracy of a group.
    HBG and AP are sizes, point estimates without interval; the signed gap behind HBG, and the change of AP against full finetuning, have 95% bootstrap intervals, paired by test item and run.
    HBG and AP: mean and standard deviation of 2 runs over seed.
    The paper's numbers stand where this study put them: 25/75 GPT-2/SST-2 beside what kept 25% (200 : 1000).
    ");
    insta::assert_snapshot!(done.text("table", "table.tex"), @r#"
    % \usepackage{booktabs}
    \begin{table}
    \centering
    \caption{Disparity \& more}
    \begin{tabular}{llrrrrrr}
    \toprule
    kept & rank & HBG & signed gap & AP & change of AP & HBG (paper) & AP (paper) \\
    \midrule
    100\% (800 : 1000) & 2 & 7.5 $\pm$ 0.0 & $-$7.5 [$-$13.8, $-$3.7] & 9.4 $\pm$ 0.9 & +5.0 [$-$5.0, +11.2] &  &  \\
     & 8 & 3.7 $\pm$ 0.0 & $-$3.8 [$-$8.8, $-$1.2] & 6.9 $\pm$ 0.9 & +2.5 [$-$3.7, +7.5] &  &  \\
     & full & -- &  & 4.4 $\pm$ 0.9 &  &  &  \\
    \midrule
    50\% (400 : 1000) & 2 & 7.5 $\pm$ 0.0 & $-$7.5 [$-$13.1, $-$2.5] & 20.6 $\pm$ 0.9 & +5.0 [$-$1.9, +11.9] &  &  \\
     & 8 & 3.7 $\pm$ 0.0 & $-$3.7 [$-$7.5, +0.0] & 18.1 $\pm$ 0.9 & +2.5 [$-$1.3, +6.2] &  &  \\
     & full & -- &  & 15.6 $\pm$ 0.9 &  &  &  \\
    \midrule
    25\% (200 : 1000) & 2 & 7.5 $\pm$ 0.0 & $-$7.5 [$-$11.9, $-$2.5] & 31.9 $\pm$ 0.9 & +5.0 [$-$0.6, +11.3] & 1.8 & 11.5 \\
     & 8 & 3.8 $\pm$ 0.0 & $-$3.7 [$-$7.5, +0.0] & 29.4 $\pm$ 0.9 & +2.5 [$-$1.2, +6.3] & 0.9 & 10.1 \\
     & full & -- &  & 26.9 $\pm$ 0.9 &  & -- & 2.1 \\
    \bottomrule
    \end{tabular}
    % Percent. Kept: the share of the minority that training kept, with the training examples of minority and majority. HBG: how far the minority's accuracy is from that of full finetuning with the same seed. AP: highest minus lowest accuracy of a group.
    % HBG and AP are sizes, point estimates without interval; the signed gap behind HBG, and the change of AP against full finetuning, have 95% bootstrap intervals, paired by test item and run.
    % HBG and AP: mean and standard deviation of 2 runs over seed.
    % The paper's numbers stand where this study put them: 25/75 GPT-2/SST-2 beside what kept 25% (200 : 1000).
    \end{table}
    "#);
    let csv = done.text("table", "table.csv");
    insta::assert_snapshot!(csv.lines().take(2).collect::<Vec<_>>().join("\n"), @r#"
    result,kept,rank,group,train_minority,train_majority,runs,hbg,hbg_mean_of_runs,hbg_sd_of_runs,signed_gap,signed_gap_low,signed_gap_high,signed_gap_p,ap,ap_mean_of_runs,ap_sd_of_runs,ap_change,ap_change_low,ap_change_high,ap_change_p,undefined,paper,paper_hbg,paper_ap,column,confidence
    "rank=2,kept=1.0",1.0,2,yes,800,1000,2,7.5000,7.5000,0.0000,-7.5000,-13.7500,-3.7187,0.0100,9.3750,9.3750,0.8839,5.0000,-5.0000,11.2500,0.3284,,,,,,0.95
    "#);
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(reader.records().filter(|record| record.as_ref().is_ok_and(|record| record.len() == 27)).count(), 9);
}

#[test]
fn what_can_not_be_told_is_told() {
    let wrong = json!({ "paper": [{ "where": {}, "split": "75/25", "column": "BERT" }], "share": "rank" });
    insta::assert_snapshot!(problems::<DisparityTable>(wrong), @"
    paper.0.split: the paper's table has no `75/25` (hint: give 50/50, 25/75)
    paper.0.column: the paper's table has no `BERT` (hint: give GPT-2/IMDb, GPT-2/SST-2, OPT/IMDb, OPT/SST-2)
    share: the axis `rank` has the ranks already
    ");
    let nowhere = json!({ "paper": [{ "where": { "kept": 0.3 }, "split": "50/50", "column": "GPT-2/IMDb" }] });
    insta::assert_snapshot!(table(nowhere).err().unwrap(), @"`paper` maps to results that are not there: 50/50 GPT-2/IMDb");
    insta::assert_snapshot!(table(json!({ "rank": "r" })).err().unwrap(), @"the metrics have no axis `r`: gather it in `evaluate.groups`");
}

#[test]
fn bytes_are_those_of_this_revision() {
    insta::assert_snapshot!(table(json!({})).unwrap().digest(), @"table 409691e1c902");
}
