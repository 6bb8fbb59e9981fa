use serde_json::{Value, json};

use super::LensFigure;
use crate::{
    figure::png,
    records::TRAJECTORY,
    testing::{Bench, Done, problems},
};

const TOKENS: [&str; 6] = ["<s>", "she", " should", " work", " as", " a"];
const TOPS: [&str; 8] = [" a", " nurse", "\n", " incomprehensibilities", " the", " teacher", "é", " \u{202e}"];

fn cells(prompt: &str, tokens: &[&str], layers: usize, shift: usize) -> Vec<Value> {
    let cell = |layer: usize, position: usize| {
        let at = layer * 5 + position * 3 + shift;
        let entropy = 6.2 * (1.0 - layer as f64 / layers as f64) + (at % 7) as f64 * 0.2;
        json!({
            "prompt": prompt, "layer": layer, "position": position, "token": tokens[position],
            "top": TOPS[at % TOPS.len()], "max_probability": 0.25, "entropy": entropy, "next": tokens.get(position + 1),
            "top_k": [[TOPS[at % TOPS.len()], 0.25], ["</script><b>", 0.125], ["\u{1f642}\n", 0.1]],
            "continuation": position >= 4, "final_rank": 3, "kl": 0.5, "js": 0.1, "tv": 0.2,
        })
    };
    (0..layers).flat_map(|layer| (0..tokens.len()).map(move |position| cell(layer, position))).collect()
}

fn bench() -> Bench {
    let prompt = "she should work as a";
    let row = |rank: Value, shift| (json!([["rank", rank]]), Some(cells(prompt, &TOKENS, 3, shift)));
    let rows = [row(json!(2), 1), row(json!(32), 2), row(json!("full"), 3)];
    Bench::new().rows("base", TRAJECTORY, &cells(prompt, &TOKENS, 3, 0)).table("trajectories", TRAJECTORY, &rows)
}

fn png_of(done: &Done) -> Vec<u8> {
    std::fs::read(done.outputs["figure"].get("figure.png").unwrap()).unwrap()
}

fn fails(rows: &[Value], with: Value) -> String {
    let bench = Bench::new().rows("trajectories", TRAJECTORY, rows);
    bench.run::<LensFigure>(with).err().expect("a failure").to_string()
}

#[test]
fn grids_stand_side_by_side() {
    let done = bench().run::<LensFigure>(json!({})).unwrap();
    let svg = done.text("figure", "figure.svg");
    assert_eq!(svg.matches("data-layer=\"2\"").count(), 4 * TOKENS.len());
    assert_eq!(svg.matches("data-mark=\"rank=full\"").count(), 1 + 3 * TOKENS.len());
    let csv = done.text("figure", "figure.csv");
    insta::assert_snapshot!(csv.lines().take(4).collect::<Vec<_>>().join("\n"), @r"
    grid,prompt,sample,layer,position,token,next,top,max_probability,entropy,final_rank,kl,js,tv
    base,she should work as a,0,0,0,<s>,she, a,0.25,6.2,3,0.5,0.1,0.2
    base,she should work as a,0,0,1,she, should, incomprehensibilities,0.25,6.800000000000001,3,0.5,0.1,0.2
    base,she should work as a,0,0,2, should, work,é,0.25,7.4,3,0.5,0.1,0.2
    ");
    crate::figure::inside(&svg);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let run = || bench().run::<LensFigure>(json!({ "width": 600 })).unwrap();
    let (one, two) = (run(), run());
    assert_eq!(png_of(&one), png_of(&two));
    insta::assert_snapshot!(one.digest(), @"figure 7c5715b2c037");
}

#[test]
fn a_small_figure_is_drawn_as_written() {
    let rows = cells("<i>", &["<i>"], 2, 6);
    let done = Bench::new().rows("trajectories", TRAJECTORY, &rows).run::<LensFigure>(json!({})).unwrap();
    let svg = done.text("figure", "figure.svg");
    png::tree(&svg).unwrap();
    let cell = svg.lines().skip_while(|line| !line.contains("data-layer=\"1\"")).take(5);
    insta::assert_snapshot!(cell.collect::<Vec<_>>().join("\n"), @r##"
    <g data-layer="1" data-mark="model" data-position="0">
    <title>model: layer 1, after &lt;i&gt;: ␣incomprehensibilities with probability 0.250, entropy 3.900 nats</title>
    <rect fill="#f0e6e2" height="22" stroke="#ffffff" width="84" x="70" y="90"/>
    <text fill="#000000" font-size="10.5" text-anchor="middle" x="112" y="104.8">␣incompreh…</text>
    </g>
    "##);
}

#[test]
fn prompts_have_blocks_and_one_can_be_chosen() {
    let long = "a prompt that goes on and on ".repeat(12);
    let rows = [cells("b", &["b", "שלום"], 2, 0), cells(&long, &TOKENS, 4, 1)].concat();
    let bench = || Bench::new().rows("trajectories", TRAJECTORY, &rows);
    let both = bench().run::<LensFigure>(json!({ "title": "Two prompts" })).unwrap();
    crate::figure::inside(&both.text("figure", "figure.svg"));
    assert_eq!(both.summary["grids"], 2);
    let one = bench().run::<LensFigure>(json!({ "prompt": "b" })).unwrap();
    assert_eq!(one.text("figure", "figure.csv").lines().count(), 5);
}

#[test]
fn the_page_holds_texts_only_and_needs_nothing_beside_it() {
    let rows = cells("<img src=x onerror=alert(1)>", &["<i>", "&amp;", "'\"", "\u{202e}\u{0}", " go", "\n"], 2, 0);
    let done =
        Bench::new().rows("trajectories", TRAJECTORY, &rows).run::<LensFigure>(json!({ "title": "<b>" })).unwrap();
    let page = done.text("figure", "figure.html");
    assert_eq!(page.matches("<script").count(), 2, "the data and the code");
    assert_eq!(page.matches("</script>").count(), 2);
    for markup in ["<img", "<i>", "<b>", "\u{202e}", "\u{0}", "http:", "https:", "src="] {
        assert!(!page.contains(markup) || markup == "src=" && page.contains("&lt;img src=x"), "{markup}");
    }
    assert_eq!(page.matches("data-cell=").count(), 12);
    let data = page.split("id=\"cells\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: Vec<Value> = serde_json::from_str(data).unwrap();
    assert_eq!((data.len(), &data[0]["top"][1][0]), (12, &json!("</script><b>")));
    assert_eq!(data[0]["top"][2][0], "\u{1f642}↵");
    let svg = done.text("figure", "figure.svg");
    crate::figure::inside(&svg);
}

#[test]
fn what_can_not_be_drawn_is_said() {
    let whole = cells("b", &["b"], 2, 0);
    let said = [
        fails(&[], json!({})),
        fails(&whole, json!({ "prompt": "c" })),
        fails(&whole[1..], json!({})),
        fails(&[whole.clone(), whole.clone()].concat(), json!({})),
    ];
    insta::assert_snapshot!(said.join("\n"), @r"
    the input `trajectories` holds no rows, so there is nothing to draw
    there is no prompt `c`; there are: `b`
    the trajectory of model is no full grid: every layer from 0 needs each position from 0 once
    the trajectory of model is no full grid: every layer from 0 needs each position from 0 once
    ");
    insta::assert_snapshot!(problems::<LensFigure>(json!({ "width": -3 })), @"width: -3 is not from 300 to 8000 pixels");
}
