//! Random declarations against a naive model, and random text against nothing at all.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::graph::{Instance, TableRow};

/// A stage of a random declaration: which axes it introduces if it can, and which earlier stages it reads.
#[derive(Debug, Clone)]
struct Toy {
    over: [bool; 3],
    inputs: Vec<usize>,
    skip: Option<(usize, usize)>,
    gather: bool,
}

const AXES: [(&str, usize); 3] = [("x", 2), ("y", 3), ("z", 1)];

type Point = BTreeMap<&'static str, usize>;

/// What a stage comes to.
struct Expected {
    axes: Vec<&'static str>,
    points: BTreeSet<Point>,
    /// Points before the gather: the rows of its tables.
    joined: BTreeSet<Point>,
}

/// The points of each stage by the rules' own words, and the file.
fn naive(toys: &[Toy]) -> (String, Vec<Expected>) {
    let mut text = "axes: { x: [0, 1], y: [0, 1, 2], z: [0] }\nstages:\n".to_owned();
    let mut all: Vec<Expected> = Vec::new();
    for (number, toy) in toys.iter().enumerate() {
        let inputs: Vec<usize> = if number == 0 { vec![] } else { toy.inputs.iter().map(|i| i % number).collect() };
        let inherited: BTreeSet<_> = inputs.iter().flat_map(|i| all[*i].axes.iter().copied()).collect();
        let over: Vec<_> =
            (0..3).filter(|i| toy.over[*i]).map(|i| AXES[i].0).filter(|a| !inherited.contains(a)).collect();
        let gather: Vec<_> = inherited.iter().copied().take(usize::from(toy.gather)).collect();
        let joined: Vec<_> =
            AXES.iter().filter(|(axis, _)| inherited.contains(axis) || over.contains(axis)).copied().collect();
        let mut points = vec![Point::new()];
        for (axis, labels) in &joined {
            let with = |point: &Point, label| point.iter().map(|(a, l)| (*a, *l)).chain([(*axis, label)]).collect();
            points = points.iter().flat_map(|point| (0..*labels).map(move |label| with(point, label))).collect();
        }
        let project = |point: &Point, axes: &[&str]| -> Point {
            point.iter().filter(|(axis, _)| axes.contains(*axis)).map(|(axis, label)| (*axis, *label)).collect()
        };
        points.retain(|point| inputs.iter().all(|i| all[*i].points.contains(&project(point, &all[*i].axes))));
        let own: Vec<_> = joined.iter().map(|(axis, _)| *axis).filter(|axis| !gather.contains(axis)).collect();
        let mut joined: BTreeSet<Point> = points.into_iter().collect();
        let mut points: BTreeSet<Point> = joined.iter().map(|point| project(point, &own)).collect();
        let mut skip = String::new();
        if let Some((axis, label)) = toy.skip.filter(|_| !own.is_empty()) {
            let axis = own[axis % own.len()];
            let left: BTreeSet<_> = points.iter().filter(|point| point[axis] != label).cloned().collect();
            // A skip that matches nothing, or all, is an error: leave it out.
            if !left.is_empty() && left.len() < points.len() {
                skip = format!(", skip: [{{ {axis}: {label} }}]");
                points = left;
                joined.retain(|point| point[axis] != label);
            }
        }
        let kind = ["make", "step", "join"][inputs.len()];
        let kind = if gather.is_empty() || inputs.is_empty() { kind } else { "collect" };
        let ports: &[&str] = match kind {
            "step" => &["model"],
            "join" => &["a", "b"],
            _ => &["models", "more"],
        };
        let links: Vec<_> = ports.iter().zip(&inputs).map(|(port, i)| format!("{port}: s{i}")).collect();
        let values: Vec<_> = over.iter().map(|axis| format!("\"${{{axis}}}\"")).collect();
        let gather = if gather.is_empty() { String::new() } else { format!(", gather: {gather:?}, missing: drop") };
        text.push_str(&format!(
            "  s{number}: {{ uses: {kind}, over: {over:?}, inputs: {{ {} }}, with: {{ value: [{}] }}{skip}{gather} }}\n",
            links.join(", "),
            values.join(", ")
        ));
        all.push(Expected { axes: own, points, joined });
    }
    (text, all)
}

type Coords = Vec<(String, String)>;

fn coords(point: &Point) -> Coords {
    point.iter().map(|(axis, label)| ((*axis).to_owned(), label.to_string())).collect()
}

