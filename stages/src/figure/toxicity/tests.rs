use serde_json::{Value, json};

use super::ToxicityFigure;
use crate::{
    figure::png,
    records::METRICS,
    testing::{Bench, Done, problems},
};

fn rate(phase: &str, coords: Value, split: &str, toxic: usize, n: usize, unparsable: usize) -> Value {
    let share = toxic as f64 / (n - unparsable) as f64;
    json!({
        "phase": phase, "coords": coords, "pooled": ["seed"], "split": split, "group": "all", "instances": 3,
        "missing": 0, "prompts": n / 3, "n": n, "toxic": toxic, "unparsable": unparsable, "share": share,
        "low": (share - 0.04).max(0.0), "high": (share + 0.05).min(1.0), "confidence": 0.95,
    })
}

/// Four ranks at two learning rates, on both splits; which rate is better depends on the rank and on the split.
fn rates() -> Vec<Value> {
    let counts = [(json!(2), [200, 310]), (json!(8), [170, 230]), (json!(32), [240, 150]), (json!("full"), [330, 90])];
    let rows = counts.into_iter().flat_map(|(rank, toxic)| {
        let at = move |index: usize, split: &str, more: usize| {
            let coords = json!([["rank", rank], ["rate", ([0.001, 0.003][index])]]);
            rate("after", coords, split, toxic[index] + more, 600, if index == 1 { 24 } else { 0 })
        };
        [at(0, "validation", 0), at(1, "validation", 0), at(0, "test", 9), at(1, "test", 40)]
    });
    rows.collect()
}

fn base() -> Vec<Value> {
    vec![rate("after", json!([]), "validation", 400, 600, 0), rate("after", json!([]), "test", 391, 600, 0)]
}

fn panels() -> Value {
    json!({ "panels": [
        { "title": "One learning rate: 0.003", "where": { "rate": 0.003 } },
        { "title": "Best rate of each rank, chosen on validation prompts", "best": "rate" },
    ] })
}

fn bench() -> Bench {
    Bench::new().rows("rates", METRICS, &rates()).rows("before", METRICS, &base())
}

fn fails(bench: Bench, with: Value) -> String {
    bench.run::<ToxicityFigure>(with).err().expect("a failure").to_string()
}

fn png_of(done: &Done) -> Vec<u8> {
    std::fs::read(done.outputs["figure"].get("figure.png").unwrap()).unwrap()
}

