use std::io::Write as _;

use palinode_engine::stage::{Kind as _, StageError};
use serde_json::{Value, json};

use super::{downsample::Downsample, imdb::Imdb, sst2::Sst2, table::FromTable};
use crate::{
    records::{COUNTS, DATASET, Example, Text, TrainCounts},
    testing::{Bench, Done, problems, reference},
};

fn table(name: &str, bytes: &[u8], with: Value) -> Result<Done, StageError> {
    let mut params = json!({ "train": "train" });
    params.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
    Bench::new().files("train", &[(name, bytes)]).run::<FromTable>(params)
}

fn told(name: &str, bytes: &[u8], with: Value) -> String {
    table(name, bytes, with).err().expect("an error").to_string()
}

/// Id, label, group and text of each example of a part.
fn shown(done: &Done, part: &str) -> String {
    let rows = done.rows::<Example>(part, DATASET).into_iter();
    rows.map(|row| format!("{} {} {} {}", row.id, row.label, row.group, row.text)).collect::<Vec<_>>().join("\n")
}

const CSV: &[u8] = b"who,text,label\nann,\"fine, \"\"really\"\"\nso\",1\nbob,bad,0\nann,bad,0\n";

#[test]
fn csv_tsv_and_json_lines_are_read_plain_and_compressed() {
    let plain = table("t.csv", CSV, json!({ "group": "who", "labels": { "0": "no", "1": "yes" } })).unwrap();
    insta::assert_snapshot!(shown(&plain, "train"), @r#"
    train-1 yes ann fine, "really"
    so
    train-2 no bob bad
    train-3 no ann bad
    "#);
    assert_eq!(plain.summary["repeated_in_train"], 1);
    assert_eq!(plain.summary["train_labels"], json!({ "no": 2, "yes": 1 }));
    assert_eq!(plain.summary["train_groups"], json!({ "ann": 2, "bob": 1 }));
    // What trains tokenizers and models reads it, too.
    assert_eq!(plain.rows::<Text>("train", DATASET)[1].text, "bad");

    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(CSV).unwrap();
    let same = json!({ "group": "who", "labels": { "0": "no", "1": "yes" } });
    assert_eq!(plain.digest(), table("t.csv.gz", &gz.finish().unwrap(), same.clone()).unwrap().digest());
    // Two frames, as `cat a.zst b.zst` gives.
    let frame = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let frames = [frame(&CSV[..20]), frame(&CSV[20..])].concat();
    assert_eq!(plain.digest(), table("t.csv.zst", &frames, same).unwrap().digest());

    let wrong = |text: Value| problems::<FromTable>(json!({ "train": "t.csv", "text": text }));
    assert!(wrong(json!([])).contains("a column's name, or a list of names of which a table has one"));
    assert!(wrong(json!(3)).contains("a column's name, or a list of names of which a table has one"));
    // Another name for the same column.
    let renamed = String::from_utf8(CSV.to_vec()).unwrap().replacen("text", "review", 1);
    let either = json!({ "text": ["text", "review"], "group": "who", "labels": { "0": "no", "1": "yes" } });
    assert_eq!(plain.digest(), table("t.csv", renamed.as_bytes(), either.clone()).unwrap().digest());
    assert_eq!(plain.digest(), table("t.csv", CSV, either).unwrap().digest());

    let tsv = b"\xef\xbb\xbftext\tlabel\n\"quoted\t1\nplain\t0\r\n";
    insta::assert_snapshot!(shown(&table("t.tsv", tsv, json!({})).unwrap(), "train"), @r#"
    train-1 1 1 "quoted
    train-2 0 0 plain
    "#);
    let bare = table("t.tsv", b"a b\tx\nc\ty\n", json!({ "header": false, "text": "0", "label": "1" }));
    insta::assert_snapshot!(shown(&bare.unwrap(), "train"), @"
    train-1 x x a b
    train-2 y y c
    ");
    let jsonl = b"{\"text\": \"a\", \"label\": 1, \"part\": \"dev\", \"key\": \"k1\"}\n\n{\"text\": \"b\", \"label\": true, \"part\": \"train\", \"key\": \"k2\"}\n";
    let done = table("t.jsonl", jsonl, json!({ "split": "part", "id": "key" })).unwrap();
    assert_eq!((shown(&done, "train").as_str(), shown(&done, "validation").as_str()), ("k2 true true b", "k1 1 1 a"));
    assert_eq!(shown(&done, "test"), "");
}

#[test]
fn what_is_wrong_with_a_table_is_told_with_its_lines() {
    insta::assert_snapshot!(told("t.csv", b"sentence,target\na,1\n", json!({})), @"t.csv has no column `text`; it has `sentence`, `target`");
    insta::assert_snapshot!(told("t.jsonl", b"{\"text\": \"a\"}\n", json!({})), @"t.jsonl:1 has no field `label`; it has `text`");
    insta::assert_snapshot!(told("t.csv", b"text,label\na,1\n\xff,0\nb,1\nc\xc3,0\n", json!({})), @"t.csv: 2 rows are not UTF-8 (lines 3, 5); nothing was written; mend these rows, or take them out");
    insta::assert_snapshot!(told("t.csv", b"text,label\na,1\nb,0,9\nc,2\nd,\n", json!({ "labels": { "0": "no", "1": "yes" } })), @"t.csv: 1 row is not of 2 fields, as the first is (line 3); t.csv: 1 row is of the label `2`, which is none of `0`, `1` (line 4); t.csv: 1 row is without a label (line 5); nothing was written; mend these rows, or take them out");
    insta::assert_snapshot!(told("t.jsonl", b"{\"text\": \"a\"\n", json!({})), @"t.jsonl: 1 row is no JSON object (line 1); nothing was written; mend these rows, or take them out");
    insta::assert_snapshot!(told("t.csv", b"", json!({})), @"t.csv is empty");
    insta::assert_snapshot!(told("t.csv", b"text,label\n", json!({})), @"there is no row with a text");
    insta::assert_snapshot!(told("t.txt", b"text,label\n", json!({})), @"t.txt: what kind of table it is can't be told by its name; give `format`: csv, tsv, jsonl or parquet");
    insta::assert_snapshot!(told("t.csv.zst", b"text,label\n", json!({})), @"t.csv.zst can't be read: broken zstd data: BadMagicNumber(1954047348)");
    insta::assert_snapshot!(told("t.csv", b"text,label,id\na,1,x\nb,0,x\n", json!({ "id": "id" })), @"1 rows have the id of another row; ids must be unique, also between parts");
    insta::assert_snapshot!(told("t.csv", b"text,label,s\na,1,evaluation\n", json!({ "split": "s" })), @"t.csv: 1 row is of the part `evaluation`, which is none of train, validation, test (line 2); nothing was written; mend these rows, or take them out");
    let many: String = (0..1002).map(|at| format!("a,{at}\n")).collect();
    insta::assert_snapshot!(told("t.csv", format!("text,label\n{many}").as_bytes(), json!({})), @"t.csv: more than 1000 different labels, `1000` among them: is it the right column?");
    insta::assert_snapshot!(problems::<FromTable>(json!({ "train": "a", "test": "b", "split": "s", "take": { "test": 0 }, "validation_share": 2 })), @"
    validation_share: 2 is not a share (hint: give a number between 0 and 1)
    take.test: 0 is too few, give at least 1
    test: `split` says that the table `train` holds all parts (hint: give the column or the tables)
    ");

    // An empty text is left out and counted.
    let done = table("t.csv", b"text,label\na,1\n  ,0\nb,0\n", json!({})).unwrap();
    assert_eq!(
        (done.summary["empty_texts"].as_u64(), shown(&done, "train").as_str()),
        (Some(1), "train-1 1 1 a\ntrain-3 0 0 b")
    );
}

#[test]
fn parts_are_drawn_and_kept_apart() {
    let rows: String = (0..400).map(|at| format!("text {at},{}\n", at % 2)).collect();
    let rows = format!("text,label\n{rows}");
    let draw = |take: usize| {
        let with = json!({ "take": { "train": take }, "validation_share": 0.25, "seed": 4 });
        table("t.csv", rows.as_bytes(), with).unwrap()
    };
    let ids = |done: &Done, part: &str| -> Vec<String> {
        done.rows::<Example>(part, DATASET).into_iter().map(|row| row.id).collect()
    };
    let (small, large) = (draw(50), draw(100));
    assert_eq!((ids(&small, "train").len(), ids(&large, "train").len()), (50, 100));
    assert!(ids(&small, "train").iter().all(|id| ids(&large, "train").contains(id)));
    let held = ids(&small, "validation");
    assert!((70..130).contains(&held.len()), "{}", held.len());
    assert_eq!(held, ids(&large, "validation"));
    assert!(held.iter().all(|id| !ids(&large, "train").contains(id)));

    let test = b"text,label\ntext 7,1\nnew,1\ntext 7,0\n";
    let bench = Bench::new().files("train", &[("a.csv", rows.as_bytes())]).files("test", &[("b.csv", test)]);
    let done = bench.run::<FromTable>(json!({ "train": "train", "test": "test" })).unwrap();
    assert_eq!((&done.summary["test_texts_in_train"], &done.summary["repeated_in_test"]), (&json!(2), &json!(1)));
}

#[test]
fn sst2_and_imdb_are_read_in_their_own_forms() {
    let train = ("train.tsv", &b"sentence\tlabel\na \"gem\t1\nbad \t0\n"[..]);
    let dev = ("dev.tsv", &b"label\tcontent\n1\tfine\n"[..]);
    let glue = ("test.tsv", &b"index\tsentence\n0\tunknown\n"[..]);
    let bench = || Bench::new().files("folder", &[train, dev, glue]);
    let done = bench().run::<Sst2>(json!({ "folder": "folder" })).unwrap();
    assert_eq!(shown(&done, "train"), "train-1 positive positive a \"gem\ntrain-2 negative negative bad");
    assert_eq!(shown(&done, "validation"), "validation-1 positive positive fine");
    assert_eq!((shown(&done, "test").as_str(), &done.summary["unlabelled"]), ("", &json!(1)));
    let none = Bench::new().files("folder", &[dev]).run::<Sst2>(json!({ "folder": "folder" }));
    insta::assert_snapshot!(none.err().unwrap(), @"the folder has no train.tsv (nor train.tsv.zst or train.tsv.gz)");
    assert!(Sst2::reads("folder", "dev.tsv.zst") && !Sst2::reads("folder", "original/dev.tsv"));

    let names = ["train/pos/0_9.txt", "train/neg/0_2.txt", "test/pos/3_8.txt"];
    let files = names.map(|name| (name, &b"one<br /><br />two "[..]));
    let done = Bench::new().files("folder", &files).run::<Imdb>(json!({ "folder": "folder" })).unwrap();
    assert_eq!(
        shown(&done, "train"),
        "train/neg/0_2 negative negative one two\ntrain/pos/0_9 positive positive one two"
    );
    assert_eq!(shown(&done, "test"), "test/pos/3_8 positive positive one two");
    assert!(!Imdb::reads("folder", "train/unsup/0_0.txt") && !Imdb::reads("folder", "train/pos/urls"));
    let tsv = &b"label\tid\ttext\npos\t0\tfine\nneg\t1\tbad\nmixed\t1\tso so\n"[..];
    let told = Bench::new().files("train", &[("t.tsv", tsv)]).run::<Imdb>(json!({ "train": "train" }));
    insta::assert_snapshot!(told.err().unwrap(), @"t.tsv: 1 row is of the label `mixed`, which is none of `neg`, `negative`, `0`, `pos`, `positive`, `1` (line 4); nothing was written; mend these rows, or take them out");
    insta::assert_snapshot!(problems::<Imdb>(json!({})), @"folder: nothing says where the reviews are (hint: give `folder` (aclImdb), or the tables `train` and `test`)");
}

#[test]
fn real_tables_have_their_published_sizes() {
    let Some(root) = reference() else { return };
    let folder = root.join("data/sst2_glue");
    let bench = Bench::new().folder("folder", &folder, &|name| Sst2::reads("folder", name));
    let done = bench.run::<Sst2>(json!({ "folder": "folder", "take": { "train": 12000 } })).unwrap();
    assert_eq!(done.summary["test_labels"], json!({ "negative": 912, "positive": 909 }));
    assert_eq!((&done.summary["train"], &done.summary["validation"]), (&json!(12000), &json!(872)));
    let bytes = std::fs::read(root.join("data/imdb/imdb_test.tsv.zst")).unwrap();
    let bench = Bench::new().files("train", &[("imdb_test.tsv.zst", &bytes)]);
    let done = bench.run::<Imdb>(json!({ "train": "train" })).unwrap();
    assert_eq!(done.summary["train_labels"], json!({ "negative": 12500, "positive": 12500 }));
}

fn examples(counts: &[(&str, usize)]) -> Vec<Value> {
    let of = |&(label, count): &(&str, usize)| {
        let label = label.to_owned();
        (0..count).map(move |at| {
            json!({ "id": format!("{label}{at}"), "text": "t", "label": label, "group": label, "split": "train" })
        })
    };
    counts.iter().flat_map(of).collect()
}

fn downsample(rows: &[Value], with: Value) -> Result<Done, StageError> {
    Bench::new().rows("train", DATASET, rows).run::<Downsample>(with)
}

#[test]
fn shares_of_a_group_are_nested_and_counted() {
    let rows = examples(&[("no", 90), ("yes", 60)]);
    let ids = |share: f64, seed: u64| -> Vec<String> {
        let done = downsample(&rows, json!({ "share": share, "seed": seed })).unwrap();
        done.rows::<Example>("train", DATASET).into_iter().map(|row| row.id).collect()
    };
    let kept = [0.25, 0.5, 0.75, 1.0].map(|share| ids(share, 1));
    assert_eq!(kept.each_ref().map(Vec::len), [105, 120, 135, 150]);
    assert!(kept.windows(2).all(|pair| pair[0].iter().all(|id| pair[1].contains(id))));
    assert_ne!(kept[0], ids(0.25, 2));
    let counts: TrainCounts = downsample(&rows, json!({ "share": 0.25 })).unwrap().json("counts", COUNTS);
    insta::assert_snapshot!(serde_json::to_string(&counts).unwrap(), @r#"{"group":"yes","share":0.25,"before":{"no":90,"yes":60},"after":{"no":90,"yes":15}}"#);

    let told = |rows: &[Value], with: Value| downsample(rows, with).err().unwrap().to_string();
    insta::assert_snapshot!(told(&rows, json!({ "share": 0.001 })), @"with 0.001 of the group `yes` no example of the class `yes` is left (it had 60): a model could not learn it; keep more");
    insta::assert_snapshot!(told(&rows, json!({ "share": 0.5, "group": "maybe" })), @"there is no group `maybe`; there are `no` (90), `yes` (60)");
    insta::assert_snapshot!(told(&examples(&[("a", 5), ("b", 5)]), json!({ "share": 0.5 })), @"no group is the smallest: `a` (5), `b` (5); name one as `group`");
    let mut test = examples(&[("a", 1)]);
    test[0]["split"] = json!("test");
    insta::assert_snapshot!(told(&test, json!({ "share": 0.5 })), @"`a0` is of the test part, and only training examples may be taken away");
    insta::assert_snapshot!(problems::<Downsample>(json!({ "share": 1.5 })), @"share: 1.5 is not a share (hint: give a number from 0 to 1)");
}

#[test]
fn bytes_are_those_of_this_revision() {
    let with = json!({ "group": "who", "take": { "train": 2 } });
    insta::assert_snapshot!(table("t.csv", CSV, with).unwrap().digest(), @"
    test be18e7df416b
    train fcee225e42d9
    validation be18e7df416b
    ");
    let done = downsample(&examples(&[("no", 9), ("yes", 6)]), json!({ "share": 0.5 })).unwrap();
    insta::assert_snapshot!(done.digest(), @"
    counts 24b7edf5ad9e
    train 045d2a79ebf0
    ");
    let files = [("train.tsv", &b"sentence\tlabel\na\t1\n"[..])];
    let done = Bench::new().files("folder", &files).run::<Sst2>(json!({ "folder": "folder" })).unwrap();
    insta::assert_snapshot!(done.digest(), @"
    test be18e7df416b
    train 9399f9fd490a
    validation be18e7df416b
    ");
    let files = [("train/pos/0_9.txt", &b"one<br />two"[..])];
    let done = Bench::new().files("folder", &files).run::<Imdb>(json!({ "folder": "folder" })).unwrap();
    insta::assert_snapshot!(done.digest(), @"
    test be18e7df416b
    train 6e2c1f2c2725
    validation be18e7df416b
    ");
}
