//! What is published, and what it tells.

use super::*;
use crate::{
    audit::{Verdict, audit},
    explain::explain,
};

#[test]
fn published_files_come_back_and_nothing_runs() {
    let place = Place::new();
    place.run(&chain("x"));
    let svg = place.path("out/figure.svg");
    let original = fs::read(&svg).unwrap();
    let changed = String::from_utf8(original.clone()).unwrap().replace("<text>", "<text >");
    fs::write(&svg, changed).unwrap();
    fs::remove_file(place.path("out/figure.csv")).unwrap();
    let again = place.run(&chain("x"));
    assert_eq!((counts(&again), again.written.len()), ((0, 4, 0, 0, 0), 2));
    assert_eq!(fs::read(&svg).unwrap(), original);
    // A renamed stage: the same results under other names.
    let mut renamed = chain("x");
    renamed.0.dag[NodeIndex::new(0)].address.stage = "corpus".into();
    let again = place.run(&renamed);
    assert_eq!((counts(&again), again.written), ((0, 4, 0, 0, 0), vec![svg.clone()]));
    let stamp = audit(&svg, None).unwrap();
    assert!(stamp.lineage.nodes.values().any(|node| node.address == "corpus"));
}

#[test]
fn a_figure_tells_where_it_came_from_wherever_it_is() {
    let place = Place::new();
    let summary = place.run(&chain("x"));
    let copy = place.path("mailed.dat");
    fs::copy(place.path("out/figure.svg"), &copy).unwrap();
    let told = audit(&copy, Some(&place.cache)).unwrap();
    assert_eq!((&told.verdict, told.missing.as_deref()), (&Verdict::Intact, Some(&[][..])));
    {
        assert_snapshot!(redact(&told.render()), @r#"
    intact: every byte is as it was published
      figure    figure of test, file figure/figure.svg
      key       [digest]
      content   [digest]
      published by palinode 0.1.0
      cache     every file of all 4 results behind it is there and whole

    figure  draw r1  [short]
    ├─ all[x=0] [short] <- b  text r1  [short]
    │  │  counter = ""
    │  │  mode = "length"
    │  │  text = ""
    │  └─ one [short] <- a  text r1  [short]
    │        counter = ""
    │        mode = "echo"
    │        text = "x"
    └─ all[x=1] [short] <- c  text r1  [short]
       │  mode = "echo"
       │  text = "c"
       └─ one [short] <- b  text r1  [short]  (see above)
    "#)
    }
    // One digit of the figure is changed.
    let text = fs::read_to_string(&copy).unwrap().replace("c1</text>", "c2</text>");
    fs::write(&copy, text).unwrap();
    let told = audit(&copy, None).unwrap();
    assert!(told.render().starts_with("altered: its content was changed"), "{}", told.render());
    fs::remove_file(blob(&place, &summary, "b")).unwrap();
    let told = audit(&place.path("out/figure.svg"), Some(&place.cache)).unwrap();
    assert_eq!(told.missing.unwrap()[0].address, "b");
    let told = audit(&place.path("out/figure.csv"), None).unwrap();
    assert_snapshot!(told.render(), @"altered, or not a Palinode figure: no stamp can be read");
}

#[test]
fn rows_of_a_gather_are_told_by_what_differs() {
    let place = Place::new();
    let mut pipe = Pipe::new();
    let shared = pipe.text("shared", "s");
    let rows: Vec<_> = (0..3)
        .map(|x| {
            let base = pipe.after(&format!("base[x={x}]"), shared, json!({ "text": x.to_string() }));
            pipe.after(&format!("tuned[x={x}]"), base, json!({ "text": "t" }))
        })
        .collect();
    let figure = pipe.add("figure", "draw", json!({}));
    pipe.gather(&rows, figure, Missing::Error);
    place.run(&pipe);
    let told = audit(&place.path("out/figure.svg"), None).unwrap();
    let tree = told.render().split_once("\n\n").unwrap().1.to_owned();
    {
        assert_snapshot!(redact(&tree), @r#"
    figure  draw r1  [short]
    ├─ all[x=0] [short] <- tuned[x=0]  text r1  [short]
    │  │  counter = ""
    │  │  mode = "echo"
    │  │  text = "t"
    │  └─ one [short] <- base[x=0]  text r1  [short]
    │     │  counter = ""
    │     │  mode = "echo"
    │     │  text = "0"
    │     └─ one [short] <- shared  text r1  [short]
    │           counter = ""
    │           mode = "echo"
    │           text = "s"
    ├─ all[x=1] [short] <- tuned[x=1]  text r1  [short]
    │  └─ one [short] <- base[x=1]  text r1  [short]
    │     │  text = "1"
    │     └─ one [short] <- shared  text r1  [short]  (see above)
    └─ all[x=2] [short] <- tuned[x=2]  text r1  [short]
       └─ one [short] <- base[x=2]  text r1  [short]
          │  text = "2"
          └─ one [short] <- shared  text r1  [short]  (see above)
    "#)
    }
}

#[test]
fn why_tells_the_maker_and_the_last_difference() {
    let place = Place::new();
    let first = place.run(&chain("x"));
    let pipe = chain("y");
    let why = |node: usize| {
        let nodes = [NodeIndex::new(node)].into();
        explain(&pipe.0, &pipe.all(), &nodes, &place.cache).unwrap().remove(0).render()
    };
    assert_snapshot!(why(0), @r#"
    a (text)
      will run: `with.text` changed: "x" -> "y"
    "#);
    let second = place.run(&pipe);
    let text = why(0);
    assert!(text.contains(&format!("in run {}", second.run)), "{text}");
    assert!(text.contains(&format!("before, in run {}", first.run)), "{text}");
    assert!(text.ends_with("    `with.text` changed: \"x\" -> \"y\"\n"), "{text}");
    assert!(text.contains("  from text, revision 1\n    with.counter = \"\"\n"), "{text}");
    // `b` came out the same: its result is the first run's.
    let text = why(2);
    assert!(text.contains(&format!("in run {}", first.run)), "{text}");
}