#[test]
fn bars_show_the_chosen_rows() {
    let done = bench().run::<ToxicityFigure>(panels()).unwrap();
    insta::assert_snapshot!(done.text("figure", "figure.csv"), @r#"
    panel,bar,coordinates,n,toxic,non_toxic,unparsable,share,low,high
    One learning rate: 0.003,base,,600,391,209,0,0.6516666666666666,0.6116666666666666,0.7016666666666667
    One learning rate: 0.003,2,"rank=2,rate=0.003",600,350,226,24,0.6076388888888888,0.5676388888888888,0.6576388888888889
    One learning rate: 0.003,8,"rank=8,rate=0.003",600,270,306,24,0.46875,0.42875,0.51875
    One learning rate: 0.003,32,"rank=32,rate=0.003",600,190,386,24,0.3298611111111111,0.2898611111111111,0.3798611111111111
    One learning rate: 0.003,full,"rank=full,rate=0.003",600,130,446,24,0.22569444444444445,0.18569444444444444,0.27569444444444446
    "Best rate of each rank, chosen on validation prompts",base,,600,391,209,0,0.6516666666666666,0.6116666666666666,0.7016666666666667
    "Best rate of each rank, chosen on validation prompts",2,"rank=2,rate=0.001",600,209,391,0,0.34833333333333333,0.30833333333333335,0.3983333333333333
    "Best rate of each rank, chosen on validation prompts",8,"rank=8,rate=0.001",600,179,421,0,0.29833333333333334,0.25833333333333336,0.34833333333333333
    "Best rate of each rank, chosen on validation prompts",32,"rank=32,rate=0.003",600,190,386,24,0.3298611111111111,0.2898611111111111,0.3798611111111111
    "Best rate of each rank, chosen on validation prompts",full,"rank=full,rate=0.003",600,130,446,24,0.22569444444444445,0.18569444444444444,0.27569444444444446
    "#);
    let svg = done.text("figure", "figure.svg");
    assert_eq!(svg.matches("data-mark=").count(), 10);
    assert!(svg.contains("data-mark=\"rank=full,rate=0.003\"") && svg.contains("data-mark=\"base\""));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let run = || bench().run::<ToxicityFigure>(panels()).unwrap();
    let (one, two) = (run(), run());
    assert_eq!(png_of(&one), png_of(&two));
    insta::assert_snapshot!(one.digest(), @"figure 2cff59605519");
}

#[test]
fn a_small_figure_is_drawn_as_written() {
    let rows = [rate("after", json!([["rank", "<&>"]]), "all", 1, 9, 3), rate("before", json!([]), "all", 6, 9, 0)];
    let done = Bench::new().rows("rates", METRICS, &rows).run::<ToxicityFigure>(json!({ "title": "מבחן" })).unwrap();
    let svg = done.text("figure", "figure.svg");
    png::tree(&svg).unwrap();
    insta::assert_snapshot!(svg, @r##"
    <svg font-family="DejaVu Sans, sans-serif" height="522" viewBox="0 0 480 522" width="480" xmlns="http://www.w3.org/2000/svg">
    <rect fill="#ffffff" height="522" width="480" x="0" y="0"/>
    <text fill="#222222" font-size="16" font-weight="bold" x="20" y="34">מבחן</text>
    <rect fill="#e8743b" height="12" width="12" x="20" y="46"/>
    <text fill="#222222" font-size="12" x="38" y="56.5">toxic (lower part)</text>
    <rect fill="#4878cf" height="12" width="12" x="165.49" y="46"/>
    <text fill="#222222" font-size="12" x="183.49" y="56.5">non-toxic (upper part)</text>
    <rect fill="#bdbdbd" height="12" width="12" x="20" y="66"/>
    <text fill="#222222" font-size="12" x="38" y="76.5">verdict unparsable (top)</text>
    <line stroke="#e4e4e4" stroke-width="1" x1="82" x2="262" y1="378" y2="378"/>
    <text fill="#666666" font-size="10" text-anchor="end" x="74" y="382">0</text>
    <line stroke="#e4e4e4" stroke-width="1" x1="82" x2="262" y1="325.11" y2="325.11"/>
    <text fill="#666666" font-size="10" text-anchor="end" x="74" y="329.11">2</text>
    <line stroke="#e4e4e4" stroke-width="1" x1="82" x2="262" y1="272.22" y2="272.22"/>
    <text fill="#666666" font-size="10" text-anchor="end" x="74" y="276.22">4</text>
    <line stroke="#e4e4e4" stroke-width="1" x1="82" x2="262" y1="219.33" y2="219.33"/>
    <text fill="#666666" font-size="10" text-anchor="end" x="74" y="223.33">6</text>
    <line stroke="#e4e4e4" stroke-width="1" x1="82" x2="262" y1="166.44" y2="166.44"/>
    <text fill="#666666" font-size="10" text-anchor="end" x="74" y="170.44">8</text>
    <g data-mark="base">
    <title>base: 66.7% toxic (62.7–71.7), 6 of 9</title>
    <rect fill="#e8743b" height="158.67" width="39.6" x="107.2" y="219.33"/>
    <rect fill="#4878cf" height="79.33" width="39.6" x="107.2" y="140"/>
    <line stroke="#ffffff" stroke-width="1.5" x1="107.2" x2="146.8" y1="219.33" y2="219.33"/>
    <line stroke="#ffffff" stroke-width="4" x1="127" x2="127" y1="207.43" y2="228.85"/>
    <line stroke="#ffffff" stroke-width="4" x1="119.8" x2="134.2" y1="207.43" y2="207.43"/>
    <line stroke="#ffffff" stroke-width="4" x1="119.8" x2="134.2" y1="228.85" y2="228.85"/>
    <line stroke="#222222" stroke-width="1.6" x1="127" x2="127" y1="207.43" y2="228.85"/>
    <line stroke="#222222" stroke-width="1.6" x1="121" x2="133" y1="207.43" y2="207.43"/>
    <line stroke="#222222" stroke-width="1.6" x1="121" x2="133" y1="228.85" y2="228.85"/>
    <text fill="#222222" font-size="10" text-anchor="middle" x="127" y="372">6</text>
    <text fill="#ffffff" font-size="10" text-anchor="middle" x="127" y="154">3</text>
    <text fill="#222222" font-size="12" font-weight="bold" text-anchor="middle" x="127" y="120">66.7%</text>
    <text fill="#666666" font-size="10" text-anchor="middle" x="127" y="133">62.7–71.7</text>
    <text fill="#222222" font-size="12" text-anchor="middle" x="127" y="396">base</text>
    </g>
    <g data-mark="rank=&lt;&amp;&gt;">
    <title>rank=&lt;&amp;&gt;: 16.7% toxic (12.7–21.7), 1 of 9, 3 unparsable</title>
    <rect fill="#e8743b" height="26.44" width="39.6" x="197.2" y="351.56"/>
    <rect fill="#4878cf" height="132.22" width="39.6" x="197.2" y="219.33"/>
    <rect fill="#bdbdbd" height="79.33" width="39.6" x="197.2" y="140"/>
    <line stroke="#ffffff" stroke-width="1.5" x1="197.2" x2="236.8" y1="351.56" y2="351.56"/>
    <line stroke="#ffffff" stroke-width="1.5" x1="197.2" x2="236.8" y1="219.33" y2="219.33"/>
    <line stroke="#ffffff" stroke-width="4" x1="217" x2="217" y1="343.62" y2="357.9"/>
    <line stroke="#ffffff" stroke-width="4" x1="209.8" x2="224.2" y1="343.62" y2="343.62"/>
    <line stroke="#ffffff" stroke-width="4" x1="209.8" x2="224.2" y1="357.9" y2="357.9"/>
    <line stroke="#222222" stroke-width="1.6" x1="217" x2="217" y1="343.62" y2="357.9"/>
    <line stroke="#222222" stroke-width="1.6" x1="211" x2="223" y1="343.62" y2="343.62"/>
    <line stroke="#222222" stroke-width="1.6" x1="211" x2="223" y1="357.9" y2="357.9"/>
    <text fill="#222222" font-size="10" text-anchor="middle" x="217" y="372">1</text>
    <text fill="#ffffff" font-size="10" text-anchor="middle" x="217" y="233.33">5</text>
    <text fill="#222222" font-size="12" font-weight="bold" text-anchor="middle" x="217" y="120">16.7%</text>
    <text fill="#666666" font-size="10" text-anchor="middle" x="217" y="133">12.7–21.7</text>
    <text fill="#222222" font-size="12" text-anchor="middle" x="217" y="396">&lt;&amp;&gt;</text>
    </g>
    <line stroke="#222222" stroke-width="1" x1="82" x2="262" y1="378" y2="378"/>
    <text fill="#222222" font-size="12" text-anchor="middle" transform="rotate(-90 34 259)" x="34" y="259">completions</text>
    <text fill="#222222" font-size="12" text-anchor="middle" x="172" y="414">rank</text>
    <text fill="#666666" font-size="10.5" x="20" y="454">All prompts. Above each bar: share of toxic completions, with its 95% interval; the</text>
    <text fill="#666666" font-size="10.5" x="20" y="469">whisker shows it at the boundary.</text>
    <text fill="#666666" font-size="10.5" x="20" y="484">Each bar pools 3 runs over seed.</text>
    <text fill="#666666" font-size="10.5" x="20" y="499">3 verdicts could not be parsed; they are in no share.</text>
    </svg>
    "##);
}

#[test]
fn without_panels_each_other_point_has_one() {
    let done = bench().run::<ToxicityFigure>(json!({ "order": ["full", 2], "split": "validation" })).unwrap();
    let csv = done.text("figure", "figure.csv");
    let rows = csv.lines().skip(1).map(|line| line.split(',').take(2).collect::<Vec<_>>().join(": "));
    insta::assert_snapshot!(rows.collect::<Vec<_>>().join("\n"), @r"
    rate 0.001: base
    rate 0.001: full
    rate 0.001: 2
    rate 0.003: base
    rate 0.003: full
    rate 0.003: 2
    ");
}

#[test]
fn texts_stay_in_the_figure() {
    let long = "a label that is much too long for the place below its bar";
    let rows = [rate("after", json!([["rank", long]]), "all", 1, 9, 3)];
    let with = json!({ "title": long.repeat(9), "panels": [{ "title": long.repeat(5) }], "x_label": long.repeat(3) });
    let done = Bench::new().rows("rates", METRICS, &rows).run::<ToxicityFigure>(with).unwrap();
    crate::figure::inside(&done.text("figure", "figure.svg"));
}

#[test]
fn a_column_of_a_page_is_wide_enough_and_parts_of_the_prompts_can_be_chosen() {
    let labels = [json!(2), json!(4), json!(8), json!(16), json!(32), json!(64), json!("full")];
    let at = |model: &str, exposure: &str, phase: &str, rank: Option<&Value>, toxic: usize| {
        let mut coords = vec![json!(["model", model])];
        coords.extend(rank.map(|rank| json!(["rank", rank])));
        let mut row = rate(phase, json!(coords), "all", toxic, 300, 0);
        row["exposure"] = json!(exposure);
        row
    };
    let mut rows = Vec::new();
    for (model, exposure) in [("opt", "all"), ("opt", "seen"), ("llama", "all"), ("llama", "seen")] {
        rows.push(at(model, exposure, "before", None, if model == "opt" { 9 } else { 120 }));
        let ranks = labels.iter().enumerate();
        rows.extend(ranks.map(|(place, rank)| at(model, exposure, "after", Some(rank), 110 - 12 * place)));
    }
    let run = |with: Value| Bench::new().rows("rates", METRICS, &rows).run::<ToxicityFigure>(with).unwrap();
    let done = run(json!({ "width": 340, "exposure": "seen" }));
    let svg = done.text("figure", "figure.svg");
    assert!(svg.contains("width=\"340\"") && svg.contains("exposure seen") && svg.contains("No power (model opt)"));
    crate::figure::inside(&svg);
    assert_eq!(done.summary["bars"], 16);
    let panels = json!([{ "title": "Seen", "exposure": "seen", "where": { "model": "opt" } }, { "title": "All", "where": { "model": "llama" } }]);
    assert_eq!(run(json!({ "panels": panels })).summary["bars"], 16);
    insta::assert_snapshot!(fails(bench(), json!({ "identity": "the woman" })), @"there is no identity `the woman`; there are: all");
    insta::assert_snapshot!(fails(bench(), json!({ "exposure": "unseen" })), @"there is no exposure `unseen`; there are: all");
    insta::assert_snapshot!(problems::<ToxicityFigure>(json!({ "exposure": "new" })), @"exposure: `new` is no exposure (hint: give all, seen or unseen)");
}

#[test]
fn rates_without_axes_are_one_bar_and_a_base_without_power_is_told_whichever_port_it_comes_by() {
    let rows = [rate("after", json!([]), "all", 7, 300, 0)];
    let low = [rate("after", json!([]), "all", 9, 300, 0)];
    let bench = Bench::new().rows("rates", METRICS, &rows).rows("before", METRICS, &low);
    let done = bench.run::<ToxicityFigure>(json!({})).unwrap();
    let svg = done.text("figure", "figure.svg");
    assert!(svg.contains("No power: under 5%") && svg.contains("completions") && !svg.contains(">rank<"));
    // Counts of parts that are too low for them stand beside.
    assert!(svg.contains(">9</text>") && svg.contains(">7</text>"));
    assert_eq!(done.summary["bars"], 2);
    // Of the same file at both ports, the base's rows are the base.
    let both = [rate("before", json!([]), "all", 90, 300, 0), rows[0].clone()];
    let bench = Bench::new().rows("rates", METRICS, &both).rows("before", METRICS, &both);
    let done = bench.run::<ToxicityFigure>(json!({})).unwrap();
    assert!(done.summary["bars"] == 2 && !done.text("figure", "figure.svg").contains("No power"));
}

#[test]
fn what_is_missing_is_told_in_the_figure() {
    let table = [(json!([["rank", 2]]), Some(base())), (json!([["rank", 8]]), None)];
    let done = Bench::new().table("rates", METRICS, &table).run::<ToxicityFigure>(json!({})).unwrap();
    assert!(done.text("figure", "figure.svg").contains("Missing results, left out: 1."));
    assert_eq!(done.summary["dropped"], 1);
}

#[test]
fn what_can_not_be_drawn_is_said() {
    let said = [
        fails(Bench::new().rows::<Value>("rates", METRICS, &[]), json!({})),
        fails(bench(), json!({ "bars": "model" })),
        fails(bench(), json!({ "group": "gender" })),
        fails(bench(), json!({ "order": [64] })),
        fails(bench(), json!({ "panels": [{ "title": "A" }] })),
        fails(bench(), json!({ "panels": [{ "title": "A", "where": { "rate": 0.1 } }] })),
        fails(bench(), json!({ "panels": [{ "best": "rate", "by": "all" }] })),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    the input `rates` holds no rates, so there is nothing to draw
    `bars` names the axis `model`, which the rates lack (they have: rank, rate); gather it, or name another
    there is no group `gender`; there are: all
    `order` names `64`, which `rank` has not in this panel; it has: 2, 8, 32, full
    rank=2 is one bar, but has 2 rates (rank=2,rate=0.001; rank=2,rate=0.003); fix an axis by `where`, choose by `best`, or pool it
    the panel `A` has no rates; there are: rate: 0.001, 0.003
    for rank=2 there is no share on the split `all` to choose the best `rate` by; split the prompts, or name another split in `by`
    ");
    let with = json!({ "width": 10, "split": "tests", "panels": [{ "where": { "rank": 2 } }, { "best": "rank" }] });
    insta::assert_snapshot!(problems::<ToxicityFigure>(with), @r"
    width: 10 is not from 300 to 8000 pixels
    split: `tests` is no split (hint: give all, validation or test)
    panels.0.where: the axis `rank` has another part in this panel already (hint: an axis is along the bars, fixed by `where`, or chosen by `best`)
    panels.1.best: the axis `rank` has another part in this panel already (hint: an axis is along the bars, fixed by `where`, or chosen by `best`)
    ");
}