/// All coordinates of each row at a port that has a source.
fn rows(instance: &Instance, port: &str) -> Vec<Coords> {
    let Some(Binding::Table { rows, .. }) = instance.inputs.get(port) else { return Vec::new() };
    let row = |row: &TableRow| {
        let gathered = row.coords.iter().map(|(axis, label)| (axis.clone(), label.to_string()));
        let mut all: Coords = instance.address.coords.iter().cloned().chain(gathered).collect();
        all.sort();
        all
    };
    rows.iter().filter(|row| row.source.is_some()).map(row).collect()
}

fn toy() -> impl Strategy<Value = Toy> {
    let inputs = prop::collection::vec(0usize..8, 0..=2);
    let skip = prop::option::of((0usize..3, 0usize..3));
    (any::<[bool; 3]>(), inputs, skip, any::<bool>()).prop_map(|(over, inputs, skip, gather)| Toy {
        over,
        inputs,
        skip,
        gather,
    })
}

proptest! {
    #![proptest_config(crate::fakes::cases(500))]

    #[test]
    fn points_are_those_of_the_rules(toys in prop::collection::vec(toy(), 1..6)) {
        let (text, expected) = naive(&toys);
        match try_load(&text, &[]) {
            Ok(graph) => {
                for (number, Expected { points, joined, .. }) in expected.iter().enumerate() {
                    let name = format!("s{number}");
                    let stage = graph.order.iter().map(|node| graph.instance(*node)).filter(|i| i.address.stage == name);
                    let stage: Vec<_> = stage.collect();
                    let found: BTreeSet<Coords> = stage.iter().map(|i| i.address.coords.clone()).collect();
                    prop_assert_eq!(found, points.iter().map(coords).collect::<BTreeSet<_>>(), "{}", text);
                    let joined: BTreeSet<Coords> = joined.iter().map(coords).collect();
                    for port in ["models", "more"] {
                        let rows: BTreeSet<Coords> = stage.iter().flat_map(|instance| rows(instance, port)).collect();
                        prop_assert!(rows.is_empty() || rows == joined, "{rows:?} {joined:?} {text}");
                    }
                }
                // Producers come first, and each reads at its own coordinates.
                for edge in graph.dag.edge_indices() {
                    let (from, to) = graph.dag.edge_endpoints(edge).unwrap();
                    prop_assert!(from < to);
                    let (from, to) = (graph.instance(from), graph.instance(to));
                    for (axis, label) in &from.address.coords {
                        let same = to.address.coords.iter().find(|(own, _)| own == axis);
                        prop_assert!(same.is_none_or(|(_, own)| own == label), "{}", text);
                    }
                }
            }
            // Joins may leave nothing; then the model has nothing either.
            Err(problems) => {
                prop_assert!(expected.iter().any(|stage| stage.points.is_empty()), "{}\n{}", text, problems);
                prop_assert!(problems.to_string().contains("is left"), "{}\n{}", text, problems);
            }
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = try_load(text, &[]);
    }

    #[test]
    fn no_yaml_makes_it_panic(parts in prop::collection::vec(part(), 0..40)) {
        let text: String = parts.concat();
        if let Err(problems) = try_load(&text, &[]) {
            for problem in &problems.problems {
                prop_assert!(problem.span.clone().is_none_or(|span| problems.file_of(problem).unwrap().text.get(span).is_some()));
            }
        }
    }

    #[test]
    fn no_target_makes_it_panic(target in "[a-z0-9+*=,\\[\\]{}\"!-]{0,12}") {
        let graph = loaded("axes: { x: [0, 1] }\nstages: { a: { uses: make, over: [x], with: { value: \"${x}\" } } }", &[]);
        let _ = graph.select(&[target]);
    }
}

/// Pieces of pipelines, whole and cut.
fn part() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "stages:\n",
        "axes:\n",
        "params:\n",
        "name: é\n",
        "  a:\n",
        "  b: ",
        "    uses: make\n",
        "    uses: step\n",
        "{ uses: step, inputs: { model: a } }\n",
        "{ uses: tune, with: { steps: ",
        "${",
        "${x}",
        "\"${x.y}\"",
        " } }\n",
        "    over: [x]\n",
        "    gather: [x]\n",
        "    skip: [{ x: 1 }]\n",
        "  x: [1, 2]\n",
        "  x: &x [{ name: é }]\n",
        "*x",
        "&x ",
        "<<: *x\n",
        "\t",
        "\n",
        "- ",
        "? ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "|\n",
        "---\n",
        "!t ",
        "\u{feff}",
        "\r\n",
        "# é\n",
        "with: { value: \"${x}\" }\n",
        "null",
        "1e999",
        "\u{85}",
        "\u{1F600}",
    ])
}
